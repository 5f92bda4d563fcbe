package controllers

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orrery/client"
)

// replicas is the ReplicaSet controller, and under another kind the
// ReplicationController's.
//
// Watches: ReplicaSets, Pods.
// Wants: as many active pods of the template as spec.replicas says.
// Does: adopts orphans and releases strangers; creates what is missing in
// batches of 1, 2, 4 ...; deletes what is too much, the least valuable first;
// writes the counts into the status.
// Upstream: pkg/controller/replicaset/replica_set.go, ReplicaSetController.
type replicas struct {
	*client.Controller
	kind     schema.GroupVersionKind
	sets     replicaSource
	pods     *client.Informer[*corev1.Pod]
	podAPI   *client.Resource[*corev1.Pod]
	writer   podWriter
	expected *expectations
	own      *consistency
}

// replicaSource hides whether the sets are ReplicaSets or ReplicationControllers.
type replicaSource struct {
	shown    cache // where what is written of them will be seen
	get      func(key string) (*appsv1.ReplicaSet, client.Object, bool)
	siblings func(rs *appsv1.ReplicaSet) []*appsv1.ReplicaSet
	fresh    func(ctx context.Context, rs *appsv1.ReplicaSet) (client.Object, error)
	// updateStatus writes a status into an object as get or fresh returned it.
	updateStatus func(ctx context.Context, obj client.Object, status appsv1.ReplicaSetStatus) (client.Object, error)
}

// burstReplicas is the most pods that one pass creates or deletes.
const burstReplicas = 500

func newReplicas(e *env, kind schema.GroupVersionKind, eventSource string) *replicas {
	c := &replicas{
		kind: kind, pods: watching[*corev1.Pod](e), podAPI: client.For[*corev1.Pod](e.client), expected: newExpectations(), own: newConsistency(),
		writer: podWriter{pods: client.For[*corev1.Pod](e.client), recorder: e.recorder(eventSource)},
	}
	c.writer.wrote = func(owner, pod metav1.Object) { c.own.wrote(client.Key(owner), c.pods, pod) }
	c.Controller = client.NewController(eventSource, c.reconcile)
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.pods.AddHandler(c.expected.observe(kind.Kind))
	return c
}

func startReplicaSet(e *env) (func(context.Context) error, error) {
	c := newReplicas(e, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), "replicaset-controller")
	sets, api := watching[*appsv1.ReplicaSet](e), client.For[*appsv1.ReplicaSet](e.client)
	sets.AddIndex(byController, controllerIndex[*appsv1.ReplicaSet])
	c.sets = replicaSource{
		shown: sets,
		get: func(key string) (*appsv1.ReplicaSet, client.Object, bool) {
			rs, ok := sets.GetKey(key)
			return rs, rs, ok
		},
		siblings: func(rs *appsv1.ReplicaSet) []*appsv1.ReplicaSet {
			if ref := metav1.GetControllerOf(rs); ref != nil {
				return sets.ByIndex(byController, string(ref.UID))
			}
			return []*appsv1.ReplicaSet{rs}
		},
		fresh: func(ctx context.Context, rs *appsv1.ReplicaSet) (client.Object, error) {
			return api.Get(ctx, rs.Namespace, rs.Name)
		},
		updateStatus: func(ctx context.Context, obj client.Object, status appsv1.ReplicaSetStatus) (client.Object, error) {
			rs := obj.(*appsv1.ReplicaSet).DeepCopy()
			rs.Status = status
			return api.UpdateStatus(ctx, rs)
		},
	}
	sets.AddHandler(client.On[*appsv1.ReplicaSet](c.Controller))
	c.pods.AddHandler(ownedHandler[*appsv1.ReplicaSet, *corev1.Pod](c.Queue.Add, "ReplicaSet", sets, func(rs *appsv1.ReplicaSet) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	}))
	return c.Run, nil
}

func (c *replicas) reconcile(ctx context.Context, key string) (client.Result, error) {
	if err := c.own.ready(key); err != nil {
		return client.Result{}, err
	}
	rs, owner, ok := c.sets.get(key)
	if !ok {
		c.expected.forget(key)
		return client.Result{}, nil
	}
	needsSync := c.expected.satisfied(key)
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return client.Result{}, fmt.Errorf("error converting pod selector to selector for %s: %w", key, err)
	}
	living := filter(candidates(c.pods, rs), func(p *corev1.Pod) bool { return !podFinished(p) })
	claimer := claimer[*corev1.Pod]{
		resource: c.podAPI, owner: rs, kind: c.kind, selector: selector,
		fresh: func(ctx context.Context) (metav1.Object, error) { return c.sets.fresh(ctx, rs) },
	}
	pods, err := claimer.claim(ctx, living)
	if err != nil {
		return client.Result{}, err
	}
	active := filter(pods, podActive)
	var manageErr error
	if needsSync && rs.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, key, rs, owner, active)
	}
	status, after := replicaSetStatus(rs, active, len(pods)-len(active), manageErr, time.Now())
	if !equality.Semantic.DeepEqual(rs.Status, status) {
		if err := c.writeStatus(ctx, key, rs, owner, status); err != nil {
			return client.Result{}, err
		}
	}
	return client.Result{RequeueAfter: after}, manageErr
}

// writeStatus writes a status, if need be over a version that the cache has not
// seen yet: then nothing more is done before it has.
//
// Upstream: pkg/controller/replicaset/replica_set_utils.go, updateReplicaSetStatus.
func (c *replicas) writeStatus(ctx context.Context, key string, rs *appsv1.ReplicaSet, owner client.Object, status appsv1.ReplicaSetStatus) error {
	written, err := c.sets.updateStatus(ctx, owner, status)
	if err != nil {
		if owner, err = c.sets.fresh(ctx, rs); err == nil {
			written, err = c.sets.updateStatus(ctx, owner, status)
		}
	}
	if err == nil {
		c.own.wrote(key, c.sets.shown, written)
	}
	return err
}

// manage creates or deletes pods.
func (c *replicas) manage(ctx context.Context, key string, rs *appsv1.ReplicaSet, owner client.Object, active []*corev1.Pod) error {
	diff := len(active) - int(*rs.Spec.Replicas)
	if diff < 0 {
		n := min(-diff, burstReplicas)
		c.expected.expect(key, n, nil)
		done, err := slowStart(n, func(int) error {
			return c.writer.create(ctx, podFrom(&rs.Spec.Template, owner, c.kind), owner)
		})
		c.expected.created(key, n-done)
		return err
	}
	if diff == 0 {
		return nil
	}
	var related []*corev1.Pod
	for _, s := range c.sets.siblings(rs) {
		related = append(related, c.pods.ByIndex(byController, string(s.UID))...)
	}
	doomed := victims(active, related, min(diff, burstReplicas), time.Now())
	c.expected.expect(key, 0, doomed)
	_, err := inParallel(doomed, func(p *corev1.Pod) error {
		err := c.writer.delete(ctx, p, owner)
		if err != nil {
			c.expected.deleted(key, p.UID)
		}
		return err
	})
	return err
}

// inParallel calls f for each item at once and returns how many calls succeeded
// and the first error.
func inParallel[T any](items []T, f func(T) error) (done int, err error) {
	results := make(chan error, len(items))
	for _, item := range items {
		go func() { results <- f(item) }()
	}
	for range items {
		if e := <-results; e == nil {
			done++
		} else if err == nil {
			err = e
		}
	}
	return done, err
}

// replicaSetStatus counts pods into a status, and says after which time a pod
// will have been ready long enough to count as available.
//
// Upstream: pkg/controller/replicaset/replica_set_utils.go, calculateStatus.
func replicaSetStatus(rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, manageErr error, now time.Time) (appsv1.ReplicaSetStatus, time.Duration) {
	s := *rs.Status.DeepCopy()
	s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas = int32(len(active)), 0, 0, 0
	s.TerminatingReplicas = new(int32(terminating))
	s.ObservedGeneration = rs.Generation
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	var after time.Duration
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if !podReady(p) {
			continue
		}
		s.ReadyReplicas++
		ok, left := podAvailable(p, time.Duration(rs.Spec.MinReadySeconds)*time.Second, now)
		if ok {
			s.AvailableReplicas++
		} else if left > 0 && (after == 0 || left < after) {
			after = left
		}
	}
	failed := replicaSetCondition(s.Conditions, appsv1.ReplicaSetReplicaFailure)
	switch {
	case manageErr != nil && failed == nil:
		reason := "FailedDelete"
		if len(active) < int(*rs.Spec.Replicas) {
			reason = "FailedCreate"
		}
		s.Conditions = append(s.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
			Message: manageErr.Error(), LastTransitionTime: metav1.NewTime(now),
		})
	case manageErr == nil && failed != nil:
		s.Conditions = filter(s.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type != appsv1.ReplicaSetReplicaFailure })
	}
	return s, after
}

func replicaSetCondition(cs []appsv1.ReplicaSetCondition, t appsv1.ReplicaSetConditionType) *appsv1.ReplicaSetCondition {
	for i := range cs {
		if cs[i].Type == t {
			return &cs[i]
		}
	}
	return nil
}
