package controllers

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var t0 = time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)

// Names of ReplicaSets are hashes that upstream computes; these come from a
// kubeadm v1.36.3 cluster.
func TestTheTemplateHashIsUpstreams(t *testing.T) {
	for image, want := range map[string]string{"docker.io/demo/app:1": "5b545869c7", "docker.io/demo/nosuch:9": "5679756d56"} {
		var tmpl corev1.PodTemplateSpec
		raw := fmt.Sprintf(`{"metadata":{"labels":{"app":"hello"}},"spec":{"containers":[{"name":"app","image":%q,
			"ports":[{"containerPort":9898,"protocol":"TCP"}],"resources":{},"terminationMessagePath":"/dev/termination-log",
			"terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always",
			"terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler"}}`, image)
		if err := json.Unmarshal([]byte(raw), &tmpl); err != nil {
			t.Fatal(err)
		}
		if got := templateHash(&tmpl, nil); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
		if templateHash(&tmpl, new(int32(1))) == want {
			t.Error("a collision does not change the hash")
		}
	}
}

func rs(name string, want, available int32, age int) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(t0.Add(-time.Duration(age) * time.Minute))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &want},
		Status:     appsv1.ReplicaSetStatus{Replicas: want, AvailableReplicas: available},
	}
}

func rolling(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas, Strategy: appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
	}}}
}

func steps(ss []step) string {
	var out []string
	for _, s := range ss {
		out = append(out, fmt.Sprintf("%s=%d", s.rs.Name, s.to))
	}
	return strings.Join(out, " ")
}

func TestRollingUpdateArithmetic(t *testing.T) {
	for _, c := range []struct {
		name                 string
		d                    *appsv1.Deployment
		next                 *appsv1.ReplicaSet
		old                  []*appsv1.ReplicaSet
		wantUp, wantDown     string
		wantSurge, wantUnava int32
	}{
		{"25% of 4 is one each", rolling(4, "25%", "25%"), rs("new", 0, 0, 0), []*appsv1.ReplicaSet{rs("old", 4, 4, 9)}, "new=1", "old=3", 1, 1},
		{"surge rounds up, unavailable down", rolling(3, "25%", "25%"), rs("new", 0, 0, 0), []*appsv1.ReplicaSet{rs("old", 3, 3, 9)}, "new=1", "", 1, 0},
		{"both zero would never move", rolling(2, "0", "0"), rs("new", 0, 0, 0), []*appsv1.ReplicaSet{rs("old", 2, 2, 9)}, "", "old=1", 0, 1},
		{"an available new pod frees an old one", rolling(3, "25%", "25%"), rs("new", 1, 1, 0), []*appsv1.ReplicaSet{rs("old", 3, 3, 9)}, "", "old=2", 1, 0},
		{"an unavailable new pod frees none", rolling(3, "25%", "25%"), rs("new", 1, 0, 0), []*appsv1.ReplicaSet{rs("old", 3, 3, 9)}, "", "", 1, 0},
		{"broken old pods go first, from the oldest", rolling(4, "25%", "25%"), rs("new", 1, 0, 0), []*appsv1.ReplicaSet{rs("a", 2, 0, 9), rs("b", 2, 2, 5)}, "", "a=1", 1, 1},
		{"the new set is too large", rolling(2, "25%", "25%"), rs("new", 5, 5, 0), nil, "new=2", "", 1, 0},
		{"an old status is waited for", rolling(6, "2", "0"), rs("new", 3, 2, 0), []*appsv1.ReplicaSet{rs("old", 5, 6, 9)}, "", "", 2, 0},
		{"what goes counts no more", rolling(4, "0", "1"), rs("new", 2, 2, 0), []*appsv1.ReplicaSet{rs("a", 0, 1, 9), rs("b", 2, 1, 5)}, "", "b=1", 0, 1},
		{"done", rolling(2, "25%", "25%"), rs("new", 2, 2, 0), []*appsv1.ReplicaSet{rs("old", 0, 0, 9)}, "", "", 1, 0},
	} {
		s, u := fenceposts(c.d)
		if s != c.wantSurge || u != c.wantUnava {
			t.Errorf("%s: surge %d unavailable %d", c.name, s, u)
		}
		if got := steps(rollingUp(c.d, c.next, c.old)); got != c.wantUp {
			t.Errorf("%s: up %q, want %q", c.name, got, c.wantUp)
		}
		if got := steps(rollingDown(c.d, c.next, c.old)); got != c.wantDown {
			t.Errorf("%s: down %q, want %q", c.name, got, c.wantDown)
		}
	}
}

func TestScalingInTheMiddleOfARolloutIsProportional(t *testing.T) {
	d := rolling(10, "3", "2")
	old, next := rs("old", 8, 8, 9), rs("new", 5, 0, 0)
	for _, r := range []*appsv1.ReplicaSet{old, next} {
		noteReplicas(r, 10, 13)
	}
	d.Spec.Replicas = new(int32(15)) // allowed 18, there are 13
	if got := steps(rescaling(d, next, []*appsv1.ReplicaSet{old})); got != "old=11 new=7" {
		t.Error(got)
	}
	d.Spec.Replicas = new(int32(5))
	if got := steps(rescaling(d, next, []*appsv1.ReplicaSet{old})); got != "old=5 new=3" {
		t.Error(got)
	}
	if got := steps(rescaling(d, nil, []*appsv1.ReplicaSet{rs("only", 3, 3, 1)})); got != "only=5" {
		t.Error(got)
	}
}

func TestARolledBackSetRemembersItsRevisions(t *testing.T) {
	d := rolling(1, "1", "0")
	d.Annotations = map[string]string{"team": "x", revisionAnnotation: "2"}
	r := rs("a", 1, 1, 0)
	r.Annotations = map[string]string{revisionAnnotation: "1"}
	annotateRevision(d, r, 3, true)
	annotateRevision(d, r, 3, true)
	if r.Annotations[revisionAnnotation] != "3" || r.Annotations[revisionHistoryAnnotation] != "1" || r.Annotations["team"] != "x" {
		t.Error(r.Annotations)
	}
	annotateRevision(d, r, 5, true)
	if r.Annotations[revisionHistoryAnnotation] != "1,3" {
		t.Error(r.Annotations)
	}
}

func TestAStuckRolloutTimesOut(t *testing.T) {
	d := rolling(2, "1", "0")
	d.Spec.ProgressDeadlineSeconds = new(int32(600))
	next := rs("new", 1, 0, 0)
	judge := func(now time.Time) *appsv1.DeploymentCondition {
		s := deploymentStatus(d, []*appsv1.ReplicaSet{next}, next)
		judgeProgress(d, &s, []*appsv1.ReplicaSet{next}, next, now)
		d.Status = s
		return deploymentCondition(s, appsv1.DeploymentProgressing)
	}
	if c := judge(t0); c == nil || c.Reason != "ReplicaSetUpdated" || c.Message != `ReplicaSet "new" is progressing.` {
		t.Errorf("%+v", c)
	}
	if after := progressCheckAfter(d, t0); after != 601*time.Second {
		t.Errorf("looks again after %v", after)
	}
	if c := judge(t0.Add(600 * time.Second)); c.Reason != "ReplicaSetUpdated" {
		t.Errorf("%+v", c)
	}
	c := judge(t0.Add(601 * time.Second))
	if c.Reason != "ProgressDeadlineExceeded" || c.Status != corev1.ConditionFalse || c.Message != `ReplicaSet "new" has timed out progressing.` {
		t.Errorf("%+v", c)
	}
	next = rs("new", 2, 2, 0)
	if c := judge(t0.Add(700 * time.Second)); c.Reason != "NewReplicaSetAvailable" || c.Message != `ReplicaSet "new" has successfully progressed.` {
		t.Errorf("%+v", c)
	}
}

func pod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(t0.Add(-time.Hour))}}
	p.Spec.NodeName, p.Status.Phase = node, corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0.Add(-time.Hour))}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestTheLeastValuablePodIsDeletedFirst(t *testing.T) {
	notReady := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; notReady(p) }
	cost := func(n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: n} }
	}
	readySince := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(t0.Add(-d)) }
	}
	restarted := func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }
	young := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(t0.Add(-time.Second)) }
	for _, c := range []struct {
		why           string
		first, second *corev1.Pod
	}{
		{"without a node", pod("b", "", pending), pod("a", "n", pending)},
		{"pending", pod("b", "n", pending), pod("a", "n", notReady)},
		{"not ready", pod("b", "n", notReady), pod("a", "n")},
		{"cheaper", pod("b", "n", cost("-1")), pod("a", "n")},
		{"ready for a shorter time", pod("b", "n", readySince(time.Second)), pod("a", "n")},
		{"restarted more often", pod("b", "n", restarted), pod("a", "n")},
		{"younger", pod("b", "n", young), pod("a", "n")},
		{"by UID", pod("a", "n"), pod("b", "n")},
	} {
		got := victims([]*corev1.Pod{c.second, c.first}, nil, 1, t0)
		if got[0] != c.first {
			t.Errorf("%s: %s goes first", c.why, got[0].Name)
		}
	}
	a, b1, b2 := pod("a", "n1"), pod("b1", "n2"), pod("b2", "n2")
	all := []*corev1.Pod{a, b1, b2}
	if got := victims(all, all, 1, t0); got[0] == a {
		t.Error("the pod that is alone on its node goes before the doubled ones")
	}
}

func TestAdoptionAndRelease(t *testing.T) {
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "o", UID: "1"}}
	ending := owner.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: t0}
	selector := labels.SelectorFromSet(labels.Set{"a": "b"})
	obj := func(label string, ref types.UID) *corev1.Pod {
		p := pod("p", "n")
		p.Labels = map[string]string{"a": label}
		if ref != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: ref, Controller: new(true)}}
		}
		return p
	}
	for _, c := range []struct {
		owner metav1.Object
		pod   *corev1.Pod
		want  claim
	}{
		{owner, obj("b", "1"), keep}, {owner, obj("c", "1"), release}, {owner, obj("b", "2"), leave},
		{owner, obj("b", ""), adopt}, {owner, obj("c", ""), leave}, {ending, obj("b", ""), leave}, {ending, obj("c", "1"), leave},
	} {
		if got := decideClaim(c.owner, c.pod, selector); got != c.want {
			t.Errorf("%v %v: %d, want %d", c.pod.Labels, c.pod.OwnerReferences, got, c.want)
		}
	}
}

func TestSlowStartStopsAtTheFirstBatchThatFails(t *testing.T) {
	calls := make(chan int, 100)
	done, err := slowStart(100, func(i int) error {
		calls <- i
		if i == 4 {
			return fmt.Errorf("quota")
		}
		return nil
	})
	if done != 6 || err == nil || len(calls) != 7 { // batches of 1, 2 and 4
		t.Error(done, err, len(calls))
	}
}

func stateful(policy appsv1.PodManagementPolicyType, partition int32, pods ...*corev1.Pod) statefulView {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}}
	set.Spec.Replicas, set.Spec.PodManagementPolicy = new(int32(3)), policy
	set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition}}
	revision := func(name string) *appsv1.ControllerRevision {
		return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	return viewStateful(set, pods, revision("old"), revision("new"), t0)
}

func TestTheNextStepOfAStatefulSet(t *testing.T) {
	of := func(revision string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: revision} }
	}
	notReady := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: t0} }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	db := func(n int, change ...func(*corev1.Pod)) *corev1.Pod {
		return pod(fmt.Sprintf("db-%d", n), "n", append([]func(*corev1.Pod){of("new")}, change...)...)
	}
	const ordered, parallel = appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement
	for _, c := range []struct {
		why  string
		view statefulView
		want string
	}{
		{"the first pod first", stateful(ordered, 0), "+0"},
		{"the second waits until the first is ready", stateful(ordered, 0, db(0, notReady)), ""},
		{"then comes", stateful(ordered, 0, db(0)), "+1"},
		{"all at once in parallel", stateful(parallel, 0), "+0 +1 +2"},
		{"a pod that is ending is not replaced", stateful(ordered, 0, db(0, ending), db(1), db(2)), ""},
		{"a failed pod is", stateful(ordered, 0, db(0), db(1, failed), db(2)), "~1"},
		{"the highest goes first", stateful(ordered, 0, db(0), db(1), db(2), db(3), db(4)), "-4"},
		{"one at a time", stateful(ordered, 0, db(0), db(1), db(2), db(3), db(4, ending)), ""},
		{"updates go from the top", stateful(ordered, 0, db(0, of("old")), db(1, of("old")), db(2, of("old"))), "-2"},
		{"and wait for each other", stateful(ordered, 0, db(0, of("old")), db(1, of("old")), db(2, notReady)), ""},
		{"down to the partition", stateful(ordered, 2, db(0, of("old")), db(1, of("old")), db(2)), ""},
	} {
		var got []string
		for _, a := range c.view.next() {
			sign := "-"
			if a.create {
				sign = "+"
			} else if a.replace {
				sign = "~"
			}
			got = append(got, fmt.Sprint(sign, a.ordinal))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %q", c.why, got, c.want)
		}
	}
}

func TestCronSchedules(t *testing.T) {
	from := time.Date(2024, 2, 28, 23, 59, 30, 0, time.UTC) // a Wednesday in a leap year
	for spec, want := range map[string]string{
		"* * * * *":       "2024-02-29T00:00:00Z",
		"*/15 * * * *":    "2024-02-29T00:00:00Z",
		"5,35 3-4 * * *":  "2024-02-29T03:05:00Z",
		"0 12 29 2 *":     "2024-02-29T12:00:00Z",
		"0 0 13 * fri":    "2024-03-01T00:00:00Z", // the 13th or a Friday
		"0 0 * * mon-tue": "2024-03-04T00:00:00Z",
		"30 6 1 jan *":    "2025-01-01T06:30:00Z",
		"@weekly":         "2024-03-03T00:00:00Z",
		"@every 90s":      "2024-02-29T00:01:00Z",
	} {
		s, err := parseSchedule(spec, new("UTC"))
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if got := s.next(from).Format(time.RFC3339); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
	for _, bad := range []string{"", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "x * * * *"} {
		if _, err := parseSchedule(bad, nil); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	berlin, err := parseSchedule("30 2 * * *", new("Europe/Berlin"))
	if err != nil {
		t.Fatal(err)
	}
	// On 2024-03-31 there is no 02:30 in Berlin.
	if got := berlin.next(time.Date(2024, 3, 30, 12, 0, 0, 0, time.UTC)).Format(time.RFC3339); got != "2024-04-01T00:30:00Z" {
		t.Error(got)
	}
}

func TestIndexesAreWrittenAsRanges(t *testing.T) {
	done := map[int]bool{}
	for _, i := range []int{0, 1, 2, 5, 7, 8} {
		done[i] = true
	}
	s := formatIndexes(done)
	if s != "0-2,5,7,8" {
		t.Error(s)
	}
	if got := parseIndexes(s, 8); !maps.Equal(got, map[int]bool{0: true, 1: true, 2: true, 5: true, 7: true}) {
		t.Error(got)
	}
}

// What a Job does next: which indexes get pods, which pods go, and why it ends.
func TestAJobDecides(t *testing.T) {
	of := func(index, failures int, change ...func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Finalizers = []string{batchv1.JobTrackingFinalizer}
			p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(index), batchv1.JobIndexFailureCountAnnotation: fmt.Sprint(failures)}
			for _, f := range change {
				f(p)
			}
		}
	}
	ended := func(phase corev1.PodPhase, code int32, ago time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = phase
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(t0.Add(-ago))}}}}
		}
	}
	done, failed := ended(corev1.PodSucceeded, 0, time.Minute), ended(corev1.PodFailed, 1, time.Minute)
	restarted := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
	}
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	byIndex := func(limit int32) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = &limit }
	}
	enough := func(rule batchv1.SuccessPolicyRule) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
		}
	}
	onFailure := func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Template.Spec.RestartPolicy = new(int32(2)), corev1.RestartPolicyOnFailure
	}
	for _, c := range []struct {
		name string
		spec func(*batchv1.JobSpec)
		pods []func(*corev1.Pod)
		want string
	}{
		{"it begins", nil, nil, "create [0 1 2]"},
		{"one is done, one runs", nil, []func(*corev1.Pod){of(1, 0, done), of(0, 0)}, "create [2]"},
		{"two of an index", nil, []func(*corev1.Pod){of(0, 0, pending), of(0, 0), of(1, 0), of(2, 0)}, "remove [p0]"},
		{"no index of the job", nil, []func(*corev1.Pod){of(0, 0), of(3, 0), of(1, 0), of(2, 0)}, "remove [p1]"},
		{"after a failure an index waits", byIndex(2), []func(*corev1.Pod){of(0, 0), of(1, 1, ended(corev1.PodFailed, 1, 4*time.Second)), of(2, 0)}, "in 16s"},
		{"and has another pod then", byIndex(2), []func(*corev1.Pod){of(0, 0), of(1, 1, failed), of(2, 0)}, "create [1]"},
		{"until it has failed too often", byIndex(1), []func(*corev1.Pod){of(0, 0), of(1, 1, failed), of(2, 0)}, ""},
		{"all indexes have ended", byIndex(1), []func(*corev1.Pod){of(0, 0, done), of(1, 1, failed), of(2, 0, done)}, "FailedIndexes"},
		{"too many have failed", func(s *batchv1.JobSpec) { byIndex(0)(s); s.MaxFailedIndexes = new(int32(0)) }, []func(*corev1.Pod){of(0, 0), of(1, 0, failed)}, "MaxFailedIndexesExceeded, remove [p0]"},
		{"a policy gives an index up", func(s *batchv1.JobSpec) {
			byIndex(9)(s)
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailIndex,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}}}}}
		}, []func(*corev1.Pod){of(0, 0, done), of(1, 0, failed), of(2, 0, done)}, "FailedIndexes"},
		{"an index suffices", enough(batchv1.SuccessPolicyRule{SucceededIndexes: new("0")}), []func(*corev1.Pod){of(0, 0, done), of(1, 0)}, "SuccessPolicy, remove [p1]"},
		{"the wrong one does not", enough(batchv1.SuccessPolicyRule{SucceededIndexes: new("0")}), []func(*corev1.Pod){of(1, 0, done), of(0, 0), of(2, 0)}, ""},
		{"some of them suffice", enough(batchv1.SuccessPolicyRule{SucceededIndexes: new("0-2"), SucceededCount: new(int32(1))}), []func(*corev1.Pod){of(1, 0, done), of(0, 0)}, "SuccessPolicy, remove [p1]"},
		{"restarts up to the limit", onFailure, []func(*corev1.Pod){of(0, 0, restarted(1)), of(1, 0), of(2, 0)}, ""},
		{"restarts at the limit", onFailure, []func(*corev1.Pod){of(0, 0, restarted(2))}, "BackoffLimitExceeded, remove [p0]"},
		{"it is suspended", func(s *batchv1.JobSpec) { s.Suspend = new(true) }, []func(*corev1.Pod){of(0, 0), of(1, 0)}, "remove [p0 p1]"},
	} {
		job := &batchv1.Job{Spec: batchv1.JobSpec{CompletionMode: new(batchv1.IndexedCompletion), Completions: new(int32(3)), Parallelism: new(int32(3)), BackoffLimit: new(int32(6))}}
		if c.spec != nil {
			c.spec(&job.Spec)
		}
		var pods []*corev1.Pod
		for i, change := range c.pods {
			pods = append(pods, pod(fmt.Sprint("p", i), "n", change))
		}
		v := viewJob(job, pods, t0)
		v.batch, v.initial, v.most = time.Second, 10*time.Second, 10*time.Minute
		var got []string
		for _, why := range []*batchv1.JobCondition{v.failure, v.success} {
			if why != nil {
				got = append(got, why.Reason)
			}
		}
		plan := v.plan()
		if len(plan.create) > 0 {
			got = append(got, fmt.Sprint("create ", plan.create))
		}
		var removed []string
		for _, p := range plan.remove {
			removed = append(removed, p.Name)
		}
		if removed != nil {
			got = append(got, fmt.Sprint("remove ", removed))
		}
		if v.after > 0 {
			got = append(got, fmt.Sprint("in ", v.after))
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

func TestAPodFailurePolicyDecidesByTheFirstRuleThatMatches(t *testing.T) {
	policy := &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
		{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
	}}
	exited := func(code int32) *corev1.Pod {
		p := pod("p", "n")
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
		return p
	}
	if a, m := failureAction(policy, exited(42)); a != batchv1.PodFailurePolicyActionFailJob || m != "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 0" {
		t.Error(a, m)
	}
	evicted := exited(137)
	evicted.Status.Conditions = append(evicted.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
	if a, _ := failureAction(policy, evicted); a != batchv1.PodFailurePolicyActionIgnore {
		t.Error(a)
	}
	if a, _ := failureAction(policy, exited(1)); a != batchv1.PodFailurePolicyActionCount {
		t.Error(a)
	}
}

// shownUpTo is a cache that has come to a version.
type shownUpTo string

func (v *shownUpTo) Version() string { return string(*v) }

func TestAControllerWaitsUntilItSeesWhatItWrote(t *testing.T) {
	c, pods := newConsistency(), new(shownUpTo("99"))
	wrote := func(version string) {
		c.wrote("default/web", pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}})
	}
	wrote("100")
	wrote("7") // an older answer that came later
	for _, step := range []struct {
		shown, key string
		ready      bool
	}{{"99", "default/web", false}, {"99", "default/db", true}, {"100", "default/web", true}, {"5", "default/web", true}} {
		*pods = shownUpTo(step.shown)
		if err := c.ready(step.key); (err == nil) != step.ready {
			t.Errorf("%s at %s: %v", step.key, step.shown, err)
		}
	}
}
