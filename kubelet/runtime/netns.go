package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// A pod's network namespace is pinned by a bind mount, not by a process: the CNI plugin can work on it before the pause
// process is there, and take it down in order after that process was killed.

// pinNetNS makes a network namespace with its loopback up and pins it at a new path in dir.
func pinNetNS(dir string) (string, error) {
	path := filepath.Join(dir, "cni-"+newID()[:32])
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return "", err
	}
	err := onFreshThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		own := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return unix.Mount(own, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return "", fmt.Errorf("making a network namespace: %w", err)
	}
	return path, nil
}

// unpinNetNS undoes pinNetNS; that the path is gone is no error.
func unpinNetNS(path string) error {
	if path == "" {
		return nil
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpinning network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inNetNS runs f in the namespace pinned at path, or in ours when path is empty.
// Only what f does on its own goroutine happens there.
func inNetNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return onFreshThread(func() error {
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering %s: %w", path, err)
		}
		return f()
	})
}

// onFreshThread runs f on a thread of its own, which ends with it: a goroutine that ends locked takes its thread along,
// so no other goroutine ever runs in f's namespace.
func onFreshThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// loopbackUp is `ip link set lo up`.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
