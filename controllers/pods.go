package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// podCondition is a pod's condition of a type, or nil.
func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// podReady says whether a pod counts as ready.
func podReady(p *corev1.Pod) bool {
	c := podCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// podAvailable says whether a pod has been ready for minReady, and if not yet,
// in how long it will be (0 if it is not even ready).
//
// Upstream: pkg/api/v1/pod/util.go, IsPodAvailable.
func podAvailable(p *corev1.Pod, minReady time.Duration, now time.Time) (bool, time.Duration) {
	if !podReady(p) {
		return false, 0
	}
	c := podCondition(p, corev1.PodReady)
	if minReady == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	left := c.LastTransitionTime.Add(minReady).Sub(now)
	return left <= 0, max(left, 0)
}

func podFinished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// podActive says whether a pod counts towards its owner's replicas: a pod that is
// being deleted does not, which is why its replacement comes at once.
func podActive(p *corev1.Pod) bool { return !podFinished(p) && p.DeletionTimestamp == nil }

// isSidecar says whether an init container goes on beside the others.
func isSidecar(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// filter is the part of a slice that f likes.
func filter[T any](s []T, f func(T) bool) []T {
	var out []T
	for _, v := range s {
		if f(v) {
			out = append(out, v)
		}
	}
	return out
}

// readyFor is since when a pod has been ready.
func readyFor(p *corev1.Pod) time.Time {
	if c := podCondition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func restarts(p *corev1.Pod) (most int32) {
	for _, c := range p.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}

// victimOrder compares two pods: the one that shall be deleted first is less.
// rank is how many pods of related owners share the pod's node.
//
// Upstream: pkg/controller/controller_utils.go, ActivePodsWithRanks.
func victimOrder(a, b *corev1.Pod, rank map[string]int, now time.Time) int {
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	if c := cmpBool(a.Spec.NodeName != "", b.Spec.NodeName != ""); c != 0 {
		return c // unassigned before assigned
	}
	if c := cmp.Compare(phase[a.Status.Phase], phase[b.Status.Phase]); c != 0 {
		return c // pending, unknown, running
	}
	if c := cmpBool(podReady(a), podReady(b)); c != 0 {
		return c // not ready before ready
	}
	if c := cmp.Compare(deletionCost(a), deletionCost(b)); c != 0 {
		return c // cheap before dear
	}
	if c := cmp.Compare(rank[b.Spec.NodeName], rank[a.Spec.NodeName]); c != 0 {
		return c // doubled up before spread
	}
	if podReady(a) && podReady(b) {
		if c := youngerFirst(readyFor(a), readyFor(b), now); c != 0 {
			return c // short ready before long ready
		}
	}
	if c := cmp.Compare(restarts(b), restarts(a)); c != 0 {
		return c // restarted often before seldom
	}
	if c := youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now); c != 0 {
		return c // new before old
	}
	return cmp.Compare(a.UID, b.UID)
}

// cmpBool orders false before true.
func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// youngerFirst compares two times on a logarithmic scale of age, so that pods of
// about the same age are picked at random (by UID) and not all from one node.
// The zero time counts as youngest.
func youngerFirst(a, b, now time.Time) int {
	if a.Equal(b) {
		return 0
	}
	if a.IsZero() || b.IsZero() {
		return cmpBool(b.IsZero(), a.IsZero())
	}
	return cmp.Compare(logAge(a, now), logAge(b, now))
}

func logAge(t, now time.Time) int {
	n := 0
	for age := now.Sub(t) / time.Second; age > 0; age >>= 1 {
		n++
	}
	return n
}

// deletionCost is the annotation controller.kubernetes.io/pod-deletion-cost.
func deletionCost(p *corev1.Pod) int {
	cost := 0
	if _, err := fmt.Sscanf(p.Annotations[corev1.PodDeletionCost], "%d", &cost); err != nil {
		return 0
	}
	return cost
}

// victims picks n of the active pods to be deleted; related are the pods of all
// owners that share the workload, for the spreading.
func victims(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	rank := map[string]int{}
	for _, p := range related {
		if podActive(p) && p.Spec.NodeName != "" {
			rank[p.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int { return victimOrder(a, b, rank, now) })
	return sorted[:n]
}

// podWriter creates and deletes pods for owners, and says so in events.
//
// Upstream: pkg/controller/controller_utils.go, RealPodControl.
type podWriter struct {
	pods     *client.Resource[*corev1.Pod]
	recorder *client.Recorder
	wrote    func(owner, pod metav1.Object) // told of pods that were created; nil for nobody
}

// podFrom is a pod of a template under an owner's name.
func podFrom(template *corev1.PodTemplateSpec, owner client.Object, kind schema.GroupVersionKind) *corev1.Pod {
	t := template.DeepCopy()
	prefix := owner.GetName() + "-"
	if len(prefix) > 253 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: prefix,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}

func (w *podWriter) create(ctx context.Context, pod *corev1.Pod, owner client.Object) error {
	created, err := w.pods.Create(ctx, pod)
	if namespaceEnds(err) {
		return nil // it would fail for ever, and the owner goes too
	}
	if err != nil {
		w.recorder.Eventf(owner, warning, "FailedCreate", "Error creating: %v", err)
		return err
	}
	if w.wrote != nil {
		w.wrote(owner, created)
	}
	w.recorder.Eventf(owner, normal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return nil
}

func (w *podWriter) delete(ctx context.Context, pod *corev1.Pod, owner runtime.Object) error {
	err := w.pods.Delete(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		w.recorder.Eventf(owner, warning, "FailedDelete", "Error deleting: %v", err)
		return err
	}
	w.recorder.Eventf(owner, normal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// expectations remember, for each owner, writes that the cache has not shown
// yet, so that a controller does not create the same pods twice. Unseen after
// five minutes they are forgotten.
//
// Upstream: pkg/controller/controller_utils.go, ControllerExpectations.
type expectations struct {
	mu sync.Mutex
	m  map[string]*expectation
}

type expectation struct {
	creates int
	deletes map[types.UID]bool
	since   time.Time
}

const expectationsTimeout = 5 * time.Minute

func newExpectations() *expectations { return &expectations{m: map[string]*expectation{}} }

// satisfied says whether the cache has caught up with key.
func (e *expectations) satisfied(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.m[key]
	return x == nil || x.creates <= 0 && len(x.deletes) == 0 || time.Since(x.since) > expectationsTimeout
}

// expect sets what is to come for key.
func (e *expectations) expect(key string, creates int, deletes []*corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := &expectation{creates: creates, deletes: map[types.UID]bool{}, since: time.Now()}
	for _, p := range deletes {
		x.deletes[p.UID] = true
	}
	e.m[key] = x
}

// created lowers what is to come by n: seen in the cache, or failed.
func (e *expectations) created(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.m[key]; x != nil {
		x.creates -= n
	}
}

func (e *expectations) deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.m[key]; x != nil {
		delete(x.deletes, uid)
	}
}

func (e *expectations) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.m, key)
}

// observe is a handler that fulfils expectations of owners of a kind.
func (e *expectations) observe(kind string) client.Handler[*corev1.Pod] {
	return client.Handler[*corev1.Pod]{
		Add: func(p *corev1.Pod) {
			if key, ok := ownerKey(p, kind); ok {
				if p.DeletionTimestamp != nil {
					e.deleted(key, p.UID)
				} else {
					e.created(key, 1)
				}
			}
		},
		Update: func(_, p *corev1.Pod) {
			if key, ok := ownerKey(p, kind); ok && p.DeletionTimestamp != nil {
				e.deleted(key, p.UID)
			}
		},
		Delete: func(p *corev1.Pod) {
			if key, ok := ownerKey(p, kind); ok {
				e.deleted(key, p.UID)
			}
		},
	}
}

// slowStart calls f n times in batches of 1, 2, 4 ... and stops after a batch in
// which a call failed: a quota that is used up costs one request, not five
// hundred. It returns how many calls succeeded and the first error.
//
// Upstream: pkg/controller/replicaset/replica_set.go, slowStartBatch.
func slowStart(n int, f func(i int) error) (done int, err error) {
	next := 0
	for size := 1; next < n; size *= 2 {
		size = min(size, n-next)
		errs := make([]error, size)
		var wg sync.WaitGroup
		for i := range size {
			wg.Go(func() { errs[i] = f(next + i) })
		}
		wg.Wait()
		next += size
		for _, e := range errs {
			if e == nil {
				done++
			} else if err == nil {
				err = e
			}
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// setPodCondition writes one condition of a pod by patch; it does nothing when
// the condition stands so already.
//
// Upstream: pkg/util/pod/pod.go, PatchPodStatus.
func setPodCondition(ctx context.Context, pods *client.Resource[*corev1.Pod], p *corev1.Pod, c corev1.PodCondition, phase corev1.PodPhase) error {
	old := podCondition(p, c.Type)
	if old != nil && old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message && (phase == "" || phase == p.Status.Phase) {
		return nil
	}
	if c.LastTransitionTime = metav1.Now(); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	status := map[string]any{}
	if c.Type != "" {
		status["conditions"] = []corev1.PodCondition{c}
		order := []map[string]any{} // a new one goes to the end
		for _, have := range p.Status.Conditions {
			order = append(order, map[string]any{"type": have.Type})
		}
		if old == nil {
			order = append(order, map[string]any{"type": c.Type})
		}
		status["$setElementOrder/conditions"] = order
	}
	if phase != "" {
		status["phase"] = phase
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = pods.Patch(ctx, p.Namespace, p.Name, types.StrategicMergePatchType, patch, "status")
	return err
}
