package controllers

import (
	"fmt"
	"slices"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// asking makes a pod's container ask for one CPU, and the pod an hour old.
func asking(p *corev1.Pod) {
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
	p.Status.StartTime = new(metav1.NewTime(t0.Add(-time.Hour)))
}

// started makes a pod that young, and ready or not since then.
func started(age, changed time.Duration, ready corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = new(metav1.NewTime(t0.Add(-age)))
		p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = ready, metav1.NewTime(t0.Add(-changed))
	}
}

// millis is what pods use, measured just now over the last 15 s.
func millis(of ...int64) map[string]measured {
	out := map[string]measured{}
	for i, n := range of {
		if n >= 0 {
			out[string(rune('a'+i))] = measured{n, t0, 15 * time.Second}
		}
	}
	return out
}

const unknown = -1

func TestTheSizeForAUsage(t *testing.T) {
	asksCPU := func(p *corev1.Pod) (int64, error) { return requested(p, corev1.ResourceCPU, "") }
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	two := []*corev1.Pod{pod("a", "n", asking), pod("b", "n", asking)}
	with := func(changes ...func(*corev1.Pod)) []*corev1.Pod {
		return []*corev1.Pod{pod("a", "n", asking), pod("b", "n", append([]func(*corev1.Pod){asking}, changes...)...)}
	}
	const percent = 50
	for _, c := range []struct {
		why   string
		pods  []*corev1.Pod
		usage map[string]measured
		want  int32 // for a target of 50% and two replicas
	}{
		{"on target", two, millis(500, 500), 2},
		{"within the tolerance", two, millis(540, 540), 2},
		{"at its edge, since parts of a percent do not count", two, millis(559, 559), 2},
		{"above it", two, millis(560, 560), 3},
		{"twice the target", two, millis(1000, 1000), 4},
		{"a fifth of it", two, millis(100, 100), 1},
		{"a pod that waits for a node damps the growth", with(pending), millis(1500, unknown), 3},
		{"one that is not ready damps it", with(started(time.Minute, time.Minute, corev1.ConditionFalse)), millis(1500, 900), 3},
		{"one that became ready within the window of its figure, too", with(started(time.Minute, 14*time.Second, corev1.ConditionTrue)), millis(1500, 1500), 3},
		{"one that was ready all the while counts", with(started(time.Minute, 15*time.Second, corev1.ConditionTrue)), millis(1500, 1500), 6},
		{"after five minutes it counts at once", with(started(5*time.Minute, time.Second, corev1.ConditionTrue)), millis(1500, 1500), 6},
		{"and if it is no longer ready", with(started(5*time.Minute, time.Minute, corev1.ConditionFalse)), millis(1500, 1500), 6},
		{"but not if it never was", with(started(5*time.Minute, 4*time.Minute+31*time.Second, corev1.ConditionFalse)), millis(1500, 1500), 3},
		{"a pod without metrics is thought to use all that it asks for when there is little to do", two, millis(300, unknown), 2},
		{"and nothing when there is much", two, millis(1500, unknown), 3},
		{"which never turns growth into shrinking", two, millis(600, unknown), 2},
	} {
		cfg := DefaultConfig()
		w, err := cfg.weigh(c.pods, c.usage, corev1.ResourceCPU, asksCPU, t0)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		got := w.size(&autoscaler{}, 2, w.missing.asked, func(g group) float64 { return float64(g.utilization()) / percent })
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.why, got, c.want)
		}
	}
}

func TestAnAutoscalersOwnTolerance(t *testing.T) {
	h := &autoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: new(resource.MustParse("0.5"))}, ScaleDown: &autoscalingv2.HPAScalingRules{Tolerance: new(resource.MustParse("0"))}}}}
	for ratio, want := range map[float64]int32{1.4: 10, 1.6: 16, 0.95: 10, 0.85: 9} {
		if got := (weights{ready: group{count: 10}}).size(h, 10, 0, func(group) float64 { return ratio }); got != want {
			t.Errorf("at %v of the target: %d, want %d", ratio, got, want)
		}
	}
}

func TestWhatAPodAsksFor(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	half := corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}}
	sidecar := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "once", Resources: half}, {Name: "side", RestartPolicy: &always, Resources: half}}
	}
	whole := func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}
	}
	none := func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} }
	for _, c := range []struct {
		container, want string
		change          []func(*corev1.Pod)
	}{
		{"", "1000 <nil>", nil},
		{"", "1500 <nil>", []func(*corev1.Pod){sidecar}},
		{"side", "500 <nil>", []func(*corev1.Pod){sidecar}},
		{"", "3000 <nil>", []func(*corev1.Pod){whole}},
		{"c", "1000 <nil>", []func(*corev1.Pod){whole}},
		{"", "0 missing request for cpu in container c of Pod a", []func(*corev1.Pod){none}},
		{"x", "0 container x not found in Pod a", nil},
	} {
		n, err := requested(pod("a", "n", append([]func(*corev1.Pod){asking}, c.change...)...), corev1.ResourceCPU, c.container)
		if got := fmt.Sprint(n, " ", err); got != c.want {
			t.Errorf("%q: %s, want %s", c.container, got, c.want)
		}
	}
}

// step is one look of an autoscaler, at a second, and what comes of it.
type hpaStep struct {
	second            int
	current, proposed int32
	want              int32
	able, limited     string // the reasons of the conditions
}

func follow(t *testing.T, h *autoscaler, begin int32, steps []hpaStep) {
	t.Helper()
	p := &scaleHistory{}
	p.begin(begin, t0)
	for _, c := range steps {
		now := t0.Add(time.Duration(c.second) * time.Second)
		n := p.limit(h, c.current, c.proposed, 1, 5*time.Minute, now)
		if n != c.current {
			p.note(c.current, n, now)
		}
		able, limited := hpaCondition(h, autoscalingv2.AbleToScale), hpaCondition(h, autoscalingv2.ScalingLimited)
		if n != c.want || able != "True "+c.able || limited != c.limited {
			t.Errorf("at %d s from %d to %d: %d, %s, %s; want %d, %s, %s", c.second, c.current, c.proposed, n, able, limited, c.want, c.able, c.limited)
		}
	}
}

func hpaCondition(h *autoscaler, of autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	i := slices.IndexFunc(h.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of })
	if i < 0 {
		return ""
	}
	return string(h.Status.Conditions[i].Status) + " " + h.Status.Conditions[i].Reason
}

// Without behavior: up to the double or four, whichever is more, each time; down when for five minutes, the last
// second included, nothing higher was thought right. The size that was there in the beginning counts as a thought.
func TestGoingDownWaitsFiveMinutes(t *testing.T) {
	follow(t, &autoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100}}, 1, []hpaStep{
		{0, 1, 50, 4, "ReadyForNewScale", "True ScaleUpLimit"},
		{15, 4, 50, 8, "ReadyForNewScale", "True ScaleUpLimit"},
		{30, 8, 2, 16, "ScaleDownStabilized", "True ScaleUpLimit"}, // the highest thought is followed, upwards too
		{315, 50, 2, 50, "ScaleDownStabilized", "False DesiredWithinRange"},
		{316, 50, 2, 2, "ReadyForNewScale", "False DesiredWithinRange"},
		{330, 2, 0, 2, "ScaleDownStabilized", "False DesiredWithinRange"},
		{631, 2, 0, 1, "ReadyForNewScale", "True TooFewReplicas"},
		{645, 99, 500, 100, "ReadyForNewScale", "True TooManyReplicas"},
	})
	follow(t, &autoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100}}, 7, []hpaStep{
		{0, 7, 1, 7, "ScaleDownStabilized", "False DesiredWithinRange"},
		{300, 7, 1, 7, "ScaleDownStabilized", "False DesiredWithinRange"},
		{301, 7, 1, 1, "ReadyForNewScale", "False DesiredWithinRange"},
	})
}

// With behavior, whose defaults the API fills in but for one: by four or to the double each 15 s, whichever is more, and
// down five minutes after the last higher thought.
func TestBehaviorLimitsWhatAPeriodChanges(t *testing.T) {
	most, least := autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect
	fourOrDouble := []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}
	with := func(up, down autoscalingv2.HPAScalingRules) *autoscaler {
		return &autoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &up, ScaleDown: &down}}}
	}
	up := autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0)), SelectPolicy: &most, Policies: fourOrDouble}
	down := autoscalingv2.HPAScalingRules{SelectPolicy: &most, Policies: fourOrDouble[1:]}
	follow(t, with(up, down), 3, []hpaStep{
		{0, 3, 50, 7, "ReadyForNewScale", "True ScaleUpLimit"},
		{10, 7, 50, 7, "ReadyForNewScale", "True ScaleUpLimit"}, // within the 15 s of the policy nothing is left
		{15, 7, 50, 14, "ReadyForNewScale", "True ScaleUpLimit"},
		{30, 14, 2, 14, "ScaleDownStabilized", "False DesiredWithinRange"}, // never upwards against the last thought
		{314, 14, 2, 14, "ScaleDownStabilized", "False DesiredWithinRange"},
		{315, 14, 2, 2, "ReadyForNewScale", "False DesiredWithinRange"},
		{330, 99, 500, 100, "ReadyForNewScale", "True TooManyReplicas"},
	})
	// A tenth at a time, rounded towards fewer; what was added in the period may go as well.
	tenth := autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0)), SelectPolicy: &most, Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 10, PeriodSeconds: 60}}}
	follow(t, with(up, tenth), 11, []hpaStep{
		{0, 11, 1, 9, "ReadyForNewScale", "True ScaleDownLimit"},
		{15, 9, 1, 9, "ReadyForNewScale", "True ScaleDownLimit"},
		{60, 9, 1, 8, "ReadyForNewScale", "True ScaleDownLimit"},
		{75, 8, 12, 12, "ReadyForNewScale", "False DesiredWithinRange"},
		{90, 12, 1, 8, "ReadyForNewScale", "True ScaleDownLimit"}, // nine, a minute ago: a tenth of those
	})
	// The stricter policy, and a minute before growth.
	strict := autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(60)), SelectPolicy: &least, Policies: fourOrDouble}
	follow(t, with(strict, down), 1, []hpaStep{
		{0, 1, 9, 1, "ScaleUpStabilized", "False DesiredWithinRange"},
		{59, 1, 9, 1, "ScaleUpStabilized", "False DesiredWithinRange"},
		{60, 1, 9, 2, "ReadyForNewScale", "True ScaleUpLimit"},
		{75, 2, 9, 4, "ReadyForNewScale", "True ScaleUpLimit"},
		{90, 4, 9, 8, "ReadyForNewScale", "True ScaleUpLimit"},
	})
}
