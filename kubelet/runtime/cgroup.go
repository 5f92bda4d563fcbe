package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/containers"
	"github.com/containerd/containerd/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup2 tells whether the machine has the one hierarchy of cgroup v2 and not the several of v1.
var cgroup2 = sync.OnceValue(func() bool {
	var fs unix.Statfs_t
	return unix.Statfs(cgroupRoot, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
})

// withCgroup places a process below its pod's cgroup. With systemd the place is named slice:prefix:name.
// Upstream: containerd pkg/cri/server/helpers_linux.go, getCgroupsPath.
func (s *Service) withCgroup(parent, id string) oci.SpecOpts {
	if s.cfg.SystemdCgroup {
		slice := filepath.Base(parent)
		if parent == "" {
			slice = "system.slice"
		}
		return oci.WithCgroup(slice + ":orrery:" + id)
	}
	if parent == "" {
		parent = "/" + s.cfg.Namespace
	}
	return oci.WithCgroup(filepath.Join(parent, id))
}

// cgroupDir finds the folder of a cgroup in one controller's hierarchy, from the path that withCgroup has set.
func cgroupDir(path, controller string) string {
	if parts := strings.Split(path, ":"); len(parts) == 3 {
		path = filepath.Join(expandSlice(parts[0]), parts[1]+"-"+parts[2]+".scope")
	}
	if cgroup2() {
		return filepath.Join(cgroupRoot, path)
	}
	return filepath.Join(cgroupRoot, controller, path)
}

// expandSlice writes out systemd's nesting: a-b.slice lies in a.slice.
func expandSlice(slice string) string {
	parts := strings.Split(strings.TrimSuffix(slice, ".slice"), "-")
	path := ""
	for i := range parts {
		path = filepath.Join(path, strings.Join(parts[:i+1], "-")+".slice")
	}
	return path
}

// readCgroup reads one number from a cgroup file, or the number behind key where the file has lines "key number".
func readCgroup(dir, file, key string) (uint64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	text := strings.TrimSpace(string(b))
	if key != "" {
		found := false
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
				text, found = value, true
				break
			}
		}
		if !found {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// outOfMemory tells whether the kernel has killed a process of the container for want of memory.
// It is read from the cgroup, which runc leaves until the task is deleted; containerd's event may have been missed.
func (s *Service) outOfMemory(ctx context.Context, c containerd.Container) bool {
	spec, err := c.Spec(ctx)
	if err != nil || spec.Linux == nil {
		return false
	}
	file := "memory.oom_control"
	if cgroup2() {
		file = "memory.events"
	}
	n, _ := readCgroup(cgroupDir(spec.Linux.CgroupsPath, "memory"), file, "oom_kill")
	return n > 0
}

// linuxResources turns CRI's limits into runc's. A zero means that nothing is said.
// Upstream: containerd pkg/cri/opts, WithResources.
// Left out: huge pages.
func linuxResources(r *cri.LinuxContainerResources) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}, Memory: &specs.LinuxMemory{}}
	if v := uint64(r.GetCpuShares()); v != 0 {
		out.CPU.Shares = &v
	}
	if v := r.GetCpuQuota(); v != 0 {
		out.CPU.Quota = &v
	}
	if v := uint64(r.GetCpuPeriod()); v != 0 {
		out.CPU.Period = &v
	}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory.Limit = &v
		if swapAccounted() {
			out.Memory.Swap = &v // memory and swap together: no swap
		}
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 && swapAccounted() {
		out.Memory.Swap = &v
	}
	if cgroup2() {
		out.Unified = r.GetUnified()
	}
	return out
}

// swapAccounted tells whether the kernel can limit swap; without that, to ask for it is an error.
var swapAccounted = sync.OnceValue(func() bool {
	if cgroup2() {
		b, err := os.ReadFile("/proc/self/cgroup")
		_, own, found := strings.Cut(strings.TrimSpace(string(b)), "::")
		if err != nil || !found {
			return false
		}
		_, err = os.Stat(filepath.Join(cgroupRoot, own, "memory.swap.max"))
		return err == nil
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory/memory.memsw.limit_in_bytes"))
	return err == nil
})

// withResources sets the limits and leaves the device rules alone.
func withResources(r *cri.LinuxContainerResources) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
		if spec.Linux.Resources == nil {
			spec.Linux.Resources = &specs.LinuxResources{}
		}
		limits := linuxResources(r)
		spec.Linux.Resources.CPU, spec.Linux.Resources.Memory, spec.Linux.Resources.Unified = limits.CPU, limits.Memory, limits.Unified
		return nil
	}
}

// reportedResources is the other way round, for ContainerStatus.
func reportedResources(spec *specs.Spec) *cri.ContainerResources {
	out := &cri.LinuxContainerResources{}
	if spec.Process != nil && spec.Process.OOMScoreAdj != nil {
		out.OomScoreAdj = int64(*spec.Process.OOMScoreAdj)
	}
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return &cri.ContainerResources{Linux: out}
	}
	if c := spec.Linux.Resources.CPU; c != nil {
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
		if c.Shares != nil {
			out.CpuShares = int64(*c.Shares)
		}
		if c.Quota != nil {
			out.CpuQuota = *c.Quota
		}
		if c.Period != nil {
			out.CpuPeriod = int64(*c.Period)
		}
	}
	if m := spec.Linux.Resources.Memory; m != nil && m.Limit != nil {
		out.MemoryLimitInBytes = *m.Limit
	}
	out.Unified = spec.Linux.Resources.Unified
	return &cri.ContainerResources{Linux: out}
}

// UpdateContainerResources changes the limits of a container, on its record and, when it runs, on its cgroup.
// Upstream: containerd pkg/cri/server/container_update_resources.go, UpdateContainerResources.
func (s *Service) UpdateContainerResources(ctx context.Context, req *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	r, err := s.get(ctx, kindContainer, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetLinux() == nil {
		return &cri.UpdateContainerResourcesResponse{}, nil
	}
	container, err := s.client.LoadContainer(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if r.running() {
		task, err := container.Task(ctx, nil)
		if err != nil {
			return nil, err
		}
		if err := task.Update(ctx, containerd.WithResources(linuxResources(req.Linux))); err != nil {
			return nil, fmt.Errorf("failed to update resources: %w", err)
		}
	}
	err = container.Update(ctx, func(ctx context.Context, _ *containerd.Client, c *containers.Container) error {
		var spec specs.Spec
		if err := typeurl.UnmarshalTo(c.Spec, &spec); err != nil {
			return err
		}
		if err := withResources(req.Linux)(ctx, nil, c, &spec); err != nil {
			return err
		}
		c.Spec, err = typeurl.MarshalAny(&spec)
		return err
	})
	return &cri.UpdateContainerResourcesResponse{}, err
}
