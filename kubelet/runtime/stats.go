package runtime

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStats reads a container's use of CPU, memory and disk.
// Upstream: containerd pkg/cri/server/container_stats.go, ContainerStats.
// Left out: swap, IO and pressure figures; momentary CPU use, which the kubelet computes from two readings.
func (s *Service) ContainerStats(ctx context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: s.stats(ctx, r)}, nil
}

// ListContainerStats reads the figures of the containers that run.
func (s *Service) ListContainerStats(ctx context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	records, err := s.list(ctx, kindContainer)
	if err != nil {
		return nil, err
	}
	resp, filter := &cri.ListContainerStatsResponse{}, req.GetFilter()
	for i := range records {
		r := &records[i]
		if r.running() && strings.HasPrefix(r.ID, filter.GetId()) && strings.HasPrefix(r.Labels[labelSandbox], filter.GetPodSandboxId()) &&
			matches(filter.GetLabelSelector(), r.containerConfig().Labels) {
			resp.Stats = append(resp.Stats, s.stats(ctx, r))
		}
	}
	return resp, nil
}

// PodSandboxStats reads the figures of one pod and of its containers.
func (s *Service) PodSandboxStats(ctx context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	r, err := s.get(ctx, kindSandbox, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := s.podStats(ctx, r)
	return &cri.PodSandboxStatsResponse{Stats: stats}, err
}

// ListPodSandboxStats reads the figures of the pods that run.
func (s *Service) ListPodSandboxStats(ctx context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	records, err := s.list(ctx, kindSandbox)
	if err != nil {
		return nil, err
	}
	resp, filter := &cri.ListPodSandboxStatsResponse{}, req.GetFilter()
	for i := range records {
		r := &records[i]
		if !r.running() || !strings.HasPrefix(r.ID, filter.GetId()) || !matches(filter.GetLabelSelector(), r.sandboxConfig().Labels) {
			continue
		}
		stats, err := s.podStats(ctx, r)
		if err != nil {
			return nil, err
		}
		resp.Stats = append(resp.Stats, stats)
	}
	return resp, nil
}

// podStats adds the containers up from the pod's own cgroup, which the kubelet has made around them.
func (s *Service) podStats(ctx context.Context, r *record) (*cri.PodSandboxStats, error) {
	members, err := s.members(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	config := r.sandboxConfig()
	path := config.GetLinux().GetCgroupParent()
	if s.cfg.SystemdCgroup {
		path = expandSlice(path[strings.LastIndex(path, "/")+1:])
	}
	linux := &cri.LinuxPodSandboxStats{Cpu: cpuUsage(path), Memory: memoryUsage(path)}
	for i := range members {
		if members[i].running() {
			linux.Containers = append(linux.Containers, s.stats(ctx, &members[i]))
		}
	}
	return &cri.PodSandboxStats{Linux: linux, Attributes: &cri.PodSandboxAttributes{Id: r.ID, Metadata: config.Metadata,
		Labels: config.Labels, Annotations: config.Annotations}}, nil
}

func (s *Service) stats(ctx context.Context, r *record) *cri.ContainerStats {
	config := r.containerConfig()
	out := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{Id: r.ID, Metadata: config.Metadata,
		Labels: config.Labels, Annotations: config.Annotations}}
	var spec specs.Spec
	if r.Spec != nil && typeurl.UnmarshalTo(r.Spec, &spec) == nil && spec.Linux != nil && r.running() {
		out.Cpu, out.Memory = cpuUsage(spec.Linux.CgroupsPath), memoryUsage(spec.Linux.CgroupsPath)
	}
	if usage, err := s.client.SnapshotService(r.Snapshotter).Usage(ctx, r.SnapshotKey); err == nil {
		out.WritableLayer = &cri.FilesystemUsage{Timestamp: time.Now().UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: s.snapshotRoot(ctx)},
			UsedBytes: &cri.UInt64Value{Value: uint64(usage.Size)}, InodesUsed: &cri.UInt64Value{Value: uint64(usage.Inodes)}}
	}
	return out
}

// cpuUsage reads the CPU time that a cgroup has used; nil when there is no such cgroup.
func cpuUsage(path string) *cri.CpuUsage {
	used, ok := readCgroup(cgroupDir(path, "cpuacct"), "cpuacct.usage", "")
	if cgroup2() {
		used, ok = readCgroup(cgroupDir(path, ""), "cpu.stat", "usage_usec")
		used *= uint64(time.Microsecond)
	}
	if !ok {
		return nil
	}
	return &cri.CpuUsage{Timestamp: time.Now().UnixNano(), UsageCoreNanoSeconds: &cri.UInt64Value{Value: used}}
}

// memoryUsage reads the memory that a cgroup uses. The working set leaves out file pages that could go at once.
// Upstream: containerd pkg/cri/server/container_stats_list_linux.go, getWorkingSet.
func memoryUsage(path string) *cri.MemoryUsage {
	dir, current, prefix, rssKey := cgroupDir(path, "memory"), "memory.usage_in_bytes", "total_", "total_rss"
	if cgroup2() {
		current, prefix, rssKey = "memory.current", "", "anon"
	}
	used, ok := readCgroup(dir, current, "")
	if !ok {
		return nil
	}
	inactive, _ := readCgroup(dir, "memory.stat", prefix+"inactive_file")
	rss, _ := readCgroup(dir, "memory.stat", rssKey)
	faults, _ := readCgroup(dir, "memory.stat", prefix+"pgfault")
	major, _ := readCgroup(dir, "memory.stat", prefix+"pgmajfault")
	return &cri.MemoryUsage{Timestamp: time.Now().UnixNano(), UsageBytes: &cri.UInt64Value{Value: used},
		WorkingSetBytes: &cri.UInt64Value{Value: used - min(used, inactive)}, RssBytes: &cri.UInt64Value{Value: rss},
		PageFaults: &cri.UInt64Value{Value: faults}, MajorPageFaults: &cri.UInt64Value{Value: major}}
}
