package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/client/timing"
)

var jobKind = batchv1.SchemeGroupVersion.WithKind("Job")

// jobs is the Job controller.
//
// Watches: Jobs, Pods.
// Wants: as many pods that succeed as spec.completions says, spec.parallelism of
// them at a time, and an end when too many fail or it takes too long.
// Does: creates pods with a finalizer, so that none disappears uncounted; counts
// a finished pod in three steps, each of which may be repeated (note its UID in
// the status, take the finalizer off, add it to the sum); waits longer after each
// failure; ends the rest of the pods when the job is done. News of pods wait a second
// for more of them.
// Upstream: pkg/controller/job/job_controller.go, Controller.
type jobs struct {
	*client.Controller
	jobs     *client.Informer[*batchv1.Job]
	pods     *client.Informer[*corev1.Pod]
	api      *client.Resource[*batchv1.Job]
	podAPI   *client.Resource[*corev1.Pod]
	writer   podWriter
	expected *expectations
	own      *consistency
	released sync.Map // the UIDs of pods whose finalizers are off, until the cache shows it

	batch, initial, most time.Duration // the wait for more news, and the bounds of the one after failures
}

func startJob(e *env) (func(context.Context) error, error) {
	recorder := e.recorder("job-controller")
	c := &jobs{
		jobs: watching[*batchv1.Job](e), pods: watching[*corev1.Pod](e),
		api: client.For[*batchv1.Job](e.client), podAPI: client.For[*corev1.Pod](e.client),
		writer: podWriter{pods: client.For[*corev1.Pod](e.client), recorder: recorder}, expected: newExpectations(), own: newConsistency(),
		batch: timing.JobSyncBatch, initial: timing.JobBackOffInitial, most: timing.JobBackOffMax,
	}
	timing.Scale(e.cfg.TimeScale, &c.batch, &c.initial, &c.most)
	c.writer.wrote = func(owner, pod metav1.Object) { c.own.wrote(client.Key(owner), c.pods, pod) }
	c.Controller = client.NewController("job-controller", c.reconcile)
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.pods.AddHandler(c.expected.observe("Job"))
	c.pods.AddHandler(client.Handler[*corev1.Pod]{
		Update: func(_, p *corev1.Pod) { c.shown(p, false) }, Delete: func(p *corev1.Pod) { c.shown(p, true) },
	})
	soon := func(key string) { c.Queue.AddAfter(key, c.batch) }
	c.jobs.AddHandler(client.Handler[*batchv1.Job]{
		Add: func(j *batchv1.Job) { c.Enqueue(j) }, Delete: func(j *batchv1.Job) { c.Enqueue(j) },
		Update: func(old, j *batchv1.Job) {
			if old.Generation == j.Generation {
				soon(client.Key(j))
			} else {
				c.Enqueue(j)
			}
		},
	})
	c.pods.AddHandler(ownedHandler[*batchv1.Job, *corev1.Pod](soon, "Job", c.jobs, func(j *batchv1.Job) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(j.Spec.Selector)
	}))
	return c.Run, nil
}

func (c *jobs) reconcile(ctx context.Context, key string) (client.Result, error) {
	if err := c.own.ready(key); err != nil {
		return client.Result{}, err
	}
	cached, ok := c.jobs.GetKey(key)
	if ok && cached.Spec.ManagedBy != nil && *cached.Spec.ManagedBy != batchv1.JobControllerName {
		return client.Result{}, nil // somebody else's
	}
	if err := c.freeOrphans(ctx, key, cached); err != nil {
		return client.Result{}, err
	}
	if !ok {
		c.expected.forget(key)
		return client.Result{}, nil
	}
	if jobFinished(cached) {
		return client.Result{}, c.release(ctx, c.ours(cached), nil)
	}
	job := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return client.Result{}, err
	}
	settled := c.expected.satisfied(key) // asked before pods are read: none may come between
	claimer := claimer[*corev1.Pod]{resource: c.podAPI, owner: job, kind: jobKind, selector: selector,
		fresh: func(ctx context.Context) (metav1.Object, error) { return c.api.Get(ctx, job.Namespace, job.Name) }}
	pods, err := claimer.claim(ctx, candidates(c.pods, job))
	if err != nil {
		return client.Result{}, err
	}
	pods = c.asReleased(pods)
	view := viewJob(job, pods, time.Now())
	view.batch, view.initial, view.most = c.batch, c.initial, c.most
	var manageErr error
	managed := settled && job.DeletionTimestamp == nil
	if managed {
		manageErr = c.manage(ctx, key, job, &view)
	}
	view.track(managed && manageErr == nil)
	if job, err = c.write(ctx, job, view.status(false)); err != nil {
		return client.Result{}, err
	}
	// Only pods whose UIDs stand in the status may lose their finalizer.
	err = c.release(ctx, pods, func(p *corev1.Pod) bool {
		return slices.Contains(view.uncounted.Succeeded, p.UID) || slices.Contains(view.uncounted.Failed, p.UID) || view.removable[p.UID]
	})
	if err != nil {
		return client.Result{}, err
	}
	view.sum(job)
	if _, err = c.write(ctx, job, view.status(true)); err == nil {
		err = manageErr
	}
	return client.Result{RequeueAfter: view.after}, err
}

// write brings the status up to date, if it is not, and returns the job with it.
func (c *jobs) write(ctx context.Context, job *batchv1.Job, status batchv1.JobStatus) (*batchv1.Job, error) {
	if equality.Semantic.DeepEqual(job.Status, status) {
		return job, nil
	}
	after := job.DeepCopy()
	after.Status = status
	written, err := c.api.UpdateStatus(ctx, after)
	if err != nil {
		return nil, err
	}
	c.own.wrote(client.Key(job), c.jobs, written)
	c.tell(written, job.Status)
	return written, nil
}

// ours are a job's pods as the cache has them.
func (c *jobs) ours(job *batchv1.Job) []*corev1.Pod {
	return c.pods.ByIndex(byController, string(job.UID))
}

// freeOrphans takes the finalizer off pods whose job is gone.
func (c *jobs) freeOrphans(ctx context.Context, key string, job *batchv1.Job) error {
	namespace, name := client.SplitKey(key)
	return c.release(ctx, filter(c.pods.ByIndex(byNamespace, namespace), func(p *corev1.Pod) bool {
		ref := metav1.GetControllerOf(p)
		return hasFinalizer(p, batchv1.JobTrackingFinalizer) &&
			ref != nil && ref.Kind == "Job" && ref.Name == name && (job == nil || job.UID != ref.UID)
	}), nil)
}

// release takes the finalizer off pods, or off those that may has.
func (c *jobs) release(ctx context.Context, pods []*corev1.Pod, may func(*corev1.Pod) bool) error {
	for _, p := range pods {
		if !hasFinalizer(p, batchv1.JobTrackingFinalizer) || may != nil && !may(p) {
			continue
		}
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": p.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
		}})
		if err != nil {
			return err
		}
		c.released.Store(p.UID, true)
		_, err = c.podAPI.Patch(ctx, p.Namespace, p.Name, types.StrategicMergePatchType, raw)
		if ignoring(err, apierrors.IsNotFound, apierrors.IsConflict) != nil {
			c.released.Delete(p.UID)
			return err
		}
	}
	return nil
}

// shown forgets a pod that the cache shows to be without the finalizer, or to be gone.
func (c *jobs) shown(p *corev1.Pod, gone bool) {
	if gone || !hasFinalizer(p, batchv1.JobTrackingFinalizer) {
		c.released.Delete(p.UID)
	}
}

// asReleased are pods without the finalizers that have been taken off already, though
// the cache does not show it yet: they would be counted twice.
func (c *jobs) asReleased(pods []*corev1.Pod) []*corev1.Pod {
	out := slices.Clone(pods)
	for i, p := range out {
		if _, ok := c.released.Load(p.UID); ok {
			out[i] = p.DeepCopy()
			out[i].Finalizers = slices.DeleteFunc(out[i].Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		}
	}
	return out
}

// manage deletes pods that are too much and creates those that are missing.
func (c *jobs) manage(ctx context.Context, key string, job *batchv1.Job, view *jobView) error {
	plan := view.plan()
	if len(plan.remove) > 0 {
		if !view.ends() { // these are not failures
			if err := c.release(ctx, plan.remove, nil); err != nil {
				return err
			}
		}
		c.expected.expect(key, 0, plan.remove)
		_, err := inParallel(plan.remove, func(p *corev1.Pod) error {
			err := c.writer.delete(ctx, p, job)
			if err != nil {
				c.expected.deleted(key, p.UID)
			}
			return err
		})
		view.active -= len(plan.remove)
		view.ready -= len(filter(plan.remove, podReady))
		view.terminating += len(plan.remove)
		return err
	}
	n := len(plan.create)
	if n == 0 {
		return nil
	}
	c.expected.expect(key, n, nil)
	done, err := slowStart(n, func(i int) error {
		index := plan.create[i]
		return c.writer.create(ctx, jobPod(job, index, view.failureCounts(index)), job)
	})
	c.expected.created(key, n-done)
	view.active += done
	return err
}

// tell writes the events of what changed in the status.
func (c *jobs) tell(job *batchv1.Job, before batchv1.JobStatus) {
	r := c.writer.recorder
	for _, cond := range job.Status.Conditions {
		old := jobCondition(before, cond.Type)
		if old != nil && old.Status == cond.Status || old == nil && cond.Status != corev1.ConditionTrue {
			continue
		}
		switch cond.Type {
		case batchv1.JobComplete:
			r.Event(job, normal, "Completed", "Job completed")
		case batchv1.JobFailed:
			r.Event(job, warning, cond.Reason, cond.Message)
		case batchv1.JobSuspended:
			if cond.Status == corev1.ConditionTrue {
				r.Event(job, normal, "Suspended", "Job suspended")
			} else {
				r.Event(job, normal, "Resumed", "Job resumed")
			}
		}
	}
}

func jobCondition(s batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// jobFinished says whether a job has ended, one way or the other.
func jobFinished(j *batchv1.Job) bool {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// jobPod is a pod of a job; index is -1 for a job without indexes, counts are annotations.
func jobPod(job *batchv1.Job, index int, counts map[string]string) *corev1.Pod {
	pod := podFrom(&job.Spec.Template, job, jobKind)
	pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	if index < 0 {
		return pod
	}
	s := fmt.Sprint(index)
	pod.GenerateName = fmt.Sprintf("%s-%d-", job.Name, index)
	pod.Spec.Hostname = fmt.Sprintf("%s-%d", job.Name, index)
	pod.Labels = withLabel(pod.Labels, batchv1.JobCompletionIndexAnnotation, s)
	pod.Annotations = withLabel(pod.Annotations, batchv1.JobCompletionIndexAnnotation, s)
	maps.Copy(pod.Annotations, counts)
	add := func(containers []corev1.Container) {
		for i := range containers {
			if slices.ContainsFunc(containers[i].Env, func(e corev1.EnvVar) bool { return e.Name == "JOB_COMPLETION_INDEX" }) {
				continue
			}
			containers[i].Env = append(containers[i].Env, corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
			}})
		}
	}
	add(pod.Spec.InitContainers)
	add(pod.Spec.Containers)
	return pod
}
