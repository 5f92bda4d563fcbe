package controllers

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// This file decides which pod of a StatefulSet is next. Nothing here touches the
// API.
//
// Upstream: pkg/controller/statefulset/stateful_set_control.go, updateStatefulSet.

// statefulView is one look at a StatefulSet: its pods by ordinal.
type statefulView struct {
	set             *appsv1.StatefulSet
	pods            map[int]*corev1.Pod
	current, update *appsv1.ControllerRevision
	now             time.Time
}

// action is one pod created, deleted, or deleted so that it is made again.
type action struct {
	create, replace bool
	ordinal         int
	pod             *corev1.Pod
}

func viewStateful(set *appsv1.StatefulSet, pods []*corev1.Pod, current, update *appsv1.ControllerRevision, now time.Time) statefulView {
	v := statefulView{set: set, pods: map[int]*corev1.Pod{}, current: current, update: update, now: now}
	for _, p := range pods {
		if parent, n := ordinalOf(p); parent == set.Name && n >= 0 {
			v.pods[n] = p
		}
	}
	return v
}

func (v statefulView) start() int {
	if o := v.set.Spec.Ordinals; o != nil {
		return int(o.Start)
	}
	return 0
}

func (v statefulView) end() int { return v.start() + int(*v.set.Spec.Replicas) } // exclusive

func (v statefulView) wanted(ordinal int) bool { return ordinal >= v.start() && ordinal < v.end() }

func (v statefulView) available(p *corev1.Pod) bool {
	ok, _ := podAvailable(p, time.Duration(v.set.Spec.MinReadySeconds)*time.Second, v.now)
	return ok && p.Status.Phase == corev1.PodRunning
}

func (v statefulView) partition() int {
	if ru := v.set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return int(*ru.Partition)
	}
	return 0
}

func (v statefulView) isNew(p *corev1.Pod) bool {
	return p.Labels[appsv1.ControllerRevisionHashLabelKey] == v.update.Name
}

// revisionFor is the revision that a new pod of an ordinal gets: pods below the
// partition, and those that a rolling update has not reached, stay old.
func (v statefulView) revisionFor(ordinal int) *appsv1.ControllerRevision {
	ru := v.set.Spec.UpdateStrategy.RollingUpdate
	if v.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return v.update
	}
	if ru == nil || ru.Partition == nil {
		if ordinal < v.start()+int(v.set.Status.CurrentReplicas) {
			return v.current
		}
		return v.update
	}
	if ordinal < v.start()+v.partition() {
		return v.current
	}
	return v.update
}

// next are the steps that may be taken now. One pod at a time holds for
// OrderedReady: whatever is not in order stops what comes after it.
func (v statefulView) next() (out []action) {
	one := v.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	for n := v.start(); n < v.end(); n++ {
		p := v.pods[n]
		switch {
		case p == nil:
			out = append(out, action{create: true, ordinal: n})
		case p.DeletionTimestamp == nil && podFinished(p):
			out = append(out, action{replace: true, ordinal: n, pod: p})
		case p.DeletionTimestamp == nil && v.available(p):
			continue
		}
		if one {
			return out // wait for this one
		}
	}
	condemned := filter(v.ordinals(), func(n int) bool { return !v.wanted(n) })
	slices.Reverse(condemned) // the highest first
	for _, n := range condemned {
		if v.pods[n].DeletionTimestamp == nil {
			out = append(out, action{ordinal: n, pod: v.pods[n]})
		}
		if one {
			return out
		}
	}
	if len(out) > 0 || v.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return out
	}
	return v.roll()
}

// roll replaces pods of an old revision from the top, at most maxUnavailable at
// a time.
func (v statefulView) roll() (out []action) {
	budget := 1
	if ru := v.set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.MaxUnavailable != nil {
		n, _ := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, int(*v.set.Spec.Replicas), false)
		budget = max(1, n)
	}
	for n := v.end() - 1; n >= v.start()+v.partition(); n-- {
		p := v.pods[n]
		if p == nil {
			continue
		}
		if !v.isNew(p) && p.DeletionTimestamp == nil {
			out = append(out, action{ordinal: n, pod: p})
			budget--
		} else if !v.available(p) || p.DeletionTimestamp != nil {
			budget--
		}
		if budget <= 0 {
			break
		}
	}
	return out
}

func (v statefulView) ordinals() (out []int) {
	for n := range v.pods {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// status counts, and says after which time a ready pod will be available.
func (v statefulView) status() (s appsv1.StatefulSetStatus, after time.Duration) {
	s = appsv1.StatefulSetStatus{
		ObservedGeneration: v.set.Generation, CurrentRevision: v.current.Name, UpdateRevision: v.update.Name,
		CollisionCount: v.set.Status.CollisionCount, Conditions: v.set.Status.Conditions,
	}
	if s.CollisionCount == nil {
		s.CollisionCount = new(int32(0))
	}
	for _, p := range v.pods {
		s.Replicas++
		if p.Status.Phase == corev1.PodRunning && podReady(p) {
			s.ReadyReplicas++
			ok, left := podAvailable(p, time.Duration(v.set.Spec.MinReadySeconds)*time.Second, v.now)
			if ok {
				s.AvailableReplicas++
			} else if left > 0 && (after == 0 || left < after) {
				after = left
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] == v.current.Name {
			s.CurrentReplicas++
		}
		if v.isNew(p) {
			s.UpdatedReplicas++
		}
	}
	// The update is through: what was new is current.
	if v.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		s.UpdatedReplicas == *v.set.Spec.Replicas && s.ReadyReplicas == *v.set.Spec.Replicas && s.Replicas == *v.set.Spec.Replicas {
		s.CurrentRevision, s.CurrentReplicas = s.UpdateRevision, s.UpdatedReplicas
	}
	return s, after
}
