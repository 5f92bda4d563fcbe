package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/cio"
	"github.com/containerd/fifo"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/kubelet/runtime/logger"
)

// ioDir holds a container's logger socket and pipes, at names that a restarted process can compute.
func (s *Service) ioDir(id string) string  { return filepath.Join(s.cfg.RunDir, id[:16]) }
func (s *Service) socket(id string) string { return filepath.Join(s.ioDir(id), "log.sock") }

func cloneConfig(c *cri.ContainerConfig) *cri.ContainerConfig {
	return proto.Clone(c).(*cri.ContainerConfig)
}

// containerIO joins a container that is about to start to its logger. There are two ways:
//
//   - The shim starts a cri-logger process and gives it the container's output. It lives as long as the container,
//     whatever becomes of us. Nearly every container runs so.
//   - A shim has no stdin to give beside such a process, unless on a terminal. So the output of the rare container with
//     stdin and no terminal goes through named pipes to a logger in our process; a restart finds the pipes again,
//     and the shim keeps them open meanwhile.
func (s *Service) containerIO(id string, config *cri.ContainerConfig) (cio.Creator, error) {
	if err := os.MkdirAll(s.ioDir(id), 0o700); err != nil {
		return nil, err
	}
	if config.LogPath != "" { // so that a bad path fails the start and does not merely lose the log
		f, err := os.OpenFile(config.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, fmt.Errorf("failed to create container log: %w", err)
		}
		f.Close()
	}
	set := cio.Config{Terminal: config.Tty}
	if config.Stdin {
		set.Stdin = s.fifo(id, "stdin")
		if err := syscall.Mkfifo(set.Stdin, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	if config.Stdin && !config.Tty {
		set.Stdout, set.Stderr = s.fifo(id, "stdout"), s.fifo(id, "stderr")
		if err := s.logHere(id, config); err != nil {
			return nil, err
		}
	} else {
		args := map[string]string{"-socket": s.socket(id), "-log": config.LogPath}
		if config.Tty {
			args["-tty"] = "yes"
		}
		uri, err := cio.LogURIGenerator("binary", s.cfg.LoggerPath, args)
		if err != nil {
			return nil, err
		}
		set.Stdout, set.Stderr = uri.String(), uri.String()
	}
	return func(string) (cio.IO, error) { return cio.Load(cio.NewFIFOSet(set, nil)) }, nil
}

func (s *Service) fifo(id, name string) string { return filepath.Join(s.ioDir(id), name) }

// logHere runs the logger of a container with pipes in our process, until the container's output or the service ends.
func (s *Service) logHere(id string, config *cri.ContainerConfig) error {
	var outputs [2]io.ReadCloser
	for i, name := range []string{"stdout", "stderr"} {
		pipe, err := fifo.OpenFifo(s.base, s.fifo(id, name), syscall.O_RDONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return err
		}
		outputs[i] = pipe
	}
	stop := context.AfterFunc(s.base, func() { outputs[0].Close(); outputs[1].Close() })
	s.tasks.Go(func() {
		defer stop()
		cfg := logger.Config{LogPath: config.LogPath, Socket: s.socket(id)}
		if err := logger.Run(s.base, cfg, outputs[0], outputs[1], func() error { return nil }); err != nil {
			s.log.Warn("Container log is incomplete", "key", id, "err", err)
		}
		outputs[0].Close()
		outputs[1].Close()
	})
	return nil
}

// resumeLogs goes on reading for the containers with pipes that an earlier process has started.
func (s *Service) resumeLogs(ctx context.Context) error {
	records, err := s.list(ctx, kindContainer)
	if err != nil {
		return err
	}
	for i := range records {
		config := records[i].containerConfig()
		if records[i].running() && config.Stdin && !config.Tty {
			if err := s.logHere(records[i].ID, config); err != nil {
				s.log.Warn("Container log cannot be resumed", "key", records[i].ID, "err", err)
			}
		}
	}
	return nil
}

// ReopenContainerLog has the container's logger open its file anew, after the kubelet has renamed it.
// Upstream: containerd pkg/cri/server/container_log_reopen.go, ReopenContainerLog.
func (s *Service) ReopenContainerLog(ctx context.Context, req *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if !r.running() {
		return nil, errors.New("container is not running")
	}
	return &cri.ReopenContainerLogResponse{}, logger.Reopen(ctx, s.socket(r.ID))
}
