package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// none and unset are what tables show where there is nothing to show.
const (
	none    = "<none>"
	unset   = "<unset>"
	unknown = "<unknown>"
)

// columns reads a table's header as it is written down in the table of kinds: "Name, Desired:int, Containers*". A star marks a
// column that clients show only when asked for a wide table; the type is string unless one follows the colon.
//
// Left out: descriptions other than those of name and age; clients do not show them.
func columns(header string) []metav1.TableColumnDefinition {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	var defs []metav1.TableColumnDefinition
	for _, name := range strings.Split(header, ", ") {
		def := metav1.TableColumnDefinition{Type: "string"}
		if strings.HasSuffix(name, "*") {
			name, def.Priority = strings.TrimSuffix(name, "*"), 1
		}
		if short, kind, ok := strings.Cut(name, ":"); ok {
			name, def.Type = short, map[string]string{"int": "integer", "bool": "boolean", "date": "date"}[kind]
		}
		switch def.Name = name; {
		case name == "Name" && len(defs) == 0:
			def.Format, def.Description = "name", docs["name"]
		case name == "Age" || name == "Created At":
			def.Description = docs["creationTimestamp"]
		}
		defs = append(defs, def)
	}
	return defs
}

// age is how long ago t was, as people say it: "5m", "3d4h".
func age(t metav1.Time) string { return since(t.Time) }

func since(t time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(time.Since(t))
}

// or gives s, or def when s is empty.
func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// show gives *p as text, or def when p is nil.
func show[T any](p *T, def string) string {
	if p == nil {
		return def
	}
	return fmt.Sprint(*p)
}

// atMost joins the first max of list and says how many there are beyond.
func atMost(list []string, max int, sep string) string {
	if len(list) <= max {
		return strings.Join(list, sep)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(list[:max], sep), len(list)-max)
}

// templateCells are the names and the images of the containers that a template has.
func templateCells(t *corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range t.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// namedAfter lists what follows prefix in the keys of labels, sorted.
func namedAfter(labels map[string]string, prefix string) []string {
	var names []string
	for key := range labels {
		if name, ok := strings.CutPrefix(key, prefix); ok && name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func title(b bool) string {
	if b {
		return "True"
	}
	return "False"
}
