package controllers

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// This file counts a Job's pods and decides what follows. Nothing here touches the
// API.
//
// Upstream: pkg/controller/job/job_controller.go, syncJob, trackJobStatusAndRemoveFinalizers;
// backoff_utils.go, indexed_job_utils.go, pod_failure_policy.go.

// jobView is one look at a Job and its pods.
type jobView struct {
	job                        *batchv1.Job
	pods                       []*corev1.Pod
	now                        time.Time
	active, ready, terminating int
	uncounted                  batchv1.UncountedTerminatedPods
	succeeded, failed          int32 // in the sum, without the uncounted
	done                       map[int]bool
	ignored                    map[types.UID]bool // failed, but the policy says they do not count
	failure                    *batchv1.JobCondition
	after                      time.Duration // until something is due
	initial, most              time.Duration // the bounds of the wait after failures
}

type jobPlan struct {
	create int
	remove []*corev1.Pod
}

func (v *jobView) indexed() bool {
	return v.job.Spec.CompletionMode != nil && *v.job.Spec.CompletionMode == batchv1.IndexedCompletion
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
	v := jobView{job: job, pods: pods, now: now, succeeded: job.Status.Succeeded, failed: job.Status.Failed, done: map[int]bool{}, ignored: map[types.UID]bool{}}
	waiting := map[types.UID]bool{} // pods that still carry the finalizer
	for _, p := range pods {
		waiting[p.UID] = hasFinalizer(p, batchv1.JobTrackingFinalizer)
	}
	if u := job.Status.UncountedTerminatedPods; u != nil {
		for _, uid := range u.Succeeded {
			if waiting[uid] {
				v.uncounted.Succeeded = append(v.uncounted.Succeeded, uid)
			} else {
				v.succeeded++
			}
		}
		for _, uid := range u.Failed {
			if waiting[uid] {
				v.uncounted.Failed = append(v.uncounted.Failed, uid)
			} else {
				v.failed++
			}
		}
	}
	if v.indexed() {
		for _, i := range parseIndexes(job.Status.CompletedIndexes) {
			v.done[i] = true
		}
	}
	for _, p := range pods {
		v.count(p, waiting[p.UID])
	}
	if v.indexed() {
		v.succeeded = int32(len(v.done)) - int32(len(v.uncounted.Succeeded))
	}
	v.judge()
	return v
}

// count files one pod.
func (v *jobView) count(p *corev1.Pod, tracked bool) {
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		if !tracked || slices.Contains(v.uncounted.Succeeded, p.UID) {
			return
		}
		if i := podIndex(p); v.indexed() {
			if i < 0 || i >= int(*v.job.Spec.Completions) || v.done[i] {
				v.ignored[p.UID] = true
				return
			}
			v.done[i] = true
		}
		v.uncounted.Succeeded = append(v.uncounted.Succeeded, p.UID)
	case v.podFailed(p):
		if !podFinished(p) {
			v.terminating++
		}
		if !tracked || slices.Contains(v.uncounted.Failed, p.UID) {
			return
		}
		action, message := failureAction(v.job.Spec.PodFailurePolicy, p)
		if action == batchv1.PodFailurePolicyActionFailJob && v.failure == nil {
			v.failure = &batchv1.JobCondition{Reason: batchv1.JobReasonPodFailurePolicy, Message: message}
		}
		if action == batchv1.PodFailurePolicyActionIgnore {
			v.ignored[p.UID] = true
		} else {
			v.uncounted.Failed = append(v.uncounted.Failed, p.UID)
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

// judge looks for reasons to end the job as failed.
func (v *jobView) judge() {
	s := &v.job.Spec
	if t := jobCondition(v.job.Status, batchv1.JobFailureTarget); t != nil && t.Status == corev1.ConditionTrue {
		v.failure = t
		return
	}
	if v.failure != nil || v.suspended() {
		return
	}
	failures := v.failed + int32(len(v.uncounted.Failed))
	if s.Template.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
		for _, p := range v.pods {
			if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
				for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
					failures += c.RestartCount
				}
			}
		}
	}
	if s.BackoffLimit != nil && failures > *s.BackoffLimit {
		v.failure = &batchv1.JobCondition{Reason: batchv1.JobReasonBackoffLimitExceeded, Message: "Job has reached the specified backoff limit"}
		return
	}
	if s.ActiveDeadlineSeconds != nil && v.job.Status.StartTime != nil {
		left := v.job.Status.StartTime.Add(time.Duration(*s.ActiveDeadlineSeconds) * time.Second).Sub(v.now)
		if left <= 0 {
			v.failure = &batchv1.JobCondition{Reason: batchv1.JobReasonDeadlineExceeded, Message: "Job was active longer than specified deadline"}
			return
		}
		v.remind(left)
	}
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
	if v.job.Spec.Completions == nil {
		return v.allSucceeded() > 0 && v.active == 0
	}
	return v.allSucceeded() >= *v.job.Spec.Completions
}

// running are the pods that can be deleted.
func (v *jobView) running() []*corev1.Pod {
	return filter(v.pods, podActive)
}

// plan decides about pods.
func (v *jobView) plan() jobPlan {
	if v.failure != nil || v.suspended() || v.reached() {
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
	if v.active > want {
		return jobPlan{remove: victims(v.running(), nil, v.active-max(want, 0), v.now)}
	}
	if have >= want {
		return jobPlan{}
	}
	if wait := v.failureWait(); wait > 0 {
		v.remind(wait)
		return jobPlan{}
	}
	return jobPlan{create: want - have}
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
	if n == 0 {
		return 0
	}
	wait := v.initial
	for range n - 1 {
		if wait = min(2*wait, v.most); wait == v.most {
			break
		}
	}
	return max(0, lastFailure.Add(wait).Sub(v.now))
}

// finishedAt is when the last container of a pod ended, or what is known instead.
func finishedAt(p *corev1.Pod) (t time.Time) {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil && c.State.Terminated.FinishedAt.After(t) {
			t = c.State.Terminated.FinishedAt.Time
		}
	}
	if c := podCondition(p, corev1.PodReady); t.IsZero() && c != nil {
		t = c.LastTransitionTime.Time
	}
	if t.IsZero() {
		t = p.CreationTimestamp.Time
	}
	if t.IsZero() && p.DeletionTimestamp != nil {
		t = p.DeletionTimestamp.Time
	}
	return t
}

// status is what the job says about itself now.
func (v *jobView) status() batchv1.JobStatus {
	s := *v.job.Status.DeepCopy()
	s.Active, s.Ready, s.Terminating = int32(v.active), new(int32(v.ready)), new(int32(v.terminating))
	s.Succeeded, s.Failed = v.succeeded, v.failed
	s.UncountedTerminatedPods = &v.uncounted
	if v.indexed() {
		s.CompletedIndexes = formatIndexes(v.done)
	}
	now := metav1.NewTime(v.now)
	if s.StartTime == nil && !v.suspended() {
		s.StartTime = &now
	}
	v.suspension(&s, now)
	settled := len(v.uncounted.Succeeded)+len(v.uncounted.Failed) == 0 && v.active == 0 && v.terminating == 0
	switch {
	case v.failure != nil:
		setJobCondition(&s, batchv1.JobFailureTarget, corev1.ConditionTrue, v.failure.Reason, v.failure.Message, now)
		if settled {
			setJobCondition(&s, batchv1.JobFailed, corev1.ConditionTrue, v.failure.Reason, v.failure.Message, now)
		}
	case v.reached() && !v.suspended():
		const message = "Reached expected number of succeeded pods"
		setJobCondition(&s, batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, message, now)
		if settled {
			setJobCondition(&s, batchv1.JobComplete, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, message, now)
			s.CompletionTime = &now
		}
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

// podIndex is the completion index of a pod, -1 if it has none.
func podIndex(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil {
		return -1
	}
	return i
}

// freeIndexes are the lowest n indexes that are neither done nor being worked on.
func (v *jobView) freeIndexes(n int) (out []int) {
	if !v.indexed() {
		return nil
	}
	busy := map[int]bool{}
	for _, p := range v.pods {
		if podActive(p) || v.onlyFailed() && !podFinished(p) {
			busy[podIndex(p)] = true
		}
	}
	for i := 0; i < int(*v.job.Spec.Completions) && len(out) < n; i++ {
		if !v.done[i] && !busy[i] {
			out = append(out, i)
		}
	}
	return out
}

// parseIndexes reads "0-2,5".
func parseIndexes(s string) (out []int) {
	for _, part := range strings.Split(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := a; i <= b; i++ {
			out = append(out, i)
		}
	}
	return out
}

// formatIndexes writes "0-2,5".
func formatIndexes(done map[int]bool) string {
	var all []int
	for i := range done {
		all = append(all, i)
	}
	slices.Sort(all)
	var parts []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch j - i {
		case 0:
			parts = append(parts, strconv.Itoa(all[i]))
		case 1:
			parts = append(parts, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
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
