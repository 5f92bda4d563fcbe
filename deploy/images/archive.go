package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// config is the part of an OCI image configuration that a runtime reads.
type config struct {
	Created      string        `json:"created"`
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Config       runtimeConfig `json:"config"`
	RootFS       rootFS        `json:"rootfs"`
}

type runtimeConfig struct {
	Env        []string
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	WorkingDir string
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// manifest is the one entry of a docker archive's manifest.json.
type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes the image as a docker archive. bin is the folder that its programs lie in, iptables the tar of the
// layer below them (nil where Image.Iptables is false). It fails when a program is not there.
func (i Image) Write(w io.Writer, bin string, iptables []byte) error {
	layer, err := i.layer(bin)
	if err != nil {
		return err
	}
	layers := [][]byte{layer}
	if i.Iptables {
		layers = [][]byte{iptables, layer}
	}

	out := tar.NewWriter(w)
	conf := config{
		Created: "1970-01-01T00:00:00Z", Architecture: runtime.GOARCH, OS: "linux",
		Config: runtimeConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			WorkingDir: "/",
		},
		RootFS: rootFS{Type: "layers"},
	}
	if len(i.Programs) > 0 {
		conf.Config.Entrypoint = []string{"/usr/local/bin/" + i.Programs[0]}
	} else {
		conf.Config.Cmd = []string{"sh"}
	}
	m := manifest{RepoTags: i.References()}
	for _, l := range layers {
		sum := digest(l)
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, "sha256:"+sum)
		m.Layers = append(m.Layers, sum+".tar")
		if err := addFile(out, sum+".tar", 0o644, l); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	m.Config = digest(raw) + ".json"
	if err := addFile(out, m.Config, 0o644, raw); err != nil {
		return err
	}
	if raw, err = json.Marshal([]manifest{m}); err != nil {
		return err
	}
	if err := addFile(out, "manifest.json", 0o644, raw); err != nil {
		return err
	}
	return out.Close()
}

// layer is the tar of the image's own files. Owner and times are always the same, for the digest's sake.
func (i Image) layer(bin string) ([]byte, error) {
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for _, dir := range []struct {
		name string
		mode int64
	}{{"etc/", 0o755}, {"tmp/", 0o1777}, {"usr/", 0o755}, {"usr/local/", 0o755}, {"usr/local/bin/", 0o755}} {
		if err := out.WriteHeader(&tar.Header{Name: dir.name, Typeflag: tar.TypeDir, Mode: dir.mode}); err != nil {
			return nil, err
		}
	}
	for _, program := range i.Programs {
		data, err := os.ReadFile(filepath.Join(bin, program))
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		if err := addFile(out, "usr/local/bin/"+program, 0o755, data); err != nil {
			return nil, err
		}
	}
	// Names of users and of hosts, as far as Go's resolver wants to read them.
	if err := addFile(out, "etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\n")); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func addFile(out *tar.Writer, name string, mode int64, data []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
