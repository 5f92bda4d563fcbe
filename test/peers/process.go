package peers

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Part is a component that runs.
type Part struct {
	// ReadyAfter is how long it took from the start of the process to /readyz (API servers only).
	ReadyAfter time.Duration

	process *process
	under   *process // the etcd of upstream's API server
}

// Stop asks the part to end, as systemd and the kubelet do, and waits for it.
func (p *Part) Stop() {
	p.process.stop(syscall.SIGTERM)
	if p.under != nil {
		p.under.stop(syscall.SIGTERM)
	}
}

// Kill ends the part as a power failure does.
func (p *Part) Kill() {
	p.process.stop(syscall.SIGKILL)
	if p.under != nil {
		p.under.stop(syscall.SIGKILL)
	}
}

// Memory is what the part has in RAM, in bytes; with upstream's API server comes its etcd.
func (p *Part) Memory() (int64, error) {
	total := int64(0)
	for _, one := range []*process{p.process, p.under} {
		if one == nil {
			continue
		}
		n, err := one.resident()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// Processor is what the part has used of the processors so far; with upstream's API server comes its etcd.
func (p *Part) Processor() (time.Duration, error) {
	total := time.Duration(0)
	for _, one := range []*process{p.process, p.under} {
		if one == nil {
			continue
		}
		d, err := one.processor()
		if err != nil {
			return 0, err
		}
		total += d
	}
	return total, nil
}

// processor reads utime and stime.
//
// See proc(5), /proc/pid/stat; a tick is 10 ms on all that Go runs on.
func (p *process) processor() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("unexpected %q", data)
	}
	ticks := time.Duration(0)
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond, nil
}

// resident reads VmRSS.
//
// See proc(5), /proc/pid/status.
func (p *process) resident() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib := int64(0)
	_, err = fmt.Sscan(rest, &kib)
	return kib * 1024, err
}

// Log is what it has written so far, behind an offset in bytes.
func (p *Part) Log(offset int64) (string, error) {
	f, err := os.Open(p.process.log)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return "", err
	}
	data, err := io.ReadAll(f)
	return string(data), err
}

type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	// asked is set before the process is told to end: then its exit is no news.
	mu    sync.Mutex
	asked bool
}

// start runs a program until the test ends. That it ends by itself fails the test.
func (c *Cluster) start(side Side, name string, args ...string) *process {
	c.t.Helper()
	path := binary(c.t, side, name)
	p := &process{done: make(chan struct{})}
	out, err := os.CreateTemp(c.Dir, string(side)+"-"+name+"-*.log")
	if err != nil {
		c.t.Fatal(err)
	}
	p.log = out.Name()
	p.cmd = exec.Command(path, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, c.Dir
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		defer out.Close()
		err := p.cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.asked {
			c.t.Errorf("%s %s ended by itself: %v", side, name, err)
		}
	}()
	c.t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if c.t.Failed() {
			c.t.Logf("the end of the log of %s %s:\n%s", side, name, tail(p.log, 20))
		}
	})
	return p
}

const endsWithin = 30 * time.Second

func (p *process) stop(signal os.Signal) {
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	if err := p.cmd.Process.Signal(signal); errors.Is(err, os.ErrProcessDone) {
		<-p.done
		return
	}
	timer := time.AfterFunc(endsWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	<-p.done
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Need skips the test when upstream's programs were not built.
func Need(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("upstream's control plane runs on Linux")
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if _, err := os.Stat(filepath.Join(root(), "bin", "upstream", name)); err != nil {
			t.Skipf("bin/upstream has no %s: run `make upstream` first", name)
		}
	}
}

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// built is where our programs lie, once a process; the directory outlives no machine.
var built = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(root(), "bin", "peers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// As `make build` builds them: then the linked file is the same one, from the cache.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/",
		"./cmd/kube-apiserver", "./cmd/kube-controller-manager", "./cmd/kube-scheduler")
	cmd.Dir, cmd.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ours: %w\n%s", err, out)
	}
	return dir, nil
})

func binary(t testing.TB, side Side, name string) string {
	t.Helper()
	if side == Upstream {
		return filepath.Join(root(), "bin", "upstream", name)
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}
