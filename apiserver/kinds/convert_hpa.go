package kinds

import (
	"encoding/json"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What version 1 of an autoscaler has no field for travels in annotations, so that a client that only knows version 1 does not lose it.
//
// Upstream: pkg/apis/autoscaling/annotations.go.
const (
	hpaMetrics    = "autoscaling.alpha.kubernetes.io/metrics"
	hpaCurrent    = "autoscaling.alpha.kubernetes.io/current-metrics"
	hpaBehavior   = "autoscaling.alpha.kubernetes.io/behavior"
	hpaConditions = "autoscaling.alpha.kubernetes.io/conditions"
)

// hpaToV2 reads an autoscaler of version 1, which knows one target only: how much of the requested processor time is used.
//
// Upstream: pkg/apis/autoscaling/v1/conversion.go, Convert_v1_HorizontalPodAutoscaler_To_autoscaling_HorizontalPodAutoscaler.
func hpaToV2(in runtime.Object) (runtime.Object, error) {
	old, ok := in.(*autoscalingv1.HorizontalPodAutoscaler)
	if !ok {
		return nil, fmt.Errorf("cannot convert %T to an autoscaling/v2 HorizontalPodAutoscaler", in)
	}
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: *old.ObjectMeta.DeepCopy(),
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(old.Spec.ScaleTargetRef),
			MinReplicas:    old.Spec.MinReplicas, MaxReplicas: old.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: old.Status.ObservedGeneration, LastScaleTime: old.Status.LastScaleTime,
			CurrentReplicas: old.Status.CurrentReplicas, DesiredReplicas: old.Status.DesiredReplicas,
		},
	}
	if p := old.Spec.TargetCPUUtilizationPercentage; p != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(*p))
	}
	if p := old.Status.CurrentCPUUtilizationPercentage; p != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: p}}}}
	}
	var more []autoscalingv1.MetricSpec
	var current []autoscalingv1.MetricStatus
	for key, into := range map[string]any{hpaMetrics: &more, hpaCurrent: &current, hpaBehavior: &out.Spec.Behavior, hpaConditions: &out.Status.Conditions} {
		if text, ok := out.Annotations[key]; ok {
			if err := json.Unmarshal([]byte(text), into); err == nil {
				delete(out.Annotations, key) // what cannot be read stays where it is
			}
		}
	}
	out.Spec.Metrics = append(each(more, metricToV2), out.Spec.Metrics...)
	if current != nil { // tells more than the one field
		out.Status.CurrentMetrics = each(current, metricStatusToV2)
	}
	return out, nil
}

func cpuMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}
}

// hpaToV1 shows an autoscaler in version 1.
//
// Upstream: pkg/apis/autoscaling/v1/conversion.go, Convert_autoscaling_HorizontalPodAutoscaler_To_v1_HorizontalPodAutoscaler.
// Left out: the behavior's field names begin with small letters; both servers read either.
func hpaToV1(in runtime.Object) (runtime.Object, error) {
	hpa, ok := in.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return nil, fmt.Errorf("cannot convert %T to an autoscaling/v1 HorizontalPodAutoscaler", in)
	}
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: hpa.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(hpa.Spec.ScaleTargetRef),
			MinReplicas:    hpa.Spec.MinReplicas, MaxReplicas: hpa.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: hpa.Status.ObservedGeneration, LastScaleTime: hpa.Status.LastScaleTime,
			CurrentReplicas: hpa.Status.CurrentReplicas, DesiredReplicas: hpa.Status.DesiredReplicas,
		},
	}
	var more []autoscalingv1.MetricSpec
	for _, m := range hpa.Spec.Metrics {
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		more = append(more, metricToV1(m))
	}
	for _, m := range hpa.Status.CurrentMetrics {
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
	}
	notes := map[string]any{}
	if len(more) > 0 {
		notes[hpaMetrics] = more
	}
	if len(hpa.Status.CurrentMetrics) > 0 { // the use of the processor too, for its value
		notes[hpaCurrent] = each(hpa.Status.CurrentMetrics, metricStatusToV1)
	}
	if hpa.Spec.Behavior != nil {
		notes[hpaBehavior] = hpa.Spec.Behavior
	}
	if len(hpa.Status.Conditions) > 0 {
		notes[hpaConditions] = hpa.Status.Conditions
	}
	if len(notes) > 0 {
		out.Annotations = maps.Clone(hpa.Annotations)
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
	}
	for key, value := range notes {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out.Annotations[key] = string(text)
	}
	return out, nil
}
