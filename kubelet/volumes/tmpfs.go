package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// mount puts a tmpfs on dir; size 0 is the kernel's default.
func (m *Manager) mount(dir string, size int64) error {
	if m.NoTmpfs {
		return nil
	}
	options := ""
	if size > 0 {
		options = fmt.Sprintf("size=%d", size)
	}
	if err := mountTmpfs(dir, options); err != nil {
		return fmt.Errorf("mounting tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mounted says whether dir is a mount point: of another device than its parent.
func (m *Manager) mounted(dir string) bool {
	var own, parent unix.Stat_t
	if m.NoTmpfs || unix.Lstat(dir, &own) != nil || unix.Lstat(filepath.Dir(dir), &parent) != nil {
		return m.NoTmpfs
	}
	return own.Dev != parent.Dev
}

// Teardown unmounts whatever is mounted below a pod's folder and removes the
// folder. Nothing on other devices is ever removed.
func (m *Manager) Teardown(uid types.UID) error {
	dir := filepath.Join(m.Root, string(uid))
	if !m.NoTmpfs {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
