package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
)

// disruptions is the disruption controller.
//
// Watches: PodDisruptionBudgets, Pods, and the owners of pods.
// Wants: each budget's status to say how many pods may be evicted now.
// Does: counts healthy pods and how many there should be; the API server's
// eviction endpoint takes from what is allowed. Takes back a DisruptionTarget
// condition whose deletion never came.
// Upstream: pkg/controller/disruption/disruption.go, DisruptionController.
// Left out: owners of other kinds than the built-in workloads (their scale
// subresource).
type disruptions struct {
	*client.Controller
	budgets      *client.Informer[*policyv1.PodDisruptionBudget]
	pods         *client.Informer[*corev1.Pod]
	sets         *client.Informer[*appsv1.ReplicaSet]
	deployments  *client.Informer[*appsv1.Deployment]
	statefulSets *client.Informer[*appsv1.StatefulSet]
	rcs          *client.Informer[*corev1.ReplicationController]
	api          *client.Resource[*policyv1.PodDisruptionBudget]
	recorder     *client.Recorder
}

const (
	// deletionTimeout is how long an eviction that was granted may take to begin.
	deletionTimeout = 2 * time.Minute
	// staleDisruption is how long a DisruptionTarget condition may stand alone.
	staleDisruption = 2 * time.Minute
)

func startDisruption(e *env) (func(context.Context) error, error) {
	c := &disruptions{
		budgets: watching[*policyv1.PodDisruptionBudget](e), pods: watching[*corev1.Pod](e), sets: watching[*appsv1.ReplicaSet](e),
		deployments: watching[*appsv1.Deployment](e), statefulSets: watching[*appsv1.StatefulSet](e), rcs: watching[*corev1.ReplicationController](e),
		api: client.For[*policyv1.PodDisruptionBudget](e.client), recorder: e.recorder("controllermanager"),
	}
	podAPI := client.For[*corev1.Pod](e.client)
	c.Controller = client.NewController("disruption-controller", c.reconcile)
	c.Workers = 1
	stale := client.NewController("disruption-controller", func(ctx context.Context, key string) (client.Result, error) {
		p, ok := c.pods.GetKey(key)
		if !ok || p.DeletionTimestamp != nil || podFinished(p) {
			return client.Result{}, nil
		}
		cond := podCondition(p, corev1.DisruptionTarget)
		if cond == nil || cond.Status != corev1.ConditionTrue || cond.Reason == corev1.PodReasonTerminationByKubelet {
			return client.Result{}, nil
		}
		if left := staleDisruption - time.Since(cond.LastTransitionTime.Time); left > 0 {
			return client.Result{RequeueAfter: left}, nil
		}
		return client.Result{}, setPodCondition(ctx, podAPI, p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse}, "")
	})
	c.budgets.AddHandler(client.On[*policyv1.PodDisruptionBudget](c.Controller))
	changed := func(p *corev1.Pod) {
		for _, b := range c.budgets.List() {
			if b.Namespace == p.Namespace && budgetSelects(b, p) {
				c.Enqueue(b)
			}
		}
		if podCondition(p, corev1.DisruptionTarget) != nil {
			stale.Enqueue(p)
		}
	}
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.pods.AddHandler(client.HandlerFunc(changed))
	return together(c.Run, stale.Run), nil
}

func budgetSelects(b *policyv1.PodDisruptionBudget, p *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

func (c *disruptions) reconcile(ctx context.Context, key string) (client.Result, error) {
	b, ok := c.budgets.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	pods := filter(c.pods.ByIndex(byNamespace, b.Namespace), func(p *corev1.Pod) bool {
		return budgetSelects(b, p) && !podFinished(p)
	})
	if len(pods) == 0 {
		c.recorder.Event(b, normal, "NoPods", "No matching pods found")
	}
	expected, desired, err := c.expectation(b, pods)
	if err != nil { // fail safe: nothing may be disrupted
		c.recorder.Eventf(b, warning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		status := *b.Status.DeepCopy()
		status.DisruptionsAllowed, status.ObservedGeneration = 0, b.Generation
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error(), ObservedGeneration: b.Generation,
		})
		return client.Result{}, c.write(ctx, b, status)
	}
	status, after := budgetStatus(b, pods, expected, desired, time.Now())
	return client.Result{RequeueAfter: after}, c.write(ctx, b, status)
}

func (c *disruptions) write(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	b = b.DeepCopy()
	b.Status = status
	_, err := c.api.UpdateStatus(ctx, b)
	return err
}

// expectation is how many pods there should be, and how many of them healthy.
//
// Upstream: getExpectedPodCount.
func (c *disruptions) expectation(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	if b.Spec.MaxUnavailable != nil {
		if expected, err = c.expectedScale(pods); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		return expected, max(0, expected-int32(n)), err
	}
	if b.Spec.MinAvailable == nil {
		return int32(len(pods)), 0, nil
	}
	if b.Spec.MinAvailable.Type == intstr.Int {
		return int32(len(pods)), b.Spec.MinAvailable.IntVal, nil
	}
	if expected, err = c.expectedScale(pods); err != nil {
		return 0, 0, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
	return expected, int32(n), err
}

// expectedScale adds up the sizes of the pods' owners, each once.
func (c *disruptions) expectedScale(pods []*corev1.Pod) (n int32, err error) {
	seen := map[any]bool{}
	for _, p := range pods {
		ref := metav1.GetControllerOf(p)
		if ref == nil {
			continue // a naked pod does not count
		}
		uid, scale, err := c.scaleOf(p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if !seen[uid] {
			seen[uid] = true
			n += scale
		}
	}
	return n, nil
}

// scaleOf finds the topmost workload of an owner reference and its size.
func (c *disruptions) scaleOf(namespace string, ref *metav1.OwnerReference) (uid any, n int32, err error) {
	switch ref.Kind {
	case "ReplicaSet":
		if rs, ok := c.sets.Get(namespace, ref.Name); ok && rs.UID == ref.UID {
			if up := metav1.GetControllerOf(rs); up != nil && up.Kind == "Deployment" {
				if d, ok := c.deployments.Get(namespace, up.Name); ok && d.UID == up.UID {
					return d.UID, *d.Spec.Replicas, nil
				}
			}
			return rs.UID, *rs.Spec.Replicas, nil
		}
	case "StatefulSet":
		if s, ok := c.statefulSets.Get(namespace, ref.Name); ok && s.UID == ref.UID {
			return s.UID, *s.Spec.Replicas, nil
		}
	case "ReplicationController":
		if rc, ok := c.rcs.Get(namespace, ref.Name); ok && rc.UID == ref.UID {
			return rc.UID, *rc.Spec.Replicas, nil
		}
	default:
		return nil, 0, fmt.Errorf("%s.%s does not implement the scale subresource", ref.Kind, ref.APIVersion)
	}
	return nil, 0, fmt.Errorf("found no controllers for pod owned by %s %q", ref.Kind, ref.Name)
}

// budgetStatus counts; after is when the next granted eviction will be overdue.
func budgetStatus(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, expected, desired int32, now time.Time) (s policyv1.PodDisruptionBudgetStatus, after time.Duration) {
	s = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, ExpectedPods: expected, DesiredHealthy: desired,
		Conditions: slices.Clone(b.Status.Conditions),
	}
	for name, at := range b.Status.DisruptedPods {
		i := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Name == name })
		left := at.Add(deletionTimeout).Sub(now)
		if i < 0 || pods[i].DeletionTimestamp != nil || left <= 0 {
			continue // it went, or never will
		}
		if s.DisruptedPods == nil {
			s.DisruptedPods = map[string]metav1.Time{}
		}
		s.DisruptedPods[name] = at
		if after == 0 || left < after {
			after = left
		}
	}
	for _, p := range pods {
		if _, granted := s.DisruptedPods[p.Name]; !granted && p.DeletionTimestamp == nil && podReady(p) {
			s.CurrentHealthy++
		}
	}
	if s.DisruptionsAllowed = s.CurrentHealthy - desired; expected <= 0 || s.DisruptionsAllowed <= 0 {
		s.DisruptionsAllowed = 0
	}
	cond := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason, ObservedGeneration: b.Generation}
	if s.DisruptionsAllowed == 0 {
		cond.Status, cond.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, cond)
	return s, after
}
