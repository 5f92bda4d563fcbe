package runtime

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/errdefs"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startErrorCode is the exit code of a container whose process never ran.
// Upstream: containerd pkg/cri/server, errorStartExitCode.
const startErrorCode = "128"

// oomReason is the reason of a container of which the kernel has killed a process for want of memory.
const oomReason = "OOMKilled"

// StartContainer starts the process of a created container. When that fails, the container counts as ended with
// exit code 128 and reason StartError.
// Upstream: containerd pkg/cri/server/container_start.go, StartContainer.
func (s *Service) StartContainer(ctx context.Context, req *cri.StartContainerRequest) (_ *cri.StartContainerResponse, err error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if state := r.state(); state != cri.ContainerState_CONTAINER_CREATED {
		return nil, fmt.Errorf("container is in %s state: %w", state, errdefs.ErrFailedPrecondition)
	}
	defer func() {
		if err != nil {
			s.startFailed(ctx, r, err)
		}
	}()
	config := r.containerConfig()
	creator, err := s.containerIO(r.ID, config)
	if err != nil {
		return nil, err
	}
	container, err := s.client.LoadContainer(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	task, err := container.NewTask(ctx, creator)
	if err != nil {
		return nil, fmt.Errorf("failed to create containerd task: %w", err)
	}
	// Written before the start, so that no crash makes a container that has run look as if it had not.
	if err := s.label(ctx, r.ID, map[string]string{labelStarted: stamp(time.Now())}); err != nil {
		return nil, err
	}
	if err := task.Start(ctx); err != nil {
		return nil, fmt.Errorf("failed to start containerd task %q: %w", r.ID, err)
	}
	s.publish(ctx, cri.ContainerEventType_CONTAINER_STARTED_EVENT, r.ID, r.Labels[labelSandbox])
	return &cri.StartContainerResponse{}, nil
}

// startFailed writes down why, and removes a half-made task.
func (s *Service) startFailed(ctx context.Context, r *record, cause error) {
	ctx = context.WithoutCancel(ctx)
	if container, err := s.client.LoadContainer(ctx, r.ID); err == nil {
		if task, err := container.Task(ctx, nil); err == nil {
			task.Delete(ctx, containerd.WithProcessKill) // if it stays, it shows in the status
		}
	}
	message := cause.Error()
	message = message[:min(len(message), 2048)] // containerd bounds labels to 4096 bytes
	err := s.label(ctx, r.ID, map[string]string{labelExitCode: startErrorCode, labelReason: "StartError",
		labelMessage: message, labelFinished: stamp(time.Now())})
	if err != nil {
		s.log.Warn("Failed start could not be recorded", "key", r.ID, "err", err)
	}
}

// StopContainer asks a container's process to end, with its stop signal, and kills it when the timeout (seconds) is over.
// A container that is gone or has ended is no error.
// Upstream: containerd pkg/cri/server/container_stop.go, StopContainer.
func (s *Service) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	resp := &cri.StopContainerResponse{}
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if errdefs.IsNotFound(err) {
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	if r.task == nil {
		return resp, nil
	}
	if req.Timeout <= 0 {
		return resp, s.kill(ctx, r)
	}
	task, exited, err := s.waiting(ctx, r.ID)
	if err != nil || task == nil {
		return resp, err
	}
	if err := task.Kill(ctx, s.stopSignal(ctx, r)); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("failed to stop container %q: %w", r.ID, err)
	}
	timeout := time.NewTimer(time.Duration(req.Timeout) * time.Second)
	defer timeout.Stop()
	select {
	case <-exited:
		return resp, s.reap(ctx, r.ID)
	case <-timeout.C:
		return resp, s.kill(ctx, r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stopSignal is the pod's, else the image's, else SIGTERM.
func (s *Service) stopSignal(ctx context.Context, r *record) syscall.Signal {
	name := ""
	if sig := r.containerConfig().GetStopSignal(); sig != cri.Signal_RUNTIME_DEFAULT {
		name = strings.ReplaceAll(sig.String(), "PLUS", "+")
	} else if image, err := s.client.GetImage(ctx, r.Image); err == nil {
		if spec, err := image.Spec(ctx); err == nil {
			name = spec.Config.StopSignal
		}
	}
	if n, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(n)
	}
	var offset int
	if base, n, found := strings.Cut(name, "RTMIN+"); found && strings.TrimPrefix(base, "SIG") == "" {
		if _, err := fmt.Sscan(n, &offset); err == nil {
			return syscall.Signal(34 + offset)
		}
	}
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); sig != 0 {
		return sig
	}
	return syscall.SIGTERM
}

// waiting returns the task of a record and a channel that is told of its end; a nil task when it has none.
func (s *Service) waiting(ctx context.Context, id string) (containerd.Task, <-chan containerd.ExitStatus, error) {
	container, err := s.client.LoadContainer(ctx, id)
	if err == nil {
		task, err2 := container.Task(ctx, nil)
		if err2 == nil {
			exited, err3 := task.Wait(ctx)
			return task, exited, err3
		}
		err = err2
	}
	if errdefs.IsNotFound(err) {
		return nil, nil, nil
	}
	return nil, nil, err
}

func (s *Service) awaitAndReap(ctx context.Context, id string, exited <-chan containerd.ExitStatus) error {
	select {
	case <-exited:
		return s.reap(ctx, id)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reap writes down how an ended process ended and then lets containerd forget it, in this order: a crash in between only
// means to do it again. A process that runs is left alone. It is called by whoever sees the end first.
func (s *Service) reap(ctx context.Context, id string) error {
	_, err, _ := s.reaping.Do(id, func() (any, error) {
		return nil, s.reapOnce(context.WithoutCancel(ctx), id)
	})
	return err
}

func (s *Service) reapOnce(ctx context.Context, id string) error {
	container, err := s.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	record, err := container.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil || record.Labels[labelKind] == "" {
		return err // not ours
	}
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	status, err := task.Status(ctx)
	if err != nil || status.Status != containerd.Stopped {
		return err
	}
	sandbox := record.ID
	if record.Labels[labelKind] == kindContainer {
		sandbox = record.Labels[labelSandbox]
		end := map[string]string{labelExitCode: strconv.Itoa(int(status.ExitStatus)), labelFinished: stamp(status.ExitTime)}
		if s.outOfMemory(ctx, container) {
			end[labelReason] = oomReason
		}
		if err := s.label(ctx, id, end); err != nil {
			return err
		}
	}
	if _, err := task.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("deleting task: %w", err)
	}
	s.publish(ctx, cri.ContainerEventType_CONTAINER_STOPPED_EVENT, id, sandbox)
	return nil
}
