package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkCycle is what one pod costs the scheduler itself, from the queue to its
// confirmed binding, without any API server: it shows what grows with the cluster.
// Each node has two pods, the pods to place are like them, and stay for a hundred
// cycles.
func BenchmarkCycle(b *testing.B) {
	for _, tt := range []struct {
		name string
		like func(*corev1.Pod)
	}{
		{"basic", func(*corev1.Pod) {}},
		{"spread", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: selects("web")}}
		}},
		{"affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone, LabelSelector: selects("web")}}}}
		}},
		{"preferred-anti-affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 10, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: selects("web")}}}}}
		}},
	} {
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", tt.name, nodes), func(b *testing.B) { benchmarkCycle(b, nodes, tt.like) })
		}
	}
}

func benchmarkCycle(b *testing.B, nodes int, like func(*corev1.Pod)) {
	s := newScheduler(b)
	made := 0
	next := func() *corev1.Pod {
		made++
		return pod(fmt.Sprint("pod-", made), "1m", app("web"), like, func(p *corev1.Pod) { p.UID = types.UID(p.Name) })
	}
	for i := range nodes {
		s.cache.SetNode(node(fmt.Sprint("node-", i), "4", labelled(corev1.LabelTopologyZone, fmt.Sprint("zone", i%3)), func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1k")
		}))
		for range 2 {
			p := next()
			p.Spec.NodeName = fmt.Sprint("node-", i)
			s.cache.SetPod(p)
		}
	}
	var last []types.UID
	before := processorTime(b)
	for b.Loop() {
		s.queue.Add(next())
		p := s.queue.take()
		s.cache.Update(s.snapshot)
		c := newCycle(p.tried, s.snapshot)
		name, fit := s.choose(c)
		if fit != nil {
			b.Fatal(fit)
		}
		s.cache.Assume(c.PodInfo, name)
		s.queue.Done(p)
		bound := *p.tried
		bound.Spec.NodeName = name
		s.podUpdated(p.tried, &bound)
		if last = append(last, bound.UID); len(last) == 100 {
			for _, uid := range last {
				s.cache.RemovePod(uid)
			}
			last = nil
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// processorTime is what the process has taken so far. Unlike the time that went by,
// it hardly depends on what else the machine does.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
