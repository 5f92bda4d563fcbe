package kinds

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// header writes column definitions the way columns reads them.
func header(defs []metav1.TableColumnDefinition) []string {
	var names []string
	for _, d := range defs {
		name := d.Name
		if short := map[string]string{"integer": ":int", "boolean": ":bool", "date": ":date"}[d.Type]; short != "" {
			name += short
		}
		if d.Priority > 0 {
			name += "*"
		}
		names = append(names, name)
	}
	return names
}

func TestEveryKindHasTheColumnsOfARealServer(t *testing.T) {
	raw, err := os.ReadFile("testdata/table-columns.json")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for _, k := range NewTable().All() {
		path := "/api/v1/" + k.Resource
		if k.Group != "" {
			path = "/apis/" + k.Group + "/" + k.Version + "/" + k.Resource
		}
		if want[path] == nil {
			continue
		}
		got := []string{"Name", "Created At:date"} // what the core prints without Cells
		if k.Cells != nil {
			got = header(k.Columns)
			cells, _ := k.Cells(k.Stored().New())
			if len(cells) != len(got) {
				t.Errorf("%s: %d columns and %d cells", path, len(got), len(cells))
			}
		}
		if g, w := strings.Join(got, ", "), strings.Join(want[path], ", "); g != w {
			t.Errorf("%s:\n got %s\nwant %s", path, g, w)
		}
	}
}
