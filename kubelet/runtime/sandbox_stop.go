package runtime

import (
	"context"
	"fmt"
	"syscall"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopPodSandbox kills what runs in the sandbox, gives its address back and takes its network namespace down.
// It may be called again, and for a sandbox that is gone.
// Upstream: containerd pkg/cri/server/sandbox_stop.go, StopPodSandbox.
func (s *Service) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	r, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if errdefs.IsNotFound(err) {
		return &cri.StopPodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &cri.StopPodSandboxResponse{}, s.stopSandbox(ctx, r)
}

func (s *Service) stopSandbox(ctx context.Context, r *record) error {
	members, err := s.members(ctx, r.ID)
	if err != nil {
		return err
	}
	for i := range members {
		if err := s.kill(ctx, &members[i]); err != nil {
			return fmt.Errorf("failed to stop container %q: %w", members[i].ID, err)
		}
	}
	if err := s.kill(ctx, r); err != nil {
		return fmt.Errorf("failed to stop sandbox %q: %w", r.ID, err)
	}
	if netns := r.Labels[labelNetNS]; netns != "" {
		if err := s.delNetwork(ctx, r.ID); err != nil {
			return fmt.Errorf("failed to destroy network for sandbox %q: %w", r.ID, err)
		}
		return unpinNetNS(netns)
	}
	return nil
}

// RemovePodSandbox stops the sandbox and removes it and its containers. A sandbox that is gone is no error.
// Upstream: containerd pkg/cri/server/sandbox_remove.go, RemovePodSandbox.
func (s *Service) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	r, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if errdefs.IsNotFound(err) {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.stopSandbox(ctx, r); err != nil {
		return nil, err
	}
	members, err := s.members(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	for i := range members {
		if err := s.remove(ctx, &members[i]); err != nil {
			return nil, err
		}
	}
	if err := s.delete(ctx, r.ID); err != nil {
		return nil, fmt.Errorf("failed to delete sandbox %q: %w", r.ID, err)
	}
	if err := s.removeSandboxFiles(r.ID); err != nil {
		return nil, err
	}
	s.publish(ctx, cri.ContainerEventType_CONTAINER_DELETED_EVENT, r.ID, r.ID)
	return &cri.RemovePodSandboxResponse{}, nil
}

// members are the containers of a sandbox.
func (s *Service) members(ctx context.Context, sandbox string) ([]record, error) {
	all, err := s.list(ctx, kindContainer)
	if err != nil {
		return nil, err
	}
	var members []record
	for _, r := range all {
		if r.Labels[labelSandbox] == sandbox {
			members = append(members, r)
		}
	}
	return members, nil
}

// kill ends a record's process at once, waits for that, and writes down how it ended.
func (s *Service) kill(ctx context.Context, r *record) error {
	if r.task == nil {
		return nil
	}
	task, exited, err := s.waiting(ctx, r.ID)
	if err != nil || task == nil {
		return err
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return s.awaitAndReap(ctx, r.ID, exited)
}

// delete removes a record and its root file system; that it is gone already is no error.
func (s *Service) delete(ctx context.Context, id string) error {
	c, err := s.client.LoadContainer(ctx, id)
	if err == nil {
		err = c.Delete(ctx, containerd.WithSnapshotCleanup)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
