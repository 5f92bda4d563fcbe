// Package e2e drives a real cluster on Docker nodes the way its users do: with
// the orrery command, two versions of the real kubectl, and the tools inside the
// nodes. The tests share one cluster, under a profile of their own, and run in
// the order of the files: what they do is what the README and the course do.
//
//	make e2e                      runs them
//	make swap-nodes               runs those of the files called *_swap_*, which need upstream's programs
//	ORRERY_E2E_KEEP=1 make e2e    leaves the cluster up afterwards, and uses one that was left
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// profile is the cluster's name; ORRERY_E2E_PROFILE is for who runs two at once.
var profile = cmp.Or(os.Getenv("ORRERY_E2E_PROFILE"), "orrery-e2e")

// The nodes of the profile.
var (
	head    = profile
	worker2 = profile + "-m02"
	worker3 = profile + "-m03"
)

// followed is how long at most it takes until every informer follows an API server
// that came back: up to 60 s from one try to the next, and as long again if the
// server no longer has the version where the watch stopped.
const followed = 2*time.Minute + 5*time.Second

var (
	root, _    = filepath.Abs("../..")
	bin        = filepath.Join(root, "bin")
	kubeconfig string
	// started is what `orrery start` printed, and how long it took.
	started struct {
		out  string
		took time.Duration
	}
)

func TestMain(m *testing.M) {
	_, notBuilt := os.Stat(built(upstream, ".built"))
	if os.Getenv("ORRERY_E2E") == "" || os.Getenv("ORRERY_E2E_SWAP") != "" && notBuilt != nil {
		os.Exit(m.Run()) // each test says that it is skipped, and why
	}
	code := 1
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "the cluster did not start:", err)
		keepLogs()
	} else if code = m.Run(); code != 0 {
		keepLogs()
	}
	if os.Getenv("ORRERY_E2E_KEEP") == "" {
		if out, err := command(time.Minute, filepath.Join(bin, "orrery"), "delete", "--profile", profile); err != nil {
			fmt.Fprintln(os.Stderr, out, err)
			code = 1
		} else if err := leftovers(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// setUp clears what an earlier run left and starts a fresh cluster.
func setUp() error {
	orrery := filepath.Join(bin, "orrery")
	if path, err := command(time.Minute, orrery, "kubeconfig", "--profile", profile); err == nil && os.Getenv("ORRERY_E2E_KEEP") != "" {
		kubeconfig = strings.TrimSpace(path)
		if _, err := tryKubectl("get", "nodes"); err == nil {
			return nil
		}
	}
	if out, err := command(2*time.Minute, orrery, "delete", "--profile", profile); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	began := time.Now()
	out, err := command(10*time.Minute, orrery, "start", "--nodes", "3", "--profile", profile)
	started.out, started.took = out, time.Since(began)
	fmt.Print(out)
	if err != nil {
		return err
	}
	path, err := command(time.Minute, orrery, "kubeconfig", "--profile", profile)
	kubeconfig = strings.TrimSpace(path)
	return err
}

// keepLogs saves what every component said, for who has to find out.
func keepLogs() {
	dir := filepath.Join(bin, "e2e-logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	const script = `journalctl --no-pager -b 2>&1 | tail -5000; for f in /var/log/pods/*/*/*.log; do echo "== $f"; tail -500 "$f"; done`
	for _, node := range []string{head, worker2, worker3} {
		out, _ := command(time.Minute, "docker", "exec", node, "sh", "-c", script)
		if err := os.WriteFile(filepath.Join(dir, node+".log"), []byte(out), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	fmt.Fprintln(os.Stderr, "the logs of every component are in", dir)
}

// need skips a test that has no cluster to run on.
func need(t *testing.T) {
	t.Helper()
	if os.Getenv("ORRERY_E2E") == "" {
		t.Skip("needs Docker nodes: run make e2e")
	}
}

// command runs a program and returns all that it printed.
func command(limit time.Duration, name string, args ...string) (string, error) {
	return commandWith(limit, nil, name, args...)
}

func commandWith(limit time.Duration, stdin []byte, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("after %v: %w", limit, ctx.Err())
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// orrery runs the lab tool.
func orrery(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(3*time.Minute, filepath.Join(bin, "orrery"), append(args, "--profile", profile)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inNode runs a shell command in a node.
func inNode(t *testing.T, node, script string) string {
	t.Helper()
	out, err := tryInNode(node, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryInNode(node, script string) (string, error) {
	return command(time.Minute, "docker", "exec", node, "bash", "-c", script)
}

// kubectlPath is the kubectl in use; the tests of commands run with both.
var kubectlPath = filepath.Join(bin, "kubectl")

// kubectl runs kubectl and fails the test if it does.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(args ...string) (string, error) {
	return command(2*time.Minute, kubectlPath, args...)
}

// apply feeds a manifest to kubectl apply.
func apply(t *testing.T, manifest string) string {
	t.Helper()
	out, err := commandWith(time.Minute, []byte(manifest), kubectlPath, "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually tries until f succeeds, and fails the test with f's last complaint
// when the time is up. It returns how long it took.
func eventually(t *testing.T, limit time.Duration, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// contains is an error unless text holds every part.
func contains(text string, parts ...string) error {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return fmt.Errorf("no %q in:\n%s", p, text)
		}
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// jsonPath asks kubectl for one field.
func jsonPath(path string, args ...string) (string, error) {
	out, err := tryKubectl(append([]string{"get", "-o", "jsonpath=" + path}, args...)...)
	return strings.TrimSpace(out), err
}

// is waits-for material: an error unless a field has a value.
func is(want, path string, args ...string) func() error {
	return func() error {
		got, err := jsonPath(path, args...)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s of %s is %q, want %q", path, strings.Join(args, " "), got, want)
		}
		return nil
	}
}

var errNone = errors.New("nothing yet")
