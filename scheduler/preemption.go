package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"orrery/client"
)

// victims are the pods that would have to go from one node.
type victims struct {
	node       *NodeInfo
	pods       []*PodInfo // most important first
	violations int        // of disruption budgets
	underWay   int        // how many of the pods are being ended already, for another pod
}

// postFilter looks for a node on which less important pods could make room, and
// notes in fit what it decides and has to say.
//
// Upstream: pkg/scheduler/framework/preemption/preemption.go, Evaluator.Preempt.
func (s *Scheduler) postFilter(c *Cycle, fit *fitError) {
	fit.nominee = new("")
	if fit.total == 0 || fit.internal() {
		return
	}
	if fit.whole != nil {
		// Upstream's dynamic resources plugin has had no turn, and misses its notes.
		fit.nominee, fit.post = nil, "not found"
		return
	}
	// Upstream's dynamic resources plugin speaks first; there are no claims here.
	const prefix = "no new claims to deallocate, preemption: "
	if p := c.Pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		fit.nominee, fit.post = nil, prefix+"not eligible due to preemptionPolicy=Never."
		return
	}
	if s.awaitsVictims(c, fit) {
		fit.nominee, fit.post = nil, prefix+"not eligible due to a terminating pod on the nominated node."
		return
	}
	candidates, why := s.candidates(c, fit)
	if len(candidates) == 0 {
		fit.post = prefix + fmt.Sprintf("0/%d nodes are available: %s.", fit.total, why)
		return
	}
	choice := slices.MinFunc(candidates, lessHarm)
	fit.nominee, fit.victims = new(choice.node.Name()), choice.pods
}

// candidates are nodes where the end of some pods would help, enough of them. why
// says what speaks against the others. Pods that come one after the other look at
// nodes in the same order, and so one node after the other is emptied for them.
//
// Upstream: pkg/scheduler/framework/preemption/preemption.go, Evaluator.DryRunPreemption,
// which begins anywhere.
func (s *Scheduler) candidates(c *Cycle, fit *fitError) (found []*victims, why histogram) {
	var potential []int
	for _, r := range fit.rejected {
		if r.Code != Unresolvable {
			potential = append(potential, r.node)
		}
	}
	why = histogram{}
	if hopeless := fit.total - len(potential); hopeless > 0 {
		why.add(hopeless, "Preemption is not helpful for scheduling")
	}
	budgets := s.budgets.List()
	harmless := false
	for _, node := range potential {
		v, st := s.victimsOn(c, node, budgets)
		if !st.OK() {
			why.add(1, st.Reasons...)
			continue
		}
		v.underWay = s.ending.among(v.pods)
		found = append(found, v)
		harmless = harmless || v.violations == 0
		if harmless && len(found) >= max(100, len(potential)/10) {
			break
		}
	}
	return found, why
}

// awaitsVictims says whether an earlier preemption for this pod is still at work:
// its victims are terminating, on a node that they can free for it.
//
// Upstream: pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go,
// DefaultPreemption.PodEligibleToPreemptOthers.
func (s *Scheduler) awaitsVictims(c *Cycle, fit *fitError) bool {
	i, ok := c.Snapshot.index[s.nominated.of(c.Pod)]
	if !ok || slices.ContainsFunc(fit.rejected, func(r rejection) bool { return r.node == i && r.Code == Unresolvable }) {
		return false
	}
	return slices.ContainsFunc(c.Snapshot.Nodes[i].Pods, func(p *PodInfo) bool {
		return p.Pod.DeletionTimestamp != nil && corev1helpers.PodPriority(p.Pod) < corev1helpers.PodPriority(c.Pod) && preempted(p.Pod)
	})
}

// preempted says whether a pod was ended for the sake of another one.
func preempted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// victimsOn finds the fewest and least important pods of a node that must go:
// first all less important ones go, then as many as can come back, those that a
// budget protects and the more important ones first. The verdict says why none would
// help.
//
// Upstream: pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go, DefaultPreemption.SelectVictimsOnNode.
func (s *Scheduler) victimsOn(c *Cycle, node int, budgets []*policyv1.PodDisruptionBudget) (*victims, *Status) {
	var lower []*PodInfo
	n := c.Snapshot.Nodes[node]
	rest := n
	for _, p := range n.Pods {
		if corev1helpers.PodPriority(p.Pod) < corev1helpers.PodPriority(c.Pod) {
			lower = append(lower, p)
			rest = rest.withoutPod(p.Pod.UID)
		}
	}
	const none = "No preemption victims found for incoming pod"
	if len(lower) == 0 {
		return nil, verdict(Unresolvable, none)
	}
	if st := s.filter(c, node, rest); !st.OK() {
		return nil, st
	}
	sort.SliceStable(lower, func(i, j int) bool { return moreImportant(lower[i].Pod, lower[j].Pod) })
	violating, fine := splitByBudget(lower, budgets)
	v := &victims{node: n}
	for i, group := range [][]*PodInfo{violating, fine} {
		for _, p := range group {
			if with := rest.withPod(p); s.filter(c, node, with).OK() {
				rest = with
				continue
			}
			v.pods = append(v.pods, p)
			if i == 0 {
				v.violations++
			}
		}
	}
	if len(v.pods) == 0 { // nobody's end would help
		return nil, verdict(Unresolvable, none)
	}
	sort.SliceStable(v.pods, func(i, j int) bool { return moreImportant(v.pods[i].Pod, v.pods[j].Pod) })
	return v, nil
}

// moreImportant orders pods by priority, then by how long they have run.
func moreImportant(a, b *corev1.Pod) bool {
	if pa, pb := corev1helpers.PodPriority(a), corev1helpers.PodPriority(b); pa != pb {
		return pa > pb
	}
	return started(a).Before(started(b))
}

// started is when a pod did; one that has not yet will do so after all others.
//
// Upstream: pkg/scheduler/util/utils.go, GetPodStartTime.
func started(p *corev1.Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return time.Unix(math.MaxInt32, 0)
}

// splitByBudget tells apart the pods whose end a disruption budget forbids. A budget
// with an empty selector protects nothing here, though it does from eviction.
//
// Upstream: pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go, filterPodsWithPDBViolation.
func splitByBudget(pods []*PodInfo, budgets []*policyv1.PodDisruptionBudget) (violating, fine []*PodInfo) {
	left := map[*policyv1.PodDisruptionBudget]int32{}
	for _, b := range budgets {
		left[b] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		breaks := false
		for _, b := range budgets {
			selector := selectorOrNothing(b.Spec.Selector)
			if b.Namespace != p.Pod.Namespace || selector.Empty() || !selector.Matches(labels.Set(p.Pod.Labels)) {
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
// most important victim started last. Among equals, a node that another pod is
// about to get comes last: there is little room for this one there.
func lessHarm(a, b *victims) int {
	sum := func(v *victims) (n int64) {
		for _, p := range v.pods {
			n += int64(corev1helpers.PodPriority(p.Pod)) + 1<<31
		}
		return n
	}
	top := func(v *victims) int64 { return int64(corev1helpers.PodPriority(v.pods[0].Pod)) }
	for _, d := range []int64{
		int64(a.violations - b.violations), top(a) - top(b), sum(a) - sum(b), int64(len(a.pods) - len(b.pods)),
		int64(started(b.pods[0].Pod).Compare(started(a.pods[0].Pod))), int64(a.underWay - b.underWay),
	} {
		if d != 0 {
			return cmp.Compare(d, 0)
		}
	}
	return 0
}

// end deletes victims, saying on each why, and ends the nominations of the outranked:
// there may not be room for them any more.
//
// Upstream: pkg/scheduler/framework/preemption/executor.go, Executor.prepareCandidateAsync.
func (s *Scheduler) end(ctx context.Context, pod *corev1.Pod, node string, victims, outranked []*corev1.Pod) {
	for _, other := range outranked {
		s.patch(ctx, other, map[string]any{"metadata": map[string]any{"uid": other.UID}, "status": map[string]any{"nominatedNodeName": ""}}, "status")
	}
	for i, victim := range victims {
		if !s.stays(victim) {
			s.ending.done(victim.UID) // it went between the choice and now
			continue
		}
		s.patch(ctx, victim, map[string]any{"metadata": map[string]any{"uid": victim.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            s.cfg.Name + ": preempting to accommodate a higher priority pod",
			LastTransitionTime: metav1.Now(), ObservedGeneration: victim.Generation,
		}}}}, "status")
		err := s.delete(ctx, victim)
		switch {
		case err == nil:
			s.cfg.Recorder.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", pod.UID, node)
		case apierrors.IsNotFound(err):
			s.ending.done(victim.UID)
		default:
			slog.Warn("could not preempt pod", "component", "scheduler", "pod", client.Key(victim), "err", err)
			for _, v := range victims[i:] {
				s.ending.done(v.UID)
			}
			s.queue.Stays(victim.UID)
			return
		}
	}
}

func (s *Scheduler) delete(ctx context.Context, pod *corev1.Pod) error {
	defer s.turn()()
	return client.For[*corev1.Pod](s.cfg.Client).Delete(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

// maxEndings is how many victims may be on their way before the next pod has to wait.
// A victim's node often has room for more pods than the one that it goes for: of a
// burst of pods, all those that are tried before it has gone would have others ended,
// for no need. To wait for each victim would make them go one after the other.
//
// Upstream's cycle waits for the write of the pod's own condition, so that there are
// one or two.
const maxEndings = 8

// endings are the pods that are being ended, until they are seen to terminate or to
// be gone.
type endings struct {
	mu    sync.Mutex
	uids  map[types.UID]bool // guarded by mu
	fewer chan struct{}      // has an entry when there have become fewer
}

func newEndings() *endings {
	return &endings{uids: map[types.UID]bool{}, fewer: make(chan struct{}, 1)}
}

// begin returns those of the victims that nobody has begun to end yet; the caller
// does so.
func (e *endings) begin(victims []*PodInfo) (begun []*corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range victims {
		if !e.uids[v.Pod.UID] && v.Pod.DeletionTimestamp == nil {
			e.uids[v.Pod.UID] = true
			begun = append(begun, v.Pod)
		}
	}
	return begun
}

func (e *endings) done(uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.uids, uid)
	select {
	case e.fewer <- struct{}{}:
	default:
	}
}

// among says how many of the victims are being ended.
func (e *endings) among(victims []*PodInfo) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range victims {
		if e.uids[v.Pod.UID] {
			n++
		}
	}
	return n
}

// few waits until there are few enough for the next cycle, or the context ends.
func (e *endings) few(ctx context.Context) {
	for {
		e.mu.Lock()
		n := len(e.uids)
		e.mu.Unlock()
		if n < maxEndings {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-e.fewer:
		}
	}
}
