package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
)

// newScheduler is a scheduler whose server is never asked.
func newScheduler(t testing.TB) *Scheduler {
	t.Helper()
	c, err := client.New(client.Config{Host: "http://unused.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Client: c, Recorder: client.NewRecorder(c, DefaultName, "")})
}

func node(name, cpu string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func pod(name, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Generation: 1},
		Spec:       corev1.PodSpec{SchedulerName: DefaultName, Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
	}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func tainted(key string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
}

func labelled(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func app(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
}

func priority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}

// place runs one scheduling cycle over the given world.
func place(s *Scheduler, nodes []*corev1.Node, there []*corev1.Pod, p *corev1.Pod) (string, *fitError, *Cycle) {
	for _, n := range nodes {
		s.cache.SetNode(n)
	}
	for _, q := range there {
		s.cache.SetPod(q)
	}
	s.cache.Update(s.snapshot)
	c := newCycle(p, s.snapshot)
	name, fit := s.choose(c)
	return name, fit, c
}

func TestMessageWhenNothingFits(t *testing.T) {
	three := []*corev1.Node{node("cp", "4", tainted("node-role.kubernetes.io/control-plane")), node("w1", "2"), node("w2", "2")}
	for name, tt := range map[string]struct {
		nodes []*corev1.Node
		there []*corev1.Pod
		pod   *corev1.Pod
		want  string
	}{
		"as recorded: one taint, two too small": {three, nil, pod("p", "3"),
			"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		"full nodes could be emptied": {three, []*corev1.Pod{pod("a", "2", on("w1")), pod("b", "2", on("w2"))}, pod("p", "1"),
			"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."},
		"no nodes": {nil, nil, pod("p", "1"), "no nodes available to schedule pods"},
		"selector": {three[1:], nil, pod("p", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		"host port": {three[1:2], []*corev1.Pod{pod("a", "", on("w1"), hostPort80)}, pod("p", "", hostPort80),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"cordoned": {[]*corev1.Node{node("w1", "2", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil, pod("p", ""),
			"0/1 nodes are available: 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"never preempts": {three[1:2], []*corev1.Pod{pod("a", "2", on("w1"))}, pod("p", "1", func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }),
			"0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."},
		"for one node by name, as a DaemonSet's": {three, nil, pod("p", "3", named("w1")),
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		"for two nodes at once": {three, nil, pod("p", "", named("w1"), named("w2")),
			"0/3 nodes are available: pod affinity terms conflict. not found"},
		"each node lacks something else": {[]*corev1.Node{node("w1", "2"), node("w2", "2"), node("w3", "1"), node("w4", "1"), node("w5", "4", small)}, []*corev1.Pod{pod("a", "1", on("w1")), pod("b", "1", on("w2"))},
			pod("p", "2", func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse("1Gi")
			}),
			"0/5 nodes are available: 1 Insufficient memory, 4 Insufficient cpu. no new claims to deallocate, preemption: 0/5 nodes are available: 2 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling."},
		"more important ones are in the way": {three[1:2], []*corev1.Pod{pod("low", "1", on("w1"), priority(1)), pod("high", "1", on("w1"), priority(9))}, pod("p", "2", priority(5)),
			"0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Insufficient cpu."},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler(t)
			_, fit, c := place(s, tt.nodes, tt.there, tt.pod)
			if fit == nil {
				t.Fatal("the pod found a node")
			}
			s.postFilter(c, fit)
			if got := fit.Error(); got != tt.want {
				t.Errorf("message\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func small(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse("512Mi") }

// named adds a requirement for a node.
func named(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}}}
		}
		term := &p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
		term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}})
	}
}

func hostPort80(p *corev1.Pod) {
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
}

func TestPlacement(t *testing.T) {
	anti := func(key string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}
		}
	}
	near := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}
	}
	spread := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone",
			WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	}
	two := []*corev1.Node{node("n1", "4", labelled("zone", "a")), node("n2", "4", labelled("zone", "b"))}
	for name, tt := range map[string]struct {
		nodes []*corev1.Node
		there []*corev1.Pod
		pod   *corev1.Pod
		want  string
	}{
		"the emptier node":                       {two, []*corev1.Pod{pod("a", "2", on("n1"))}, pod("p", "1"), "n2"},
		"a toleration opens a node":              {[]*corev1.Node{node("n1", "4", tainted("k"))}, nil, pod("p", "", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }), "n1"},
		"anti-affinity keeps apart":              {two, []*corev1.Pod{pod("a", "", on("n1"), app("web"))}, pod("p", "", app("web"), anti(corev1.LabelHostname)), "n2"},
		"anti-affinity of the one that is there": {two, []*corev1.Pod{pod("a", "", on("n2"), anti("zone"))}, pod("p", "", app("web")), "n1"},
		"affinity keeps together":                {two, []*corev1.Pod{pod("a", "3", on("n2"), app("web"))}, pod("p", "", near), "n2"},
		"the first of a group may come":          {two[:1], nil, pod("p", "", app("web"), near), "n1"},
		"spread over zones":                      {two, []*corev1.Pod{pod("a", "", on("n1"), app("web"))}, pod("p", "", app("web"), spread), "n2"},
		"a name in the spec":                     {two, nil, pod("p", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n2"} }), "n2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, fit, _ := place(newScheduler(t), tt.nodes, tt.there, tt.pod)
			if fit != nil {
				t.Fatal(fit)
			}
			if got != tt.want {
				t.Errorf("placed on %s, want %s", got, tt.want)
			}
		})
	}
}

// Pods that say nothing about spreading still spread: those of one service or
// one controller count together.
func TestReplicasSpreadByDefault(t *testing.T) {
	s := newScheduler(t)
	i := slices.IndexFunc(s.framework.plugins, func(p Plugin) bool { return p.Name() == "PodTopologySpread" })
	spread := s.framework.plugins[i].(*topologySpread)
	spread.defaultSelector = func(*corev1.Pod) labels.Selector { return labels.SelectorFromSet(labels.Set{"app": "web"}) }
	// n1 is the emptier node but for the replica on it.
	nodes := []*corev1.Node{node("n1", "16"), node("n2", "16")}
	there := []*corev1.Pod{pod("web-1", "100m", on("n1"), app("web")), pod("other", "1", on("n2"))}
	got, fit, _ := place(s, nodes, there, pod("web-2", "100m", app("web")))
	if fit != nil || got != "n2" {
		t.Errorf("the second replica went to %q (%v), want n2", got, fit)
	}
}

func TestPreemptionTakesTheLeastImportant(t *testing.T) {
	s := newScheduler(t)
	nodes := []*corev1.Node{node("n1", "2"), node("n2", "2")}
	there := []*corev1.Pod{
		pod("important", "2", on("n1"), priority(50)),
		pod("small", "1", on("n2"), priority(10)), pod("smaller", "1", on("n2"), priority(5)),
	}
	_, fit, c := place(s, nodes, there, pod("p", "1", priority(100)))
	if fit == nil {
		t.Fatal("the pod found a node without preemption")
	}
	v, _ := s.victimsOn(c, c.Snapshot.index["n2"], nil)
	if v == nil || len(v.pods) != 1 || v.pods[0].Pod.Name != "smaller" {
		t.Errorf("victims on n2 are %v, want only the least important", v)
	}
	n1, _ := s.victimsOn(c, c.Snapshot.index["n1"], nil)
	if lessHarm(v, n1) >= 0 {
		t.Error("n2, whose victim is less important, should be preferred to n1")
	}
}

func TestPreemptionSparesBudgets(t *testing.T) {
	s := newScheduler(t)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}}}
	there := []*corev1.Pod{pod("guarded", "1", on("n1"), priority(1), app("guarded")), pod("free", "1", on("n1"), priority(5))}
	_, _, c := place(s, []*corev1.Node{node("n1", "2")}, there, pod("p", "1", priority(100)))
	v, _ := s.victimsOn(c, 0, []*policyv1.PodDisruptionBudget{budget})
	if len(v.pods) != 1 || v.pods[0].Pod.Name != "free" || v.violations != 0 {
		t.Errorf("victims %+v: the unguarded pod should go although it is more important", v)
	}
	budget.Spec.Selector = &metav1.LabelSelector{}
	if v, _ = s.victimsOn(c, 0, []*policyv1.PodDisruptionBudget{budget}); len(v.pods) != 1 || v.pods[0].Pod.Name != "guarded" {
		t.Errorf("victims %+v: a budget with an empty selector guards nothing here", v)
	}
}

func TestEnoughNodes(t *testing.T) {
	for nodes, want := range map[int]int{3: 3, 99: 99, 100: 100, 150: 100, 1000: 420, 5000: 500, 10000: 500} {
		if got := enough(nodes); got != want {
			t.Errorf("of %d nodes %d are looked for, want %d", nodes, got, want)
		}
	}
}

func TestAssumedPodsCount(t *testing.T) {
	c, s := NewCache(), newSnapshot()
	snapshot := func() []*NodeInfo {
		c.Update(s)
		return s.Nodes
	}
	c.SetNode(node("n1", "2"))
	before := snapshot()[0]
	c.Assume(newPodInfo(pod("p", "1")), "n1")
	if got := snapshot()[0].Requested.MilliCPU; got != 1000 {
		t.Errorf("requested %dm after Assume, want 1000m", got)
	}
	if got := before.Requested.MilliCPU; got != 0 {
		t.Errorf("the node as it was changed to %dm", got)
	}
	c.SetPod(pod("p", "1", on("n1"))) // the API server confirms
	c.Forget("p")                     // too late: it is real now
	if got := len(snapshot()[0].Pods); got != 1 {
		t.Errorf("%d pods after a confirmed binding, want 1", got)
	}
	c.RemoveNode("n1")
	c.RemovePod("p")
	if len(snapshot()) != 0 || len(c.infos) != 0 {
		t.Error("a gone node with no pods is still known")
	}
}

// A pod whose attempt ended in an error waits 1, 2, 4, 8, 10, 10 ... seconds.
// After errors a pod waits 1, 2, 4, 8, 10, 10 s; turned away by a plugin, five
// minutes, if nothing happens before. A time scale divides all of them.
func TestQueueBackOff(t *testing.T) {
	for _, scale := range []time.Duration{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(newScheduler(t).framework, func(*corev1.Pod) bool { return true }, float64(scale))
			q.Add(pod("p", "1"))
			var waits []time.Duration
			for i := range 7 {
				var turnedAwayBy map[string]bool
				if i == 6 {
					turnedAwayBy = map[string]bool{"NodeResourcesFit": true}
				}
				q.Failed(q.Pop(t.Context()), turnedAwayBy)
				began := time.Now()
				for len(q.active) == 0 {
					time.Sleep(time.Second / scale)
					q.flush()
				}
				waits = append(waits, time.Since(began)*scale)
			}
			want := []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9, 10e9, 300e9}
			if fmt.Sprint(waits) != fmt.Sprint(want) {
				t.Errorf("waited %d times %v, want %v", scale, waits, want)
			}
		})
	}
}

// A pod that was turned away need not wait for its back-off when something helps
// and nobody else wants to be tried; others come first.
func TestIdleSchedulerCutsBackOffShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newScheduler(t).queue
		q.Add(pod("p", "1"))
		q.Failed(q.Pop(t.Context()), map[string]bool{"NodeResourcesFit": true})
		q.Happened(ClusterEvent{PodGone: pod("other", "1")})
		q.Add(pod("fresh", "1"))
		if first, second := q.Pop(t.Context()), q.Pop(t.Context()); first.pod.Name != "fresh" || second.pod.Name != "p" {
			t.Errorf("tried %s, then %s", first.pod.Name, second.pod.Name)
		}
	})
}

func TestQueueHelpsOnlyWhomItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newScheduler(t).queue
		q.Add(pod("p", "4"))
		p := q.Pop(t.Context())
		q.Failed(p, map[string]bool{"NodeResourcesFit": true})
		time.Sleep(time.Minute)
		q.Happened(ClusterEvent{Node: node("small", "2")})
		if len(q.active) != 0 {
			t.Error("a node that is too small had the pod tried again")
		}
		q.Happened(ClusterEvent{PodChanged: pod("other", "1", on("n1"))})
		if len(q.active) != 0 {
			t.Error("a pod that came to a node had the pod tried again")
		}
		q.Happened(ClusterEvent{Node: node("large", "8")})
		if len(q.active) != 1 {
			t.Error("a large node did not have the pod tried again")
		}
		// Nothing helps: after five minutes it is tried all the same.
		q.Failed(q.Pop(t.Context()), map[string]bool{"NodeResourcesFit": true})
		time.Sleep(5*time.Minute - time.Second)
		if q.flush(); len(q.active) != 0 {
			t.Error("flushed before five minutes")
		}
		time.Sleep(time.Second)
		if q.flush(); len(q.active) != 1 {
			t.Error("not flushed after five minutes")
		}
	})
}

// An event that comes while a pod is being tried is not lost on it.
func TestQueueKeepsEventsForPodsInFlight(t *testing.T) {
	q := newScheduler(t).queue
	q.Add(pod("p", "1"))
	p := q.Pop(t.Context())
	q.Happened(ClusterEvent{PodGone: pod("other", "1")})
	q.Failed(p, map[string]bool{"NodeResourcesFit": true})
	if len(q.unschedulable) != 0 || len(q.backingOff) != 1 {
		t.Errorf("the pod lies unschedulable (%d), want it to back off (%d)", len(q.unschedulable), len(q.backingOff))
	}
}

func TestQueueOrderAndGates(t *testing.T) {
	q := newScheduler(t).queue
	gated := pod("gated", "", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
	q.Add(gated)
	q.Add(pod("low", "", priority(1)))
	q.Add(pod("high", "", priority(9)))
	ctx, cancel := context.WithCancel(t.Context())
	first, second := q.Pop(ctx), q.Pop(ctx)
	if first.pod.Name != "high" || second.pod.Name != "low" {
		t.Errorf("tried %s before %s", first.pod.Name, second.pod.Name)
	}
	open := gated.DeepCopy()
	open.Spec.SchedulingGates = nil
	q.Add(open)
	if p := q.Pop(ctx); p == nil || p.pod.Name != "gated" {
		t.Errorf("a pod without gates was not tried: %v", p)
	}
	cancel()
	if p := q.Pop(ctx); p != nil {
		t.Errorf("an empty queue gave %v", p)
	}
}

// News of a pod that were on their way when a node was nominated for it do not undo
// that; news that say so do.
func TestNominationOutlivesOldNews(t *testing.T) {
	s := newScheduler(t)
	as := func(nominated, label string) *corev1.Pod {
		return pod("p", "1", app(label), func(p *corev1.Pod) { p.Status.NominatedNodeName = nominated })
	}
	s.podAdded(as("", "a"))
	s.nominated.nominate(as("", "a"), "n1")
	for _, step := range []struct {
		old, new *corev1.Pod
		want     string
	}{
		{as("", "a"), as("", "b"), "n1"}, // somebody labelled it
		{as("", "b"), as("n1", "b"), "n1"},
		{as("n1", "b"), as("n2", "b"), "n2"},
		{as("n2", "b"), as("", "b"), ""},
	} {
		s.podUpdated(step.old, step.new)
		if got := s.nominated.of(step.new); got != step.want {
			t.Errorf("after %q became %q it is nominated to %q, want %q", step.old.Status.NominatedNodeName, step.new.Status.NominatedNodeName, got, step.want)
		}
	}
}

// A pod for which room is made counts there with all that it says of others.
func TestNominatedPodsCountLikeOthers(t *testing.T) {
	s := newScheduler(t)
	nodes := []*corev1.Node{node("n1", "4"), node("n2", "4"), node("n3", "4")}
	loner := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: selects("web")}}}}
	}
	there := []*corev1.Pod{pod("a", "1", on("n3"), loner), pod("b", "3", on("n2"))}
	important := pod("important", "1", priority(9), loner)
	s.nominated.nominate(important, "n1")
	if got, fit, _ := place(s, nodes, there, pod("p", "1", app("web"))); fit != nil || got != "n2" {
		t.Errorf("placed on %q (%v), want n2: n1 is kept for a pod that wants no web near", got, fit)
	}
	s.nominated.remove(important.UID)
	if got, fit, _ := place(s, nil, nil, pod("p", "1", app("web"))); fit != nil || got != "n1" {
		t.Errorf("placed on %q (%v), want n1: it is kept for nobody any more", got, fit)
	}
}

// Pods that preempt one after the other, before any victim has gone, share one
// victim's node if they fit there together, instead of emptying a node each.
func TestPreemptorsShareANode(t *testing.T) {
	s := newScheduler(t)
	var nodes []*corev1.Node
	var there []*corev1.Pod
	for i := range 9 {
		nodes = append(nodes, node(fmt.Sprint("n", i), "4"))
		there = append(there, pod(fmt.Sprint("there-", i), "4", on(fmt.Sprint("n", i))))
	}
	victims := map[types.UID]bool{}
	for i := range 8 {
		p := pod(fmt.Sprint("p", i), "1", priority(9))
		_, fit, c := place(s, nodes, there, p)
		s.postFilter(c, fit)
		if len(fit.victims) != 1 {
			t.Fatalf("%d victims for %s", len(fit.victims), p.Name)
		}
		s.nominated.nominate(p, *fit.nominee)
		victims[fit.victims[0].Pod.UID] = true
	}
	if len(victims) != 2 {
		t.Errorf("%d pods have to go, 2 nodes have room for all", len(victims))
	}
}

// While another pod's victim is still on its way, equal nodes are emptied first; a
// victim that terminates is no obstacle.
func TestPreemptorsShareNoNodeThatIsBeingEmptied(t *testing.T) {
	s := newScheduler(t)
	nodes := []*corev1.Node{node("n1", "4"), node("n2", "4")}
	there := []*corev1.Pod{pod("a", "4", on("n1")), pod("b", "4", on("n2"))}
	chosen := func(name string) string {
		_, fit, c := place(s, nodes, there, pod(name, "1", priority(9)))
		s.postFilter(c, fit)
		s.ending.begin(fit.victims)
		return *fit.nominee
	}
	first, second := chosen("p1"), chosen("p2")
	if first == second {
		t.Errorf("both are to go to %s, whose pod is still there", first)
	}
	going := map[string]*corev1.Pod{"n1": there[0], "n2": there[1]}[second]
	terminating := going.DeepCopy()
	terminating.DeletionTimestamp = new(metav1.Now())
	s.podUpdated(going, terminating)
	there = nil // the cache knows them
	if third := chosen("p3"); third != second {
		t.Errorf("the third is to go to %s, want %s, whose pod terminates", third, second)
	}
}

// The next pod waits while there are many victims on their way, until one is seen to
// terminate or to be gone.
func TestFewEndingsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t)
		var victims []*corev1.Pod
		for i := range maxEndings + 1 {
			v := pod(fmt.Sprint("v", i), "1", on("n1"))
			victims = append(victims, v)
			s.podAdded(v)
			if begun := s.ending.begin([]*PodInfo{newPodInfo(v)}); len(begun) != 1 {
				t.Fatalf("%d of 1 begun", len(begun))
			}
		}
		if begun := s.ending.begin([]*PodInfo{newPodInfo(victims[0])}); len(begun) != 0 {
			t.Error("a victim is ended twice")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		free := false
		go func() { s.ending.few(ctx); free = true }()
		terminating := victims[0].DeepCopy()
		terminating.DeletionTimestamp = new(metav1.Now())
		s.podUpdated(victims[0], terminating)
		if synctest.Wait(); free {
			t.Errorf("%d are on their way, and the next pod is tried", maxEndings)
		}
		s.podGone(terminating) // counts no more already
		if synctest.Wait(); free {
			t.Error("one victim counted twice")
		}
		s.podGone(victims[1])
		if synctest.Wait(); !free {
			t.Error("two of them went, and the next pod still waits")
		}
	})
}

// A victim that the server does not let go is no victim any more, nor are those after it.
func TestVictimThatStays(t *testing.T) {
	a, b := pod("a", "1", on("n1")), pod("b", "1", on("n1"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodGet && r.URL.Query().Get("watch") == "":
			json.NewEncoder(w).Encode(&corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Pod{*a, *b}})
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	c, err := client.New(client.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Client: c, Recorder: client.NewRecorder(c, DefaultName, "")})
	go s.pods.Run(t.Context())
	<-s.pods.Synced()
	victims := []*PodInfo{newPodInfo(a), newPodInfo(b)}
	p := pod("p", "1", priority(9))
	s.queue.Add(p)
	q := s.queue.Pop(t.Context())
	q.awaited = victims
	s.queue.Failed(q, map[string]bool{"NodeResourcesFit": true})
	s.end(t.Context(), p, "n1", s.ending.begin(victims), nil)
	if s.ending.among(victims) != 0 {
		t.Error("victims that stay still count as being ended")
	}
	if len(s.queue.unschedulable) != 0 {
		t.Error("the pod still waits for victims that stay")
	}
}

// What was counted in on a node is counted anew when the node, its nominees or the
// pod that asks are others.
func TestNomineesAreCountedAnew(t *testing.T) {
	var n nominator
	c := NewCache()
	snap := newSnapshot()
	c.SetNode(node("n1", "4"))
	counted := func(asks *corev1.Pod) int64 {
		c.Update(snap)
		return n.addTo(snap.Nodes[0], asks, n.places(nil, snap)[0]).Requested.MilliCPU
	}
	high, low, other := pod("high", "1", priority(9)), pod("low", "2", priority(5)), pod("other", "1", priority(5))
	for _, step := range []struct {
		what string
		do   func()
		asks *corev1.Pod
		want int64
	}{
		{"nobody is nominated", func() {}, other, 0},
		{"one is", func() { n.nominate(high, "n1") }, other, 1000},
		{"again", func() {}, other, 1000},
		{"another is, too", func() { n.nominate(low, "n1") }, other, 3000},
		{"for a nominee the others count", func() {}, low, 1000},
		{"and again for the other pod", func() {}, other, 3000},
		{"for a more important pod only such ones count", func() {}, pod("higher", "1", priority(7)), 1000},
		{"a pod comes to the node", func() { c.SetPod(pod("there", "1", on("n1"))) }, other, 4000},
		{"a nomination ends", func() { n.remove(high.UID) }, other, 3000},
		{"a nomination moves", func() { n.nominate(low, "n2") }, other, 1000},
	} {
		if step.do(); counted(step.asks) != step.want {
			t.Errorf("%s: %dm are requested, want %dm", step.what, counted(step.asks), step.want)
		}
	}
}

// A pod that waits for its victims is not tried before they are terminating.
func TestPreemptorWaitsForItsVictims(t *testing.T) {
	stays := true
	q := newQueue(newScheduler(t).framework, func(*corev1.Pod) bool { return stays }, 1)
	fails := map[string]bool{"NodeResourcesFit": true}
	gone := ClusterEvent{PodGone: pod("other", "1", on("n9"))}
	q.Add(pod("p", "1"))
	p := q.Pop(t.Context())
	p.awaited = []*PodInfo{newPodInfo(pod("victim", "1", on("n1")))}
	q.Failed(p, fails)
	if q.Happened(gone); len(q.backingOff) != 0 {
		t.Error("tried again for the end of another pod, with its victim still there")
	}
	stays = false
	if q.Happened(gone); len(q.backingOff) != 1 {
		t.Error("not tried again after its victim's end")
	}
	// A victim that could not be ended is awaited no more.
	stays = true
	q.Failed(q.Pop(t.Context()), fails)
	if q.Stays("victim"); len(q.backingOff) != 1 {
		t.Error("not tried again after its victim was found to stay")
	}
}

// A volume with the label of a zone, or of several, is used there; a node in no zone
// at all is everywhere.
func TestLabelsOfVolumesArePlaces(t *testing.T) {
	zone := func(z string) func(*corev1.Node) { return labelled(corev1.LabelTopologyZone, z) }
	for name, tt := range map[string]struct {
		key, value string
		node       *corev1.Node
		want       bool
	}{
		"its zone":                 {corev1.LabelTopologyZone, "east", node("n", "1", zone("east")), true},
		"another zone":             {corev1.LabelTopologyZone, "east", node("n", "1", zone("west")), false},
		"one of its zones":         {corev1.LabelTopologyZone, "east__west", node("n", "1", zone("west")), true},
		"no zone":                  {corev1.LabelTopologyZone, "east", node("n", "1"), true},
		"a region, and no zone":    {corev1.LabelTopologyZone, "east", node("n", "1", labelled(corev1.LabelTopologyRegion, "r")), false},
		"the label of older times": {corev1.LabelFailureDomainBetaZone, "east", node("n", "1", zone("east")), true},
	} {
		s := newScheduler(t)
		_, _, c := place(s, []*corev1.Node{tt.node}, nil, pod("p", ""))
		note(c, "VolumeBinding", &podVolumes{bound: []*corev1.PersistentVolume{{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{tt.key: tt.value}}}}})
		if st := (volumeZone{}).PreFilter(c); !st.OK() {
			t.Fatalf("%s: %s", name, st.Message())
		}
		if st := (volumeZone{}).Filter(c, c.Snapshot.Nodes[0]); st.OK() != tt.want {
			t.Errorf("%s: passes: %v, want %v", name, st.OK(), tt.want)
		}
	}
}
