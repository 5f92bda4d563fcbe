package sim

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/lab/sim"
)

// TestTimeScaleSpeedsBackOffsUp: ten times as fast, a Job replaces its failed pods
// after 1, 2, 4, 8 ... 60 s, and the scheduler tries a pod again that fits nowhere
// each 30 s, if nothing happens that may help.
func TestTimeScaleSpeedsBackOffsUp(t *testing.T) {
	inCluster(t, sim.Config{Nodes: 2, TimeScale: 10}, func(w *world) {
		t := w.t
		w.pass(10 * time.Second) // the nodes are as they will stay
		template := podTemplate("job")
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		template.Annotations = map[string]string{sim.AnnotationExitAfter: "1s", sim.AnnotationExitCode: "1"}
		_, err := client.For[*batchv1.Job](w.api).Create(w.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "fails"},
			Spec: batchv1.JobSpec{BackoffLimit: new(int32(100)), Template: template}})
		w.must(err)
		nowhere := podTemplate("nowhere").Spec
		nowhere.NodeSelector = map[string]string{"no": "node"}
		_, err = client.For[*corev1.Pod](w.api).Create(w.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nowhere"}, Spec: nowhere})
		w.must(err)
		w.pass(5 * time.Minute)

		tries := w.find(func(p *corev1.Pod) bool { return p.Labels["app"] == "job" })
		slices.SortFunc(tries, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		var waits []time.Duration
		for i, p := range tries[:len(tries)-1] {
			waits = append(waits, tries[i+1].CreationTimestamp.Sub(p.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time))
		}
		// The first wait is over before the kubelet, which looks once a second, has told of the end.
		if want := []time.Duration{2e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9, 60e9}; !slices.Equal(waits, want) {
			t.Errorf("the Job waited %v, want %v", waits, want)
		}

		events, err := client.For[*corev1.Event](w.api).List(w.ctx, "default", metav1.ListOptions{FieldSelector: "involvedObject.name=nowhere,reason=FailedScheduling"})
		w.must(err)
		if len(events.Items) != 1 {
			t.Fatalf("%d events of the scheduler, want one that is counted", len(events.Items))
		}
		if e := events.Items[0]; e.Count != 10 || e.LastTimestamp.Sub(e.FirstTimestamp.Time) != 270*time.Second {
			t.Errorf("tried %d times in %v, want 10 times in 270 s", e.Count, e.LastTimestamp.Sub(e.FirstTimestamp.Time))
		}
	})
}

// TestTimeScaleSpeedsDaemonsUp: ten times as fast, a DaemonSet replaces pods that
// fail on a node after 0.1, 0.2, 0.4 ... 90 s, counted from the last replacement.
func TestTimeScaleSpeedsDaemonsUp(t *testing.T) {
	inCluster(t, sim.Config{Nodes: 2, TimeScale: 10}, func(w *world) {
		template := podTemplate("daemon")
		template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists}}
		_, err := client.For[*appsv1.DaemonSet](w.api).Create(w.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "daemon"},
			Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}})
		w.must(err)
		living := func() []*corev1.Pod {
			return w.find(func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed })
		}
		w.until("the daemon runs", time.Minute, func() bool { return len(w.find(isReady)) == 1 })
		w.do("stop orrery-m02") // its kubelet would say that they run
		replaced := time.Duration(0)
		for _, wait := range []time.Duration{0, 1e8, 2e8, 4e8, 8e8, 16e8, 32e8, 64e8, 128e8, 256e8, 512e8, 90e9, 90e9} {
			p := living()[0]
			_, err := client.For[*corev1.Pod](w.api).Patch(w.ctx, "default", p.Name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Failed","reason":"Evicted"}}`), "status")
			w.must(err)
			at := w.until("it is replaced", 2*time.Minute, func() bool { return len(living()) == 1 && living()[0].UID != p.UID })
			if wait > 0 {
				w.about("replacement", at-replaced, wait)
			}
			replaced = at
		}
	})
}
