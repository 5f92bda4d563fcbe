package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// read returns the files of a tar by name.
func read(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for in := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchiveHoldsWhatItsManifestNames(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "kube-proxy"), []byte("ELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := Image{Name: "kube-proxy", Programs: []string{"kube-proxy"}, Iptables: true, Tags: []string{"other"}}
	var one, two bytes.Buffer
	for _, w := range []io.Writer{&one, &two} {
		if err := img.Write(w, bin, []byte("the layer below")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the same programs made two different archives")
	}

	files := read(t, one.Bytes())
	var m []manifest
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m[0].RepoTags, " "); got != "docker.io/orrery/kube-proxy:v1.36.3 docker.io/orrery/kube-proxy:other" {
		t.Errorf("RepoTags = %s", got)
	}
	var c config
	if err := json.Unmarshal(files[m[0].Config], &c); err != nil {
		t.Fatal(err)
	}
	for n, layer := range m[0].Layers {
		if got := "sha256:" + digest(files[layer]); got != c.RootFS.DiffIDs[n] {
			t.Errorf("layer %d has digest %s, its configuration says %s", n, got, c.RootFS.DiffIDs[n])
		}
	}
	if string(files[m[0].Layers[0]]) != "the layer below" {
		t.Error("the layer of iptables is not the lowest")
	}
	if got := read(t, files[m[0].Layers[1]])["usr/local/bin/kube-proxy"]; string(got) != "ELF" {
		t.Errorf("the program's layer holds %q", got)
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	err := All[0].Write(io.Discard, t.TempDir(), nil)
	if err == nil || !strings.Contains(err.Error(), "image pause: open ") {
		t.Errorf("err = %v", err)
	}
}
