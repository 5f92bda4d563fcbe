package controllers

import (
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// This file is the arithmetic of autoscaling. Nothing here touches the API.
//
// Upstream: pkg/controller/podautoscaler/replica_calculator.go; horizontal.go,
// normalizeDesiredReplicasWithBehaviors.

// tolerance of the ratio of usage to target within which nothing changes
// (--horizontal-pod-autoscaler-tolerance).
const hpaTolerance = 0.1

// weights are what pods use and ask for, in thousandths.
type weights struct {
	used, requested      int64 // of pods that are ready and measured
	ready                int
	unready, missing     int   // pods that are not ready, or of which nothing is known
	unreadyAsk, missAsks int64 // what those ask for
}

// weigh sorts pods by what is known of them.
func weigh(pods []*corev1.Pod, usage map[string]int64, res corev1.ResourceName, container string) (w weights, err error) {
	for _, p := range pods {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ask := int64(0)
		for _, c := range p.Spec.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Resources.Requests[res]
			if !ok {
				return w, fmt.Errorf("missing request for %s in container %s of Pod %s", res, c.Name, p.Name)
			}
			ask += q.MilliValue()
		}
		u, measured := usage[p.Name]
		switch {
		case p.Status.Phase == corev1.PodPending || res == corev1.ResourceCPU && !podReady(p):
			w.unready++
			w.unreadyAsk += ask
		case !measured:
			w.missing++
			w.missAsks += ask
		default:
			w.ready++
			w.used += u
			w.requested += ask
		}
	}
	if w.ready == 0 {
		return w, fmt.Errorf("did not receive metrics for targeted pods (pods might be unready)")
	}
	return w, nil
}

func (w weights) average() int64 { return w.used / int64(w.ready) }

func (w weights) utilization() int64 {
	if w.requested == 0 {
		return 0
	}
	return w.used * 100 / w.requested
}

// replicas is the size at which the mean usage would be target times the request.
func (w weights) replicas(target float64, current int32) int32 {
	return w.size(current, func(extraUse, extraAsk int64) float64 {
		return float64(w.used+extraUse) / float64(w.requested+extraAsk) / target
	}, w.missAsks, w.unreadyAsk, int64(float64(w.missAsks)*target))
}

// replicasForValue is the size at which the mean usage would be value.
func (w weights) replicasForValue(value int64, current int32) int32 {
	return w.size(current, func(extraUse, extraCount int64) float64 {
		return float64(w.used+extraUse) / float64(int64(w.ready)+extraCount) / float64(value)
	}, int64(w.missing), int64(w.unready), int64(w.missing)*value)
}

// size is the common part: pods that are not measured are thought to damp the
// change, whichever way it goes.
func (w weights) size(current int32, ratio func(extraUse, extraWeight int64) float64, missing, unready, missingUse int64) int32 {
	r := ratio(0, 0)
	if w.unready == 0 && w.missing == 0 {
		if math.Abs(r-1) <= hpaTolerance {
			return current
		}
		return int32(math.Ceil(r * float64(w.ready)))
	}
	count, damped := w.ready+w.missing, 0.0
	if r < 1 {
		damped = ratio(missingUse, missing)
	} else {
		damped = ratio(0, missing+unready)
		count += w.unready
	}
	if math.Abs(damped-1) <= hpaTolerance || r < 1 != (damped < 1) {
		return current
	}
	n := int32(math.Ceil(damped * float64(count)))
	if r < 1 && n > current || r > 1 && n < current {
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

func (p *scaleHistory) note(from, to int32, now time.Time) {
	p.changes = append(p.changes, scaleNote{now, to - from})
}

// limit turns a proposal into a size that may be set now: stabilised, as fast as
// policies allow, and within the bounds. It sets the conditions that say why.
func (p *scaleHistory) limit(h *autoscaler, current, proposed, least int32, stabilization time.Duration, now time.Time) int32 {
	up, down := hpaRules(h, stabilization)
	p.thoughts = append(p.thoughts, scaleNote{now, proposed})
	lowest, highest := proposed, proposed
	keep := p.thoughts[:0]
	for _, t := range p.thoughts {
		age := now.Sub(t.at)
		if age < window(up) {
			lowest = min(lowest, t.n)
		}
		if age < window(down) {
			highest = max(highest, t.n)
		}
		if age < max(window(up), window(down)) {
			keep = append(keep, t)
		}
	}
	p.thoughts = keep
	desired := min(max(current, lowest), highest)
	switch {
	case desired == proposed:
		setHPA(h, autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	case desired > proposed:
		setHPA(h, autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	default:
		setHPA(h, autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	}
	return p.bound(h, current, desired, least, up, down, now)
}

func (p *scaleHistory) bound(h *autoscaler, current, desired, least int32, up, down *autoscalingv2.HPAScalingRules, now time.Time) int32 {
	if desired > current {
		limit := p.reach(up, current, +1, now)
		if limit < current {
			limit = current
		}
		if most := h.Spec.MaxReplicas; limit >= most {
			if desired > most {
				setHPA(h, autoscalingv2.ScalingLimited, true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
				return most
			}
		} else if desired > limit {
			setHPA(h, autoscalingv2.ScalingLimited, true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
			return limit
		}
	} else if desired < current {
		limit := min(p.reach(down, current, -1, now), current)
		if limit <= least {
			if desired < least {
				setHPA(h, autoscalingv2.ScalingLimited, true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
				return least
			}
		} else if desired < limit {
			setHPA(h, autoscalingv2.ScalingLimited, true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
			return limit
		}
	}
	setHPA(h, autoscalingv2.ScalingLimited, false, "DesiredWithinRange", "the desired count is within the acceptable range")
	return desired
}

// reach is the furthest size that the policies of one direction allow.
func (p *scaleHistory) reach(rules *autoscalingv2.HPAScalingRules, current int32, sign int32, now time.Time) int32 {
	policy := autoscalingv2.MaxChangePolicySelect
	if rules.SelectPolicy != nil {
		policy = *rules.SelectPolicy
	}
	if policy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	furthest := (policy == autoscalingv2.MaxChangePolicySelect) == (sign > 0) // the greater number?
	result, first := int32(0), true
	for _, pol := range rules.Policies {
		start := current // what it was at the beginning of the period
		for _, ch := range p.changes {
			if now.Sub(ch.at) < time.Duration(pol.PeriodSeconds)*time.Second && ch.n*sign > 0 {
				start -= ch.n
			}
		}
		n := start + sign*pol.Value
		if pol.Type == autoscalingv2.PercentScalingPolicy {
			n = int32(math.Ceil(float64(start) * (1 + float64(sign)*float64(pol.Value)/100)))
		}
		if first || furthest && n > result || !furthest && n < result {
			result, first = n, false
		}
	}
	return result
}

func window(r *autoscalingv2.HPAScalingRules) time.Duration {
	if r.StabilizationWindowSeconds == nil {
		return 0
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// hpaRules are an autoscaler's rules with upstream's defaults: up by four pods or
// to the double each 15 s, whichever is more; down as far as is wanted.
func hpaRules(h *autoscaler, stabilization time.Duration) (up, down *autoscalingv2.HPAScalingRules) {
	up = &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0)), Policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}}
	down = &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(stabilization.Seconds())), Policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}}
	override := func(to, from *autoscalingv2.HPAScalingRules) {
		if from == nil {
			return
		}
		if from.StabilizationWindowSeconds != nil {
			to.StabilizationWindowSeconds = from.StabilizationWindowSeconds
		}
		if from.SelectPolicy != nil {
			to.SelectPolicy = from.SelectPolicy
		}
		if len(from.Policies) > 0 {
			to.Policies = from.Policies
		}
	}
	if b := h.Spec.Behavior; b != nil {
		override(up, b.ScaleUp)
		override(down, b.ScaleDown)
	}
	return up, down
}
