package kubelet

import (
	"context"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// leaseTries is how often a renewal is tried at once before the next turn.
//
// Upstream: k8s.io/component-helpers/apimachinery/lease/controller.go, maxUpdateRetries.
const leaseTries = 5

// heartbeat renews the node's lease each ten seconds: the proof of life that the
// control plane waits for. It costs less than a node status, which is why there
// are two heartbeats.
//
// Upstream: k8s.io/component-helpers/apimachinery/lease/controller.go, controller.
func (k *Kubelet) heartbeat(ctx context.Context) {
	var lease *coordinationv1.Lease
	period := time.Duration(k.cfg.Settings.NodeLeaseDurationSeconds) * time.Second / 4
	wait := 200 * time.Millisecond
	for {
		err := k.renewLease(ctx, &lease)
		pause := jitterBy(period, 0.04)
		switch {
		case err == nil:
			wait = 200 * time.Millisecond
		case lease == nil: // there never was one: try again soon
			pause, wait = wait, min(2*wait, 7*time.Second)
		default:
			k.log.Info("Lease not renewed, will try again", "node", k.cfg.NodeName, "err", err)
		}
		if !client.Sleep(ctx, pause) {
			return
		}
	}
}

// renewLease writes the time into the lease, and makes the lease if it is not there.
func (k *Kubelet) renewLease(ctx context.Context, lease **coordinationv1.Lease) (err error) {
	leases := client.For[*coordinationv1.Lease](k.api)
	for range leaseTries {
		now := metav1.NowMicro()
		if *lease == nil {
			have, err := leases.Get(ctx, corev1.NamespaceNodeLease, k.cfg.NodeName)
			if apierrors.IsNotFound(err) {
				have, err = leases.Create(ctx, k.newLease(now))
				if err == nil {
					*lease = have
					return nil
				}
			}
			if err != nil {
				return err
			}
			*lease = have
		}
		next := (*lease).DeepCopy()
		want := k.newLease(now)
		next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = want.Spec.HolderIdentity, want.Spec.LeaseDurationSeconds, want.Spec.RenewTime
		if len(next.OwnerReferences) == 0 {
			next.OwnerReferences = want.OwnerReferences
		}
		var stored *coordinationv1.Lease
		if stored, err = leases.Update(ctx, next); err == nil {
			*lease = stored
			return nil
		}
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			*lease = nil // read it again
		}
		if ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (k *Kubelet) newLease(now metav1.MicroTime) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: k.cfg.NodeName},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &k.cfg.NodeName, LeaseDurationSeconds: &k.cfg.Settings.NodeLeaseDurationSeconds, RenewTime: &now}}
	if node := k.node.Load(); node != nil { // the lease goes when the node goes
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return l
}

// jitterBy is d to d*(1+share).
func jitterBy(d time.Duration, share float64) time.Duration {
	return d + time.Duration(rand.Float64()*share*float64(d))
}
