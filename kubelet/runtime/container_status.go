package runtime

import (
	"context"
	"strings"

	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListContainers lists containers, by id, sandbox, state and labels.
func (s *Service) ListContainers(ctx context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	records, err := s.list(ctx, kindContainer)
	if err != nil {
		return nil, err
	}
	resp, filter := &cri.ListContainersResponse{}, req.GetFilter()
	for i := range records {
		r := &records[i]
		config, state := r.containerConfig(), filter.GetState()
		if !strings.HasPrefix(r.ID, filter.GetId()) || !strings.HasPrefix(r.Labels[labelSandbox], filter.GetPodSandboxId()) ||
			state != nil && state.State != r.state() || !matches(filter.GetLabelSelector(), config.Labels) {
			continue
		}
		resp.Containers = append(resp.Containers, &cri.Container{
			Id: r.ID, PodSandboxId: r.Labels[labelSandbox], Metadata: config.Metadata, Image: config.Image,
			ImageRef: r.Labels[labelImageID], ImageId: r.Labels[labelImageID], State: r.state(),
			CreatedAt: r.CreatedAt.UnixNano(), Labels: config.Labels, Annotations: config.Annotations})
	}
	return resp, nil
}

// ContainerStatus describes one container.
// Upstream: containerd pkg/cri/server/container_status.go, ContainerStatus.
func (s *Service) ContainerStatus(ctx context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &cri.ContainerStatusResponse{Status: s.status(r)}
	if req.GetVerbose() {
		resp.Info, err = info(r)
	}
	return resp, err
}

func (s *Service) status(r *record) *cri.ContainerStatus {
	config := r.containerConfig()
	status := &cri.ContainerStatus{
		Id: r.ID, Metadata: config.Metadata, State: r.state(), CreatedAt: r.CreatedAt.UnixNano(),
		StartedAt: r.time(labelStarted), Image: &cri.ImageSpec{Image: r.Image}, ImageRef: r.Labels[labelImageRef],
		ImageId: r.Labels[labelImageID], Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts,
		LogPath: config.LogPath, StopSignal: config.StopSignal,
	}
	if user := config.GetImage().GetUserSpecifiedImage(); user != "" {
		status.Image.UserSpecifiedImage = user
	}
	if status.State == cri.ContainerState_CONTAINER_EXITED {
		status.ExitCode, status.FinishedAt, status.Reason, status.Message = r.exit()
	}
	var spec specs.Spec
	if r.Spec != nil && typeurl.UnmarshalTo(r.Spec, &spec) == nil {
		status.Resources = reportedResources(&spec)
		if p := spec.Process; p != nil {
			user := &cri.LinuxContainerUser{Uid: int64(p.User.UID), Gid: int64(p.User.GID)}
			for _, g := range p.User.AdditionalGids {
				user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
			}
			status.User = &cri.ContainerUser{Linux: user}
		}
	}
	return status
}
