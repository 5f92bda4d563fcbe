package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// file is one file of a projected volume.
type file struct {
	data []byte
	mode fs.FileMode
	uid  *int64 // owner, where it matters
}

const (
	dataLink = "..data"     // the link to the version that counts
	newLink  = "..data_tmp" // the next one, before it is renamed over the first
)

// write makes the visible content of dir equal to the payload, all at once:
//
//	dir/key    -> ..data/key
//	dir/..data -> ..2026_11_21_22_06_18.123
//	dir/..2026_11_21_22_06_18.123/key
//
// Upstream: pkg/volume/util/atomic_writer.go, AtomicWriter.Write.
func write(dir string, payload map[string]file, gid *int64) error {
	for path := range payload {
		if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "..") || !filepath.IsLocal(path) {
			return fmt.Errorf("invalid path %q", path)
		}
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if old != "" && same(filepath.Join(dir, old), payload) {
		return nil
	}
	version := ".." + time.Now().UTC().Format("2006_01_02_15_04_05.000000000")
	if err := fill(filepath.Join(dir, version), payload, gid); err != nil {
		return err
	}
	if err := os.Symlink(version, filepath.Join(dir, newLink)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	} else if err != nil { // left by one who was killed at this point
		if err := errors.Join(os.Remove(filepath.Join(dir, newLink)), os.Symlink(version, filepath.Join(dir, newLink))); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(dir, newLink), filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := link(dir, payload); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

func same(dir string, payload map[string]file) bool {
	count := 0
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			count++
		}
		return nil
	})
	for path, f := range payload {
		have, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !bytes.Equal(have, f.data) {
			return false
		}
	}
	return count == len(payload)
}

// fill writes one version; the modes are set apart from the umask.
func fill(dir string, payload map[string]file, gid *int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for path, f := range payload {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.data, f.mode); err != nil {
			return err
		}
		mode := f.mode
		if gid != nil {
			mode |= 0o040 // the group of the pod reads what its owner reads
		}
		if err := os.Chmod(full, mode); err != nil {
			return err
		}
		if f.uid == nil && gid == nil {
			continue
		}
		uid, group := -1, -1
		if f.uid != nil {
			uid = int(*f.uid)
		}
		if gid != nil {
			group = int(*gid)
		}
		if err := os.Lchown(full, uid, group); err != nil {
			return err
		}
	}
	return nil
}

// link makes the visible names and removes those that the payload no longer has.
func link(dir string, payload map[string]file) error {
	top := map[string]bool{}
	for path := range payload {
		name, _, _ := strings.Cut(path, "/")
		top[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !top[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for name := range top {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
