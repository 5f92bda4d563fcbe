package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Upstream: pkg/apis/batch/validation/validation.go, ValidateJob.
func validateJob(job *batchv1.Job) field.ErrorList {
	var c checks
	c.generated(job)
	c.jobWithSelector(&job.Spec)
	if s := &job.Spec; indexed(s) && s.Completions != nil && *s.Completions > 0 {
		last := fmt.Sprintf("%s-%d", job.Name, *s.Completions-1)
		if len(utilvalidation.IsDNS1123Label(last)) > 0 {
			c.add(field.Invalid(field.NewPath("metadata", "name"), job.Name, "will not able to create pod with invalid DNS label: "+last))
		}
	}
	return c.errs
}

// generated checks that nobody chose a selector, or the labels in it, that the server was to choose; see createJob.
func (c *checks) generated(job *batchv1.Job) {
	s := job.Spec.Selector
	if m := job.Spec.ManualSelector; m != nil && *m || s == nil {
		return
	}
	want, have := jobLabels(job.Name, job.UID), job.Spec.Template.Labels
	for _, key := range []string{"controller-uid", "job-name", batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		at := specPath.Child("template", "metadata", "labels").Key(key)
		if value, ok := have[key]; !ok {
			c.add(field.Required(at, "must be '"+want[key]+"'"))
		} else if value != want[key] {
			c.add(field.Invalid(at, have, "must be '"+want[key]+"'"))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(s); err == nil && !selector.Matches(labels.Set(want)) {
		c.add(field.Invalid(specPath.Child("selector"), s, "`selector` not auto-generated"))
	}
}

func (c *checks) jobWithSelector(s *batchv1.JobSpec) {
	c.jobSpec(s, specPath)
	if s.Selector == nil {
		c.add(field.Required(specPath.Child("selector"), ""))
	}
	c.selector(s.Selector, specPath.Child("selector"))
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil {
		c.selected(&s.Template, selector)
	}
}

// indexed reports that each pod of a Job has a number of its own.
func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// Upstream: pkg/apis/batch/validation/validation.go, validateJobSpec.
// Left out: the bounds for more than 100000 completions.
func (c *checks) jobSpec(s *batchv1.JobSpec, at *field.Path) {
	c.notNegativePtr(s.Parallelism, at.Child("parallelism"))
	c.notNegativePtr(s.Completions, at.Child("completions"))
	if s.ActiveDeadlineSeconds != nil {
		c.notNegative(*s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))
	}
	c.notNegativePtr(s.BackoffLimit, at.Child("backoffLimit"))
	c.notNegativePtr(s.TTLSecondsAfterFinished, at.Child("ttlSecondsAfterFinished"))
	c.notNegativePtr(s.BackoffLimitPerIndex, at.Child("backoffLimitPerIndex"))
	c.notNegativePtr(s.MaxFailedIndexes, at.Child("maxFailedIndexes"))
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		c.add(field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		c.addAll(utilvalidation.IsDomainPrefixedPath(at.Child("managedBy"), *s.ManagedBy))
	}
	if s.CompletionMode != nil {
		listed(c, *s.CompletionMode, at.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if indexed(s) {
		if s.Completions == nil {
			c.add(field.Required(at.Child("completions"), "when completion mode is Indexed"))
		}
		if s.Parallelism != nil && *s.Parallelism > maxParallelIndexes {
			c.add(field.Invalid(at.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxParallelIndexes)))
		}
		if m := s.MaxFailedIndexes; m != nil && s.Completions != nil && *m > *s.Completions {
			c.add(field.Invalid(at.Child("maxFailedIndexes"), *m, "must be less than or equal to completions"))
		}
	} else if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		if s.BackoffLimitPerIndex != nil {
			c.add(field.Invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			c.add(field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
	}
	replacements := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if s.PodFailurePolicy != nil {
		c.podFailurePolicy(s, at.Child("podFailurePolicy"))
		replacements = replacements[:1] // what is terminating may yet be ignored
	}
	if s.SuccessPolicy != nil {
		if !indexed(s) {
			c.add(field.Invalid(at.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode"))
		} else if s.Completions != nil {
			c.successPolicy(s.SuccessPolicy, *s.Completions, at.Child("successPolicy", "rules"))
		}
	}
	if s.PodReplacementPolicy != nil {
		listed(c, *s.PodReplacementPolicy, at.Child("podReplacementPolicy"), replacements...)
	}
	c.addAll(validateTemplate(&s.Template, at.Child("template")))
	at = at.Child("template", "spec", "restartPolicy")
	switch p := s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways:
		c.add(field.Required(at, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		listed(c, p, at, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		c.add(field.Invalid(at, p, `only "Never" is supported when podFailurePolicy is specified`))
	}
}

const (
	maxParallelIndexes = 100000 // bounds what status.completedIndexes can grow to
	maxPolicyRules     = 20
	maxExitCodes       = 255
	maxIndexesText     = 64 << 10
)

// Upstream: pkg/apis/batch/validation/validation.go, validateSuccessPolicy.
func (c *checks) successPolicy(policy *batchv1.SuccessPolicy, completions int32, at *field.Path) {
	if n := len(policy.Rules); n == 0 {
		c.add(field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	} else if n > maxPolicyRules {
		c.add(field.TooMany(at, n, maxPolicyRules))
	}
	for i, rule := range policy.Rules {
		at := at.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			c.add(field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		named := int32(0)
		if list := rule.SucceededIndexes; list != nil {
			at := at.Child("succeededIndexes")
			if len(*list) > maxIndexesText {
				c.add(field.TooLong(at, "", maxIndexesText))
			}
			var err error
			if named, err = countIndexes(*list, completions); err != nil {
				c.add(field.Invalid(at, *list, "error parsing succeededIndexes: "+err.Error()))
			}
		}
		if n := rule.SucceededCount; n != nil {
			at := at.Child("succeededCount")
			c.notNegative(int64(*n), at)
			if *n > completions {
				c.add(field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
			}
			if rule.SucceededIndexes != nil && *n > named {
				c.add(field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", named)))
			}
		}
	}
}

// countIndexes is how many of the numbers below end a text as "0-2,5" names. It names
// each once, in order.
//
// Upstream: pkg/apis/batch/validation/validation.go, validateIndexesFormat.
func countIndexes(text string, end int32) (n int32, err error) {
	if text == "" {
		return 0, nil
	}
	read := func(s string) (int32, error) {
		i, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", s)
		}
		if i >= int(end) {
			return 0, fmt.Errorf("too large index: %q", s)
		}
		return int32(i), nil
	}
	last := int32(-1)
	for part := range strings.SplitSeq(text, ",") {
		limits := strings.Split(part, "-")
		if len(limits) > 2 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		var between []int32
		for i, limit := range limits {
			at, err := read(limit)
			if err != nil {
				return 0, err
			}
			if i == 1 && between[0] >= at {
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", between[0], at)
			}
			between = append(between, at)
		}
		first, until := between[0], between[len(between)-1]
		if last >= first {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, first)
		}
		n, last = n+until-first+1, until
	}
	return n, nil
}

// chosen refuses a value that is not in the list, and tells the list to whoever gave none.
func chosen[T ~string](c *checks, value T, at *field.Path, allowed ...T) {
	if value == "" {
		c.add(field.Required(at, fmt.Sprintf("valid values: %q", allowed)))
	} else {
		listed(c, value, at, allowed...)
	}
}

// Upstream: pkg/apis/batch/validation/validation.go, validatePodFailurePolicy.
func (c *checks) podFailurePolicy(s *batchv1.JobSpec, at *field.Path) {
	at = at.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > maxPolicyRules {
		c.add(field.TooMany(at, n, maxPolicyRules))
	}
	for i, rule := range s.PodFailurePolicy.Rules {
		at := at.Index(i)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			c.add(field.Invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
		}
		chosen(c, rule.Action, at.Child("action"), batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		if rule.OnExitCodes != nil {
			c.exitCodes(rule.OnExitCodes, &s.Template.Spec, at.Child("onExitCodes"))
		}
		for j, p := range rule.OnPodConditions {
			at := at.Child("onPodConditions").Index(j)
			c.texts(string(p.Type), at.Child("type"), utilvalidation.IsQualifiedName(string(p.Type)))
			chosen(c, p.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
		}
		switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
		case codes && conditions:
			c.add(field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case !codes && !conditions:
			c.add(field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
}

func (c *checks) exitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.PodSpec, at *field.Path) {
	chosen(c, r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	named := func(ctr corev1.Container) bool { return ctr.Name == *r.ContainerName }
	if r.ContainerName != nil && !slices.ContainsFunc(pod.Containers, named) && !slices.ContainsFunc(pod.InitContainers, named) {
		c.add(field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	at = at.Child("values")
	if n := len(r.Values); n == 0 {
		c.add(field.Invalid(at, r.Values, "at least one value is required"))
	} else if n > maxExitCodes {
		c.add(field.TooMany(at, n, maxExitCodes))
	}
	for i, code := range r.Values {
		if code == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			c.add(field.Invalid(at.Index(i), code, "must not be 0 for the In operator"))
		}
		if slices.Contains(r.Values[:i], code) {
			c.add(field.Duplicate(at.Index(i), code))
		}
	}
	if !slices.IsSorted(r.Values) {
		c.add(field.Invalid(at, r.Values, "must be ordered"))
	}
}

// validateJobUpdate: what a job does is fixed when it starts.
//
// Upstream: pkg/apis/batch/validation/validation.go, ValidateJobSpecUpdate.
func validateJobUpdate(job, old *batchv1.Job) field.ErrorList {
	var c checks
	s, o := &job.Spec, &old.Spec
	c.jobWithSelector(s) // as the check of the whole Job does: upstream says all of it twice too
	if at := specPath.Child("completions"); !indexed(s) {
		c.same(s.Completions, o.Completions, at)
	} else if n := s.Completions; n != nil && !equal(n, o.Completions) && !equal(n, s.Parallelism) {
		c.add(field.Invalid(at, *n, "can only be modified in tandem with spec.parallelism"))
	}
	c.same(s.Selector, o.Selector, specPath.Child("selector"))
	t := s.Template.DeepCopy()
	if suspended(old) {
		// What is not said of the pods' spec may change, and of that what queueing systems decide: where pods may run, and what they ask for.
		was := &o.Template.Spec
		t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates = was.NodeSelector, was.Tolerations, was.SchedulingGates
		sameNodeAffinity(&t.Spec, was)
		sameResources(t.Spec.Containers, was.Containers)
		sameResources(t.Spec.InitContainers, was.InitContainers)
		c.same(t.Spec, *was, specPath.Child("template.spec"))
	} else {
		c.same(*t, o.Template, specPath.Child("template"))
	}
	c.same(s.CompletionMode, o.CompletionMode, specPath.Child("completionMode"))
	c.same(s.PodFailurePolicy, o.PodFailurePolicy, specPath.Child("podFailurePolicy"))
	c.same(s.BackoffLimitPerIndex, o.BackoffLimitPerIndex, specPath.Child("backoffLimitPerIndex"))
	c.same(s.ManagedBy, o.ManagedBy, specPath.Child("managedBy"))
	c.same(s.SuccessPolicy, o.SuccessPolicy, specPath.Child("successPolicy"))
	return c.errs
}

// Upstream: pkg/apis/batch/validation/validation.go, ValidateCronJobCreate and validateCronJobSpec.
func validateCronJob(cj *batchv1.CronJob) field.ErrorList {
	var c checks
	s := &cj.Spec
	if c.required(s.Schedule, specPath.Child("schedule"), "") {
		if err := checkSchedule(s.Schedule); err != nil {
			c.add(field.Invalid(specPath.Child("schedule"), s.Schedule, err.Error()))
		}
		if strings.Contains(s.Schedule, "TZ") {
			c.add(field.Invalid(specPath.Child("schedule"), s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		}
	}
	if s.StartingDeadlineSeconds != nil {
		c.notNegative(*s.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))
	}
	if zone := s.TimeZone; zone != nil {
		if *zone == "" {
			c.add(field.Invalid(specPath.Child("timeZone"), *zone, "timeZone must be nil or non-empty string"))
		} else if strings.EqualFold(*zone, "Local") {
			c.add(field.Invalid(specPath.Child("timeZone"), *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		} else if _, err := time.LoadLocation(*zone); err != nil {
			c.add(field.Invalid(specPath.Child("timeZone"), *zone, fmt.Sprintf("unknown time zone %s", *zone)))
		}
	}
	oneOf(&c, s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	c.jobSpec(&s.JobTemplate.Spec, specPath.Child("jobTemplate", "spec"))
	if s := s.JobTemplate.Spec.Selector; s != nil {
		c.add(field.Invalid(specPath.Child("jobTemplate", "spec", "selector"), s, "`selector` will be auto-generated"))
	}
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		c.add(field.NotSupported(specPath.Child("jobTemplate", "spec", "manualSelector"), *m, []string{"nil", "false"}))
	}
	c.notNegativePtr(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))
	c.notNegativePtr(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))
	if len(cj.Name) > 52 { // a Job's name has a time behind it
		c.add(field.Invalid(field.NewPath("metadata", "name"), cj.Name, "must be no more than 52 characters"))
	}
	return c.errs
}

// cronFields are the five fields of a schedule.
var cronFields = []struct {
	min, max int
	names    string
}{{0, 59, ""}, {0, 23, ""}, {1, 31, ""}, {1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"}, {0, 6, "sun mon tue wed thu fri sat"}}

// checkSchedule says what is wrong with a schedule, in the words of the library that upstream reads schedules with.
func checkSchedule(schedule string) error {
	if zone, rest, ok := strings.Cut(schedule, " "); ok && strings.Contains(zone, "TZ=") {
		schedule = rest // the zone has an error of its own
	}
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
	if strings.Contains(step, "/") {
		return fmt.Errorf("too many slashes: %s", expr)
	}
	if strings.Count(span, "-") > 1 {
		return fmt.Errorf("too many hyphens: %s", expr)
	}
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

// suspended: the job waits, and none of its pods is left.
//
// Upstream: pkg/registry/batch/job/strategy.go, shouldAllowMutablePodTemplate.
func suspended(job *batchv1.Job) bool {
	said := slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	})
	return job.Spec.Suspend != nil && *job.Spec.Suspend && (job.Status.StartTime == nil || said) && job.Status.Active == 0
}

// sameResources makes the amounts the same that may differ.
func sameResources(now, was []corev1.Container) {
	for i := range now {
		if len(now) == len(was) && now[i].Name == was[i].Name {
			now[i].Resources = was[i].Resources
		}
	}
}
