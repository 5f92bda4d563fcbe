package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"orrery/client"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

// The claim protection controller.
//
// Watches: PersistentVolumeClaims, Pods.
// Wants: no claim to go while a pod uses it.
// Does: keeps a finalizer on each claim, and takes it off a claim that is being
// deleted when the last pod that names it has ended.
// Upstream: pkg/controller/volume/pvcprotection/pvc_protection_controller.go.
func startClaimProtection(e *env) (func(context.Context) error, error) {
	claims, pods, api := watching[*pvc](e), watching[*corev1.Pod](e), client.For[*pvc](e.client)
	c := client.NewController("persistentvolumeclaim-protection-controller", func(ctx context.Context, key string) (client.Result, error) {
		p, ok := claims.GetKey(key)
		if !ok {
			return client.Result{}, nil
		}
		used := slices.ContainsFunc(pods.ByIndex(byNamespace, p.Namespace), func(pod *corev1.Pod) bool {
			return pod.Spec.NodeName != "" && !podFinished(pod) && slices.Contains(claimsOf(pod), p.Name)
		})
		next, changed := protect(p.Finalizers, claimFinalizer, p.DeletionTimestamp != nil, used)
		if !changed {
			return client.Result{}, nil
		}
		p = p.DeepCopy()
		p.Finalizers = next
		_, err := api.Update(ctx, p)
		return client.Result{}, err
	})
	pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	claims.AddHandler(client.On[*pvc](c))
	pods.AddHandler(client.HandlerFunc(func(p *corev1.Pod) {
		for _, name := range claimsOf(p) {
			c.Queue.Add(client.JoinKey(p.Namespace, name))
		}
	}))
	return c.Run, nil
}

// The volume protection controller.
//
// Watches: PersistentVolumes.
// Wants: no volume to go while a claim is bound to it.
// Does: keeps a finalizer on each volume, and takes it off one that is being
// deleted and not bound.
// Upstream: pkg/controller/volume/pvprotection/pv_protection_controller.go.
func startVolumeProtection(e *env) (func(context.Context) error, error) {
	volumes, api := watching[*volume](e), client.For[*volume](e.client)
	c := client.NewController("persistentvolume-protection-controller", func(ctx context.Context, name string) (client.Result, error) {
		v, ok := volumes.GetKey(name)
		if !ok {
			return client.Result{}, nil
		}
		next, changed := protect(v.Finalizers, volumeFinalizer, v.DeletionTimestamp != nil, v.Status.Phase == corev1.VolumeBound)
		if !changed {
			return client.Result{}, nil
		}
		v = v.DeepCopy()
		v.Finalizers = next
		_, err := api.Update(ctx, v)
		return client.Result{}, err
	})
	volumes.AddHandler(client.On[*volume](c))
	return c.Run, nil
}

// protect decides about a finalizer.
func protect(have []string, finalizer string, ending, used bool) (next []string, changed bool) {
	has := slices.Contains(have, finalizer)
	switch {
	case !ending && !has:
		return append(slices.Clone(have), finalizer), true
	case ending && has && !used:
		return filter(have, func(f string) bool { return f != finalizer }), true
	}
	return have, false
}

// claimsOf are the claims that a pod names.
func claimsOf(p *corev1.Pod) (out []string) {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		}
		if v.Ephemeral != nil {
			out = append(out, p.Name+"-"+v.Name)
		}
	}
	return out
}
