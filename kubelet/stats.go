package kubelet

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Stats is what the pods use, by the runtime's account, and what the whole node does, by its cgroups'.
//
// Upstream: pkg/kubelet/stats/cri_stats_provider.go, criStatsProvider.ListPodStats.
// Left out: network, file systems, the pods' sandboxes.
func (k *Kubelet) Stats(ctx context.Context) (*stats.Summary, error) {
	running, err := k.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return nil, plain(err)
	}
	resp, err := k.cri.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, plain(err)
	}
	started := map[string]metav1.Time{}
	for _, c := range running.Containers {
		started[c.Id] = metav1.NewTime(fromNano(c.CreatedAt))
	}
	k.meter.keep(started)
	now := time.Now()
	out := &stats.Summary{Node: stats.NodeStats{NodeName: k.cfg.NodeName, StartTime: metav1.NewTime(k.cfg.Machine.Booted)}}
	byUID := map[string]*stats.PodStats{}
	for _, pod := range k.Pods() {
		out.Pods = append(out.Pods, stats.PodStats{PodRef: stats.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)}, StartTime: pod.CreationTimestamp})
	}
	for i := range out.Pods {
		byUID[out.Pods[i].PodRef.UID] = &out.Pods[i]
	}
	node := usage{at: now}
	pods := map[*stats.PodStats]*usage{}
	for _, s := range resp.Stats {
		a := s.GetAttributes()
		pod := byUID[a.GetLabels()[labelPodUID]]
		at, runs := started[a.GetId()]
		if pod == nil || !runs { // some runtimes tell of containers that have ended, too
			continue
		}
		c := stats.ContainerStats{Name: a.GetMetadata().GetName(), StartTime: at}
		if s.Cpu != nil && s.Memory != nil { // gone between the two questions, otherwise
			u := usage{fromNano(s.Cpu.Timestamp), k.meter.cores(a.GetId(), s.Cpu), s.Cpu.GetUsageCoreNanoSeconds().GetValue(), s.Memory.GetWorkingSetBytes().GetValue()}
			c.CPU, c.Memory = u.stats()
			if pods[pod] == nil {
				pods[pod] = &usage{at: now}
			}
			pods[pod].add(u)
			node.add(u)
		}
		pod.Containers = append(pod.Containers, c)
	}
	for pod, u := range pods {
		pod.CPU, pod.Memory = u.stats()
	}
	if total, memory, ok := k.cgroups.usage(); ok {
		cpu := &cri.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: &cri.UInt64Value{Value: total}}
		node = usage{now, k.meter.cores(wholeNode, cpu), total, memory}
	}
	out.Node.CPU, out.Node.Memory = node.stats()
	return out, nil
}

// usage is billionths of a CPU now (nil: not known yet), nanoseconds of CPU ever, and bytes of memory in use.
type usage struct {
	at            time.Time
	cores         *uint64
	total, memory uint64
}

func (u *usage) add(v usage) {
	u.total, u.memory = u.total+v.total, u.memory+v.memory
	if v.cores != nil {
		sum := *v.cores
		if u.cores != nil {
			sum += *u.cores
		}
		u.cores = &sum
	}
}

func (u usage) stats() (*stats.CPUStats, *stats.MemoryStats) {
	at := metav1.NewTime(u.at)
	return &stats.CPUStats{Time: at, UsageNanoCores: u.cores, UsageCoreNanoSeconds: &u.total},
		&stats.MemoryStats{Time: at, UsageBytes: &u.memory, WorkingSetBytes: &u.memory}
}

// meter tells how much CPU is used at present, from two readings of the CPU time: a runtime need not know.
// The first reading of a container tells nothing.
//
// Upstream: pkg/kubelet/stats/cri_stats_provider.go, criStatsProvider.getAndUpdateContainerUsageNanoCores.
type meter struct {
	mu   sync.Mutex
	byID map[string]reading
}

type reading struct {
	at    int64   // nanoseconds since 1970
	total uint64  // CPU time ever, in nanoseconds
	cores *uint64 // used on average since the reading before, in billionths of a CPU
}

// wholeNode is the meter's name for the node itself, which no container has.
const wholeNode = "/"

// meterPeriod is the least time between two readings that are compared.
const meterPeriod = int64(time.Second)

// cores takes a reading in and returns billionths of a CPU, or nil.
func (m *meter) cores(id string, cpu *cri.CpuUsage) *uint64 {
	if known := cpu.GetUsageNanoCores(); known != nil {
		return &known.Value
	}
	if cpu.GetUsageCoreNanoSeconds() == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID == nil {
		m.byID = map[string]reading{}
	}
	before, ok := m.byID[id]
	now := reading{at: cpu.Timestamp, total: cpu.UsageCoreNanoSeconds.Value}
	elapsed := now.at - before.at
	if ok && elapsed < meterPeriod {
		return before.cores
	}
	if ok && now.total >= before.total {
		cores := uint64(float64(now.total-before.total) / float64(elapsed) * float64(time.Second))
		now.cores = &cores
	}
	m.byID[id] = now
	return now.cores
}

// keep forgets all containers but these.
func (m *meter) keep(running map[string]metav1.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.byID {
		if _, ok := running[id]; !ok && id != wholeNode {
			delete(m.byID, id)
		}
	}
}
