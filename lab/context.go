package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// contextWriter writes a docker build's context, a tar, and remembers its first error.
type contextWriter struct {
	to  io.Writer
	err error

	tar *tar.Writer
}

func (w *contextWriter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *contextWriter) add(name string, mode int64, data []byte) {
	if w.tar == nil {
		w.tar = tar.NewWriter(w.to)
	}
	if w.err == nil {
		w.fail(w.tar.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}))
	}
	if w.err == nil {
		_, err := w.tar.Write(data)
		w.fail(err)
	}
}

// addFiles adds every file; scripts may be executed.
func (w *contextWriter) addFiles(files fs.FS) {
	w.fail(fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		mode := int64(0o644)
		if bytes.HasPrefix(data, []byte("#!")) {
			mode = 0o755
		}
		w.add(name, mode, data)
		return err
	}))
}

// addPrograms adds programs from the folder bin.
func (w *contextWriter) addPrograms(prefix, bin string, names []string) {
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(bin, name))
		w.fail(err)
		w.add(prefix+name, 0o755, data)
	}
}

func (w *contextWriter) close() error {
	return errors.Join(w.err, w.tar.Close())
}
