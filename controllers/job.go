package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
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
// failure; ends the rest of the pods when the job is done.
// Upstream: pkg/controller/job/job_controller.go, Controller.
// Left out: backoffLimitPerIndex, successPolicy, managedBy.
type jobs struct {
	*client.Controller
	jobs     *client.Informer[*batchv1.Job]
	pods     *client.Informer[*corev1.Pod]
	api      *client.Resource[*batchv1.Job]
	podAPI   *client.Resource[*corev1.Pod]
	writer   podWriter
	expected *expectations
	own      *consistency

	initial, most time.Duration // the bounds of the wait after failures
}

func startJob(e *env) (func(context.Context) error, error) {
	recorder := e.recorder("job-controller")
	c := &jobs{
		jobs: watching[*batchv1.Job](e), pods: watching[*corev1.Pod](e),
		api: client.For[*batchv1.Job](e.client), podAPI: client.For[*corev1.Pod](e.client),
		writer: podWriter{pods: client.For[*corev1.Pod](e.client), recorder: recorder}, expected: newExpectations(), own: newConsistency(),
		initial: timing.JobBackOffInitial, most: timing.JobBackOffMax,
	}
	timing.Scale(e.cfg.TimeScale, &c.initial, &c.most)
	c.writer.wrote = func(owner, pod metav1.Object) { c.own.wrote(client.Key(owner), c.pods, pod) }
	c.Controller = client.NewController("job-controller", c.reconcile)
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.pods.AddHandler(c.expected.observe("Job"))
	c.jobs.AddHandler(client.On[*batchv1.Job](c.Controller))
	c.pods.AddHandler(ownedHandler[*batchv1.Job, *corev1.Pod](c.Controller, "Job", c.jobs, func(j *batchv1.Job) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(j.Spec.Selector)
	}))
	return c.Run, nil
}

func (c *jobs) reconcile(ctx context.Context, key string) (client.Result, error) {
	if err := c.own.ready(key); err != nil {
		return client.Result{}, err
	}
	cached, ok := c.jobs.GetKey(key)
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
	claimer := claimer[*corev1.Pod]{resource: c.podAPI, owner: job, kind: jobKind, selector: selector,
		fresh: func(ctx context.Context) (metav1.Object, error) { return c.api.Get(ctx, job.Namespace, job.Name) }}
	pods, err := claimer.claim(ctx, candidates(c.pods, job))
	if err != nil {
		return client.Result{}, err
	}
	view := viewJob(job, pods, time.Now())
	view.initial, view.most = c.initial, c.most
	var manageErr error
	if c.expected.satisfied(key) && job.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, key, job, &view)
	}
	status := view.status()
	if !equality.Semantic.DeepEqual(job.Status, status) {
		before := job.Status
		job.Status = status
		written, err := c.api.UpdateStatus(ctx, job)
		if err != nil {
			return client.Result{}, err
		}
		c.own.wrote(key, c.jobs, written)
		c.tell(job, before)
	}
	// Only pods whose UIDs stand in the status may lose their finalizer.
	counted := status.UncountedTerminatedPods
	err = c.release(ctx, pods, func(p *corev1.Pod) bool {
		return counted != nil && (slices.Contains(counted.Succeeded, p.UID) || slices.Contains(counted.Failed, p.UID)) || view.ignored[p.UID]
	})
	if err == nil {
		err = manageErr
	}
	return client.Result{RequeueAfter: view.after}, err
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
		_, err = c.podAPI.Patch(ctx, p.Namespace, p.Name, types.StrategicMergePatchType, raw)
		if ignoring(err, apierrors.IsNotFound, apierrors.IsConflict) != nil {
			return err
		}
	}
	return nil
}

// manage deletes pods that are too much and creates those that are missing.
func (c *jobs) manage(ctx context.Context, key string, job *batchv1.Job, view *jobView) error {
	plan := view.plan()
	if len(plan.remove) > 0 {
		c.expected.expect(key, 0, plan.remove)
		_, err := inParallel(plan.remove, func(p *corev1.Pod) error {
			err := c.writer.delete(ctx, p, job)
			if err != nil {
				c.expected.deleted(key, p.UID)
			}
			return err
		})
		view.active -= len(plan.remove)
		view.terminating += len(plan.remove)
		return err
	}
	if plan.create == 0 {
		return nil
	}
	n := min(plan.create, burstReplicas)
	indexes := view.freeIndexes(n)
	if view.indexed() {
		n = len(indexes)
	}
	c.expected.expect(key, n, nil)
	done, err := slowStart(n, func(i int) error {
		index := -1
		if view.indexed() {
			index = indexes[i]
		}
		return c.writer.create(ctx, jobPod(job, index), job)
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

// jobPod is a pod of a job; index is -1 for a job without indexes.
func jobPod(job *batchv1.Job, index int) *corev1.Pod {
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
