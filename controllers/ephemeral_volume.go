package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// The ephemeral volume controller.
//
// Watches: Pods, PersistentVolumeClaims.
// Wants: a claim of its own for each volume of a pod that has a claim template.
// Does: creates it, owned by the pod, so that it goes with it.
// Upstream: pkg/controller/volume/ephemeral/controller.go.
func startEphemeralVolume(e *env) (func(context.Context) error, error) {
	pods, claims, api := watching[*corev1.Pod](e), watching[*pvc](e), client.For[*pvc](e.client)
	recorder := e.recorder("ephemeral_volume")
	c := client.NewController("ephemeral-volume-controller", func(ctx context.Context, key string) (client.Result, error) {
		p, ok := pods.GetKey(key)
		if !ok || p.DeletionTimestamp != nil {
			return client.Result{}, nil
		}
		for _, v := range p.Spec.Volumes {
			if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
				continue
			}
			name := p.Name + "-" + v.Name
			if have, ok := claims.Get(p.Namespace, name); ok {
				if !metav1.IsControlledBy(have, p) {
					err := fmt.Errorf("PVC %q (uid: %q) was not created for the pod", key, have.UID)
					recorder.Eventf(p, warning, "EphemeralVolumeBindingFailed", "ephemeral volume %s: %v", v.Name, err)
					return client.Result{}, err
				}
				continue
			}
			t := v.Ephemeral.VolumeClaimTemplate
			_, err := api.Create(ctx, &pvc{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: p.Namespace, Name: name, Labels: t.Labels, Annotations: t.Annotations,
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))},
				},
				Spec: t.Spec,
			})
			if ignoring(err, apierrors.IsAlreadyExists, namespaceEnds) != nil {
				return client.Result{}, err
			}
		}
		return client.Result{}, nil
	})
	pods.AddHandler(client.Handler[*corev1.Pod]{Add: func(p *corev1.Pod) { c.Enqueue(p) }})
	claims.AddHandler(client.Handler[*pvc]{Delete: func(p *pvc) {
		if key, ok := ownerKey(p, "Pod"); ok {
			c.Queue.Add(key)
		}
	}})
	return c.Run, nil
}
