package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// check is one precondition of a machine. It answers warnings and errors.
//
// Upstream: cmd/kubeadm/app/preflight/checks.go, Checker.
// Left out: kernel configuration, swap, image pulls (images come with the node).
type check struct {
	name string
	run  func() (warnings, errs []error)
}

// preflightError carries the failed checks.
type preflightError struct{ msg string }

func (e *preflightError) Error() string {
	return "[preflight] Some fatal errors occurred:\n" + e.msg +
		"[preflight] If you know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`"
}

// runChecks runs all checks; the ignored ones ("all", or names in any case) may
// only warn.
func runChecks(checks []check, ignore []string) error {
	ignored := map[string]bool{}
	for _, i := range ignore {
		ignored[strings.ToLower(i)] = true
	}
	var failed strings.Builder
	for _, c := range checks {
		warnings, errs := c.run()
		if ignored["all"] || ignored[strings.ToLower(c.name)] {
			warnings, errs = append(warnings, errs...), nil
		}
		for _, w := range warnings {
			fmt.Fprintf(os.Stderr, "\t[WARNING %s]: %v\n", c.name, w)
		}
		for _, e := range errs {
			fmt.Fprintf(&failed, "\t[ERROR %s]: %v\n", c.name, e)
		}
	}
	if failed.Len() > 0 {
		return &preflightError{failed.String()}
	}
	return nil
}

func failIf(bad bool, format string, args ...any) (_, errs []error) {
	if bad {
		errs = append(errs, fmt.Errorf(format, args...))
	}
	return nil, errs
}

// nodeChecks hold for every machine.
func nodeChecks(n nodeRegistration) []check {
	return []check{
		{"IsPrivilegedUser", func() (_, _ []error) { return failIf(os.Geteuid() != 0, "user is not running as root") }},
		{"Hostname", func() (warnings, _ []error) {
			if _, err := net.LookupHost(n.Name); err != nil {
				warnings = append(warnings, fmt.Errorf("hostname %q could not be reached", n.Name))
			}
			return warnings, nil
		}},
		{"CRI", func() (_, _ []error) {
			// Our kubelet serves its own CRI socket, so what must be there is containerd.
			path := "/run/containerd/containerd.sock"
			if n.CRISocket != defaultCRI {
				path = strings.TrimPrefix(n.CRISocket, "unix://")
			}
			conn, err := net.DialTimeout("unix", path, 2*time.Second)
			if err == nil {
				conn.Close()
			}
			return failIf(err != nil, "container runtime is not running: %w", err)
		}},
		{"Port-10250", portFree(10250)},
	}
}

// initChecks hold for a machine that becomes a control plane.
func (s *settings) initChecks() []check {
	checks := nodeChecks(s.Init.NodeRegistration)
	checks = append(checks,
		check{"NumCPU", func() (_, _ []error) {
			return failIf(runtime.NumCPU() < 2, "the number of available CPUs %d is less than the required 2", runtime.NumCPU())
		}},
		check{"Mem", func() (_, _ []error) {
			mib := memoryMiB()
			return failIf(mib < 1700, "the system RAM (%d MB) is less than the minimum 1700 MB", mib)
		}},
		check{"DirAvailable--var-lib-etcd", dirEmpty(s.Cluster.Etcd.Local.DataDir)},
	)
	for _, port := range []int{s.Init.LocalAPIEndpoint.BindPort, 10259, 10257, 2379, 2380} {
		checks = append(checks, check{fmt.Sprintf("Port-%d", port), portFree(port)})
	}
	for _, c := range append(s.components(), s.etcd()) {
		checks = append(checks, fileAbsent(manifestFile(c.name)))
	}
	return checks
}

// joinChecks hold for a machine that becomes a worker.
func (s *settings) joinChecks() []check {
	return append(nodeChecks(s.Join.NodeRegistration),
		check{"DirAvailable--etc-kubernetes-manifests", dirEmpty(manifestsDir)},
		fileAbsent(filepath.Join(kubernetesDir, "kubelet.conf")),
		fileAbsent(filepath.Join(kubernetesDir, "bootstrap-kubelet.conf")),
		fileAbsent(s.Join.CACertPath),
	)
}

func portFree(port int) func() (_, _ []error) {
	return func() (_, _ []error) {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			l.Close()
		}
		return failIf(err != nil, "Port %d is in use", port)
	}
}

func dirEmpty(dir string) func() (_, _ []error) {
	return func() (_, _ []error) {
		entries, err := os.ReadDir(dir)
		return failIf(err == nil && len(entries) > 0, "%s is not empty", dir)
	}
}

func fileAbsent(path string) check {
	return check{"FileAvailable-" + strings.ReplaceAll(path, "/", "-"), func() (_, _ []error) {
		_, err := os.Stat(path)
		return failIf(err == nil, "%s already exists", path)
	}}
}

// memoryMiB is the machine's memory, or plenty where it cannot be read.
func memoryMiB() int {
	const plenty = 1 << 20
	f, err := os.Open("/proc/meminfo")
	if errors.Is(err, os.ErrNotExist) {
		return plenty
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	return plenty
}
