package kinds

import (
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var statusPath = field.NewPath("status")

// partsOfReplicas are the numbers that cannot be greater than that of all replicas.
var partsOfReplicas = []string{"fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "currentReplicas", "availableReplicas"}

// validateCounts checks what a controller counts in a status. The names say what the numbers are, whatever the kind.
//
// Upstream: pkg/apis/apps/validation/validation.go, ValidateDeploymentStatus and the like.
func validateCounts(obj, old runtime.Object) field.ErrorList {
	var c checks
	names, now := numbers(obj)
	_, before := numbers(old)
	for _, name := range names {
		c.notNegative(now[name], statusPath.Child(name))
	}
	all, replicated := now["replicas"]
	for _, name := range names {
		if replicated && slices.Contains(partsOfReplicas, name) && now[name] > all {
			c.add(field.Invalid(statusPath.Child(name), now[name], "cannot be greater than status.replicas"))
		}
	}
	ready := "readyReplicas"
	if _, ok := obj.(*appsv1.StatefulSet); ok {
		ready = "status.readyReplicas"
	}
	if n := now["availableReplicas"]; n > now["readyReplicas"] {
		c.add(field.Invalid(statusPath.Child("availableReplicas"), n, "cannot be greater than "+ready))
	}
	n := now["collisionCount"]
	if was, ok := before["collisionCount"]; ok && n < was { // else an old name would be taken again
		c.add(field.Invalid(statusPath.Child("collisionCount"), n, "cannot be decremented"))
	}
	return c.errs
}

// numbers finds the numbers in an object's status, by the names of their fields in JSON.
func numbers(obj runtime.Object) (names []string, values map[string]int64) {
	status := reflect.ValueOf(obj).Elem().FieldByName("Status")
	values = map[string]int64{}
	for i := range status.NumField() {
		if n := reflect.Indirect(status.Field(i)); n.IsValid() && n.CanInt() {
			name, _, _ := strings.Cut(status.Type().Field(i).Tag.Get("json"), ",")
			names, values[name] = append(names, name), n.Int()
		}
	}
	return names, values
}

// validateJobStatus checks that a Job ends once and in one way.
//
// Upstream: pkg/apis/batch/validation/validation.go, ValidateJobStatusUpdate.
// Left out: indexes that stand in both lists, and what depends on a success policy.
func validateJobStatus(job, old *batchv1.Job) field.ErrorList {
	c := checks{validateCounts(job, old)}
	s, o := &job.Status, &old.Status
	is := func(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
		return slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
	}
	refuse := func(wrong bool, name string, value any, text string) {
		if wrong {
			c.add(field.Invalid(statusPath.Child(name), value, text))
		}
	}
	complete, failed, none := is(s, batchv1.JobComplete), is(s, batchv1.JobFailed), field.OmitValueType{}
	ends := (complete || failed) && !is(o, batchv1.JobComplete) && !is(o, batchv1.JobFailed)
	refuse(complete && failed, "conditions", none, "cannot set Complete=True and Failed=true conditions")
	refuse(s.CompletionTime != nil && !complete, "completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
	if s.CompletionTime == nil && complete {
		c.add(field.Required(statusPath.Child("completionTime"), "completionTime is required for Complete jobs"))
	}
	refuse(ends && failed && !is(s, batchv1.JobFailureTarget), "conditions", none, "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse(ends && complete && !is(s, batchv1.JobSuccessCriteriaMet), "conditions", none, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	refuse(ends && s.Active > 0, "active", s.Active, "active>0 is invalid for finished job")
	suspended := equal(job.Spec.Suspend, new(true)) // one that wants nothing done is complete before it starts
	if ends && s.StartTime == nil && !suspended {
		c.add(field.Required(statusPath.Child("startTime"), "startTime is required for finished job"))
	}
	if end := job.Spec.Completions; end != nil && indexed(&job.Spec) {
		if _, err := countIndexes(s.CompletedIndexes, *end); err != nil {
			refuse(s.CompletedIndexes != o.CompletedIndexes, "completedIndexes", s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
		}
		if lost := s.FailedIndexes; lost != nil && job.Spec.BackoffLimitPerIndex != nil {
			if _, err := countIndexes(*lost, *end); err != nil {
				refuse(!equal(lost, o.FailedIndexes), "failedIndexes", *lost, "error parsing failedIndexes: "+err.Error())
			}
		}
	}
	refuse(s.FailedIndexes != nil && job.Spec.BackoffLimitPerIndex == nil && !equal(s.FailedIndexes, o.FailedIndexes), "failedIndexes", show(s.FailedIndexes, ""), "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	refuse(s.CompletedIndexes != "" && !indexed(&job.Spec), "completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	refuse(s.Ready != nil && *s.Ready > s.Active, "ready", s.Ready, "cannot set more ready pods than active")
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		refuse(is(o, t) && !is(s, t), "conditions", none, "cannot disable the terminal "+string(t)+"=True condition")
	}
	refuse(s.Failed < o.Failed, "failed", s.Failed, "cannot decrease the failed counter")
	elastic := indexed(&job.Spec) && equal(job.Spec.Completions, job.Spec.Parallelism)
	refuse(s.Succeeded < o.Succeeded && !elastic, "succeeded", s.Succeeded, "cannot decrease the succeeded counter")
	return c.errs
}
