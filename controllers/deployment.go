package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// deployments is the Deployment controller.
//
// Watches: Deployments, ReplicaSets, Pods (of Recreate deployments).
// Wants: all pods on the newest template, within the bounds of surge and
// unavailability on the way there.
// Does: makes a ReplicaSet for each template, named after the template's hash,
// and moves replicas from the old ones to the new one; keeps revisions, the
// history, and conditions that say how the rollout goes.
// Upstream: pkg/controller/deployment, DeploymentController.
type deployments struct {
	*client.Controller
	deployments *client.Informer[*appsv1.Deployment]
	sets        *client.Informer[*appsv1.ReplicaSet]
	pods        *client.Informer[*corev1.Pod]
	api         *client.Resource[*appsv1.Deployment]
	setAPI      *client.Resource[*appsv1.ReplicaSet]
	recorder    *client.Recorder
}

func startDeployment(e *env) (func(context.Context) error, error) {
	c := &deployments{
		deployments: watching[*appsv1.Deployment](e), sets: watching[*appsv1.ReplicaSet](e), pods: watching[*corev1.Pod](e),
		api: client.For[*appsv1.Deployment](e.client), setAPI: client.For[*appsv1.ReplicaSet](e.client),
		recorder: e.recorder("deployment-controller"),
	}
	c.Controller = client.NewController("deployment-controller", c.reconcile)
	c.Workers = e.cfg.ConcurrentDeploymentSyncs
	c.sets.AddIndex(byController, controllerIndex[*appsv1.ReplicaSet])
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.deployments.AddHandler(client.On[*appsv1.Deployment](c.Controller))
	c.sets.AddHandler(ownedHandler[*appsv1.Deployment, *appsv1.ReplicaSet](c.Queue.Add, "Deployment", c.deployments, func(d *appsv1.Deployment) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(d.Spec.Selector)
	}))
	// A Recreate deployment waits for its last old pod to be gone.
	c.pods.AddHandler(client.Handler[*corev1.Pod]{Delete: func(p *corev1.Pod) {
		if key, ok := ownerKey(p, "ReplicaSet"); ok {
			if rs, ok := c.sets.GetKey(key); ok {
				if key, ok := ownerKey(rs, "Deployment"); ok {
					if d, ok := c.deployments.GetKey(key); ok && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
						c.Queue.Add(key)
					}
				}
			}
		}
	}})
	return c.Run, nil
}

// rollout is one pass over one deployment: what it saw, and what it will write.
type rollout struct {
	*deployments
	d    *appsv1.Deployment
	all  []*appsv1.ReplicaSet // ours, oldest first
	next *appsv1.ReplicaSet   // the one of the current template, nil before it exists
	old  []*appsv1.ReplicaSet // the others
}

func (c *deployments) reconcile(ctx context.Context, key string) (client.Result, error) {
	cached, ok := c.deployments.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	d := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		slog.Error("invalid selector", "component", c.Name, "key", key, "err", err)
		return client.Result{}, nil // trying again would not help
	}
	if selector.Empty() {
		c.recorder.Event(d, warning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		if d.Status.ObservedGeneration < d.Generation {
			d.Status.ObservedGeneration = d.Generation
			_, err = c.api.UpdateStatus(ctx, d)
		}
		return client.Result{}, err
	}
	claimer := claimer[*appsv1.ReplicaSet]{
		resource: c.setAPI, owner: d, kind: deploymentKind, selector: selector,
		fresh: func(ctx context.Context) (metav1.Object, error) { return c.api.Get(ctx, d.Namespace, d.Name) },
	}
	sets, err := claimer.claim(ctx, candidates(c.sets, d))
	if err != nil {
		return client.Result{}, err
	}
	r := &rollout{deployments: c, d: d}
	for _, rs := range sets {
		r.all = append(r.all, rs.DeepCopy())
	}
	slices.SortFunc(r.all, byCreation)
	r.split()
	if err := r.roll(ctx); err != nil {
		return client.Result{}, err
	}
	return client.Result{RequeueAfter: progressCheckAfter(r.d, time.Now())}, nil
}

// split finds the ReplicaSet of the current template.
func (r *rollout) split() {
	r.next, r.old = nil, nil
	for _, rs := range r.all {
		if r.next == nil && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.next = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
}

// roll takes the next step.
func (r *rollout) roll(ctx context.Context) error {
	if r.d.DeletionTimestamp != nil {
		return r.syncStatus(ctx, false)
	}
	if err := r.notePause(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused || scaled(r.d, r.all) {
		return r.rescale(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx)
	}
	return r.rollingUpdate(ctx)
}

// rescale follows a change of spec.replicas, in the middle of a rollout or not,
// without going on with the rollout.
func (r *rollout) rescale(ctx context.Context) error {
	if err := r.syncRevision(ctx, false); err != nil {
		return err
	}
	for _, s := range rescaling(r.d, r.next, r.old) {
		if err := r.scale(ctx, s.rs, s.to); err != nil {
			return err
		}
	}
	if r.d.Spec.Paused {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.syncStatus(ctx, false)
}

func (r *rollout) rollingUpdate(ctx context.Context) error {
	if err := r.syncRevision(ctx, true); err != nil {
		return err
	}
	steps := rollingUp(r.d, r.next, r.old)
	if len(steps) == 0 {
		steps = rollingDown(r.d, r.next, r.old)
	}
	for _, s := range steps {
		if err := r.scale(ctx, s.rs, s.to); err != nil {
			return err
		}
	}
	if len(steps) == 0 && complete(r.d, r.d.Status) {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.syncStatus(ctx, true)
}

// recreate stops all old pods before it starts the first new one.
func (r *rollout) recreate(ctx context.Context) error {
	if err := r.syncRevision(ctx, false); err != nil {
		return err
	}
	down := false
	for _, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			down = true
			if err := r.scale(ctx, rs, 0); err != nil {
				return err
			}
		}
	}
	if down || r.oldPodsRun() {
		return r.syncStatus(ctx, true)
	}
	if err := r.syncRevision(ctx, true); err != nil {
		return err
	}
	if err := r.scale(ctx, r.next, *r.d.Spec.Replicas); err != nil {
		return err
	}
	if complete(r.d, r.d.Status) {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.syncStatus(ctx, true)
}

func (r *rollout) oldPodsRun() bool {
	for _, rs := range r.old {
		if rs.Status.Replicas > 0 || slices.ContainsFunc(r.pods.ByIndex(byController, string(rs.UID)), func(p *corev1.Pod) bool { return !podFinished(p) }) {
			return true
		}
	}
	return false
}

// scale sets a ReplicaSet's size, and the annotations that remember what the
// deployment wanted when it did so.
func (r *rollout) scale(ctx context.Context, rs *appsv1.ReplicaSet, to int32) error {
	from := *rs.Spec.Replicas
	noted := noteReplicas(rs, *r.d.Spec.Replicas, *r.d.Spec.Replicas+maxSurge(r.d))
	if from == to && !noted {
		return nil
	}
	rs.Spec.Replicas = new(to)
	updated, err := r.setAPI.Update(ctx, rs)
	if err != nil {
		return err
	}
	*rs = *updated
	if from != to {
		word := "up"
		if to < from {
			word = "down"
		}
		r.recorder.Eventf(r.d, normal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", word, rs.Name, from, to)
	}
	return nil
}

// cleanup deletes the oldest ReplicaSets beyond revisionHistoryLimit.
func (r *rollout) cleanup(ctx context.Context) error {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	old := filter(r.old, func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp == nil })
	slices.SortFunc(old, byRevision)
	for _, rs := range old[:max(0, len(old)-int(*limit))] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		if err := r.setAPI.Delete(ctx, rs.Namespace, rs.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// syncRevision makes sure that the new ReplicaSet exists (if create is set) and
// has the highest revision, and that the deployment carries that revision.
func (r *rollout) syncRevision(ctx context.Context, create bool) error {
	revision := maxRevision(r.old) + 1
	if r.next == nil {
		if !create {
			return nil
		}
		return r.createNext(ctx, revision)
	}
	changed := annotateRevision(r.d, r.next, revision, true)
	if r.next.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		r.next.Spec.MinReadySeconds, changed = r.d.Spec.MinReadySeconds, true
	}
	if changed {
		updated, err := r.setAPI.Update(ctx, r.next)
		if err != nil {
			return err
		}
		*r.next = *updated
	}
	dirty := setAnnotation(&r.d.ObjectMeta, revisionAnnotation, r.next.Annotations[revisionAnnotation])
	if hasDeadline(r.d) && deploymentCondition(r.d.Status, appsv1.DeploymentProgressing) == nil {
		setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.next.Name), time.Now())
		dirty = true
	}
	if dirty {
		return r.writeStatus(ctx)
	}
	return nil
}

// createNext makes the ReplicaSet of the current template.
func (r *rollout) createNext(ctx context.Context, revision int64) error {
	rs := nextReplicaSet(r.d, r.old, revision)
	created, err := r.setAPI.Create(ctx, rs)
	existed := apierrors.IsAlreadyExists(err)
	switch {
	case existed:
		found, getErr := r.setAPI.Get(ctx, rs.Namespace, rs.Name)
		if getErr != nil {
			return getErr
		}
		if !metav1.IsControlledBy(found, r.d) || !sameTemplate(&found.Spec.Template, &r.d.Spec.Template) {
			// Two templates with one hash: count the collision and hash again.
			count := int32(1)
			if r.d.Status.CollisionCount != nil {
				count += *r.d.Status.CollisionCount
			}
			r.d.Status.CollisionCount = &count
			if statusErr := r.writeStatus(ctx); statusErr != nil {
				return statusErr
			}
			return err
		}
		created = found
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		if hasDeadline(r.d) {
			setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message, time.Now())
			if statusErr := r.writeStatus(ctx); statusErr != nil {
				slog.Warn("status not written", "component", r.Name, "key", client.Key(r.d), "err", statusErr)
			}
		}
		r.recorder.Event(r.d, warning, "ReplicaSetCreateError", message)
		return err
	}
	r.next, r.all = created, append(r.all, created)
	if !existed && *created.Spec.Replicas > 0 {
		r.recorder.Eventf(r.d, normal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, *created.Spec.Replicas)
	}
	dirty := setAnnotation(&r.d.ObjectMeta, revisionAnnotation, created.Annotations[revisionAnnotation])
	if !existed && hasDeadline(r.d) {
		setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", created.Name), time.Now())
		dirty = true
	}
	if dirty {
		return r.writeStatus(ctx)
	}
	return nil
}

// notePause keeps the time that a deployment is paused out of its progress
// deadline, by a condition when the pause begins and one when it ends.
func (r *rollout) notePause(ctx context.Context) error {
	c := deploymentCondition(r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || c != nil && c.Reason == reasonTimedOut {
		return nil
	}
	noted := c != nil && c.Reason == "DeploymentPaused"
	switch {
	case r.d.Spec.Paused && !noted:
		setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused", time.Now())
	case !r.d.Spec.Paused && noted:
		setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed", time.Now())
	default:
		return nil
	}
	return r.writeStatus(ctx)
}

// syncStatus writes the counts, and for a rollout how it progresses.
func (r *rollout) syncStatus(ctx context.Context, rolling bool) error {
	status := deploymentStatus(r.d, r.all, r.next)
	if rolling {
		judgeProgress(r.d, &status, r.all, r.next, time.Now())
	}
	if equality.Semantic.DeepEqual(r.d.Status, status) {
		return nil
	}
	r.d.Status = status
	return r.writeStatus(ctx)
}

func (r *rollout) writeStatus(ctx context.Context) error {
	updated, err := r.api.UpdateStatus(ctx, r.d)
	if err == nil {
		r.d = updated
	}
	return err
}
