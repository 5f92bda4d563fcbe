package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
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
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	for i := len(points) - 1; i >= 0; i-- { // the last mounted first
		if err := unix.Unmount(points[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", points[i], err)
		}
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
