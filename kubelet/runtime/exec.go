package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/namespaces"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"orrery/kubelet/runtime/logger"
)

const (
	// maxExecOutput bounds what ExecSync keeps of each stream.
	maxExecOutput = 16 << 20
	// execCleanup bounds the removal of an ended exec.
	execCleanup = 10 * time.Second
)

// command is a process to be run in a container beside its own.
type command struct {
	args           []string
	tty            bool
	stdin          io.Reader // nil for none
	stdout, stderr io.Writer // a terminal has no stderr
	resize         <-chan remotecommand.TerminalSize
}

// exec runs a command in a running container and returns its exit code. When ctx ends first, the command is killed.
func (s *Service) exec(ctx context.Context, id string, cmd command) (uint32, error) {
	r, err := s.get(ctx, kindContainer, id)
	if err != nil {
		return 0, err
	}
	if !r.running() {
		return 0, fmt.Errorf("container is in %s state: %w", r.state(), errdefs.ErrFailedPrecondition)
	}
	container, err := s.client.LoadContainer(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return 0, err
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return 0, err
	}
	process := spec.Process
	process.Args, process.Terminal = cmd.args, cmd.tty
	if cmd.tty {
		process.Env = append(process.Env, "TERM=xterm")
	}
	ended := make(chan struct{}) // closed when stdin is at its end
	streams := []cio.Opt{cio.WithFIFODir(s.ioDir(r.ID)), cio.WithStreams(closingReader(cmd.stdin, ended), cmd.stdout, cmd.stderr)}
	if cmd.tty {
		streams = append(streams, cio.WithTerminal)
	}
	p, err := task.Exec(ctx, newID(), process, cio.NewCreator(streams...))
	if err != nil {
		return 0, fmt.Errorf("failed to create exec: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execCleanup)
		defer cancel()
		if _, err := p.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("Exec could not be removed", "key", id, "err", err)
		}
	}()
	exited, err := p.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return 0, err
	}
	if err := p.Start(ctx); err != nil {
		return 0, fmt.Errorf("failed to start exec: %w", err)
	}
	return s.follow(ctx, p, cmd, ended, exited)
}

// follow passes window sizes and the end of stdin on until the process has ended and all its output is copied.
func (s *Service) follow(ctx context.Context, p containerd.Process, cmd command, ended <-chan struct{}, exited <-chan containerd.ExitStatus) (uint32, error) {
	for {
		select {
		case size, ok := <-cmd.resize:
			if !ok {
				cmd.resize = nil
			} else if err := p.Resize(ctx, uint32(size.Width), uint32(size.Height)); err != nil {
				s.log.Debug("Terminal could not be resized", "err", err)
			}
		case <-ended:
			ended = nil
			if cmd.tty {
				continue // to close a terminal is to hang up
			}
			if err := p.CloseIO(ctx, containerd.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
				s.log.Debug("Stdin could not be closed", "err", err)
			}
		case status := <-exited:
			code, _, err := status.Result()
			if err != nil {
				return 0, err
			}
			p.IO().Wait()
			return code, nil
		case <-ctx.Done():
			if err := p.Kill(context.WithoutCancel(ctx), syscall.SIGKILL); err == nil {
				<-exited
			}
			return 0, ctx.Err()
		}
	}
}

// closingReader closes ended when r is at its end. A nil reader stays nil.
func closingReader(r io.Reader, ended chan struct{}) io.Reader {
	if r == nil {
		return nil
	}
	return &endReader{r, ended}
}

type endReader struct {
	io.Reader
	ended chan struct{}
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil && e.ended != nil {
		close(e.ended)
		e.ended = nil
	}
	return n, err
}

// ExecSync runs a command and returns its output: what exec probes and hooks use. The timeout is in seconds, 0 for none.
// Upstream: containerd pkg/cri/server/container_execsync.go, ExecSync.
func (s *Service) ExecSync(ctx context.Context, req *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	var stdout, stderr capped
	limited, cancel := ctx, context.CancelFunc(func() {})
	if req.Timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, time.Duration(req.Timeout)*time.Second)
	}
	defer cancel()
	code, err := s.exec(limited, req.GetContainerId(), command{args: req.Cmd, stdout: &stdout, stderr: &stderr})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, fmt.Errorf("failed to exec in container: timeout %v exceeded: %w", time.Duration(req.Timeout)*time.Second, context.DeadlineExceeded)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to exec in container: %w", err)
	}
	return &cri.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: int32(code)}, nil
}

// capped keeps the first 16 MiB and takes the rest without complaint.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), maxExecOutput-c.Len())])
	return len(p), nil
}

// Exec prepares a streaming exec and returns the address where it waits for its client.
func (s *Service) Exec(ctx context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	if err := s.mustRun(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetExec(req)
}

// Attach prepares an attach to a container's own process and returns the address where it waits for its client.
func (s *Service) Attach(ctx context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	if err := s.mustRun(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streaming.GetAttach(req)
}

func (s *Service) mustRun(ctx context.Context, id string) error {
	r, err := s.get(ctx, kindContainer, id)
	if err != nil {
		return err
	}
	if !r.running() {
		return fmt.Errorf("container is in %s state: %w", r.state(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// streamRuntime is what the streaming server calls when the client of Exec, Attach or PortForward is there.
type streamRuntime struct{ *Service }

// Exec runs a command on the client's streams.
func (s streamRuntime) Exec(ctx context.Context, id string, args []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	// Unwanted output still needs a place to go: the shim cannot do with one stream alone.
	cmd := command{args: args, tty: tty, stdin: in, stdout: io.Discard, stderr: io.Discard, resize: resize}
	if out != nil {
		cmd.stdout = out
	}
	if tty {
		cmd.stderr = nil
	} else if errOut != nil {
		cmd.stderr = errOut
	}
	code, err := s.exec(namespaces.WithNamespace(ctx, s.cfg.Namespace), id, cmd)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: int(code)}
	}
	return err
}

// Attach joins the client's streams to those of the container's process.
// Upstream: containerd pkg/cri/server/container_attach.go, Attach.
func (s streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(ctx, s.cfg.Namespace))
	defer cancel()
	r, err := s.get(ctx, kindContainer, id)
	if err != nil {
		return err
	}
	container, err := s.client.LoadContainer(ctx, r.ID)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	output, err := logger.Attach(ctx, s.socket(r.ID))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { output.Close() })
	go func() {
		for {
			select {
			case size, ok := <-resize:
				if !ok {
					return
				}
				if err := task.Resize(ctx, uint32(size.Width), uint32(size.Height)); err != nil {
					s.log.Debug("Terminal could not be resized", "key", id, "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	config := r.containerConfig()
	if in != nil && config.Stdin {
		go s.feedStdin(ctx, r.ID, config, task, in) // ends with the client's connection
	}
	var stdout, stderr io.Writer
	if out != nil {
		stdout = out
	}
	if errOut != nil {
		stderr = errOut
	}
	return output.Copy(stdout, stderr)
}

// feedStdin copies the client's input to the container and, where the pod says stdinOnce, closes it behind the first client.
func (s *Service) feedStdin(ctx context.Context, id string, config *cri.ContainerConfig, task containerd.Task, in io.Reader) {
	pipe, err := openForWriting(s.fifo(id, "stdin"))
	if err != nil {
		s.log.Warn("Stdin cannot be attached", "key", id, "err", err)
		return
	}
	defer pipe.Close()
	_, err = io.Copy(pipe, in)
	if err == nil && config.StdinOnce && !config.Tty {
		if err := task.CloseIO(ctx, containerd.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
			s.log.Debug("Stdin could not be closed", "key", id, "err", err)
		}
	}
}
