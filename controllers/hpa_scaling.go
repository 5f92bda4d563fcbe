package controllers

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// This file is the arithmetic of autoscaling. Nothing here touches the API.
//
// Upstream: pkg/controller/podautoscaler/replica_calculator.go; horizontal.go,
// normalizeDesiredReplicas and normalizeDesiredReplicasWithBehaviors.

// measured is what a pod used of a resource, in thousandths, on average over the window before a time.
type measured struct {
	value  int64
	at     time.Time
	window time.Duration
}

// group is some pods: how many, and what they use and ask for together.
type group struct{ count, used, asked int64 }

// plus is the group with others, who are thought to use so much.
func (g group) plus(others group, used int64) group {
	return group{g.count + others.count, g.used + used, g.asked + others.asked}
}

// weights are the pods that are ready and measured, and those that are not the one or the other.
type weights struct{ ready, unready, missing group }

// weigh sorts pods by what is known of them; request is what one asks for, if that is of interest.
func (c *Config) weigh(pods []*corev1.Pod, usage map[string]measured, res corev1.ResourceName, request func(*corev1.Pod) (int64, error), now time.Time) (w weights, err error) {
	if len(pods) == 0 {
		return w, errors.New("no pods returned by selector while calculating replica count")
	}
	var noRequest error
	for _, p := range pods {
		ask, err := request(p)
		if noRequest == nil {
			noRequest = err
		}
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			continue
		}
		m, known := usage[p.Name]
		of := &w.ready
		switch {
		case p.Status.Phase == corev1.PodPending:
			of = &w.unready
		case !known:
			of = &w.missing
		case res == corev1.ResourceCPU && !c.settled(p, m, now):
			of = &w.unready
		}
		*of = of.plus(group{count: 1, asked: ask}, m.value)
	}
	if w.ready.count == 0 {
		return w, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return w, noRequest
}

// settled says whether a pod's use of CPU counts. One that starts uses much and serves nobody yet: in its first minutes
// it must be ready, and measured since it is; later it must at least have been ready once.
//
// Upstream: pkg/controller/podautoscaler/replica_calculator.go, groupPods.
func (c *Config) settled(p *corev1.Pod, m measured, now time.Time) bool {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	if i < 0 || p.Status.StartTime == nil {
		return false
	}
	ready, since := p.Status.Conditions[i].Status != corev1.ConditionFalse, p.Status.Conditions[i].LastTransitionTime
	if p.Status.StartTime.Add(c.HPACPUInitializationPeriod).After(now) {
		return ready && !m.at.Before(since.Add(m.window))
	}
	return ready || !p.Status.StartTime.Add(c.HPAInitialReadinessDelay).After(since.Time)
}

// requested is what a pod, or one container of it, asks for, in thousandths: what the pod says of itself as a whole, or
// the sum of its containers, sidecars among them. One that says nothing cannot be weighed.
//
// Upstream: pkg/controller/podautoscaler/replica_calculator.go, calculateRequests.
func requested(p *corev1.Pod, res corev1.ResourceName, container string) (sum int64, err error) {
	if container == "" && resource.IsPodLevelRequestsSet(p) {
		q, ok := resource.PodRequests(p, resource.PodResourcesOptions{})[res]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", res, p.Name)
		}
		return q.MilliValue(), nil
	}
	found := container == ""
	for _, c := range slices.Concat(p.Spec.Containers, filter(p.Spec.InitContainers, isSidecar)) {
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Resources.Requests[res]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", res, c.Name, p.Name)
		}
		sum, found = sum+q.MilliValue(), true
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return sum, nil
}

// utilization is what the pods use in percent of what they ask for.
func (g group) utilization() int64 { return g.used * 100 / g.asked }

// tolerances are how far usage may be below and above the target, as ratios, before anything changes.
func tolerances(h *autoscaler) (down, up float64) {
	down, up = hpaTolerance, hpaTolerance
	if b := h.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return down, up
}

// hpaTolerance is --horizontal-pod-autoscaler-tolerance.
const hpaTolerance = 0.1

// size is how many pods there should be, with ratio telling how far a group is above its target. Pods of which nothing
// can be told damp the change, whichever way it goes: upwards they are thought to use nothing, downwards missingUse.
func (w weights) size(h *autoscaler, current int32, missingUse int64, ratio func(group) float64) int32 {
	before, all := ratio(w.ready), w.ready
	if before < 1 {
		all = all.plus(w.missing, missingUse)
	} else if before > 1 {
		all = all.plus(w.missing, 0).plus(w.unready, 0)
	}
	r, damped := ratio(all), all.count > w.ready.count
	if down, up := tolerances(h); 1-down <= r && r <= 1+up {
		return current
	}
	n := int32(math.Ceil(r * float64(all.count)))
	turned := before < 1 != (r < 1) || r < 1 && n > current || r > 1 && n < current
	if damped && turned { // what is not known would change the direction
		return current
	}
	return n
}

// scaleHistory is what an autoscaler did and thought lately.
type scaleHistory struct {
	thoughts, changes []scaleNote
}

type scaleNote struct {
	at time.Time
	n  int32 // the size thought right; or by how much it changed
}

// longestPeriod is the most that a policy or a window may look back.
const longestPeriod = time.Hour

// begin takes the size that is there for a thought, so that a controller that has just started takes nothing away.
func (p *scaleHistory) begin(current int32, now time.Time) {
	if p.thoughts == nil {
		p.thoughts = []scaleNote{{now, current}}
	}
}

func (p *scaleHistory) note(from, to int32, now time.Time) {
	p.changes = slices.DeleteFunc(append(p.changes, scaleNote{now, to - from}), func(c scaleNote) bool { return now.Sub(c.at) > longestPeriod })
}

// limit turns a proposal into a size that may be set now: stabilised, as fast as is allowed, and within the bounds. It
// sets the conditions that say why. An autoscaler without behavior has other rules than one whose behavior is the default.
func (p *scaleHistory) limit(h *autoscaler, current, proposed, least int32, stabilization time.Duration, now time.Time) int32 {
	var stable, n int32
	var held, why scaleReason
	if b := h.Spec.Behavior; b == nil {
		stable = p.extreme(proposed, now, slices.Max[[]int32], func(age time.Duration) bool { return age <= stabilization })
		held = downStabilized
		n, why = within(stable, least, h.Spec.MaxReplicas, max(2*current, 4), math.MinInt32)
	} else {
		highest := p.extreme(proposed, now, slices.Max[[]int32], func(age time.Duration) bool { return age < window(b.ScaleDown, stabilization) })
		lowest := p.extreme(proposed, now, slices.Min[[]int32], func(age time.Duration) bool { return age < window(b.ScaleUp, 0) })
		stable = min(max(current, lowest), highest)
		if held = downStabilized; proposed >= current {
			held = upStabilized
		}
		switch n, why = stable, withinRange; {
		case stable > current:
			n, why = within(stable, math.MinInt32, h.Spec.MaxReplicas, max(current, p.reach(b.ScaleUp, current, +1, now)), math.MinInt32)
		case stable < current:
			n, why = within(stable, least, math.MaxInt32, math.MaxInt32, min(current, p.reach(b.ScaleDown, current, -1, now)))
		}
	}
	p.thoughts = slices.DeleteFunc(append(p.thoughts, scaleNote{now, proposed}), func(t scaleNote) bool { return now.Sub(t.at) > max(longestPeriod, stabilization) })
	if stable == proposed {
		held = readyForScale
	}
	setHPA(h, autoscalingv2.AbleToScale, true, held.reason, "%s", held.message)
	setHPA(h, autoscalingv2.ScalingLimited, n != stable, why.reason, "%s", why.message)
	return n
}

// scaleReason is why a size is what it is.
type scaleReason struct{ reason, message string }

var (
	readyForScale  = scaleReason{"ReadyForNewScale", "recommended size matches current size"}
	upStabilized   = scaleReason{"ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
	downStabilized = scaleReason{"ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	withinRange    = scaleReason{"DesiredWithinRange", "the desired count is within the acceptable range"}
	tooMany        = scaleReason{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	tooFew         = scaleReason{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	tooFast        = scaleReason{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	tooFastDown    = scaleReason{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
)

// extreme is the highest or lowest of the thoughts that are young enough and the proposal.
func (p *scaleHistory) extreme(proposed int32, now time.Time, pick func([]int32) int32, young func(age time.Duration) bool) int32 {
	sizes := []int32{proposed}
	for _, t := range p.thoughts {
		if young(now.Sub(t.at)) {
			sizes = append(sizes, t.n)
		}
	}
	return pick(sizes)
}

// within brings a size between the bounds of the autoscaler, least and most, and those of its speed, and says which it met.
func within(n, least, most, fastest, slowest int32) (int32, scaleReason) {
	switch {
	case n < max(least, slowest):
		if slowest > least {
			return slowest, tooFastDown
		}
		return least, tooFew
	case n > min(most, fastest):
		if fastest < most {
			return fastest, tooFast
		}
		return most, tooMany
	}
	return n, withinRange
}

// reach is the furthest size that the policies of one direction allow.
func (p *scaleHistory) reach(rules *autoscalingv2.HPAScalingRules, current int32, sign int32, now time.Time) int32 {
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var sizes []int32
	for _, pol := range rules.Policies {
		start := current // what it was at the beginning of the period
		for _, ch := range p.changes {
			if now.Sub(ch.at) < time.Duration(pol.PeriodSeconds)*time.Second {
				start -= ch.n
			}
		}
		n := start + sign*pol.Value
		if pol.Type == autoscalingv2.PercentScalingPolicy {
			share := float64(start) * (1 + float64(sign)*float64(pol.Value)/100)
			if n = int32(share); sign > 0 {
				n = int32(math.Ceil(share)) // or a small one would never grow
			}
		}
		sizes = append(sizes, n)
	}
	if (*rules.SelectPolicy == autoscalingv2.MinChangePolicySelect) == (sign > 0) {
		return slices.Min(sizes)
	}
	return slices.Max(sizes)
}

func window(r *autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if r.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}
