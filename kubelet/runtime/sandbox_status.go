package runtime

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus describes one sandbox.
// Upstream: containerd pkg/cri/server/sandbox_status.go, PodSandboxStatus.
func (s *Service) PodSandboxStatus(ctx context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	members, err := s.members(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	resp := &cri.PodSandboxStatusResponse{Status: sandboxStatus(r), Timestamp: time.Now().UnixNano()}
	for i := range members {
		resp.ContainersStatuses = append(resp.ContainersStatuses, s.status(&members[i]))
	}
	if req.GetVerbose() {
		resp.Info, err = info(r)
	}
	return resp, err
}

func sandboxStatus(r *record) *cri.PodSandboxStatus {
	config := r.sandboxConfig()
	network := &cri.PodSandboxNetworkStatus{}
	// A sandbox that is down may have lost its address to another pod.
	if ips := r.Labels[labelIPs]; ips != "" && r.running() {
		all := strings.Split(ips, ",")
		network.Ip = all[0]
		for _, ip := range all[1:] {
			network.AdditionalIps = append(network.AdditionalIps, &cri.PodIP{Ip: ip})
		}
	}
	return &cri.PodSandboxStatus{
		Id: r.ID, Metadata: config.Metadata, State: r.sandboxState(), CreatedAt: r.CreatedAt.UnixNano(),
		Network: network,
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{
			Options: config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
		Labels: config.Labels, Annotations: config.Annotations,
	}
}

// ListPodSandbox lists sandboxes, by id, state and labels.
func (s *Service) ListPodSandbox(ctx context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	records, err := s.list(ctx, kindSandbox)
	if err != nil {
		return nil, err
	}
	resp, filter := &cri.ListPodSandboxResponse{}, req.GetFilter()
	for i := range records {
		r := &records[i]
		config := r.sandboxConfig()
		state := filter.GetState()
		if !strings.HasPrefix(r.ID, filter.GetId()) || state != nil && state.State != r.sandboxState() ||
			!matches(filter.GetLabelSelector(), config.Labels) {
			continue
		}
		resp.Items = append(resp.Items, &cri.PodSandbox{Id: r.ID, Metadata: config.Metadata, State: r.sandboxState(),
			CreatedAt: r.CreatedAt.UnixNano(), Labels: config.Labels, Annotations: config.Annotations})
	}
	return resp, nil
}

// info is what crictl inspect shows beyond the status.
func info(r *record) (map[string]string, error) {
	details := map[string]any{"pid": 0, "sandboxID": r.Labels[labelSandbox], "snapshotKey": r.SnapshotKey,
		"snapshotter": r.Snapshotter, "runtimeType": r.Runtime.Name}
	if r.task != nil {
		details["pid"] = r.task.Pid
	}
	if r.Spec != nil {
		details["runtimeSpec"] = json.RawMessage(r.Spec.GetValue())
	}
	b, err := json.Marshal(details)
	return map[string]string{"info": string(b)}, err
}
