package kinds

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// workload checks what all of them have: a number of replicas, a selector, and a template of pods that it selects and that run for ever.
func (c *checks) workload(replicas *int32, s *metav1.LabelSelector, t *corev1.PodTemplateSpec, of string) {
	c.notNegativePtr(replicas, specPath.Child("replicas"))
	c.matches(s, t.Labels, specPath, of)
	c.addAll(validateTemplate(t, specPath.Child("template")))
	c.alwaysRestart(t, specPath.Child("template"))
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateDeployment.
func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	var c checks
	s := &d.Spec
	c.workload(s.Replicas, s.Selector, &s.Template, "deployment")
	at := specPath.Child("strategy")
	switch s.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.Strategy.RollingUpdate != nil {
			c.add(field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if r := s.Strategy.RollingUpdate; r != nil {
			at := at.Child("rollingUpdate")
			c.percentOrCount(r.MaxUnavailable, at.Child("maxUnavailable"))
			if surge := r.MaxSurge; surge != nil && surge.Type == intstr.Int {
				c.notNegative(int64(surge.IntVal), at.Child("maxSurge"))
			}
			if isZero(r.MaxUnavailable) && isZero(r.MaxSurge) {
				c.add(field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
			}
		}
	default:
		c.add(field.NotSupported(at, s.Strategy, []string{string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)}))
	}
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	c.notNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	c.notNegativePtr(s.ProgressDeadlineSeconds, specPath.Child("progressDeadlineSeconds"))
	if p := s.ProgressDeadlineSeconds; p != nil && *p <= s.MinReadySeconds {
		c.add(field.Invalid(specPath.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
	}
	return c.errs
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	return selectorUnchanged(d.Spec.Selector, old.Spec.Selector)
}

func selectorUnchanged(s, old *metav1.LabelSelector) field.ErrorList {
	var c checks
	c.same(s, old, specPath.Child("selector"))
	return c.errs
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	var c checks
	c.workload(rs.Spec.Replicas, rs.Spec.Selector, &rs.Spec.Template, "deployment")
	c.notNegative(int64(rs.Spec.MinReadySeconds), specPath.Child("minReadySeconds"))
	return c.errs
}

func validateReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	return selectorUnchanged(rs.Spec.Selector, old.Spec.Selector)
}

func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	var c checks
	c.notNegativePtr(rc.Spec.Replicas, specPath.Child("replicas"))
	if len(rc.Spec.Selector) == 0 {
		c.add(field.Required(specPath.Child("selector"), ""))
	}
	if rc.Spec.Template == nil {
		c.add(field.Required(specPath.Child("template"), ""))
		return c.errs
	}
	if t := rc.Spec.Template.Labels; len(rc.Spec.Selector) > 0 && !labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(t)) {
		c.add(field.Invalid(specPath.Child("template", "metadata", "labels"), t, "`selector` does not match template `labels`"))
	}
	c.addAll(validateTemplate(rc.Spec.Template, specPath.Child("template")))
	c.alwaysRestart(rc.Spec.Template, specPath.Child("template"))
	return c.errs
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateDaemonSet.
func validateDaemonSet(ds *appsv1.DaemonSet) field.ErrorList {
	var c checks
	s := &ds.Spec
	c.workload(nil, s.Selector, &s.Template, "daemonset")
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	c.notNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	switch at := specPath.Child("updateStrategy"); s.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at := at.Child("rollingUpdate")
		r := s.UpdateStrategy.RollingUpdate
		if r == nil {
			c.add(field.Required(at, ""))
			break
		}
		c.percentOrCount(r.MaxUnavailable, at.Child("maxUnavailable"))
		c.percentOrCount(r.MaxSurge, at.Child("maxSurge"))
		switch stops, adds := !isZero(r.MaxUnavailable), r.MaxSurge != nil && !isZero(r.MaxSurge); {
		case stops && adds:
			c.add(field.Invalid(at.Child("maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		case !stops && !adds:
			c.add(field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
	default:
		c.add(field.NotSupported(at, s.UpdateStrategy, []string{string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType)}))
	}
	return c.errs
}

func validateDaemonSetUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	return selectorUnchanged(ds.Spec.Selector, old.Spec.Selector)
}

// Upstream: pkg/apis/apps/validation/validation.go, ValidateStatefulSet.
func validateStatefulSet(sts *appsv1.StatefulSet) field.ErrorList {
	var c checks
	s := &sts.Spec
	oneOf(&c, s.PodManagementPolicy, specPath.Child("podManagementPolicy"), appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)
	oneOf(&c, s.UpdateStrategy.Type, specPath.Child("updateStrategy"), appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType)
	if r := s.UpdateStrategy.RollingUpdate; r != nil {
		c.notNegativePtr(r.Partition, specPath.Child("updateStrategy", "rollingUpdate", "partition"))
	}
	c.notNegative(int64(s.MinReadySeconds), specPath.Child("minReadySeconds"))
	// The claims are mounted by name; the pods get their volumes from them.
	t := s.Template.DeepCopy()
	for _, claim := range s.VolumeClaimTemplates {
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
	}
	c.workload(s.Replicas, s.Selector, t, "statefulset")
	return c.errs
}

func validateStatefulSetUpdate(sts, old *appsv1.StatefulSet) field.ErrorList {
	same := sts.DeepCopy()
	s, o := &same.Spec, &old.Spec
	s.Replicas, s.Template, s.UpdateStrategy, s.MinReadySeconds = o.Replicas, o.Template, o.UpdateStrategy, o.MinReadySeconds
	s.Ordinals, s.PersistentVolumeClaimRetentionPolicy, s.RevisionHistoryLimit = o.Ordinals, o.PersistentVolumeClaimRetentionPolicy, o.RevisionHistoryLimit
	if equal(*s, *o) {
		return nil
	}
	return field.ErrorList{field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
}

func validateRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	var c checks
	c.same(r.Data, old.Data, field.NewPath("data"))
	return c.errs
}

// Upstream: pkg/apis/batch/validation/validation.go, ValidateJob.
func validateJob(job *batchv1.Job) field.ErrorList {
	var c checks
	c.jobSpec(&job.Spec, specPath)
	if job.Spec.Selector == nil {
		c.add(field.Required(specPath.Child("selector"), ""))
	} else if s, err := metav1.LabelSelectorAsSelector(job.Spec.Selector); err == nil && !s.Matches(labels.Set(job.Spec.Template.Labels)) {
		c.add(field.Invalid(specPath.Child("template", "metadata", "labels"), job.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	return c.errs
}

func (c *checks) jobSpec(s *batchv1.JobSpec, at *field.Path) {
	c.notNegativePtr(s.Parallelism, at.Child("parallelism"))
	c.notNegativePtr(s.Completions, at.Child("completions"))
	if s.ActiveDeadlineSeconds != nil {
		c.notNegative(*s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))
	}
	c.notNegativePtr(s.BackoffLimit, at.Child("backoffLimit"))
	c.notNegativePtr(s.TTLSecondsAfterFinished, at.Child("ttlSecondsAfterFinished"))
	if s.CompletionMode != nil {
		optionOf(c, *s.CompletionMode, at.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
		if *s.CompletionMode == batchv1.IndexedCompletion && s.Completions == nil {
			c.add(field.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
		}
	}
	c.addAll(validateTemplate(&s.Template, at.Child("template")))
	switch p := s.Template.Spec.RestartPolicy; p {
	case corev1.RestartPolicyAlways:
		c.add(field.Required(at.Child("template", "spec", "restartPolicy"), fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	}
}

// validateJobUpdate: what a job does is fixed when it starts.
//
// Upstream: pkg/apis/batch/validation/validation.go, ValidateJobSpecUpdate.
func validateJobUpdate(job, old *batchv1.Job) field.ErrorList {
	var c checks
	s, o := &job.Spec, &old.Spec
	elastic := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && equal(s.Completions, s.Parallelism) && equal(o.Completions, o.Parallelism)
	if !elastic {
		c.same(s.Completions, o.Completions, specPath.Child("completions"))
	}
	c.same(s.Selector, o.Selector, specPath.Child("selector"))
	t := s.Template.DeepCopy()
	if o.Suspend != nil && *o.Suspend && old.Status.StartTime == nil {
		// Before it starts, where its pods run may still be decided: queueing systems do that.
		was := o.Template
		t.Labels, t.Annotations = was.Labels, was.Annotations
		t.Spec.NodeSelector, t.Spec.Affinity, t.Spec.Tolerations, t.Spec.SchedulingGates = was.Spec.NodeSelector, was.Spec.Affinity, was.Spec.Tolerations, was.Spec.SchedulingGates
	}
	c.same(*t, o.Template, specPath.Child("template"))
	c.same(s.CompletionMode, o.CompletionMode, specPath.Child("completionMode"))
	c.same(s.PodFailurePolicy, o.PodFailurePolicy, specPath.Child("podFailurePolicy"))
	c.same(s.BackoffLimitPerIndex, o.BackoffLimitPerIndex, specPath.Child("backoffLimitPerIndex"))
	return c.errs
}

// Upstream: pkg/apis/batch/validation/validation.go, ValidateCronJobCreate and validateCronJobSpec.
func validateCronJob(cj *batchv1.CronJob) field.ErrorList {
	var c checks
	s := &cj.Spec
	if len(cj.Name) > 52 { // a Job's name has a time behind it
		c.add(field.Invalid(field.NewPath("metadata", "name"), cj.Name, "must be no more than 52 characters"))
	}
	if c.required(s.Schedule, specPath.Child("schedule"), "") {
		if strings.Contains(s.Schedule, "TZ") {
			c.add(field.Invalid(specPath.Child("schedule"), s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		} else if err := checkSchedule(s.Schedule); err != nil {
			c.add(field.Invalid(specPath.Child("schedule"), s.Schedule, err.Error()))
		}
	}
	if s.StartingDeadlineSeconds != nil {
		c.notNegative(*s.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))
	}
	if zone := s.TimeZone; zone != nil {
		if *zone == "" {
			c.add(field.Invalid(specPath.Child("timeZone"), *zone, "timeZone must be nil or non-empty string"))
		} else if _, err := time.LoadLocation(*zone); err != nil || strings.EqualFold(*zone, "Local") {
			c.add(field.Invalid(specPath.Child("timeZone"), *zone, fmt.Sprintf("unknown time zone %s", *zone)))
		}
	}
	oneOf(&c, s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	c.jobSpec(&s.JobTemplate.Spec, specPath.Child("jobTemplate", "spec"))
	c.notNegativePtr(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))
	c.notNegativePtr(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))
	return c.errs
}

// cronFields are the five fields of a schedule.
var cronFields = []struct {
	min, max int
	names    string
}{{0, 59, ""}, {0, 23, ""}, {1, 31, ""}, {1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"}, {0, 6, "sun mon tue wed thu fri sat"}}

// checkSchedule says what is wrong with a schedule, in the words of the library that upstream reads schedules with.
func checkSchedule(schedule string) error {
	if name, ok := strings.CutPrefix(schedule, "@"); ok {
		switch name {
		case "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly":
			return nil
		}
		if every, ok := strings.CutPrefix(name, "every "); ok {
			if _, err := time.ParseDuration(every); err != nil {
				return fmt.Errorf("failed to parse duration %s: %w", schedule, err)
			}
			return nil
		}
		return fmt.Errorf("unrecognized descriptor: %s", schedule)
	}
	fields := strings.Fields(schedule)
	if len(fields) != len(cronFields) {
		return fmt.Errorf("expected exactly %d fields, found %d: %s", len(cronFields), len(fields), fields)
	}
	for i, text := range fields {
		for _, part := range strings.Split(text, ",") {
			if err := checkCronRange(part, cronFields[i].min, cronFields[i].max, strings.Fields(cronFields[i].names)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkCronRange checks one of "*", "n", "n-m", each with or without "/step".
func checkCronRange(expr string, min, max int, names []string) error {
	number := func(s string) (int, error) {
		for i, name := range names {
			if strings.EqualFold(s, name) {
				return min + i, nil
			}
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("failed to parse int from %s: %w", s, err)
		}
		if n < 0 {
			return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, s)
		}
		return n, nil
	}
	span, step, stepped := strings.Cut(expr, "/")
	if stepped {
		n, err := number(step)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("step of range should be a positive number: %s", expr)
		}
	}
	if span == "*" || span == "?" {
		return nil
	}
	from, to, isRange := strings.Cut(span, "-")
	low, err := number(from)
	if err != nil {
		return err
	}
	high := low
	if isRange {
		if high, err = number(to); err != nil {
			return err
		}
	}
	switch {
	case low < min:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", low, min, expr)
	case high > max:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", high, max, expr)
	case low > high:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", low, high, expr)
	}
	return nil
}

// Upstream: pkg/apis/autoscaling/validation/validation.go, validateHorizontalPodAutoscalerSpec.
func validateHPA(hpa *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var c checks
	s := &hpa.Spec
	least := int32(1)
	if s.MinReplicas != nil {
		least = *s.MinReplicas
	}
	if least < 1 {
		c.add(field.Invalid(specPath.Child("minReplicas"), least, "must be greater than or equal to 1"))
	}
	if s.MaxReplicas < 1 {
		c.add(field.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than 0"))
	} else if s.MaxReplicas < least {
		c.add(field.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	c.required(s.ScaleTargetRef.Kind, specPath.Child("scaleTargetRef", "kind"), "")
	c.required(s.ScaleTargetRef.Name, specPath.Child("scaleTargetRef", "name"), "")
	for i, m := range s.Metrics {
		at := specPath.Child("metrics").Index(i)
		oneOf(&c, m.Type, at.Child("type"), autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
			autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
		if m.Type == autoscalingv2.ResourceMetricSourceType {
			if m.Resource == nil {
				c.add(field.Required(at.Child("resource"), "must populate information for the given metric source"))
				continue
			}
			c.required(string(m.Resource.Name), at.Child("resource", "name"), "must specify a resource name")
			if u := m.Resource.Target.AverageUtilization; u != nil && *u < 1 {
				c.add(field.Invalid(at.Child("resource", "target", "averageUtilization"), *u, "must be greater than 0"))
			}
		}
	}
	return c.errs
}

// Upstream: pkg/apis/policy/validation/validation.go, ValidatePodDisruptionBudgetSpec.
func validatePDB(p *policyv1.PodDisruptionBudget) field.ErrorList {
	var c checks
	if p.Spec.MinAvailable != nil && p.Spec.MaxUnavailable != nil {
		c.add(field.Invalid(specPath, p.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	c.percentOrCount(p.Spec.MinAvailable, specPath.Child("minAvailable"))
	c.percentOrCount(p.Spec.MaxUnavailable, specPath.Child("maxUnavailable"))
	c.selector(p.Spec.Selector, specPath.Child("selector"))
	if policy := p.Spec.UnhealthyPodEvictionPolicy; policy != nil {
		optionOf(&c, *policy, specPath.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return c.errs
}
