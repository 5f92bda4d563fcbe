package node

import (
	"io/fs"
	"path"
	"regexp"
	"testing"
)

// Every script of ours that a Dockerfile or a unit starts is in the image: one
// that is missing shows only when the first node does not boot.
func TestWhatANodeStartsIsThere(t *testing.T) {
	starts := regexp.MustCompile(`(?m)^(?:ENTRYPOINT \["|ExecStart(?:Pre)?=)(/usr/local/bin/(?:entrypoint|import-[a-z]+))`)
	found := map[string]bool{}
	err := fs.WalkDir(Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(Files, name)
		if err != nil {
			return err
		}
		for _, m := range starts.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
			if _, err := fs.Stat(Files, path.Join("etc", m[1])); err != nil {
				t.Errorf("%s starts %s: %v", name, m[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 2 {
		t.Errorf("only %v are started: the test looks for the wrong thing", found)
	}
}
