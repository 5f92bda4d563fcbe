package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/namespaces"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const forwardDial = 10 * time.Second

// PortForward prepares a port-forward and returns the address where it waits for its client.
func (s *Service) PortForward(ctx context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	r, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !r.running() {
		return nil, fmt.Errorf("sandbox container is not running: %w", errdefs.ErrFailedPrecondition)
	}
	return s.streaming.GetPortForward(req)
}

// PortForward joins the client's stream to a port on the pod's own localhost.
// Upstream: containerd pkg/cri/server/sandbox_portforward_linux.go, portForward.
func (s streamRuntime) PortForward(ctx context.Context, id string, port int32, client io.ReadWriteCloser) error {
	r, err := s.get(namespaces.WithNamespace(ctx, s.cfg.Namespace), kindSandbox, id)
	if err != nil {
		return err
	}
	var server net.Conn
	err = inNetNS(r.Labels[labelNetNS], func() error {
		dialer := net.Dialer{Timeout: forwardDial}
		var err error
		for _, host := range []string{"127.0.0.1", "::1"} {
			var err2 error
			if server, err2 = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); err2 == nil {
				return nil
			} else if err == nil {
				err = err2
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside the pod: %w", port, err)
	}
	defer server.Close()
	go func() { // ends when either side closes
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(client, server)
	return err
}

// openForWriting opens a pipe that the shim reads. It never waits: without a reader it fails at once.
func openForWriting(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
}
