package kinds

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// stored are objects as a real v1.36.3 cluster keeps them, and the table cells that it prints for them; "*" stands for a time.
type stored struct {
	Cells  []json.RawMessage
	Object json.RawMessage
}

func eachStored(t *testing.T, do func(k *Kind, obj runtime.Object, cells []json.RawMessage)) {
	t.Helper()
	f, err := os.Open("testdata/stored.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, lines := NewTable(), bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for ; lines.Scan(); n++ {
		var s stored
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		obj, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(s.Object, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		do(table.ByKind(*gvk), obj, s.Cells)
	}
	if n < 15 {
		t.Fatalf("only %d objects", n)
	}
}

func TestDefaultsChangeNothingInWhatARealClusterStored(t *testing.T) {
	eachStored(t, func(k *Kind, obj runtime.Object, _ []json.RawMessage) {
		before := obj.DeepCopyObject()
		if k.Default != nil {
			k.Default(obj)
		}
		if d := cmp.Diff(before, obj); d != "" {
			t.Errorf("%s: defaults changed\n%s", k.Kind, d)
		}
	})
}

func TestWhatARealClusterStoredIsValid(t *testing.T) {
	eachStored(t, func(k *Kind, obj runtime.Object, _ []json.RawMessage) {
		if k.Validate != nil {
			for _, err := range k.Validate(obj) {
				t.Errorf("%s: %v", k.Kind, err)
			}
		}
		if k.ValidateUpdate != nil {
			for _, err := range k.ValidateUpdate(obj, obj.DeepCopyObject()) {
				t.Errorf("%s, put as it is: %v", k.Kind, err)
			}
		}
	})
}

func TestCellsAreThoseOfARealServer(t *testing.T) {
	eachStored(t, func(k *Kind, obj runtime.Object, want []json.RawMessage) {
		got, _ := k.Cells(obj)
		if len(got) != len(want) {
			t.Fatalf("%s: %d cells, want %d", k.Kind, len(got), len(want))
		}
		for i := range got {
			g, err := json.Marshal(got[i])
			if err != nil {
				t.Fatal(err)
			}
			prefix, isTime := strings.CutSuffix(string(want[i]), `*"`)
			if string(g) != string(want[i]) && !(isTime && strings.HasPrefix(string(g), prefix)) {
				t.Errorf("%s, %s: got %s, want %s", k.Kind, k.Columns[i].Name, g, want[i])
			}
		}
	})
}
