package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroups is the tree above the containers:
//
//	/kubepods                      guaranteed pods below it
//	/kubepods/burstable/podUID     a pod: what its containers may use together
//	/kubepods/besteffort/podUID
//
// Upstream: pkg/kubelet/cm, containerManagerImpl, with the cgroupfs driver.
// Left out: the systemd driver's slices, CPU and memory managers.
type cgroups struct {
	root   string // where the cgroup file systems are mounted
	base   string // /kubepods
	driver string
	perQOS bool
	off    bool
	quota  bool
}

// parent is the cgroup of a pod as CRI wants it.
func (g *cgroups) parent(pod *corev1.Pod) string {
	if !g.perQOS {
		return "/"
	}
	class := ""
	switch qosClass(pod) {
	case corev1.PodQOSBurstable:
		class = "burstable"
	case corev1.PodQOSBestEffort:
		class = "besteffort"
	}
	if g.driver == "systemd" {
		uid := strings.ReplaceAll(string(pod.UID), "-", "_")
		if class == "" {
			return "kubepods-pod" + uid + ".slice"
		}
		return "kubepods-" + class + "-pod" + uid + ".slice"
	}
	return filepath.Join(g.base, class, "pod"+string(pod.UID))
}

// controllers is the mount points that a cgroup has a folder in.
func (g *cgroups) controllers() []string {
	if g.unified() {
		return []string{g.root}
	}
	var out []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "systemd"} {
		if _, err := os.Stat(filepath.Join(g.root, c)); err == nil {
			out = append(out, filepath.Join(g.root, c))
		}
	}
	return out
}

func (g *cgroups) unified() bool {
	_, err := os.Stat(filepath.Join(g.root, "cgroup.controllers"))
	return err == nil
}

// ensureRoot makes the tree's trunk and limits it to what pods may use.
func (g *cgroups) ensureRoot(allocatable corev1.ResourceList) error {
	if g.off || g.driver == "systemd" {
		return nil
	}
	for _, dir := range []string{g.base, filepath.Join(g.base, "burstable"), filepath.Join(g.base, "besteffort")} {
		if err := g.make(dir); err != nil {
			return err
		}
	}
	return errors.Join(
		g.setCPU(g.base, allocatable.Cpu().MilliValue(), 0),
		g.setCPU(filepath.Join(g.base, "besteffort"), 0, 0),
		g.setMemory(g.base, allocatable.Memory().Value()))
}

// ensurePod makes a pod's cgroup with the sum of its containers' requests and limits.
func (g *cgroups) ensurePod(pod *corev1.Pod) error {
	if g.off || g.driver == "systemd" {
		return nil
	}
	dir := g.parent(pod)
	if err := g.make(dir); err != nil {
		return err
	}
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
	cpuLimited, memoryLimited := true, true
	for i := range pod.Spec.Containers {
		l := pod.Spec.Containers[i].Resources.Limits
		cpuLimited = cpuLimited && !l.Cpu().IsZero()
		memoryLimited = memoryLimited && !l.Memory().IsZero()
	}
	quota := int64(0)
	if cpuLimited && g.quota {
		quota = limits.Cpu().MilliValue()
	}
	err := g.setCPU(dir, requests.Cpu().MilliValue(), quota)
	if memoryLimited {
		err = errors.Join(err, g.setMemory(dir, limits.Memory().Value()))
	}
	return err
}

// removePod removes a pod's cgroup; what is still in it is the runtime's to end.
func (g *cgroups) removePod(pod *corev1.Pod) {
	if g.off || g.driver == "systemd" {
		return
	}
	for _, c := range g.controllers() {
		top := filepath.Join(c, g.parent(pod))
		entries, _ := os.ReadDir(top)
		for _, e := range entries {
			if e.IsDir() {
				os.Remove(filepath.Join(top, e.Name()))
			}
		}
		os.Remove(top)
	}
}

// make creates a cgroup in every hierarchy and hands its parent's controllers down to it.
func (g *cgroups) make(dir string) error {
	unified := g.unified()
	for _, c := range g.controllers() {
		path := c
		if unix.Access(c, unix.W_OK) != nil {
			continue // a node in a container may have some of them for reading only
		}
		for _, part := range strings.Split(strings.Trim(dir, "/"), "/") {
			if unified {
				g.delegate(path)
			}
			path = filepath.Join(path, part)
			if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if filepath.Base(c) == "cpuset" {
				g.inheritCPUs(path)
			}
		}
		if unified {
			g.delegate(path)
		}
	}
	return nil
}

// delegate turns on for a cgroup's children what it has itself.
func (g *cgroups) delegate(path string) {
	raw, _ := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	for _, c := range strings.Fields(string(raw)) {
		// One that cannot be handed down is not there for pods; that is not fatal.
		_ = os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// inheritCPUs fills a new cpuset, which is empty on v1 and takes no process until it is filled.
func (g *cgroups) inheritCPUs(path string) {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		if strings.TrimSpace(firstLine(filepath.Join(path, f))) == "" {
			_ = os.WriteFile(filepath.Join(path, f), []byte(firstLine(filepath.Join(filepath.Dir(path), f))), 0)
		}
	}
}

func (g *cgroups) write(controller, dir, file, value string) error {
	path := filepath.Join(g.root, controller, dir, file)
	if g.unified() {
		path = filepath.Join(g.root, dir, file)
	}
	if _, err := os.Stat(path); err != nil {
		return nil // this machine's cgroups cannot do that
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return nil
}

// setCPU gives a cgroup a weight for what it requests and, if limit is not 0, a quota; both in thousandths of a CPU.
func (g *cgroups) setCPU(dir string, request, limit int64) error {
	quota := int64(-1)
	if limit > 0 {
		quota = cpuQuota(limit)
	}
	shares := cpuShares(request)
	if g.unified() {
		max := "max"
		if quota > 0 {
			max = strconv.FormatInt(quota, 10)
		}
		weight := 1 + (shares-2)*9999/262142
		return errors.Join(g.write("", dir, "cpu.weight", fmt.Sprint(weight)), g.write("", dir, "cpu.max", fmt.Sprintf("%s %d", max, cpuPeriod)))
	}
	return errors.Join(g.write("cpu", dir, "cpu.shares", fmt.Sprint(shares)), g.write("cpu", dir, "cpu.cfs_quota_us", fmt.Sprint(quota)))
}

func (g *cgroups) setMemory(dir string, limit int64) error {
	if limit <= 0 {
		return nil
	}
	if g.unified() {
		return g.write("", dir, "memory.max", fmt.Sprint(limit))
	}
	return g.write("memory", dir, "memory.limit_in_bytes", fmt.Sprint(limit))
}

// usage reads what the whole machine has used of its CPUs, in nanoseconds, and uses of its memory, without the file pages
// that could go at once. Not every root of the cgroups tells: a bare machine's v2 has no figure for memory there.
//
// Upstream: github.com/google/cadvisor, the container "/".
func (g *cgroups) usage() (cpu, memory uint64, ok bool) {
	if g.off {
		return 0, 0, false
	}
	cpuFile, unit, memoryDir, current, inactive := "cpuacct/cpuacct.usage", uint64(1), "memory/", "memory.usage_in_bytes", "total_inactive_file"
	if g.unified() {
		cpuFile, unit, memoryDir, current, inactive = "cpu.stat", uint64(time.Microsecond), "", "memory.current", "inactive_file"
	}
	cpu, cpuRead := g.read(cpuFile, "usage_usec")
	memory, memoryRead := g.read(memoryDir+current, "")
	idle, _ := g.read(memoryDir+"memory.stat", inactive)
	return cpu * unit, memory - min(memory, idle), cpuRead && memoryRead
}

// read is the number in a file at the root, or the one behind key where the file has lines "key number".
func (g *cgroups) read(file, key string) (uint64, bool) {
	raw, _ := os.ReadFile(filepath.Join(g.root, file))
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 1 || len(fields) == 2 && fields[0] == key {
			n, err := strconv.ParseUint(fields[len(fields)-1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// cpuPeriod is the length of a quota's period in microseconds.
const cpuPeriod = 100000

// cpuShares and cpuQuota turn thousandths of a CPU into the kernel's units.
//
// Upstream: pkg/kubelet/cm/helpers_linux.go, MilliCPUToShares and MilliCPUToQuota.
func cpuShares(milli int64) int64 {
	return min(max(2, milli*1024/1000), 262144)
}

func cpuQuota(milli int64) int64 { return max(1000, milli*cpuPeriod/1000) }

// resources is what a container may use, in the kernel's units.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go, generateLinuxContainerResources.
func (k *Kubelet) resources(pod *corev1.Pod, c *corev1.Container) *cri.LinuxContainerResources {
	request, limit := c.Resources.Requests.Cpu(), c.Resources.Limits.Cpu()
	if request.IsZero() && !limit.IsZero() {
		request = limit
	}
	out := &cri.LinuxContainerResources{CpuShares: cpuShares(request.MilliValue()), CpuPeriod: cpuPeriod,
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(), OomScoreAdj: k.oomScore(pod, c)}
	if !limit.IsZero() && *k.cfg.Settings.CPUCFSQuota {
		out.CpuQuota = cpuQuota(limit.MilliValue())
	}
	return out
}

// systemNodeCritical is the priority from which on a pod is spared like the guaranteed ones.
const systemNodeCritical = 2000001000

// oomScore says how gladly the kernel may kill a container when memory runs out.
//
// Upstream: pkg/kubelet/qos/policy.go, GetContainerOOMScoreAdjust.
func (k *Kubelet) oomScore(pod *corev1.Pod, c *corev1.Container) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemNodeCritical {
		return -997
	}
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/max(1, k.cfg.Machine.Memory)
	return min(max(score, 3), 999)
}
