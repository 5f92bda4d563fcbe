package controllers

import (
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// This file is what a Deployment says about itself.
//
// Upstream: pkg/controller/deployment/progress.go and sync.go, calculateStatus.

const (
	reasonTimedOut     = "ProgressDeadlineExceeded"
	reasonNewAvailable = "NewReplicaSetAvailable"
)

func deploymentCondition(s appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces a condition, unless one of the same status and reason
// stands already; the transition time moves only with the status.
func setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	c := appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	if old := deploymentCondition(*s, t); old != nil {
		if old.Status == status && old.Reason == reason {
			return
		}
		if old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	dropCondition(s, t)
	s.Conditions = append(s.Conditions, c)
}

func dropCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = filter(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type != t })
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// deploymentStatus adds up the ReplicaSets.
func deploymentStatus(d *appsv1.Deployment, all []*appsv1.ReplicaSet, next *appsv1.ReplicaSet) appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount,
		Replicas:          total(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:     total(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas: total(all, available),
		UpdatedReplicas:   total([]*appsv1.ReplicaSet{next}, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		TerminatingReplicas: new(total(all, func(rs *appsv1.ReplicaSet) int32 {
			if rs.Status.TerminatingReplicas == nil {
				return 0
			}
			return *rs.Status.TerminatingReplicas
		})),
		Conditions: append([]appsv1.DeploymentCondition(nil), d.Status.Conditions...),
	}
	s.UnavailableReplicas = max(0, total(all, wanted)-s.AvailableReplicas)
	if s.AvailableReplicas >= *d.Spec.Replicas-maxUnavailable(d) {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", time.Now())
	} else {
		setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", time.Now())
	}
	return s
}

// complete says whether all pods are new and available.
func complete(d *appsv1.Deployment, s appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// judgeProgress sets the conditions Progressing and ReplicaFailure.
func judgeProgress(d *appsv1.Deployment, s *appsv1.DeploymentStatus, all []*appsv1.ReplicaSet, next *appsv1.ReplicaSet, now time.Time) {
	if !hasDeadline(d) {
		dropCondition(s, appsv1.DeploymentProgressing)
	}
	current := deploymentCondition(d.Status, appsv1.DeploymentProgressing)
	settled := s.Replicas == s.UpdatedReplicas && current != nil && current.Reason == reasonNewAvailable
	if hasDeadline(d) && !settled {
		who := fmt.Sprintf("Deployment %q", d.Name)
		if next != nil {
			who = fmt.Sprintf("ReplicaSet %q", next.Name)
		}
		switch {
		case complete(d, *s):
			setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewAvailable, who+" has successfully progressed.", now)
		case progressed(d.Status, *s):
			// Each step counts: the deadline starts again with a new update time.
			since := metav1.NewTime(now)
			if current != nil && current.Status == corev1.ConditionTrue {
				since = current.LastTransitionTime
			}
			dropCondition(s, appsv1.DeploymentProgressing)
			s.Conditions = append(s.Conditions, appsv1.DeploymentCondition{
				Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "ReplicaSetUpdated", Message: who + " is progressing.",
				LastUpdateTime: metav1.NewTime(now), LastTransitionTime: since,
			})
		case timedOut(d, now):
			setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, who+" has timed out progressing.", now)
		}
	}
	dropCondition(s, appsv1.DeploymentReplicaFailure)
	if f := replicaFailure(all, next); f != nil {
		c := appsv1.DeploymentCondition{
			Type: appsv1.DeploymentReplicaFailure, Status: f.Status, Reason: f.Reason, Message: f.Message,
			LastUpdateTime: f.LastTransitionTime, LastTransitionTime: f.LastTransitionTime,
		}
		s.Conditions = append(s.Conditions, c)
	}
}

func replicaFailure(all []*appsv1.ReplicaSet, next *appsv1.ReplicaSet) *appsv1.ReplicaSetCondition {
	if next != nil {
		if c := replicaSetCondition(next.Status.Conditions, appsv1.ReplicaSetReplicaFailure); c != nil {
			return c
		}
	}
	for _, rs := range all {
		if c := replicaSetCondition(rs.Status.Conditions, appsv1.ReplicaSetReplicaFailure); c != nil {
			return c
		}
	}
	return nil
}

// progressed says whether a rollout got any further.
func progressed(old, s appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > old.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, now time.Time) bool {
	c := deploymentCondition(d.Status, appsv1.DeploymentProgressing)
	switch {
	case c == nil || c.Reason == reasonNewAvailable || !hasDeadline(d):
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Before(now)
}

// progressCheckAfter is when to look again whether a rollout is stuck: a second
// after its deadline, 0 for never.
func progressCheckAfter(d *appsv1.Deployment, now time.Time) time.Duration {
	c := deploymentCondition(d.Status, appsv1.DeploymentProgressing)
	if c == nil || !hasDeadline(d) || d.Spec.Paused || complete(d, d.Status) || c.Reason == reasonTimedOut || c.Reason == reasonNewAvailable {
		return 0
	}
	deadline := c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
	return max(deadline.Sub(now), 0) + time.Second
}
