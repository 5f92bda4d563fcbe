package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client/timing"
)

// ErrLeaderElectionLost is what Lead returns when the lease could not be renewed
// in time. The process must then stop acting at once: upstream's components
// exit with status 1 and are started again by the kubelet.
var ErrLeaderElectionLost = errors.New("leaderelection lost")

// LeaderElector lets one of several replicas act: the one whose name stands in a
// Lease that it keeps renewing. Clocks of different machines are never compared:
// a candidate waits for LeaseDuration from when *it* last saw the lease change.
//
// Upstream: k8s.io/client-go/tools/leaderelection, LeaderElector.
type LeaderElector struct {
	Client *Client
	// Namespace and Name of the Lease; kube-system and the component's name.
	Namespace, Name string
	// Identity of this replica: host name, underscore, a unique part.
	Identity string
	// LeaseDuration, RenewDeadline and RetryPeriod are 15 s, 10 s and 2 s where zero.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// ReleaseOnCancel gives the lease back when the context ends, so that the next
	// leader need not wait for it to expire. The scheduler does so, the
	// controller manager does not.
	ReleaseOnCancel bool
	// Recorder, if set, gets the event "LeaderElection".
	Recorder *Recorder

	lease    *coordinationv1.Lease // as last seen
	observed time.Time             // when it last changed, by our clock
}

// Lead waits until it holds the lease, then runs run with a context that ends
// when the lease is lost. It returns run's error, ErrLeaderElectionLost, or nil
// when ctx ended.
func (e *LeaderElector) Lead(ctx context.Context, run func(ctx context.Context) error) error {
	e.defaults()
	slog.Info("attempting to acquire leader lease", "key", JoinKey(e.Namespace, e.Name))
	for !e.try(ctx) {
		if !Sleep(ctx, jitter(e.RetryPeriod)) {
			return nil
		}
	}
	slog.Info("successfully acquired lease", "key", JoinKey(e.Namespace, e.Name))
	if e.Recorder != nil {
		e.Recorder.Event(e.lease, corev1.EventTypeNormal, "LeaderElection", e.Identity+" became leader")
	}
	leading, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- run(leading) }()
	lost := e.renew(leading, done)
	stop()
	var err error
	if lost {
		err = ErrLeaderElectionLost
	}
	if !lost || ctx.Err() != nil {
		err = <-done // run ended by itself or ends now
	}
	if e.ReleaseOnCancel && !lost {
		e.release(context.WithoutCancel(ctx))
	}
	return err
}

func (e *LeaderElector) defaults() {
	if e.LeaseDuration == 0 {
		e.LeaseDuration = timing.LeaderLeaseDuration
	}
	if e.RenewDeadline == 0 {
		e.RenewDeadline = timing.LeaderRenewDeadline
	}
	if e.RetryPeriod == 0 {
		e.RetryPeriod = timing.LeaderRetryPeriod
	}
}

// jitter spreads candidates out: d to 2.2 d, as upstream's JitterFactor of 1.2.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*1.2*float64(d))
}

// renew keeps the lease until ctx or run ends; it reports whether it was lost.
// The run's result is put back for Lead to take.
func (e *LeaderElector) renew(ctx context.Context, done chan error) (lost bool) {
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false
		case err := <-done:
			done <- err
			return false
		case <-time.After(e.RetryPeriod):
		}
		attempt, cancel := context.WithDeadline(ctx, last.Add(e.RenewDeadline))
		ok := e.try(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return false
		case ok:
			last = time.Now()
		case time.Since(last) >= e.RenewDeadline:
			slog.Error("failed to renew lease", "key", JoinKey(e.Namespace, e.Name))
			return true
		}
	}
}

// try acquires or renews, and says whether we hold the lease now. Who holds it
// renews what it wrote last, without reading: the version tells if it is not so.
func (e *LeaderElector) try(ctx context.Context) bool {
	leases := For[*coordinationv1.Lease](e.Client)
	now := metav1.NowMicro()
	if e.holds() {
		lease := e.lease.DeepCopy()
		e.hold(lease, now)
		lease, err := leases.Update(ctx, lease)
		if err == nil {
			return e.result(lease, nil)
		}
		slog.Debug("lease not renewed, reading it first", "key", JoinKey(e.Namespace, e.Name), "err", err)
	}
	lease, err := leases.Get(ctx, e.Namespace, e.Name)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}}
		e.hold(lease, now)
		lease.Spec.LeaseTransitions = new(int32(0))
		lease, err = leases.Create(ctx, lease)
		return e.result(lease, err)
	}
	if err != nil {
		return e.result(nil, err)
	}
	if e.lease == nil || e.lease.ResourceVersion != lease.ResourceVersion {
		e.lease, e.observed = lease, time.Now()
	}
	holder := ""
	if lease.Spec.HolderIdentity != nil {
		holder = *lease.Spec.HolderIdentity
	}
	if holder != "" && holder != e.Identity && time.Since(e.observed) < e.LeaseDuration {
		return false
	}
	lease = lease.DeepCopy()
	if holder != e.Identity {
		transitions := int32(1)
		if n := lease.Spec.LeaseTransitions; n != nil {
			transitions += *n
		}
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, nil
	}
	e.hold(lease, now)
	lease, err = leases.Update(ctx, lease)
	return e.result(lease, err)
}

// holds says whether the lease was ours when we last saw it, and still may be.
func (e *LeaderElector) holds() bool {
	return e.lease != nil && e.lease.Spec.HolderIdentity != nil && *e.lease.Spec.HolderIdentity == e.Identity && time.Since(e.observed) < e.LeaseDuration
}

// hold writes us into a lease.
func (e *LeaderElector) hold(lease *coordinationv1.Lease, now metav1.MicroTime) {
	lease.Spec.HolderIdentity = &e.Identity
	lease.Spec.LeaseDurationSeconds = new(int32(e.LeaseDuration.Seconds()))
	lease.Spec.RenewTime = &now
	if lease.Spec.AcquireTime == nil {
		lease.Spec.AcquireTime = &now
	}
}

func (e *LeaderElector) result(lease *coordinationv1.Lease, err error) bool {
	if err != nil {
		slog.Warn("leader election attempt failed", "key", JoinKey(e.Namespace, e.Name), "err", err)
		return false
	}
	e.lease, e.observed = lease, time.Now()
	return true
}

// release clears the holder, so that another candidate may take over at once. A
// renewal that the end of ctx has cut off may be written before or meanwhile, so
// the lease is read first, and again after a conflict.
//
// Upstream: staging/src/k8s.io/client-go/tools/leaderelection/leaderelection.go, LeaderElector.release.
func (e *LeaderElector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.RenewDeadline)
	defer cancel()
	leases := For[*coordinationv1.Lease](e.Client)
	for {
		lease, err := leases.Get(ctx, e.Namespace, e.Name)
		if err == nil {
			if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != e.Identity {
				return
			}
			now := metav1.NowMicro()
			lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = new(""), new(int32(1))
			lease.Spec.AcquireTime, lease.Spec.RenewTime = &now, &now
			_, err = leases.Update(ctx, lease)
		}
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			slog.Warn("failed to release lease", "key", JoinKey(e.Namespace, e.Name), "err", err)
		}
		return
	}
}
