package controllers

import (
	"maps"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// This file judges nodes: what their silence means and which taints follow.
// Nothing here touches the API.
//
// Upstream: pkg/controller/nodelifecycle/node_lifecycle_controller.go,
// tryUpdateNodeHealth, doNoScheduleTaintingPass.

// nodeHealth is what the controller remembers of a node between two looks.
type nodeHealth struct {
	ready      *corev1.NodeCondition // as last seen
	probe      time.Time             // when the node was last heard of, by our clock
	transition time.Time             // when Ready last changed, by our clock
	renewed    time.Time             // what its lease said
}

// conditionsOfNode are the conditions that silence makes Unknown.
var conditionsOfNode = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

func nodeCondition(conditions []corev1.NodeCondition, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

// judge compares a node and its lease with what is remembered. A heartbeat is a
// change of either; its own timestamps are never compared with our clock, since
// clocks differ. If there was none for the grace period, conditions is what must
// be written; otherwise nil.
//
// Upstream counts strictly more than the grace period; there, passes take time
// and the tenth tick comes just late enough. Without that delay "at least" is
// the same.
func judge(before *nodeHealth, node *corev1.Node, lease *coordinationv1.Lease, now time.Time, grace, startup time.Duration) (after *nodeHealth, conditions []corev1.NodeCondition) {
	ready := nodeCondition(node.Status.Conditions, corev1.NodeReady)
	after = &nodeHealth{probe: now, transition: now}
	switch {
	case before == nil && ready == nil: // registered but never reported
		after.probe, after.transition, grace = node.CreationTimestamp.Time, node.CreationTimestamp.Time, startup
	case ready == nil:
		*after, grace = *before, startup
		if before.ready != nil {
			after.probe, after.transition = now, now
		}
	case before == nil || before.ready == nil: // the first report
	case !before.ready.LastHeartbeatTime.Equal(&ready.LastHeartbeatTime):
		if before.ready.LastTransitionTime.Equal(&ready.LastTransitionTime) {
			after.transition = before.transition
		}
	default:
		*after = *before
	}
	after.ready = nil
	if ready != nil {
		after.ready = ready.DeepCopy()
	}
	if before != nil {
		after.renewed = before.renewed
	}
	if lease != nil && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(after.renewed) {
		after.renewed, after.probe = lease.Spec.RenewTime.Time, now
	}
	if now.Before(after.probe.Add(grace)) {
		return after, nil
	}
	conditions = slices.Clone(node.Status.Conditions)
	for _, t := range conditionsOfNode {
		c := nodeCondition(conditions, t)
		if c == nil {
			conditions = append(conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		} else if c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	if ready != nil && ready.Status == corev1.ConditionUnknown {
		return after, nil // said already
	}
	return after, conditions
}

var (
	unreachableExecute = corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	notReadyExecute    = corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}
)

// executeTaints are the NoExecute taint of a Ready status and its opposite; nil
// for a node that is well.
func executeTaints(ready corev1.ConditionStatus) (want, other *corev1.Taint) {
	switch ready {
	case corev1.ConditionFalse:
		return &notReadyExecute, &unreachableExecute
	case corev1.ConditionUnknown:
		return &unreachableExecute, &notReadyExecute
	}
	return nil, nil
}

func hasTaint(node *corev1.Node, t corev1.Taint) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(have corev1.Taint) bool { return have.MatchTaint(&t) })
}

// conditionTaints map a condition and its status to the key of a NoSchedule taint.
var conditionTaints = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady: {
		corev1.ConditionFalse: corev1.TaintNodeNotReady, corev1.ConditionUnknown: corev1.TaintNodeUnreachable,
	},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
}

// noScheduleChange compares a node's NoSchedule taints with its conditions.
func noScheduleChange(node *corev1.Node) (add, remove []corev1.Taint) {
	want := map[string]bool{}
	for _, c := range node.Status.Conditions {
		if key := conditionTaints[c.Type][c.Status]; key != "" {
			want[key] = true
		}
	}
	if node.Spec.Unschedulable {
		want[corev1.TaintNodeUnschedulable] = true
	}
	ours := map[string]bool{corev1.TaintNodeUnschedulable: true}
	for _, byStatus := range conditionTaints {
		for _, key := range byStatus {
			ours[key] = true
		}
	}
	for _, t := range node.Spec.Taints {
		if t.Effect != corev1.TaintEffectNoSchedule || !ours[t.Key] {
			continue
		}
		if !want[t.Key] {
			remove = append(remove, t)
		}
		delete(want, t.Key)
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		add = append(add, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return add, remove
}

// taintsAfter is a list of taints after some came and some went.
func taintsAfter(have, add, remove []corev1.Taint, now metav1.Time) (out []corev1.Taint, changed bool) {
	out = []corev1.Taint{} // "taints": [] clears the list, null would be ignored
	for _, t := range have {
		if slices.ContainsFunc(remove, func(r corev1.Taint) bool { return r.MatchTaint(&t) }) {
			changed = true
			continue
		}
		out = append(out, t)
	}
	for _, t := range add {
		if !slices.ContainsFunc(out, func(h corev1.Taint) bool { return h.MatchTaint(&t) }) {
			t.TimeAdded = &now
			out, changed = append(out, t), true
		}
	}
	return out, changed
}
