package controllers

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

// The ReplicationController is a ReplicaSet of an older form: it is shown to the
// same controller through a conversion.
//
// Watches: ReplicationControllers, Pods.
// Wants, Does: as the ReplicaSet controller.
// Upstream: pkg/controller/replication/replication_controller.go.
func startReplicationController(e *env) (func(context.Context) error, error) {
	c := newReplicas(e, corev1.SchemeGroupVersion.WithKind("ReplicationController"), "replication-controller")
	rcs, api := watching[*corev1.ReplicationController](e), client.For[*corev1.ReplicationController](e.client)
	c.sets = replicaSource{
		shown: rcs,
		get: func(key string) (*appsv1.ReplicaSet, client.Object, bool) {
			rc, ok := rcs.GetKey(key)
			if !ok {
				return nil, nil, false
			}
			return asReplicaSet(rc), rc, true
		},
		siblings: func(rs *appsv1.ReplicaSet) []*appsv1.ReplicaSet { return []*appsv1.ReplicaSet{rs} },
		fresh: func(ctx context.Context, rs *appsv1.ReplicaSet) (client.Object, error) {
			return api.Get(ctx, rs.Namespace, rs.Name)
		},
		updateStatus: func(ctx context.Context, obj client.Object, s appsv1.ReplicaSetStatus) (client.Object, error) {
			rc := obj.(*corev1.ReplicationController).DeepCopy()
			rc.Status = corev1.ReplicationControllerStatus{
				Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
				AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
			}
			for _, c := range s.Conditions {
				rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
					Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
					LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
				})
			}
			return api.UpdateStatus(ctx, rc)
		},
	}
	rcs.AddHandler(client.On[*corev1.ReplicationController](c.Controller))
	c.pods.AddHandler(ownedHandler[*corev1.ReplicationController, *corev1.Pod](c.Queue.Add, "ReplicationController", rcs, func(rc *corev1.ReplicationController) (labels.Selector, error) {
		return labels.SelectorFromSet(rc.Spec.Selector), nil
	}))
	return c.Run, nil
}

func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}
