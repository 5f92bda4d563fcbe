package parity

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deep is how many levels below a field that is not there are tried.
const deep = 2

// change is one field of an object with another value. Steps of the path are names and indexes.
type change struct {
	path  []any
	value any
	gone  bool
}

func (c change) String() string {
	var s strings.Builder
	for _, step := range c.path {
		if i, ok := step.(int); ok {
			fmt.Fprintf(&s, "[%d]", i)
		} else {
			fmt.Fprintf(&s, ".%v", step)
		}
	}
	if c.gone {
		return s.String() + " taken away"
	}
	value, _ := json.Marshal(c.value)
	return fmt.Sprintf("%s=%.80s", s.String(), value)
}

// in is the object with the change; obj stays as it is.
func (c change) in(obj any) any {
	if len(c.path) == 0 {
		return c.value
	}
	rest := change{c.path[1:], c.value, c.gone}
	switch step := c.path[0].(type) {
	case int:
		list, _ := obj.([]any)
		list = slices.Clone(list)
		if c.gone && len(c.path) == 1 {
			return slices.Delete(list, step, step+1)
		}
		for len(list) <= step {
			list = append(list, nil)
		}
		list[step] = rest.in(list[step])
		return list
	default:
		m, _ := obj.(map[string]any)
		if m = maps.Clone(m); m == nil {
			m = map[string]any{}
		}
		if c.gone && len(c.path) == 1 {
			delete(m, step.(string))
		} else {
			m[step.(string)] = rest.in(m[step.(string)])
		}
		return m
	}
}

// leaves are structs that are written as one value.
var leaves = map[string][]any{
	"v1.Time":              {"2020-01-01T00:00:00Z"},
	"v1.MicroTime":         {"2020-01-01T00:00:00.000000Z"},
	"v1.Duration":          {"5s", "-1s"},
	"resource.Quantity":    {"-1", "0", "1", "0.5", "100Mi", "1n"},
	"intstr.IntOrString":   {0, -1, 7, 65536, "x", "50%", "150%", "-5%", "UPPER_case"},
	"runtime.RawExtension": {map[string]any{}},
	"v1.FieldsV1":          {map[string]any{}},
}

// values are what a field of a type is set to.
func values(t reflect.Type) []any {
	if fixed := leaves[t.String()]; fixed != nil {
		return fixed
	}
	switch t.Kind() {
	case reflect.Pointer:
		return values(t.Elem())
	case reflect.String:
		return []any{"", "x", "Bad_Value!", "a.b/c", strings.Repeat("a", 300), "-"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return []any{0, -1, 1, 7, 65536, 1<<31 - 1}
	case reflect.Bool:
		return []any{true, false}
	case reflect.Struct:
		return []any{map[string]any{}}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return []any{"", "AAEC", "LS0tLS0="}
		}
		out, items := []any{[]any{}}, values(t.Elem())
		for _, item := range items {
			out = append(out, []any{item})
		}
		return append(out, []any{items[0], items[0]})
	case reflect.Map:
		out, items := []any{map[string]any{}}, values(t.Elem())
		for _, item := range items {
			out = append(out, map[string]any{"k": item})
		}
		return append(out, map[string]any{"bad key!": items[0]}, map[string]any{"": items[0]})
	}
	return nil
}

// metadata is what is tried of the metadata of an object or of a template.
var metadata = map[string][]any{
	"labels":                     {map[string]any{"a": "bad value!"}, map[string]any{"bad key!": "x"}, map[string]any{"": ""}, map[string]any{"a": strings.Repeat("a", 300)}},
	"annotations":                {map[string]any{"bad key!": "x"}, map[string]any{"A/B/C": "x"}},
	"finalizers":                 {[]any{"x"}, []any{"bad one!/x"}, []any{""}, []any{"example.org/x"}},
	"ownerReferences":            {[]any{map[string]any{}}},
	"generateName":               {"Bad_", "good-"},
	"name":                       {"Bad_Name", "a..b", strings.Repeat("a", 300), "a/b", "..", "a.b", "a%"},
	"namespace":                  {"other"},
	"managedFields":              {[]any{map[string]any{"operation": "Bad"}}},
	"deletionGracePeriodSeconds": {5},
	"deletionTimestamp":          {"2020-01-01T00:00:00Z"},
	"generation":                 {9},
	"uid":                        {"x"},
}

// mutations calls yield with every change of an object of a Go type.
func mutations(t reflect.Type, obj map[string]any, yield func(change)) {
	(&walker{yield}).fields(t, obj, nil, deep)
}

type walker struct{ yield func(change) }

func (w *walker) change(path []any, value any) { w.yield(change{slices.Clone(path), value, false}) }

// below is a path's child.
func below(path []any, step any) []any { return append(slices.Clone(path), step) }

// fields walks the fields of a struct. levels is how deep to go where there is nothing.
func (w *walker) fields(t reflect.Type, obj map[string]any, path []any, levels int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		value, has := obj[name]
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta](), name == "-":
		case f.Type == reflect.TypeFor[metav1.ObjectMeta]():
			for field, values := range metadata {
				for _, v := range values {
					w.change(below(below(path, name), field), v)
				}
			}
		case name == "": // inline
			w.fields(f.Type, obj, path, levels)
		default:
			w.value(f.Type, value, has, below(path, name), levels)
		}
	}
}

func (w *walker) value(t reflect.Type, value any, has bool, path []any, levels int) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for _, v := range values(t) {
		w.change(path, v)
	}
	if has {
		w.yield(change{path, nil, true})
	}
	if leaves[t.String()] != nil || !has && levels == 0 {
		return
	}
	if !has {
		levels--
	}
	switch t.Kind() {
	case reflect.Struct:
		m, _ := value.(map[string]any)
		w.fields(t, m, path, levels)
	case reflect.Slice:
		w.items(t.Elem(), value, has, path, levels)
	case reflect.Map:
		m, _ := value.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(m))[:min(len(m), 1)] {
			w.value(t.Elem(), m[key], true, below(path, key), levels)
		}
	}
}

// items walks the first items of a list, and one that is not there yet; an item again is a change too.
func (w *walker) items(t reflect.Type, value any, has bool, path []any, levels int) {
	list, _ := value.([]any)
	for i, item := range list[:min(len(list), 3)] {
		w.value(t, item, true, below(path, i), levels)
	}
	if len(list) > 0 {
		w.change(path, append(slices.Clone(list), list[0]))
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !has && t.Kind() == reflect.Struct && leaves[t.String()] == nil {
		w.fields(t, nil, below(path, 0), levels)
	}
}
