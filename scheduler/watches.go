package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

// watch connects the informers with the cache and the queue.
//
// Upstream: pkg/scheduler/eventhandlers.go.
func (s *Scheduler) watch() {
	s.pods.AddHandler(client.Handler[*corev1.Pod]{
		Add:    s.podAdded,
		Update: s.podUpdated,
		Delete: s.podGone,
	})
	client.InformerFor[*corev1.Node](s.informers).AddHandler(client.Handler[*corev1.Node]{
		Add: func(n *corev1.Node) {
			s.cache.SetNode(n)
			s.queue.Happened(ClusterEvent{Node: n})
		},
		Update: func(old, n *corev1.Node) {
			s.cache.SetNode(n)
			if nodeMatters(old, n) {
				s.queue.Happened(ClusterEvent{Node: n})
			}
		},
		Delete: func(n *corev1.Node) { s.cache.RemoveNode(n.Name) },
	})
	s.namespaces.AddHandler(client.HandlerFunc(func(*corev1.Namespace) { s.cache.Recount() }))
}

func (s *Scheduler) ours(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" && pod.Spec.SchedulerName == s.cfg.Name && pod.DeletionTimestamp == nil
}

func (s *Scheduler) podAdded(pod *corev1.Pod) { s.podChanged(nil, pod) }

// podChanged has a pod counted on its node, or tried if it has none; old is nil for
// a new one.
func (s *Scheduler) podChanged(old, pod *corev1.Pod) {
	if pod.Spec.NodeName != "" {
		s.queue.Delete(pod.UID)
		s.nominated.remove(pod.UID)
		s.cache.SetPod(pod)
		s.queue.Happened(ClusterEvent{PodChanged: pod})
		return
	}
	if !s.ours(pod) || s.cache.Has(pod.UID) {
		return
	}
	s.nominated.update(old, pod)
	s.queue.Add(pod)
	if old != nil && old.Status.NominatedNodeName != "" && old.Status.NominatedNodeName != pod.Status.NominatedNodeName {
		s.queue.Happened(ClusterEvent{PodGone: old}) // others may have the room that was kept for it
	}
}

func (s *Scheduler) podUpdated(old, pod *corev1.Pod) {
	if old.UID != pod.UID {
		s.podGone(old)
		s.podChanged(nil, pod)
		return
	}
	if pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil {
		s.podGone(pod)
		return
	}
	if pod.Spec.NodeName != "" && old.Spec.NodeName == pod.Spec.NodeName {
		matters := old.Generation != pod.Generation || !maps.Equal(old.Labels, pod.Labels) || old.DeletionTimestamp == nil && pod.DeletionTimestamp != nil
		if pod.DeletionTimestamp != nil {
			s.ending.done(pod.UID)
		}
		if !matters { // the kubelet's news of its containers
			s.cache.SetPod(pod)
			return
		}
		if old.Generation != pod.Generation { // it may have been resized, and what it gave up is free
			s.podChanged(old, pod)
			s.queue.Happened(ClusterEvent{PodGone: old})
			return
		}
	}
	s.podChanged(old, pod)
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.Delete(pod.UID)
	s.nominated.remove(pod.UID)
	held := pod.Spec.NodeName != "" || s.cache.Has(pod.UID) || pod.Status.NominatedNodeName != ""
	s.cache.RemovePod(pod.UID)
	s.ending.done(pod.UID)
	if held {
		s.queue.Happened(ClusterEvent{PodGone: pod})
	}
}

// stays says whether a pod is there and not terminating.
func (s *Scheduler) stays(pod *corev1.Pod) bool {
	cur, ok := s.pods.Get(pod.Namespace, pod.Name)
	return ok && cur.UID == pod.UID && cur.DeletionTimestamp == nil
}

// nodeMatters says whether a node changed in what plugins look at; heartbeats
// do not.
func nodeMatters(old, n *corev1.Node) bool {
	return old.Spec.Unschedulable != n.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, n.Spec.Taints) ||
		!maps.Equal(old.Labels, n.Labels) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, n.Status.Allocatable)
}

// defaultSelector selects the pods that share a pod's services and controller:
// the ones that the default spreading spreads.
//
// Upstream: pkg/scheduler/framework/plugins/helper/spread.go, DefaultSelector.
func (s *Scheduler) defaultSelector(pod *corev1.Pod) labels.Selector {
	set := labels.Set{}
	for _, svc := range s.services.List() {
		if svc.Namespace == pod.Namespace && len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			set = labels.Merge(set, svc.Spec.Selector)
		}
	}
	sel := labels.SelectorFromSet(set)
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return sel
	}
	var also *metav1.LabelSelector
	switch owner.Kind {
	case "ReplicationController":
		if rc, ok := s.controllers.Get(pod.Namespace, owner.Name); ok {
			return labels.SelectorFromSet(labels.Merge(set, rc.Spec.Selector))
		}
	case "ReplicaSet":
		if rs, ok := s.replicaSets.Get(pod.Namespace, owner.Name); ok {
			also = rs.Spec.Selector
		}
	case "StatefulSet":
		if ss, ok := s.stateful.Get(pod.Namespace, owner.Name); ok {
			also = ss.Spec.Selector
		}
	}
	if also != nil {
		if reqs, ok := selectorOrNothing(also).Requirements(); ok {
			sel = sel.Add(reqs...)
		}
	}
	return sel
}
