package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"orrery/client"
)

// nominator remembers for whom a preemption has made room where, until they are
// bound or gone.
type nominator struct {
	mu sync.Mutex
	// node is where each pod, by UID, was nominated to; on has the same by node,
	// because filters ask about many nodes and few have any. Guarded by mu.
	node map[types.UID]string
	on   map[string]map[types.UID]*PodInfo
}

// set follows the pod's status.
func (n *nominator) set(pod *corev1.Pod) { n.nominate(pod, pod.Status.NominatedNodeName) }

func (n *nominator) nominate(pod *corev1.Pod, node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(pod.UID)
	if node == "" {
		return
	}
	if n.node == nil {
		n.node, n.on = map[types.UID]string{}, map[string]map[types.UID]*PodInfo{}
	}
	if n.on[node] == nil {
		n.on[node] = map[types.UID]*PodInfo{}
	}
	n.node[pod.UID], n.on[node][pod.UID] = node, newPodInfo(pod)
}

func (n *nominator) remove(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(uid)
}

// drop forgets a nomination; the caller holds mu.
func (n *nominator) drop(uid types.UID) {
	if node, ok := n.node[uid]; ok {
		delete(n.node, uid)
		if delete(n.on[node], uid); len(n.on[node]) == 0 {
			delete(n.on, node)
		}
	}
}

// of is the node that a pod was nominated to, "" for none: what its status says,
// or will say when the write has come back.
func (n *nominator) of(pod *corev1.Pod) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node, ok := n.node[pod.UID]; ok {
		return node
	}
	return pod.Status.NominatedNodeName
}

// addTo is the node with the other pods counted in that were nominated to it and
// are at least as important; the node itself if there are none.
func (n *nominator) addTo(node *NodeInfo, pod *corev1.Pod) *NodeInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid, info := range n.on[node.Name()] {
		if uid != pod.UID && corev1helpers.PodPriority(info.Pod) >= corev1helpers.PodPriority(pod) {
			node = node.withPod(info)
		}
	}
	return node
}

// victims are the pods that would have to go from one node.
type victims struct {
	node       *NodeInfo
	pods       []*PodInfo // most important first
	violations int        // of disruption budgets
}

// preempt looks for a node on which less important pods could make room, ends
// them, and nominates the node. message is what it has to say for the event.
//
// Upstream: pkg/scheduler/framework/preemption/preemption.go, Evaluator.Preempt.
func (s *Scheduler) preempt(ctx context.Context, c *Cycle, fit *fitError) (nominee, message string) {
	// Upstream's dynamic resources plugin speaks first; there are no claims here.
	const prefix = "no new claims to deallocate, preemption: "
	if p := c.Pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return "", prefix + "not eligible due to preemptionPolicy=Never."
	}
	if s.awaitsVictims(c) {
		return "", prefix + "not eligible due to a terminating pod on the nominated node."
	}
	why := map[string]*Status{}
	var candidates []*victims
	budgets := s.budgets.List()
	for _, n := range c.Snapshot.Nodes {
		st := fit.verdicts[n.Name()]
		if fit.whole != nil {
			st = fit.whole
		}
		if st == nil {
			continue // not looked at
		}
		if st.Code == Unresolvable {
			why[n.Name()] = verdict(Unresolvable, "Preemption is not helpful for scheduling")
			continue
		}
		v, none := s.victimsOn(c, n, budgets)
		if none != "" {
			why[n.Name()] = verdict(Unschedulable, none)
			continue
		}
		candidates = append(candidates, v)
		if len(candidates) >= max(100, len(c.Snapshot.Nodes)/10) {
			break
		}
	}
	if len(candidates) == 0 {
		return "", prefix + fmt.Sprintf("0/%d nodes are available: %s.", fit.total, strings.Join(histogram(why), ", "))
	}
	choice := slices.MinFunc(candidates, lessHarm)
	s.nominated.nominate(c.Pod, choice.node.Name())
	s.wg.Go(func() { s.end(ctx, c.Pod, choice) })
	return choice.node.Name(), ""
}

// awaitsVictims says whether an earlier preemption for this pod is still at
// work: its victims are terminating.
func (s *Scheduler) awaitsVictims(c *Cycle) bool {
	nominee := s.nominated.of(c.Pod)
	for _, n := range c.Snapshot.Nodes {
		if n.Name() != nominee {
			continue
		}
		for _, p := range n.Pods {
			if p.Pod.DeletionTimestamp != nil && corev1helpers.PodPriority(p.Pod) < corev1helpers.PodPriority(c.Pod) {
				return true
			}
		}
	}
	return false
}

// victimsOn finds the fewest and least important pods of a node that must go:
// first all less important ones go, then as many as can come back, those that a
// budget protects and the more important ones first.
func (s *Scheduler) victimsOn(c *Cycle, n *NodeInfo, budgets []*policyv1.PodDisruptionBudget) (v *victims, none string) {
	var lower []*PodInfo
	rest := n
	for _, p := range n.Pods {
		if corev1helpers.PodPriority(p.Pod) < corev1helpers.PodPriority(c.Pod) {
			lower = append(lower, p)
			rest = rest.withoutPod(p.Pod.UID)
		}
	}
	if len(lower) == 0 {
		return nil, "No preemption victims found for incoming pod"
	}
	if !s.fits(c, rest) {
		return nil, "No preemption victims found for incoming pod"
	}
	sort.SliceStable(lower, func(i, j int) bool { return moreImportant(lower[i].Pod, lower[j].Pod) })
	violating, fine := splitByBudget(lower, budgets)
	v = &victims{node: n}
	for i, group := range [][]*PodInfo{violating, fine} {
		for _, p := range group {
			if with := rest.withPod(p); s.fits(c, with) {
				rest = with
				continue
			}
			v.pods = append(v.pods, p)
			if i == 0 {
				v.violations++
			}
		}
	}
	sort.SliceStable(v.pods, func(i, j int) bool { return moreImportant(v.pods[i].Pod, v.pods[j].Pod) })
	return v, ""
}

// fits says whether the pod could run on a node as it would be.
func (s *Scheduler) fits(c *Cycle, n *NodeInfo) bool {
	trial := newCycle(c.Pod, c.Snapshot.with(n))
	return s.framework.preFilter(trial).OK() && s.filter(trial, n).OK()
}

// moreImportant orders pods by priority, then by how long they have run.
func moreImportant(a, b *corev1.Pod) bool {
	if pa, pb := corev1helpers.PodPriority(a), corev1helpers.PodPriority(b); pa != pb {
		return pa > pb
	}
	return started(a).Before(started(b))
}

func started(p *corev1.Pod) *metav1.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime
	}
	return &p.CreationTimestamp
}

// splitByBudget tells apart the pods whose end a disruption budget forbids.
func splitByBudget(pods []*PodInfo, budgets []*policyv1.PodDisruptionBudget) (violating, fine []*PodInfo) {
	left := map[*policyv1.PodDisruptionBudget]int32{}
	for _, b := range budgets {
		left[b] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		breaks := false
		for _, b := range budgets {
			if b.Namespace != p.Pod.Namespace || !selectorOrNothing(b.Spec.Selector).Matches(labels.Set(p.Pod.Labels)) {
				continue
			}
			if _, done := b.Status.DisruptedPods[p.Pod.Name]; done {
				continue
			}
			left[b]--
			breaks = breaks || left[b] < 0
		}
		if breaks {
			violating = append(violating, p)
		} else {
			fine = append(fine, p)
		}
	}
	return violating, fine
}

// lessHarm orders candidates: fewest broken budgets, then the least important
// first victim, the least sum of importance, the fewest victims, the one whose
// most important victim started last.
func lessHarm(a, b *victims) int {
	sum := func(v *victims) (n int64) {
		for _, p := range v.pods {
			n += int64(corev1helpers.PodPriority(p.Pod)) + 1<<31
		}
		return n
	}
	top := func(v *victims) int64 { return int64(corev1helpers.PodPriority(v.pods[0].Pod)) }
	if len(a.pods) == 0 || len(b.pods) == 0 {
		return len(a.pods) - len(b.pods)
	}
	for _, d := range []int64{int64(a.violations - b.violations), top(a) - top(b), sum(a) - sum(b), int64(len(a.pods) - len(b.pods))} {
		if d != 0 {
			if d < 0 {
				return -1
			}
			return 1
		}
	}
	return -started(a.pods[0].Pod).Compare(started(b.pods[0].Pod).Time)
}

// end deletes the victims, saying on each why.
func (s *Scheduler) end(ctx context.Context, pod *corev1.Pod, v *victims) {
	pods := client.For[*corev1.Pod](s.cfg.Client)
	for _, p := range v.pods {
		victim := p.Pod
		if victim.DeletionTimestamp != nil {
			continue
		}
		s.patch(ctx, victim, map[string]any{"metadata": map[string]any{"uid": victim.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            s.cfg.Name + ": preempting to accommodate a higher priority pod",
			LastTransitionTime: metav1.Now(), ObservedGeneration: victim.Generation,
		}}}}, "status")
		err := pods.Delete(ctx, victim.Namespace, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			slog.Warn("could not preempt pod", "component", "scheduler", "pod", client.Key(victim), "err", err)
			continue
		}
		s.cfg.Recorder.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", pod.UID, v.node.Name())
	}
}
