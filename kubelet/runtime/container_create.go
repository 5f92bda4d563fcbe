package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container's record and root file system. Its process comes with StartContainer.
//
// Upstream: containerd pkg/cri/server/container_create.go, CreateContainer.
// Left out: CDI devices, user namespaces, SELinux, AppArmor, image volumes, huge pages.
func (s *Service) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	config, sandboxConfig := req.GetConfig(), req.GetSandboxConfig()
	if config.GetMetadata() == nil {
		return nil, fmt.Errorf("container config must have metadata: %w", errdefs.ErrInvalidArgument)
	}
	sandbox, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !sandbox.running() {
		return nil, fmt.Errorf("sandbox %q is not running: %w", sandbox.ID, errdefs.ErrFailedPrecondition)
	}
	if sandboxConfig == nil {
		sandboxConfig = sandbox.sandboxConfig()
	}
	image, err := s.unpackedImage(ctx, config.GetImage().GetImage(), config.GetImage().GetUserSpecifiedImage())
	if err != nil {
		return nil, fmt.Errorf("failed to resolve image %q: %w", config.GetImage().GetImage(), err)
	}
	id := newID()
	spec, err := s.containerSpec(ctx, id, sandbox, sandboxConfig, config, image)
	if err != nil {
		return nil, err
	}
	labels, err := s.containerLabels(ctx, sandbox.ID, config, image)
	if err != nil {
		return nil, err
	}
	// The log's place is known from the sandbox alone; a later reader needs no second record.
	stored := cloneConfig(config)
	if config.LogPath != "" && sandboxConfig.LogDirectory != "" {
		stored.LogPath = filepath.Join(sandboxConfig.LogDirectory, config.LogPath)
	}
	extension, err := packConfig(stored)
	if err != nil {
		return nil, err
	}
	_, err = s.client.NewContainer(ctx, id,
		containerd.WithSnapshotter(s.cfg.Snapshotter),
		containerd.WithImage(image),
		containerd.WithNewSnapshot(id, image),
		containerd.WithContainerLabels(labels),
		containerd.WithContainerExtension(extensionConfig, extension),
		s.withRuntime(),
		containerd.WithNewSpec(spec...))
	if err != nil {
		s.dropSnapshot(ctx, id)
		return nil, fmt.Errorf("failed to create containerd container: %w", err)
	}
	s.publish(ctx, cri.ContainerEventType_CONTAINER_CREATED_EVENT, id, sandbox.ID)
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func (s *Service) containerLabels(ctx context.Context, sandbox string, config *cri.ContainerConfig, image containerd.Image) (map[string]string, error) {
	imageID, err := image.Config(ctx)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{labelKind: kindContainer, labelSandbox: sandbox,
		labelImageID: imageID.Digest.String(), labelImageRef: imageID.Digest.String()}
	if digests := repoDigests(image.Name(), image.Target().Digest.String()); len(digests) > 0 {
		labels[labelImageRef] = digests[0]
	}
	for k, v := range config.Labels {
		labels[k] = v
	}
	return labels, nil
}

// dropSnapshot removes the root file system of a container whose record could not be written.
func (s *Service) dropSnapshot(ctx context.Context, id string) {
	err := s.client.SnapshotService(s.cfg.Snapshotter).Remove(context.WithoutCancel(ctx), id)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("Snapshot could not be removed", "key", id, "err", err)
	}
}

// RemoveContainer removes a container, running or not, and leaves its log to the kubelet. One that is gone is no error.
// Upstream: containerd pkg/cri/server/container_remove.go, RemoveContainer.
func (s *Service) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &cri.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &cri.RemoveContainerResponse{}, s.remove(ctx, r)
}

func (s *Service) remove(ctx context.Context, r *record) error {
	if err := s.kill(ctx, r); err != nil {
		return fmt.Errorf("failed to stop container %q: %w", r.ID, err)
	}
	if err := s.delete(ctx, r.ID); err != nil {
		return fmt.Errorf("failed to delete container %q: %w", r.ID, err)
	}
	os.RemoveAll(s.ioDir(r.ID))
	s.publish(ctx, cri.ContainerEventType_CONTAINER_DELETED_EVENT, r.ID, r.Labels[labelSandbox])
	return nil
}
