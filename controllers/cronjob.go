package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

var cronJobKind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// cronJobs is the CronJob controller.
//
// Watches: CronJobs, Jobs.
// Wants: a Job for each time of the schedule, as far as the concurrency policy
// and the starting deadline allow, and few old ones.
// Does: creates the Job of the latest time that was missed, then sleeps until the
// next; deletes old Jobs beyond the history limits.
// Upstream: pkg/controller/cronjob/cronjob_controllerv2.go, ControllerV2.
type cronJobs struct {
	*client.Controller
	crons    *client.Informer[*batchv1.CronJob]
	jobs     *client.Informer[*batchv1.Job]
	api      *client.Resource[*batchv1.CronJob]
	jobAPI   *client.Resource[*batchv1.Job]
	recorder *client.Recorder
}

// scheduleSlack is added to each wait, so that a clock that is a little slow does
// not wake us before the time.
const scheduleSlack = 100 * time.Millisecond

func startCronJob(e *env) (func(context.Context) error, error) {
	c := &cronJobs{
		crons: watching[*batchv1.CronJob](e), jobs: watching[*batchv1.Job](e),
		api: client.For[*batchv1.CronJob](e.client), jobAPI: client.For[*batchv1.Job](e.client), recorder: e.recorder("cronjob-controller"),
	}
	c.Controller = client.NewController("cronjob-controller", c.reconcile)
	c.jobs.AddIndex(byController, controllerIndex[*batchv1.Job])
	c.crons.AddHandler(client.On[*batchv1.CronJob](c.Controller))
	c.jobs.AddHandler(client.HandlerFunc(func(j *batchv1.Job) {
		if key, ok := ownerKey(j, "CronJob"); ok {
			c.Queue.Add(key)
		}
	}))
	return c.Run, nil
}

func (c *cronJobs) reconcile(ctx context.Context, key string) (client.Result, error) {
	cached, ok := c.crons.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	cj := cached.DeepCopy()
	jobs := c.jobs.ByIndex(byController, string(cj.UID))
	slices.SortFunc(jobs, func(a, b *batchv1.Job) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if err := c.cleanup(ctx, cj, jobs); err != nil {
		return client.Result{}, err
	}
	c.trackActive(cj, jobs)
	after, runErr := c.run(ctx, cj, jobs)
	if !equality.Semantic.DeepEqual(cached.Status, cj.Status) {
		if _, err := c.api.UpdateStatus(ctx, cj); err != nil {
			return client.Result{}, err
		}
	}
	return client.Result{RequeueAfter: after}, runErr
}

// trackActive brings status.active up to date with the jobs.
func (c *cronJobs) trackActive(cj *batchv1.CronJob, jobs []*batchv1.Job) {
	for _, j := range jobs {
		i := slices.IndexFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		if i < 0 && !jobFinished(j) { // the status in which we noted it was not written
			cj.Status.Active = append(cj.Status.Active, jobReference(j))
		}
		if i < 0 || !jobFinished(j) {
			continue
		}
		cj.Status.Active = slices.Delete(cj.Status.Active, i, i+1)
		how := batchv1.JobFailed
		for _, cond := range j.Status.Conditions {
			if cond.Type == batchv1.JobComplete && cond.Status == corev1.ConditionTrue {
				how = batchv1.JobComplete
				if cj.Status.LastSuccessfulTime == nil || j.Status.CompletionTime != nil && cj.Status.LastSuccessfulTime.Before(j.Status.CompletionTime) {
					cj.Status.LastSuccessfulTime = j.Status.CompletionTime
				}
			}
		}
		c.recorder.Eventf(cj, normal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, how)
	}
	cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(r corev1.ObjectReference) bool {
		if slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return j.UID == r.UID }) {
			return false
		}
		c.recorder.Eventf(cj, normal, "MissingJob", "Active job went missing: %v", r.Name)
		return true
	})
}

// run starts what is due and says when to look again.
func (c *cronJobs) run(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (time.Duration, error) {
	now := time.Now()
	if cj.DeletionTimestamp != nil || cj.Spec.Suspend != nil && *cj.Spec.Suspend {
		return 0, nil
	}
	schedule, err := parseSchedule(cj.Spec.Schedule, cj.Spec.TimeZone)
	if err != nil {
		c.recorder.Eventf(cj, warning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil // only a change of the spec helps
	}
	due, missed := mostRecent(cj, schedule, now)
	if missed > 100 {
		c.recorder.Event(cj, warning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	next := schedule.next(now).Sub(now) + scheduleSlack
	if due.IsZero() {
		return next, nil
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && due.Add(time.Duration(*d)*time.Second).Before(now) {
		c.recorder.Eventf(cj, warning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return next, nil
	}
	name := fmt.Sprintf("%s-%d", cj.Name, due.Unix()/60)
	if slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return j.Name == name }) || cj.Status.LastScheduleTime != nil && cj.Status.LastScheduleTime.Time.Equal(due) {
		return next, nil
	}
	if len(cj.Status.Active) > 0 {
		switch cj.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			c.recorder.Event(cj, normal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return next, nil
		case batchv1.ReplaceConcurrent:
			for _, r := range cj.Status.Active {
				if err := c.deleteJob(ctx, cj, r.Namespace, r.Name); err != nil {
					return 0, err
				}
			}
			cj.Status.Active = nil
		}
	}
	job, err := c.jobAPI.Create(ctx, cronJobJob(cj, name, due))
	switch {
	case namespaceEnds(err):
		return 0, nil
	case apierrors.IsAlreadyExists(err):
		return next, nil // the informer brings it
	case err != nil:
		c.recorder.Eventf(cj, warning, "FailedCreate", "Error creating job: %v", err)
		return 0, err
	}
	c.recorder.Eventf(cj, normal, "SuccessfulCreate", "Created job %v", job.Name)
	cj.Status.Active = append(cj.Status.Active, jobReference(job))
	cj.Status.LastScheduleTime = &metav1.Time{Time: due}
	return next, nil
}

func jobReference(j *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "batch/v1", Kind: "Job", Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion}
}

// mostRecent is the latest time of the schedule that has come since the last Job,
// zero if none, and about how many there were.
func mostRecent(cj *batchv1.CronJob, s *schedule, now time.Time) (due time.Time, missed int) {
	from := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		from = cj.Status.LastScheduleTime.Time
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if earliest := now.Add(-time.Duration(*d) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	first := s.next(from)
	if first.After(now) || first.IsZero() {
		return time.Time{}, 0
	}
	// A schedule that slept for a year is not walked minute by minute.
	if gap := s.next(first).Sub(first); gap > 0 && now.Sub(first)/gap > 200 {
		missed = int(now.Sub(first) / gap)
		first = s.next(first.Add(time.Duration(missed-2) * gap))
	}
	for t := first; !t.After(now) && !t.IsZero(); t = s.next(t) {
		due, missed = t, missed+1
	}
	return due, missed
}

// cronJobJob is the Job of one time.
func cronJobJob(cj *batchv1.CronJob, name string, at time.Time) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(t.Annotations)
	if cj.Spec.TimeZone != nil {
		if zone, err := time.LoadLocation(*cj.Spec.TimeZone); err == nil {
			at = at.In(zone)
		}
	}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: name, Labels: t.Labels,
			Annotations:       withLabel(annotations, batchv1.CronJobScheduledTimestampAnnotation, at.Format(time.RFC3339)),
			CreationTimestamp: metav1.Time{Time: at}, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, cronJobKind)},
		},
		Spec: t.Spec,
	}
}

// cleanup deletes finished Jobs beyond the history limits, the oldest first.
func (c *cronJobs) cleanup(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	with := func(t batchv1.JobConditionType) []*batchv1.Job {
		return filter(jobs, func(j *batchv1.Job) bool {
			cond := jobCondition(j.Status, t)
			return cond != nil && cond.Status == corev1.ConditionTrue
		})
	}
	for limit, finished := range map[*int32][]*batchv1.Job{
		cj.Spec.SuccessfulJobsHistoryLimit: with(batchv1.JobComplete), cj.Spec.FailedJobsHistoryLimit: with(batchv1.JobFailed),
	} {
		if limit == nil {
			continue
		}
		for _, j := range finished[:max(0, len(finished)-int(*limit))] {
			if j.DeletionTimestamp != nil {
				continue
			}
			if err := c.deleteJob(ctx, cj, j.Namespace, j.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cronJobs) deleteJob(ctx context.Context, cj *batchv1.CronJob, namespace, name string) error {
	err := c.jobAPI.Delete(ctx, namespace, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	if ignoring(err, apierrors.IsNotFound) != nil {
		c.recorder.Eventf(cj, warning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	c.recorder.Eventf(cj, normal, "SuccessfulDelete", "Deleted job %v", name)
	return nil
}
