package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// stream is what kubectl exec and attach do with the address that the service gives, by foreign code.
func stream(t *testing.T, address string, options remotecommand.StreamOptions) error {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

func TestStreams(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	n := m.boot()
	sandbox := n.runSandbox(n.sandboxConfig("web"))
	server := n.start(sandbox, container("server", nil, "serve", "8080"))
	n.until("it serves", func() bool { return strings.Contains(n.log(server), "serving") })

	t.Run("exec sync returns output and exit code", func(t *testing.T) {
		resp, err := n.runtime.ExecSync(n.ctx, &cri.ExecSyncRequest{ContainerId: server, Cmd: []string{"/app", "say", "out", ":2err"}, Timeout: 10})
		if err != nil || string(resp.Stdout) != "out\n" || string(resp.Stderr) != "err\n" || resp.ExitCode != 0 {
			t.Errorf("%v, %v", resp, err)
		}
		resp, err = n.runtime.ExecSync(n.ctx, &cri.ExecSyncRequest{ContainerId: server, Cmd: []string{"/app", "exit", "7"}})
		if err != nil || resp.ExitCode != 7 {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("exec sync ends at its timeout", func(t *testing.T) {
		began := time.Now()
		_, err := n.runtime.ExecSync(n.ctx, &cri.ExecSyncRequest{ContainerId: server, Cmd: []string{"/app", "sleep", "1m"}, Timeout: 1})
		if status.Code(err) != codes.DeadlineExceeded || time.Since(began) > 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
	t.Run("exec of what is not there fails", func(t *testing.T) {
		_, err := n.runtime.ExecSync(n.ctx, &cri.ExecSyncRequest{ContainerId: server, Cmd: []string{"/nonsense"}, Timeout: 10})
		if err == nil || !strings.Contains(err.Error(), "/nonsense") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("exec streams, with stdin to its end", func(t *testing.T) {
		resp, err := n.runtime.Exec(n.ctx, &cri.ExecRequest{ContainerId: server, Cmd: []string{"/app", "echo"}, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut buffer
		err = stream(t, resp.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("you\nme\n"), Stdout: &out, Stderr: &errOut})
		if err != nil || out.String() != "heard you\nheard me\nstdin closed\n" || errOut.String() != "" {
			t.Errorf("%q, %q, %v", out.String(), errOut.String(), err)
		}
	})
	t.Run("exec tells a foreign client the exit code", func(t *testing.T) {
		resp, err := n.runtime.Exec(n.ctx, &cri.ExecRequest{ContainerId: server, Cmd: []string{"/app", "exit", "7"}, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		err = stream(t, resp.Url, remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || err.Error() != "command terminated with exit code 7" {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("exec on a terminal", func(t *testing.T) {
		resp, err := n.runtime.Exec(n.ctx, &cri.ExecRequest{ContainerId: server, Cmd: []string{"/app", "echo"}, Stdin: true, Stdout: true, Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		var out buffer
		err = stream(t, resp.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("you\n\x04"), Stdout: &out, Tty: true})
		if err != nil || !strings.Contains(out.String(), "heard you\r\nstdin closed\r\n") {
			t.Errorf("%q, %v", out.String(), err)
		}
	})
	t.Run("attach to stdin without a terminal, which closes it", func(t *testing.T) {
		id := n.start(sandbox, container("reads", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "echo"))
		resp, err := n.runtime.Attach(n.ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		var out buffer
		err = stream(t, resp.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("you\n"), Stdout: &out, Stderr: io.Discard})
		if err != nil || out.String() != "heard you\nstdin closed\n" {
			t.Errorf("%q, %v", out.String(), err)
		}
		if got := n.exited(id); got.ExitCode != 0 || !strings.Contains(n.log(id), "stdout F heard you\n") {
			t.Errorf("it is %v; log %s", got, n.log(id))
		}
	})
	t.Run("attach to a terminal", func(t *testing.T) {
		id := n.start(sandbox, container("tty", func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true }, "echo"))
		resp, err := n.runtime.Attach(n.ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		var out buffer
		err = stream(t, resp.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("you\n\x04"), Stdout: &out, Tty: true})
		if err != nil || !strings.Contains(out.String(), "heard you\r\n") {
			t.Errorf("%q, %v", out.String(), err)
		}
		n.exited(id)
		if !strings.Contains(n.log(id), "stdout F heard you") {
			t.Errorf("log is %s", n.log(id))
		}
	})
	t.Run("attach to a container that only writes", func(t *testing.T) {
		id := n.start(sandbox, container("counts", nil, "count"))
		resp, err := n.runtime.Attach(n.ctx, &cri.AttachRequest{ContainerId: id, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		var out buffer
		ended := make(chan error, 1)
		go func() { ended <- stream(t, resp.Url, remotecommand.StreamOptions{Stdout: &out, Stderr: io.Discard}) }()
		n.until("lines arrive", func() bool { return strings.Count(out.String(), "\n") > 10 })
		if _, err := n.runtime.StopContainer(n.ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("attach ended with %v", err)
		}
	})
	t.Run("port-forward reaches the pod's localhost", func(t *testing.T) {
		resp, err := n.runtime.PortForward(n.ctx, &cri.PortForwardRequest{PodSandboxId: sandbox})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, resp.Url, 8080); got != "you said hello\n" {
			t.Errorf("it says %q", got)
		}
	})
}

// ask forwards a port as kubectl does, and sends it a line.
func ask(t *testing.T, address string, port int) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	forward, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- forward.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		t.Fatal(err)
	}
	ports, err := forward.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return dialAndSay(t, fmt.Sprintf("127.0.0.1:%d", ports[0].Local), "hello\n")
}
