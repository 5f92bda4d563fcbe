package controllers

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// This file counts a Job's pods and decides what follows; what indexes have to do
// with it is in job_indexes.go. Nothing here touches the API.
//
// Upstream: pkg/controller/job/job_controller.go, syncJob, trackJobStatusAndRemoveFinalizers;
// backoff_utils.go, pod_failure_policy.go.

// jobView is one look at a Job and its pods.
type jobView struct {
	job                             *batchv1.Job
	pods                            []*corev1.Pod
	now                             time.Time
	active, ready, terminating      int
	uncounted                       batchv1.UncountedTerminatedPods
	succeeded, failed               int32 // in the sum, without the uncounted
	succeededIndexes, failedIndexes map[int]bool
	delayed                         map[int]*corev1.Pod   // see delayDeletion
	newFailed                       []*corev1.Pod         // have failed, and the status does not know
	removable                       map[types.UID]bool    // may lose their finalizers without having been noted in the status
	failure, success                *batchv1.JobCondition // why the job is to end
	after                           time.Duration         // until something is due
	batch, initial, most            time.Duration         // see jobs
}

type jobPlan struct {
	create []int // the index of each new pod, -1 for none
	remove []*corev1.Pod
}

// onlyFailed says whether a pod that is being deleted is replaced only when it
// has ended.
func (v *jobView) onlyFailed() bool {
	return v.job.Spec.PodReplacementPolicy != nil && *v.job.Spec.PodReplacementPolicy == batchv1.Failed
}

// podFailed says whether a pod counts as failed.
func (v *jobView) podFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed ||
		!v.onlyFailed() && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

func viewJob(job *batchv1.Job, pods []*corev1.Pod, now time.Time) jobView {
	v := jobView{job: job, pods: pods, now: now, succeeded: job.Status.Succeeded, failed: job.Status.Failed, removable: map[types.UID]bool{}}
	if u := job.Status.UncountedTerminatedPods; u != nil {
		waiting := map[types.UID]bool{} // pods that still carry the finalizer
		for _, p := range pods {
			waiting[p.UID] = hasFinalizer(p, batchv1.JobTrackingFinalizer)
		}
		counted := func(uids []types.UID, uncounted *[]types.UID) (n int32) {
			for _, uid := range uids {
				if waiting[uid] {
					*uncounted = append(*uncounted, uid)
				} else {
					n++
				}
			}
			return n
		}
		if !v.indexed() {
			v.succeeded += counted(u.Succeeded, &v.uncounted.Succeeded)
		}
		v.failed += counted(u.Failed, &v.uncounted.Failed)
	}
	if v.indexed() {
		v.succeededIndexes, v.failedIndexes = parseIndexes(job.Status.CompletedIndexes, v.completions()), map[int]bool{}
		if v.perIndex() && job.Status.FailedIndexes != nil {
			v.failedIndexes = parseIndexes(*job.Status.FailedIndexes, v.completions())
		}
	}
	for _, p := range pods {
		v.count(p)
	}
	if v.indexed() {
		v.succeeded = int32(len(v.succeededIndexes))
	}
	v.delayDeletion()
	v.judge()
	return v
}

// count files one pod.
func (v *jobView) count(p *corev1.Pod) {
	tracked := hasFinalizer(p, batchv1.JobTrackingFinalizer)
	index, astray := podIndex(p), v.astray(p)
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		if !tracked || slices.Contains(v.uncounted.Succeeded, p.UID) {
			return
		}
		if !v.indexed() {
			v.uncounted.Succeeded = append(v.uncounted.Succeeded, p.UID)
			return
		}
		v.removable[p.UID] = true // its index in the status is enough
		if !astray {
			v.succeededIndexes[index] = true
		}
	case v.podFailed(p):
		if !podFinished(p) {
			v.terminating++
		}
		if !tracked || slices.Contains(v.uncounted.Failed, p.UID) {
			return
		}
		if astray {
			v.removable[p.UID] = true
			return
		}
		v.newFailed = append(v.newFailed, p)
		if v.perIndex() && v.givesUp(p) {
			v.failedIndexes[index] = true
		}
	case p.DeletionTimestamp != nil:
		v.terminating++
	default:
		v.active++
		if podReady(p) {
			v.ready++
		}
	}
}

// ends says whether the job is being ended before all its pods have ended by themselves.
func (v *jobView) ends() bool { return v.failure != nil || v.success != nil }

// track notes the pods that have failed, but for those that shall be replaced first;
// once a job ends, all pods that are left: they count as failed if the job has failed.
// If they could not all be deleted the end waits.
func (v *jobView) track(deleted bool) {
	if !deleted {
		v.failure, v.success = nil, nil
	}
	over := v.ends() || v.reached() || v.job.DeletionTimestamp != nil
	for _, p := range v.newFailed {
		if over || v.delayed[podIndex(p)] != p {
			v.note(p, true)
		}
	}
	if !over {
		return
	}
	for _, p := range v.pods {
		if !podFinished(p) && !v.podFailed(p) && hasFinalizer(p, batchv1.JobTrackingFinalizer) && !slices.Contains(v.uncounted.Failed, p.UID) {
			v.note(p, v.failure != nil)
		}
	}
}

// note has a pod lose its finalizer, as one that has failed or as one that does not matter.
func (v *jobView) note(p *corev1.Pod, failed bool) {
	if failed && v.countsAsFailed(p) {
		v.uncounted.Failed = append(v.uncounted.Failed, p.UID)
	} else {
		v.removable[p.UID] = true
	}
}

// sum counts the pods that stood in the status and have lost their finalizers since.
func (v *jobView) sum(written *batchv1.Job) {
	v.job = written
	v.succeeded += int32(len(v.uncounted.Succeeded))
	v.failed += int32(len(v.uncounted.Failed))
	v.uncounted = batchv1.UncountedTerminatedPods{}
}

// countsAsFailed says whether the policy lets a failed pod count.
func (v *jobView) countsAsFailed(p *corev1.Pod) bool {
	action, _ := failureAction(v.job.Spec.PodFailurePolicy, p)
	return action != batchv1.PodFailurePolicyActionIgnore
}

// judge looks for reasons to end the job: what it has decided already, then failures,
// then a success policy.
func (v *jobView) judge() {
	s := &v.job.Spec
	if t := jobCondition(v.job.Status, batchv1.JobSuccessCriteriaMet); t != nil && t.Status == corev1.ConditionTrue {
		v.success = t
		return
	}
	if t := jobCondition(v.job.Status, batchv1.JobFailureTarget); t != nil && t.Status == corev1.ConditionTrue {
		v.failure = t
		return
	}
	failures := v.failed + int32(len(v.uncounted.Failed))
	for _, p := range v.newFailed {
		action, message := failureAction(s.PodFailurePolicy, p)
		if action == batchv1.PodFailurePolicyActionFailJob {
			v.fail(batchv1.JobReasonPodFailurePolicy, message)
			return
		}
		if action != batchv1.PodFailurePolicyActionIgnore {
			failures++
		}
	}
	if failures > *s.BackoffLimit || v.restarts() >= max(*s.BackoffLimit, 1) {
		v.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	}
	if s.ActiveDeadlineSeconds != nil && v.job.Status.StartTime != nil && !v.suspended() {
		left := v.job.Status.StartTime.Add(time.Duration(*s.ActiveDeadlineSeconds) * time.Second).Sub(v.now)
		if left <= 0 {
			v.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
		v.remind(left)
	}
	v.judgeIndexes()
}

// restarts are those of containers in pods that have not ended, if they are restarted at all.
func (v *jobView) restarts() (n int32) {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return 0
	}
	for _, p := range v.pods {
		if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
			for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
				n += c.RestartCount
			}
		}
	}
	return n
}

func (v *jobView) fail(reason, message string) {
	v.failure = &batchv1.JobCondition{Reason: reason, Message: message}
}

func (v *jobView) suspended() bool { return v.job.Spec.Suspend != nil && *v.job.Spec.Suspend }

func (v *jobView) remind(d time.Duration) {
	if d > 0 && (v.after == 0 || d < v.after) {
		v.after = d
	}
}

func (v *jobView) allSucceeded() int32 { return v.succeeded + int32(len(v.uncounted.Succeeded)) }

// reached says whether the job has what it wanted.
func (v *jobView) reached() bool {
	if v.success != nil {
		return true
	}
	want := int32(1)
	if v.job.Spec.Completions != nil {
		want = *v.job.Spec.Completions
	}
	return v.active == 0 && v.allSucceeded() >= want
}

// running are the pods that can be deleted.
func (v *jobView) running() []*corev1.Pod {
	return filter(v.pods, podActive)
}

// plan decides about pods: some go, or some come, never both at once.
func (v *jobView) plan() jobPlan {
	if v.ends() || v.suspended() {
		return jobPlan{remove: v.running()}
	}
	want := int(*v.job.Spec.Parallelism)
	if v.job.Spec.Completions != nil {
		want = min(want, int(*v.job.Spec.Completions-v.allSucceeded()))
	} else if v.allSucceeded() > 0 {
		want = v.active // a work queue that has begun to end grows no more
	}
	have := v.active
	if v.onlyFailed() {
		have += v.terminating
	}
	surplus, rest := v.misplaced()
	if n := v.active - max(want, 0) - len(surplus); n > 0 {
		surplus = append(surplus, victims(rest, nil, n, v.now)...)
	}
	if len(surplus) > 0 {
		return jobPlan{remove: surplus[:min(len(surplus), burstReplicas)]}
	}
	if have >= want {
		return jobPlan{}
	}
	n := min(want-have, burstReplicas)
	if v.perIndex() {
		return jobPlan{create: v.dueIndexes(n)}
	}
	if wait := v.failureWait(); wait > 0 {
		v.remind(max(wait, v.batch))
		return jobPlan{}
	}
	if v.indexed() {
		return jobPlan{create: v.freeIndexes(n)}
	}
	return jobPlan{create: slices.Repeat([]int{-1}, n)}
}

// failureWait is how long to wait before the next pod: 10 s after one failure in
// a row, then 20, 40 ... up to 10 min.
func (v *jobView) failureWait() time.Duration {
	var lastSuccess, lastFailure time.Time
	for _, p := range v.pods {
		if t := finishedAt(p); p.Status.Phase == corev1.PodSucceeded && t.After(lastSuccess) {
			lastSuccess = t
		}
	}
	n := 0
	for _, p := range v.pods {
		if t := finishedAt(p); v.podFailed(p) && t.After(lastSuccess) {
			n++
			if t.After(lastFailure) {
				lastFailure = t
			}
		}
	}
	return v.waitAfter(n, lastFailure)
}

// waitAfter is what is left of the wait after n failures in a row.
func (v *jobView) waitAfter(n int, last time.Time) time.Duration {
	if n == 0 {
		return 0
	}
	wait := v.initial
	for range n - 1 {
		if wait = min(2*wait, v.most); wait == v.most {
			break
		}
	}
	return max(0, last.Add(wait).Sub(v.now))
}

// finishedAt is when the last container of a pod ended, or what is known instead.
func finishedAt(p *corev1.Pod) (t time.Time) {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil && c.State.Terminated.FinishedAt.After(t) {
			t = c.State.Terminated.FinishedAt.Time
		}
	}
	if c := podCondition(p, corev1.PodReady); t.IsZero() && c != nil && c.Status == corev1.ConditionFalse {
		t = c.LastTransitionTime.Time
	}
	if t.IsZero() && p.DeletionTimestamp != nil {
		t = p.DeletionTimestamp.Time
		if grace := p.DeletionGracePeriodSeconds; grace != nil {
			t = t.Add(-time.Duration(*grace) * time.Second)
		}
	}
	if t.IsZero() {
		t = p.CreationTimestamp.Time
	}
	return t
}

// status is what the job says about itself now. That it has ended, if it has, it may
// say when all is counted.
func (v *jobView) status(last bool) batchv1.JobStatus {
	s := *v.job.Status.DeepCopy()
	s.Active, s.Ready, s.Terminating = int32(v.active), new(int32(v.ready)), new(int32(v.terminating))
	s.Succeeded, s.Failed = v.succeeded, v.failed
	s.UncountedTerminatedPods = v.uncounted.DeepCopy()
	if v.indexed() {
		s.CompletedIndexes = formatIndexes(v.succeededIndexes)
	}
	if v.perIndex() {
		s.FailedIndexes = new(formatIndexes(v.failedIndexes))
	}
	now := metav1.NewTime(v.now)
	if s.StartTime == nil && !v.suspended() {
		s.StartTime = &now
	}
	settled := last && len(v.uncounted.Succeeded)+len(v.uncounted.Failed) == 0 && v.active == 0 && v.terminating == 0
	switch {
	case v.failure != nil:
		setJobCondition(&s, batchv1.JobFailureTarget, corev1.ConditionTrue, v.failure.Reason, v.failure.Message, now)
		if settled {
			setJobCondition(&s, batchv1.JobFailed, corev1.ConditionTrue, v.failure.Reason, v.failure.Message, now)
		}
	case v.reached():
		why := v.success
		if why == nil {
			why = &batchv1.JobCondition{Reason: batchv1.JobReasonCompletionsReached, Message: "Reached expected number of succeeded pods"}
		}
		setJobCondition(&s, batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, why.Reason, why.Message, now)
		if settled {
			setJobCondition(&s, batchv1.JobComplete, corev1.ConditionTrue, why.Reason, why.Message, now)
			s.CompletionTime = &now
		}
	default:
		v.suspension(&s, now)
	}
	return s
}

func (v *jobView) suspension(s *batchv1.JobStatus, now metav1.Time) {
	c := jobCondition(*s, batchv1.JobSuspended)
	switch {
	case v.suspended() && (c == nil || c.Status != corev1.ConditionTrue):
		setJobCondition(s, batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", now)
		s.StartTime = nil
	case !v.suspended() && c != nil && c.Status == corev1.ConditionTrue:
		setJobCondition(s, batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", now)
		s.StartTime = &now // the deadline counts from the resumption
	}
}

func setJobCondition(s *batchv1.JobStatus, t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now metav1.Time) {
	c := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	if old := jobCondition(*s, t); old == nil {
		s.Conditions = append(s.Conditions, c)
	} else if old.Status != status {
		*old = c
	}
}

// failureAction is what a pod failure policy says of a failed pod: the first rule
// that matches.
func failureAction(policy *batchv1.PodFailurePolicy, p *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if policy == nil || p.Status.Phase != corev1.PodFailed {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		if rule.OnExitCodes != nil {
			if c := exitMatches(rule.OnExitCodes, p); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s failed with exit code %v matching %v rule at index %d", c.Name, client.Key(p), c.State.Terminated.ExitCode, rule.Action, i)
			}
			continue
		}
		for _, pattern := range rule.OnPodConditions {
			c := podCondition(p, pattern.Type)
			if c != nil && c.Status == pattern.Status {
				return rule.Action, fmt.Sprintf("Pod %s has condition %v matching %v rule at index %d", client.Key(p), pattern.Type, rule.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

func exitMatches(r *batchv1.PodFailurePolicyOnExitCodesRequirement, p *corev1.Pod) *corev1.ContainerStatus {
	all := append(slices.Clone(p.Status.ContainerStatuses), p.Status.InitContainerStatuses...)
	for i, c := range all {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != c.Name {
			continue
		}
		if slices.Contains(r.Values, c.State.Terminated.ExitCode) == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return &all[i]
		}
	}
	return nil
}
