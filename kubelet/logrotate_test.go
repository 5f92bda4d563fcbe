package kubelet

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Of rotated logs the newest stay, compressed, and a compression that was cut
// off is begun anew.
func TestRotatedLogsAreCompressedAndCounted(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "0.log")
	for i := range 6 {
		if err := os.WriteFile(fmt.Sprintf("%s.20261122-00000%d", log, i), fmt.Appendf(nil, "lines of %d", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(log+".20261122-000004.tmp", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := tidyRotated(log, 5); err != nil {
			t.Fatal(err)
		}
		var names []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if want := []string{"0.log.20261122-000003.gz", "0.log.20261122-000004.gz", "0.log.20261122-000005.gz"}; !slices.Equal(names, want) {
			t.Fatalf("%v, want %v", names, want)
		}
	}
	f, err := os.Open(log + ".20261122-000005.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(zip); err != nil || string(text) != "lines of 5" {
		t.Errorf("%q, %v", text, err)
	}
}

// A log that has grown past its size is renamed within ten seconds, and the
// container goes on writing to a new one.
func TestLargeLogIsRotated(t *testing.T) {
	onNode(t, nil, func(n *node) {
		log := filepath.Join(t.TempDir(), "0.log")
		n.create("web", nil)
		n.settle(2 * time.Second)
		n.runtime.mu.Lock()
		for _, c := range n.runtime.containers {
			c.st.LogPath = log
		}
		n.runtime.mu.Unlock()
		grow := func(size int64) {
			t.Helper()
			if err := os.WriteFile(log, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(log, size); err != nil {
				t.Fatal(err)
			}
		}
		files := func() int {
			found, err := filepath.Glob(log + "*")
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		grow(10<<20 - 1)
		n.settle(10 * time.Second)
		if files() != 1 {
			t.Fatal("a log below 10 MiB was rotated")
		}
		grow(10 << 20)
		n.settle(10 * time.Second)
		info, err := os.Stat(log)
		if err != nil || info.Size() != 0 || files() != 2 {
			t.Errorf("after ten seconds: %v, %v, %d files", info, err, files())
		}
	})
}
