package kinds

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestImagesWithoutAVersionAreAlwaysPulled(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1": corev1.PullIfNotPresent,
		"host:5000/nginx": corev1.PullAlways, "host:5000/nginx:1": corev1.PullIfNotPresent,
		"nginx@sha256:0123": corev1.PullIfNotPresent,
	} {
		if got := pullPolicyFor(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func TestQOSClass(t *testing.T) {
	both := amounts("cpu", "1", "memory", "1Gi")
	for name, c := range map[string]struct {
		containers []corev1.ResourceRequirements
		want       corev1.PodQOSClass
	}{
		"nothing said":         {[]corev1.ResourceRequirements{{}, {}}, corev1.PodQOSBestEffort},
		"all limited":          {[]corev1.ResourceRequirements{{Limits: both, Requests: both}}, corev1.PodQOSGuaranteed},
		"one of two limited":   {[]corev1.ResourceRequirements{{Limits: both, Requests: both}, {}}, corev1.PodQOSBurstable},
		"no limit of memory":   {[]corev1.ResourceRequirements{{Limits: amounts("cpu", "1"), Requests: amounts("cpu", "1")}}, corev1.PodQOSBurstable},
		"less than the limit":  {[]corev1.ResourceRequirements{{Limits: both, Requests: amounts("cpu", "500m", "memory", "1Gi")}}, corev1.PodQOSBurstable},
		"other resources only": {[]corev1.ResourceRequirements{{Limits: amounts("x.io/gpu", "1")}}, corev1.PodQOSBestEffort},
	} {
		spec := &corev1.PodSpec{}
		for _, r := range c.containers {
			spec.Containers = append(spec.Containers, corev1.Container{Resources: r})
		}
		if got := qosClass(spec); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestGraceOfAPod(t *testing.T) {
	pod := func(node string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: new(int64(30))}, Status: corev1.PodStatus{Phase: phase}}
	}
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		asked  *int64
		period int64
	}{
		"as the pod says":      {pod("n", corev1.PodRunning), nil, 30},
		"as the client says":   {pod("n", corev1.PodRunning), new(int64(5)), 5},
		"by force":             {pod("n", corev1.PodRunning), new(int64(0)), 0},
		"never negative":       {pod("n", corev1.PodRunning), new(int64(-1)), 1},
		"never came to a node": {pod("", corev1.PodPending), nil, 0},
		"has ended":            {pod("n", corev1.PodFailed), nil, 0},
	} {
		if got := podGracePeriod(c.pod, &metav1.DeleteOptions{GracePeriodSeconds: c.asked}); got != c.period {
			t.Errorf("%s: %d s, want %d", name, got, c.period)
		}
	}
}

func TestSchedules(t *testing.T) {
	for schedule, want := range map[string]string{
		"*/5 * * * *": "", "0 0 1-5 jan,mar mon-fri": "", "@hourly": "", "@every 5m": "",
		"x * * * *":    `failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax`,
		"60 * * * *":   "end of range (60) above maximum (59): 60",
		"* * 0 * *":    "beginning of range (0) below minimum (1): 0",
		"5-1 * * * *":  "beginning of range (5) beyond end of range (1): 5-1",
		"*/0 * * * *":  "step of range should be a positive number: */0",
		"@sometimes":   "unrecognized descriptor: @sometimes",
		"* * * * * * ": "expected exactly 5 fields, found 6: [* * * * * *]",
	} {
		got := ""
		if err := checkSchedule(schedule); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", schedule, got, want)
		}
	}
}

// shown makes the STATUS, READY and RESTARTS cells of a pod with the given container states.
func shown(change func(*corev1.Pod)) [3]any {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	change(pod)
	cells := podCells(pod)
	return [3]any{cells[1], cells[2], cells[3]}
}

func TestStatusOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running := corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		waiting := func(why string) corev1.ContainerStatus {
			return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}}
		}
		ended := func(why string, code int32) corev1.ContainerStatus {
			return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: why, ExitCode: code}}}
		}
		crashed := waiting("CrashLoopBackOff")
		crashed.RestartCount = 3
		crashed.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-5 * time.Minute))}
		set := func(cs ...corev1.ContainerStatus) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Status.ContainerStatuses = cs }
		}
		for name, c := range map[string]struct {
			change func(*corev1.Pod)
			want   [3]any
		}{
			"running":        {set(running, running), [3]any{"2/2", "Running", "0"}},
			"creating":       {set(waiting("ContainerCreating"), waiting("ContainerCreating")), [3]any{"0/2", "ContainerCreating", "0"}},
			"crashing":       {set(crashed, running), [3]any{"1/2", "CrashLoopBackOff", "3 (5m ago)"}},
			"completed":      {set(ended("Completed", 0), ended("Completed", 0)), [3]any{"0/2", "Completed", "0"}},
			"half completed": {set(ended("Completed", 0), running), [3]any{"1/2", "NotReady", "0"}},
			"a silent end":   {set(ended("", 7), running), [3]any{"1/2", "ExitCode:7", "0"}},
			"gated": {func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodPending
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: corev1.PodReasonSchedulingGated}}
			}, [3]any{"0/2", "SchedulingGated", "0"}},
			"first of two init containers": {func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "i"}, {Name: "j"}}
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{waiting("PodInitializing"), waiting("PodInitializing")}
			}, [3]any{"0/2", "Init:0/2", "0"}},
			"a failing init container": {func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended("Error", 1)}
			}, [3]any{"0/2", "Init:Error", "0"}},
			"a sidecar counts": {func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "i", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
				sidecar := running
				sidecar.Name, sidecar.Started = "i", new(true)
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{sidecar}
				p.Status.ContainerStatuses = []corev1.ContainerStatus{running, running}
			}, [3]any{"3/3", "Running", "0"}},
			"being deleted": {func(p *corev1.Pod) {
				set(running, running)(p)
				p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			}, [3]any{"2/2", "Terminating", "0"}},
			"evicted": {func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, [3]any{"0/2", "Evicted", "0"}},
		} {
			if got := shown(c.change); got != c.want {
				t.Errorf("%s: got %v, want %v", name, got, c.want)
			}
		}
	})
}

// What a pod says by the keys of its own labels becomes part of its selectors.
func TestLabelKeysBecomeSelectors(t *testing.T) {
	term := corev1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		MatchLabelKeys: []string{"revision", "unset"}, MismatchLabelKeys: []string{"tenant"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"revision": "2", "tenant": "a"}}, Spec: corev1.PodSpec{
		Affinity:                  &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: *term.DeepCopy()}}}},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"revision"}}, {MatchLabelKeys: []string{"revision"}}},
	}}
	createPod(t.Context(), pod)
	got := metav1.FormatLabelSelector(pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm.LabelSelector)
	if want := "app=web,revision in (2),tenant notin (a)"; got != want {
		t.Errorf("anti-affinity selects %s, want %s", got, want)
	}
	if got := metav1.FormatLabelSelector(pod.Spec.TopologySpreadConstraints[0].LabelSelector); got != "revision in (2)" {
		t.Errorf("the constraint selects %s", got)
	}
	if pod.Spec.TopologySpreadConstraints[1].LabelSelector != nil {
		t.Error("a constraint without a selector, which selects nothing, got one")
	}
}

func TestLabelKeysThatContradict(t *testing.T) {
	at := field.NewPath("at")
	web := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web"}}}}
	for want, c := range map[string]struct {
		match, mismatch []string
		sel             *metav1.LabelSelector
	}{
		"": {[]string{"revision"}, []string{"tenant"}, web},
		"at.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set":                {[]string{"app"}, nil, nil},
		"at.mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set":             {nil, []string{"app"}, nil},
		`at[0]: Invalid value: "app": exists in both matchLabelKeys and labelSelector`:                     {[]string{"app"}, nil, web},
		`at.matchLabelKeys[0]: Invalid value: "tier": exists in both matchLabelKeys and mismatchLabelKeys`: {[]string{"tier"}, []string{"tier"}, web},
	} {
		var checks checks
		checks.labelKeys(c.match, c.mismatch, c.sel, at)
		got := ""
		if err := checks.errs.ToAggregate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
