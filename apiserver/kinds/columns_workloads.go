package kinds

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

// The cells of workloads.
//
// Upstream: pkg/printers/internalversion/printers.go.

func deploymentCells(d *appsv1.Deployment) []any {
	names, images := templateCells(&d.Spec.Template.Spec)
	return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, number(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
		int64(d.Status.AvailableReplicas), age(d.CreationTimestamp), names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
}

func replicaSetCells(rs *appsv1.ReplicaSet) []any {
	names, images := templateCells(&rs.Spec.Template.Spec)
	return []any{rs.Name, number(rs.Spec.Replicas), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
		age(rs.CreationTimestamp), names, images, metav1.FormatLabelSelector(rs.Spec.Selector)}
}

func replicationControllerCells(rc *corev1.ReplicationController) []any {
	names, images := "", ""
	if rc.Spec.Template != nil {
		names, images = templateCells(&rc.Spec.Template.Spec)
	}
	return []any{rc.Name, number(rc.Spec.Replicas), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
		age(rc.CreationTimestamp), names, images, labels.FormatLabels(rc.Spec.Selector)}
}

func daemonSetCells(ds *appsv1.DaemonSet) []any {
	names, images := templateCells(&ds.Spec.Template.Spec)
	s := &ds.Status
	return []any{ds.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
		int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector),
		age(ds.CreationTimestamp), names, images, metav1.FormatLabelSelector(ds.Spec.Selector)}
}

func statefulSetCells(sts *appsv1.StatefulSet) []any {
	names, images := templateCells(&sts.Spec.Template.Spec)
	return []any{sts.Name, fmt.Sprintf("%d/%d", sts.Status.ReadyReplicas, number(sts.Spec.Replicas)), age(sts.CreationTimestamp), names, images}
}

func controllerRevisionCells(r *appsv1.ControllerRevision) []any {
	owner := none
	if ref := metav1.GetControllerOf(r); ref != nil {
		gv, _ := schema.ParseGroupVersion(ref.APIVersion) // what does not parse is printed without its group
		owner = strings.ToLower(gv.WithKind(ref.Kind).GroupKind().String()) + "/" + ref.Name
	}
	return []any{r.Name, owner, r.Revision, age(r.CreationTimestamp)}
}

func jobCells(job *batchv1.Job) []any {
	names, images := templateCells(&job.Spec.Template.Spec)
	completions := fmt.Sprintf("%d/1", job.Status.Succeeded)
	if job.Spec.Completions != nil {
		completions = fmt.Sprintf("%d/%d", job.Status.Succeeded, *job.Spec.Completions)
	} else if n := number(job.Spec.Parallelism); n > 1 {
		completions = fmt.Sprintf("%d/1 of %d", job.Status.Succeeded, n)
	}
	took := ""
	if start := job.Status.StartTime; start != nil {
		end := time.Now()
		if job.Status.CompletionTime != nil {
			end = job.Status.CompletionTime.Time
		}
		took = duration.HumanDuration(end.Sub(start.Time))
	}
	return []any{job.Name, jobStatus(job), completions, took, age(job.CreationTimestamp), names, images, metav1.FormatLabelSelector(job.Spec.Selector)}
}

func jobStatus(job *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool {
		for _, c := range job.Status.Conditions {
			if c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case job.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if has(t) {
			return string(t)
		}
	}
	return "Running"
}

func cronJobCells(cj *batchv1.CronJob) []any {
	names, images := templateCells(&cj.Spec.JobTemplate.Spec.Template.Spec)
	last := none
	if t := cj.Status.LastScheduleTime; t != nil {
		last = age(*t)
	}
	return []any{cj.Name, cj.Spec.Schedule, show(cj.Spec.TimeZone, none), title(cj.Spec.Suspend != nil && *cj.Spec.Suspend),
		int64(len(cj.Status.Active)), last, age(cj.CreationTimestamp), names, images, metav1.FormatLabelSelector(cj.Spec.JobTemplate.Spec.Selector)}
}

func podTemplateCells(t *corev1.PodTemplate) []any {
	names, images := templateCells(&t.Template.Spec)
	return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
}

func pdbCells(p *policyv1.PodDisruptionBudget) []any {
	min, max := "N/A", "N/A"
	if p.Spec.MinAvailable != nil {
		min = p.Spec.MinAvailable.String()
	}
	if p.Spec.MaxUnavailable != nil {
		max = p.Spec.MaxUnavailable.String()
	}
	return []any{p.Name, min, max, int64(p.Status.DisruptionsAllowed), age(p.CreationTimestamp)}
}

func hpaCells(hpa *autoscalingv2.HorizontalPodAutoscaler) []any {
	ref := hpa.Spec.ScaleTargetRef
	var targets []string
	for i, spec := range hpa.Spec.Metrics {
		var current *autoscalingv2.MetricStatus
		if i < len(hpa.Status.CurrentMetrics) {
			current = &hpa.Status.CurrentMetrics[i]
		}
		targets = append(targets, metricCell(&spec, current))
	}
	return []any{hpa.Name, ref.Kind + "/" + ref.Name, or(atMost(targets, 2, ", "), none), show(hpa.Spec.MinReplicas, unset),
		int64(hpa.Spec.MaxReplicas), int64(hpa.Status.CurrentReplicas), age(hpa.CreationTimestamp)}
}

// metricCell prints "what it is/what it should be" of one metric.
func metricCell(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var target autoscalingv2.MetricTarget
	var now autoscalingv2.MetricValueStatus
	prefix, average := "", " (avg)"
	if status == nil {
		status = &autoscalingv2.MetricStatus{}
	}
	switch {
	case spec.Resource != nil:
		target, prefix, average = spec.Resource.Target, string(spec.Resource.Name)+": ", ""
		if status.Resource != nil {
			now = status.Resource.Current
		}
	case spec.ContainerResource != nil:
		target, prefix, average = spec.ContainerResource.Target, string(spec.ContainerResource.Name)+": ", ""
		if status.ContainerResource != nil {
			now = status.ContainerResource.Current
		}
	case spec.Pods != nil:
		target, average = spec.Pods.Target, ""
		if status.Pods != nil {
			now = status.Pods.Current
		}
	case spec.Object != nil:
		target = spec.Object.Target
		if status.Object != nil {
			now = status.Object.Current
		}
	case spec.External != nil:
		target = spec.External.Target
		if status.External != nil {
			now = status.External.Current
		}
	default:
		return "<unknown type>"
	}
	quantity := func(q *resource.Quantity) string {
		if q == nil {
			return unknown
		}
		return q.String()
	}
	switch {
	case target.AverageValue != nil:
		return fmt.Sprintf("%s%s/%s%s", prefix, quantity(now.AverageValue), target.AverageValue, average)
	case prefix == "":
		return fmt.Sprintf("%s/%s", quantity(now.Value), quantity(target.Value))
	}
	percent := func(p *int32, def string) string {
		if p == nil {
			return def
		}
		return fmt.Sprintf("%d%%", *p)
	}
	return fmt.Sprintf("%s%s/%s", prefix, percent(now.AverageUtilization, unknown), percent(target.AverageUtilization, "<auto>"))
}

func number(p *int32) int64 {
	if p == nil {
		return 0
	}
	return int64(*p)
}
