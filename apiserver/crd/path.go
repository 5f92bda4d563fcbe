package crd

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// path is a JSON path as printer columns have it: fields, list indexes,
// wildcards and comparisons.
//
//	.status.conditions[?(@.type=="Ready")].status
//	.spec.containers[*].image
//	.metadata.labels['app\.kubernetes\.io/name']
//
// Upstream: staging/src/k8s.io/client-go/util/jsonpath. Left out: slices, unions, recursive descent, templates.
type path []step

// step goes one level down. At most one of its fields counts.
type step struct {
	field  string
	index  *int
	all    bool
	where  path   // with equals: only the elements for which the path finds that
	equals string // as text
}

func parsePath(text string) (path, error) {
	var p path
	rest := strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}"), "$")
	for rest != "" {
		var s step
		var err error
		switch {
		case rest[0] == '.':
			s.field, rest = name(rest[1:])
			if s.field == "*" {
				s = step{all: true}
			} else if s.field == "" {
				if rest != "" {
					continue // ".[0]"
				}
				return p, nil // "." is the object itself
			}
		case rest[0] == '[':
			if s, rest, err = bracket(rest); err != nil {
				return nil, fmt.Errorf("JSON path %s: %w", text, err)
			}
		default:
			return nil, fmt.Errorf("JSON path %s: unexpected %q", text, rest)
		}
		p = append(p, s)
	}
	return p, nil
}

// name reads a field's name; dots in it have a backslash before them.
func name(s string) (string, string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '.' || s[i] == '[':
			return b.String(), s[i:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// bracket reads [0], [*], ['name'] or [?(@.path=="value")].
func bracket(s string) (step, string, error) {
	end := strings.Index(s, "]")
	if strings.HasPrefix(s, "[?(") {
		end = strings.Index(s, ")]") + 1
	}
	if end <= 0 {
		return step{}, "", fmt.Errorf("unterminated %s", s)
	}
	in, rest := s[1:end], s[end+1:]
	switch {
	case in == "*":
		return step{all: true}, rest, nil
	case strings.HasPrefix(in, "?("):
		left, right, ok := strings.Cut(strings.TrimSuffix(in[2:], ")"), "==")
		if !ok || !strings.HasPrefix(strings.TrimSpace(left), "@") {
			return step{}, "", fmt.Errorf("only comparisons with == are known, not %s", in)
		}
		where, err := parsePath(strings.TrimSpace(left)[1:])
		return step{where: where, equals: unquote(right)}, rest, err
	case strings.HasPrefix(in, "'"), strings.HasPrefix(in, `"`):
		field, _ := name(strings.ReplaceAll(strings.ReplaceAll(unquote(in), `\.`, "."), ".", `\.`))
		return step{field: field}, rest, nil
	}
	i, err := strconv.Atoi(in)
	return step{index: &i}, rest, err
}

func unquote(s string) string { return strings.Trim(strings.TrimSpace(s), `'"`) }

// find returns all values that the path leads to.
func (p path) find(v any) []any {
	if len(p) == 0 {
		return []any{v}
	}
	var out []any
	s, rest := p[0], p[1:]
	switch v := v.(type) {
	case map[string]any:
		if s.all {
			for _, k := range slices.Sorted(maps.Keys(v)) {
				out = append(out, rest.find(v[k])...)
			}
		} else if value, ok := v[s.field]; ok && s.field != "" {
			return rest.find(value)
		}
	case []any:
		switch {
		case s.all:
			for _, e := range v {
				out = append(out, rest.find(e)...)
			}
		case s.where != nil:
			for _, e := range v {
				if got := s.where.find(e); len(got) > 0 && fmt.Sprint(got[0]) == s.equals {
					out = append(out, rest.find(e)...)
				}
			}
		case s.index != nil:
			i := *s.index
			if i < 0 {
				i += len(v)
			}
			if i >= 0 && i < len(v) {
				return rest.find(v[i])
			}
		}
	}
	return out
}
