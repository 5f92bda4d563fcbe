package sim

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"orrery/client/timing"
	"orrery/lab/sim"
)

// TestTheCourseOfAFailure is the course's chapter on failures from end to end, as
// recorded on a real cluster: a worker is stopped, the control plane is stopped
// and started, the other worker is stopped, the application is scaled, and both
// workers come back.
func TestTheCourseOfAFailure(t *testing.T) {
	inCluster(t, sim.Config{Nodes: 3}, func(w *world) {
		t := w.t
		const first, second = "orrery-m03", "orrery-m02"
		w.deploy("hello-world", 2, nil)
		w.until("two pods run", 10*time.Second, func() bool { return len(w.find(isReady)) == 2 })
		on := func(node string) func(p *corev1.Pod) bool {
			return func(p *corev1.Pod) bool { return p.Spec.NodeName == node }
		}
		if len(w.find(on(first))) != 1 || len(w.find(on(second))) != 1 {
			t.Fatalf("the pods are not spread over the workers: %s", w.sight())
		}
		old := w.find(on(first))[0]
		w.pass(25 * time.Second)

		// The worker is stopped.
		w.do("stop " + first)
		stopped := w.at()
		unknown := w.until("the node is Unknown", 60*time.Second, func() bool { return ready(w.node(first)) == corev1.ConditionUnknown })
		if d := unknown - stopped; d < 39*time.Second || d > 55500*time.Millisecond {
			t.Errorf("Unknown after %v, want 40 to 55 s", d)
		}
		w.about("NoSchedule", w.until("NoSchedule", time.Second, func() bool { return tainted(w.node(first), corev1.TaintEffectNoSchedule) }), unknown)
		w.about("NoExecute", w.until("NoExecute", time.Second, func() bool { return tainted(w.node(first), corev1.TaintEffectNoExecute) }), unknown+100*time.Millisecond)
		if p, _ := w.pods.Get("default", old.Name); isReady(p) || p.Status.Phase != corev1.PodRunning {
			t.Errorf("the dead node's pod is %s, ready %v", p.Status.Phase, isReady(p))
		}

		// The control plane is stopped and started: the application goes on, and
		// the eviction's five minutes begin anew with the new leader.
		w.pass(60 * time.Second)
		w.do("stop orrery")
		w.pass(20 * time.Second)
		if n := w.sim.Node(second).Runtime.Exit("default", "none", "", 0); n != 0 {
			t.Errorf("a pod that does not exist had %d containers", n)
		}
		w.do("start orrery")
		restarted := w.at()
		leads := w.until("controllers lead again", 60*time.Second, func() bool { _, since, _ := w.office(); return since >= restarted })
		// The old lease runs out 15 s after the new process first reads it. Its first
		// try may find no API server, and a try follows the last after 2 to 4.4 s.
		soonest, between := timing.LeaderLeaseDuration, timing.LeaderRetryPeriod*22/10
		if d := leads - restarted; d < soonest || d > soonest+2*between+time.Second {
			t.Errorf("controllers lead %v after the start, want %v to %v", d, soonest, soonest+2*between+time.Second)
		}
		w.pass(60 * time.Second)

		// The other worker is stopped, and the application scaled.
		w.do("stop " + second)
		w.until("the second node is Unknown", 60*time.Second, func() bool { return ready(w.node(second)) == corev1.ConditionUnknown })
		second2 := w.until("NoExecute on the second", time.Second, func() bool { return tainted(w.node(second), corev1.TaintEffectNoExecute) })
		w.scale("hello-world", 5)
		w.pass(5 * time.Second)
		pending := w.find(func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })
		if len(pending) != 3 {
			t.Fatalf("%d pods are pending, want 3; %s", len(pending), w.sight())
		}
		message := pending[0].Status.Conditions[0].Message
		if !strings.HasPrefix(message, "0/3 nodes are available: ") || !strings.Contains(message, "3 node(s) had untolerated taint") {
			t.Errorf("the scheduler says %q", message)
		}
		evicted := w.until("the first pod is evicted", 400*time.Second, func() bool { p, ok := w.pods.Get("default", old.Name); return ok && p.DeletionTimestamp != nil })
		w.about("the five minutes since the new leader", evicted-leads, 300*time.Second)
		last := w.find(on(second))[0]
		gone := w.until("the second pod is evicted", 400*time.Second, func() bool { p, ok := w.pods.Get("default", last.Name); return ok && p.DeletionTimestamp != nil })
		w.about("the five minutes since the second taint", gone-second2, 300*time.Second)
		w.pass(10 * time.Second)
		if n := len(w.find(func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })); n != 5 || len(w.pods.List()) != 7 {
			t.Errorf("%d of %d pods are pending, want 5 of 7: the two of the dead nodes stay Terminating", n, len(w.pods.List()))
		}

		// Both come back: what waited lands on the first, and nobody moves it.
		w.do("start " + second)
		w.until("the first worker has all", 40*time.Second, func() bool { return len(w.find(isReady)) == 5 })
		w.do("start " + first)
		w.until("the worker is back", 10*time.Second, func() bool { return ready(w.node(first)) == corev1.ConditionTrue && len(taints(w.node(first))) == 0 })
		w.pass(10 * time.Minute)
		if n := len(w.find(on(second))); n != 5 || len(w.pods.List()) != 5 {
			t.Errorf("%d of %d pods are on the first worker that came back, want all 5: nothing is ever rebalanced", n, len(w.pods.List()))
		}
	})
}
