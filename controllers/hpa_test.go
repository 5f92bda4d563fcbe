package controllers

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestTheSizeForAUsage(t *testing.T) {
	asks := func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
	}
	notReady := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	for _, c := range []struct {
		why   string
		pods  []*corev1.Pod
		usage map[string]int64 // thousandths of a core
		want  int32            // for a target of 50%
	}{
		{"on target", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks)}, map[string]int64{"a": 500, "b": 500}, 2},
		{"within the tolerance", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks)}, map[string]int64{"a": 540, "b": 540}, 2},
		{"twice the target", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks)}, map[string]int64{"a": 1000, "b": 1000}, 4},
		{"a fifth of it", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks)}, map[string]int64{"a": 100, "b": 100}, 1},
		{"a pod that starts damps the growth", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks, notReady)}, map[string]int64{"a": 1500, "b": 0}, 3},
		{"a pod without metrics damps the shrinking", []*corev1.Pod{pod("a", "n", asks), pod("b", "n", asks)}, map[string]int64{"a": 300}, 2},
	} {
		w, err := weigh(c.pods, c.usage, corev1.ResourceCPU, "")
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		if got := w.replicas(0.5, int32(len(c.pods))); got != c.want {
			t.Errorf("%s: %d, want %d", c.why, got, c.want)
		}
	}
	if _, err := weigh([]*corev1.Pod{pod("a", "n", func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{{Name: "c"}} })}, nil, corev1.ResourceCPU, ""); err == nil || err.Error() != "missing request for cpu in container c of Pod a" {
		t.Error(err)
	}
}

func TestGoingDownWaitsFiveMinutesAndGoingUpHasALimit(t *testing.T) {
	h := &autoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100}}
	p := &scaleHistory{}
	at := func(s int, current, proposed int32) int32 {
		now := t0.Add(time.Duration(s) * time.Second)
		n := p.limit(h, current, proposed, 1, 5*time.Minute, now)
		if n != current {
			p.note(current, n, now)
		}
		return n
	}
	for _, c := range []struct {
		second            int
		current, proposed int32
		want              int32
	}{
		{0, 3, 50, 7},       // four more, or double: four is more
		{10, 7, 50, 7},      // within the 15 s of the policy nothing is left
		{15, 7, 50, 14},     // doubled
		{30, 14, 2, 14},     // 50 was thought right less than five minutes ago
		{314, 14, 2, 14},    // the last thought of 50 was at 15 s
		{315, 14, 2, 2},     // now it was lower all the time
		{330, 2, 500, 6},    // up again at once
		{345, 99, 500, 100}, // the bound
	} {
		if got := at(c.second, c.current, c.proposed); got != c.want {
			t.Errorf("at %d s from %d to %d: %d, want %d", c.second, c.current, c.proposed, got, c.want)
		}
	}
}
