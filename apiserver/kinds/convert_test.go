package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A client that reads an autoscaler in version 1 and writes it back loses nothing of it.
func TestAnAutoscalerSurvivesVersion1(t *testing.T) {
	five, percent := resource.MustParse("5"), int32(60)
	who := autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "web"}
	what := autoscalingv2.MetricIdentifier{Name: "queries", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &five}
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &five}
	used := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}
	now := autoscalingv2.MetricValueStatus{Value: &five, AverageValue: &five}
	want := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"mine": "yes"}},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &percent}},
			Metrics: []autoscalingv2.MetricSpec{
				{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: who, Metric: what, Target: value}},
				{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: who, Metric: what, Target: average}},
				{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{Metric: what, Target: average}},
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: used}},
				{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "c", Target: average}},
				{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: what, Target: value}},
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: used}}, // version 1 has a field for it
			}},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{DesiredReplicas: 2, Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: "AbleToScale", Status: "True"}},
			CurrentMetrics: []autoscalingv2.MetricStatus{
				{Type: "Object", Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: who, Metric: what, Current: now}},
				{Type: "Pods", Pods: &autoscalingv2.PodsMetricStatus{Metric: what, Current: autoscalingv2.MetricValueStatus{AverageValue: &five}}},
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageValue: &five, AverageUtilization: &percent}}},
				{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: "cpu", Container: "c", Current: autoscalingv2.MetricValueStatus{AverageValue: &five}}},
				{Type: "External", External: &autoscalingv2.ExternalMetricStatus{Metric: what, Current: now}},
			}}}
	old, err := hpaToV1(want.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	got, err := hpaToV2(old)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("- before, + after:\n%s", d)
	}
	v1 := old.(*autoscalingv1.HorizontalPodAutoscaler)
	if p := v1.Spec.TargetCPUUtilizationPercentage; p == nil || *p != percent {
		t.Errorf("version 1 has the target %v, want %d", p, percent)
	}
	if p := v1.Status.CurrentCPUUtilizationPercentage; p == nil || *p != percent {
		t.Errorf("version 1 has the use %v, want %d", p, percent)
	}
}
