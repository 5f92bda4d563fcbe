package sim

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
