package failure

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

func template(labels map[string]string, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
	}
}

// names of pods that are there, sorted, with the image of the first container.
func (w *world) podImages() (out []string) {
	for _, p := range w.pods("") {
		out = append(out, p.Name+" "+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return out
}

func (w *world) twoNodes() {
	w.startNode("w1", "")
	w.startNode("w2", "")
	w.until(5 * time.Second)
}

func setImage[T client.Object](w *world, name, image string) {
	w.t.Helper()
	_, err := client.For[T](w.client).Patch(w.ctx, "default", name, types.StrategicMergePatchType,
		[]byte(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":%q}]}}}}`, image)))
	w.must(err)
}

func TestARolloutReplacesAllPodsAndKeepsRevisions(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 3)
		w.until(10 * time.Second)
		w.record()
		setImage[*appsv1.Deployment](w, "hello-world", "docker.io/demo/app:2")
		w.until(30 * time.Second)
		for _, p := range w.podImages() {
			if !strings.HasSuffix(p, ":2") {
				t.Errorf("old pod %s", p)
			}
		}
		var events []string
		for _, l := range w.recorded(map[string]string{}) {
			if strings.Contains(l, "ScalingReplicaSet") {
				f := strings.Fields(l)
				events = append(events, strings.Join(append(f[4:8:8], f[len(f)-5:len(f)-1]...), " "))
			}
		}
		want := []string{
			"Scaled up replica set from 0 to 1", "Scaled down replica set from 3 to 2", "Scaled up replica set from 1 to 2",
			"Scaled down replica set from 2 to 1", "Scaled up replica set from 2 to 3", "Scaled down replica set from 1 to 0",
		}
		if !slices.Equal(events, want) {
			t.Errorf("events:\n%s", strings.Join(events, "\n"))
		}
		d, err := client.For[*appsv1.Deployment](w.client).Get(w.ctx, "default", "hello-world")
		w.must(err)
		if d.Annotations["deployment.kubernetes.io/revision"] != "2" || d.Status.UpdatedReplicas != 3 || d.Status.AvailableReplicas != 3 || d.Status.ObservedGeneration != d.Generation {
			t.Errorf("annotations %v, status %+v", d.Annotations, d.Status)
		}
		setImage[*appsv1.Deployment](w, "hello-world", "docker.io/demo/app:1") // back
		w.until(60 * time.Second)
		sets, err := client.For[*appsv1.ReplicaSet](w.client).List(w.ctx, "default", metav1.ListOptions{})
		w.must(err)
		for _, rs := range sets.Items {
			if *rs.Spec.Replicas == 3 && (rs.Annotations["deployment.kubernetes.io/revision"] != "3" || rs.Annotations["deployment.kubernetes.io/revision-history"] != "1") {
				t.Errorf("revision of the set that was rolled back to: %v", rs.Annotations)
			}
		}
	})
}

func TestDeletingADeploymentDeletesItsPods(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		w.until(10 * time.Second)
		w.must(client.For[*appsv1.Deployment](w.client).Delete(w.ctx, "default", "hello-world", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}))
		w.until(20 * time.Second)
		if left := w.podImages(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestForegroundDeletionWaitsForThePods(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		w.until(10 * time.Second)
		api := client.For[*appsv1.Deployment](w.client)
		w.must(api.Delete(w.ctx, "default", "hello-world", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}))
		w.until(10500 * time.Millisecond) // pods take a second to end
		if d, err := api.Get(w.ctx, "default", "hello-world"); err != nil || d.DeletionTimestamp == nil {
			t.Errorf("the deployment went before its pods: %v", err)
		}
		w.until(20 * time.Second)
		if _, err := api.Get(w.ctx, "default", "hello-world"); !apierrors.IsNotFound(err) {
			t.Errorf("the deployment is still there: %v", err)
		}
	})
}

func TestOrphaningLeavesTheReplicaSet(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		w.until(10 * time.Second)
		w.must(client.For[*appsv1.Deployment](w.client).Delete(w.ctx, "default", "hello-world", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)}))
		w.until(20 * time.Second)
		sets, err := client.For[*appsv1.ReplicaSet](w.client).List(w.ctx, "default", metav1.ListOptions{})
		w.must(err)
		if len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0 || len(w.pods("")) != 2 {
			t.Errorf("%d sets, %d pods", len(sets.Items), len(w.pods("")))
		}
	})
}

func TestANamespaceIsEmptiedAndGoes(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		namespaces := client.For[*corev1.Namespace](w.client)
		_, err := namespaces.Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
		w.must(err)
		_, err = client.For[*appsv1.ReplicaSet](w.client).Create(w.ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: "rs"},
			Spec:       appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, Template: template(map[string]string{"a": "b"}, "i")},
		})
		w.must(err)
		w.until(10 * time.Second)
		if _, err := client.For[*corev1.ServiceAccount](w.client).Get(w.ctx, "doomed", "default"); err != nil {
			t.Error(err)
		}
		if cm, err := client.For[*corev1.ConfigMap](w.client).Get(w.ctx, "doomed", "kube-root-ca.crt"); err != nil || cm.Data["ca.crt"] != "a CA" {
			t.Error(err)
		}
		w.must(namespaces.Delete(w.ctx, "", "doomed", metav1.DeleteOptions{}))
		w.until(14 * time.Second) // five seconds of grace
		if _, err := namespaces.Get(w.ctx, "", "doomed"); err != nil {
			t.Errorf("too early: %v", err)
		}
		w.until(60 * time.Second)
		if ns, err := namespaces.Get(w.ctx, "", "doomed"); !apierrors.IsNotFound(err) {
			t.Errorf("still there: %v %+v", err, ns.Status)
		}
	})
}

func TestADaemonSetRunsOnEveryNodeAndRollsOneByOne(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		api := client.For[*appsv1.DaemonSet](w.client)
		labels := map[string]string{"d": "s"}
		_, err := api.Create(w.ctx, &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"},
			Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels, "agent:1")},
		})
		w.must(err)
		w.until(10 * time.Second)
		w.startNode("w3", "")
		w.until(15 * time.Second)
		status := func() appsv1.DaemonSetStatus {
			ds, err := api.Get(w.ctx, "default", "agent")
			w.must(err)
			return ds.Status
		}
		if s := status(); s.DesiredNumberScheduled != 3 || s.NumberReady != 3 || s.UpdatedNumberScheduled != 3 {
			t.Errorf("%+v", s)
		}
		setImage[*appsv1.DaemonSet](w, "agent", "agent:2")
		w.until(15500 * time.Millisecond) // the first old pod takes a second to end
		old := 0
		for _, p := range w.podImages() {
			if strings.HasSuffix(p, ":1") {
				old++
			}
		}
		if s := status(); old != 3 || s.UpdatedNumberScheduled != 0 {
			t.Errorf("%d old pods, %+v", old, s)
		}
		w.until(30 * time.Second)
		if s := status(); s.UpdatedNumberScheduled != 3 || s.NumberAvailable != 3 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAStatefulSetGoesInOrder(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		api := client.For[*appsv1.StatefulSet](w.client)
		labels := map[string]string{"s": "s"}
		_, err := api.Create(w.ctx, &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
			Spec:       appsv1.StatefulSetSpec{Replicas: new(int32(3)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels, "db:1")},
		})
		w.must(err)
		w.until(10 * time.Second)
		if got := w.podImages(); !slices.Equal(got, []string{"db-0 db:1", "db-1 db:1", "db-2 db:1"}) {
			t.Errorf("pods %v", got)
		}
		setImage[*appsv1.StatefulSet](w, "db", "db:2")
		w.until(11500 * time.Millisecond)
		if got := w.podImages(); !slices.Equal(got, []string{"db-0 db:1", "db-1 db:1", "db-2 db:2"}) {
			t.Errorf("after one step %v", got)
		}
		w.until(20 * time.Second)
		s, err := api.Get(w.ctx, "default", "db")
		w.must(err)
		if s.Status.UpdatedReplicas != 3 || s.Status.CurrentRevision != s.Status.UpdateRevision || s.Status.AvailableReplicas != 3 {
			t.Errorf("%+v", s.Status)
		}
		// A pod on a dead node is not replaced: its name is taken.
		node := ""
		for _, p := range w.pods("") {
			if p.Name == "db-0" {
				node = p.Spec.NodeName
			}
		}
		w.stopNode(node)
		w.until(500 * time.Second)
		terminating := 0
		for _, p := range w.pods("") {
			if p.DeletionTimestamp != nil {
				terminating++
				if p.Spec.NodeName != node {
					t.Errorf("%s is on %s", p.Name, p.Spec.NodeName)
				}
			}
		}
		if terminating == 0 {
			t.Error("nothing was evicted")
		}
	})
}

func TestAJobCountsItsPods(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		api, pods := client.For[*batchv1.Job](w.client), client.For[*corev1.Pod](w.client)
		tmpl := template(nil, "work")
		tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := api.Create(w.ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sum"},
			Spec:       batchv1.JobSpec{Completions: new(int32(3)), Parallelism: new(int32(2)), BackoffLimit: new(int32(2)), TTLSecondsAfterFinished: new(int32(100)), Template: tmpl},
		})
		w.must(err)
		finish := func(phase corev1.PodPhase, n int) {
			for _, p := range w.pods("") {
				if p.Status.Phase == corev1.PodRunning && n > 0 {
					n--
					p.Status.Phase = phase
					p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Now()}}}}
					_, err := pods.UpdateStatus(w.ctx, p)
					w.must(err)
				}
			}
			if n > 0 {
				t.Errorf("%d pods too few run", n)
			}
		}
		status := func() batchv1.JobStatus {
			j, err := api.Get(w.ctx, "default", "sum")
			w.must(err)
			return j.Status
		}
		w.until(10 * time.Second)
		finish(corev1.PodFailed, 1)
		w.until(19900 * time.Millisecond)
		if s := status(); s.Failed != 1 || s.Active != 1 {
			t.Errorf("in the 10 s after the first failure: %+v", s)
		}
		w.until(21 * time.Second)
		if s := status(); s.Active != 2 {
			t.Errorf("after the 10 s: %+v", s)
		}
		finish(corev1.PodSucceeded, 2)
		w.until(25 * time.Second)
		if s := status(); s.Succeeded != 2 || s.Active != 1 {
			t.Errorf("%+v", s)
		}
		finish(corev1.PodSucceeded, 1)
		w.until(30 * time.Second)
		s := status()
		if s.Succeeded != 3 || s.CompletionTime == nil || len(s.Conditions) != 2 || s.Conditions[1].Type != batchv1.JobComplete {
			t.Errorf("%+v", s)
		}
		for _, p := range w.pods("") {
			if len(p.Finalizers) > 0 {
				t.Errorf("%s still has %v", p.Name, p.Finalizers)
			}
		}
		w.until(124 * time.Second)
		status()
		w.until(130 * time.Second)
		if _, err := api.Get(w.ctx, "default", "sum"); !apierrors.IsNotFound(err) {
			t.Errorf("not gone 100 s after its end: %v", err)
		}
	})
}

// An index fails by itself: its next pod comes 10 s after the first has failed and knows
// of that one, which stays until then. The others go on.
func TestAnIndexOfAJobFailsByItself(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		api, pods := client.For[*batchv1.Job](w.client), client.For[*corev1.Pod](w.client)
		tmpl := template(nil, "work")
		tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := api.Create(w.ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sums"},
			Spec: batchv1.JobSpec{Completions: new(int32(2)), Parallelism: new(int32(2)), CompletionMode: new(batchv1.IndexedCompletion),
				BackoffLimitPerIndex: new(int32(1)), Template: tmpl},
		})
		w.must(err)
		// finish ends the running pod of an index, of which so many have failed before.
		finish := func(index, failures string, phase corev1.PodPhase) {
			t.Helper()
			for _, p := range w.pods("") {
				if p.Annotations[batchv1.JobCompletionIndexAnnotation] != index || p.Status.Phase != corev1.PodRunning {
					continue
				}
				if got := p.Annotations[batchv1.JobIndexFailureCountAnnotation]; got != failures {
					t.Errorf("%s has %q failures before it, not %s", p.Name, got, failures)
				}
				p.Status.Phase = phase
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Now()}}}}
				_, err := pods.UpdateStatus(w.ctx, p)
				w.must(err)
				return
			}
			t.Errorf("no pod of index %s runs", index)
		}
		look := func(at time.Duration, pods int, failed int32, lost string) batchv1.JobStatus {
			t.Helper()
			w.until(at)
			j, err := api.Get(w.ctx, "default", "sums")
			w.must(err)
			if n := len(w.pods("")); n != pods || j.Status.Failed != failed || j.Status.FailedIndexes == nil || *j.Status.FailedIndexes != lost {
				t.Errorf("at %v %d pods: %+v", at, n, j.Status)
			}
			return j.Status
		}
		look(10*time.Second, 2, 0, "")
		finish("1", "0", corev1.PodFailed)
		look(19900*time.Millisecond, 2, 0, "")
		look(20100*time.Millisecond, 3, 0, "") // the first is counted a second later
		look(25*time.Second, 3, 1, "")
		finish("1", "1", corev1.PodFailed)
		if s := look(27*time.Second, 3, 2, "1"); len(s.Conditions) != 0 || s.Active != 1 {
			t.Errorf("%+v", s)
		}
		finish("0", "0", corev1.PodSucceeded)
		s := look(29*time.Second, 3, 2, "1")
		if s.CompletedIndexes != "0" || len(s.Conditions) != 2 || s.Conditions[1].Type != batchv1.JobFailed || s.Conditions[1].Reason != batchv1.JobReasonFailedIndexes {
			t.Errorf("%+v", s)
		}
		for _, p := range w.pods("") {
			if len(p.Finalizers) > 0 {
				t.Errorf("%s still has %v", p.Name, p.Finalizers)
			}
		}
	})
}

func TestACronJobStartsOnTheMinute(t *testing.T) {
	inCluster(t, func(w *world) {
		w.until(5 * time.Second)
		tmpl := template(nil, "work")
		tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
		_, err := client.For[*batchv1.CronJob](w.client).Create(w.ctx, &batchv1.CronJob{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tick"},
			Spec:       batchv1.CronJobSpec{Schedule: "*/2 * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: tmpl}}},
		})
		w.must(err)
		jobs := func() (out []string) {
			list, err := client.For[*batchv1.Job](w.client).List(w.ctx, "default", metav1.ListOptions{})
			w.must(err)
			for _, j := range list.Items {
				out = append(out, j.Name)
			}
			return out
		}
		w.until(119 * time.Second)
		if j := jobs(); len(j) != 0 {
			t.Errorf("early: %v", j)
		}
		w.until(121 * time.Second) // bubbles begin at midnight of 2000-01-01
		want := fmt.Sprintf("tick-%d", time.Date(2000, 1, 1, 0, 2, 0, 0, time.UTC).Unix()/60)
		if j := jobs(); !slices.Equal(j, []string{want}) {
			t.Errorf("%v, want %s", j, want)
		}
		w.until(500 * time.Second) // its pod never ends, and the policy is Forbid
		if j := jobs(); len(j) != 1 {
			t.Errorf("%v", j)
		}
	})
}

func TestAPausedDeploymentScalesButDoesNotRoll(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		w.until(10 * time.Second)
		api := client.For[*appsv1.Deployment](w.client)
		patch := func(spec string) {
			_, err := api.Patch(w.ctx, "default", "hello-world", types.StrategicMergePatchType, []byte(`{"spec":`+spec+`}`))
			w.must(err)
		}
		patch(`{"paused":true}`)
		setImage[*appsv1.Deployment](w, "hello-world", "docker.io/demo/app:2")
		patch(`{"replicas":3}`)
		w.until(20 * time.Second)
		images := w.podImages()
		if len(images) != 3 || !strings.HasSuffix(images[0], ":1") || !strings.HasSuffix(images[2], ":1") {
			t.Errorf("paused: %v", images)
		}
		patch(`{"paused":false}`)
		w.until(40 * time.Second)
		for _, i := range w.podImages() {
			if !strings.HasSuffix(i, ":2") {
				t.Errorf("resumed: %v", i)
			}
		}
	})
}

func TestRecreateStopsAllBeforeItStartsAny(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		w.deploy("hello-world", 2)
		api := client.For[*appsv1.Deployment](w.client)
		_, err := api.Patch(w.ctx, "default", "hello-world", types.StrategicMergePatchType, []byte(`{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`))
		w.must(err)
		w.until(10 * time.Second)
		setImage[*appsv1.Deployment](w, "hello-world", "docker.io/demo/app:2")
		w.until(10500 * time.Millisecond) // the old pods take a second to end
		for _, i := range w.podImages() {
			if strings.HasSuffix(i, ":2") {
				t.Errorf("%s runs beside old pods", i)
			}
		}
		w.until(20 * time.Second)
		if images := w.podImages(); len(images) != 2 || !strings.HasSuffix(images[0], ":2") {
			t.Errorf("%v", images)
		}
	})
}

func TestAStuckRolloutIsReportedAfterItsDeadline(t *testing.T) {
	inCluster(t, func(w *world) {
		w.until(5 * time.Second) // no node: pods stay pending
		w.deploy("hello-world", 2)
		progressing := func() string {
			d, err := client.For[*appsv1.Deployment](w.client).Get(w.ctx, "default", "hello-world")
			w.must(err)
			for _, c := range d.Status.Conditions {
				if c.Type == appsv1.DeploymentProgressing {
					return c.Reason
				}
			}
			return ""
		}
		w.until(604 * time.Second)
		if r := progressing(); r != "ReplicaSetUpdated" && r != "NewReplicaSetCreated" {
			t.Errorf("before: %s", r)
		}
		w.until(607 * time.Second)
		if r := progressing(); r != "ProgressDeadlineExceeded" {
			t.Errorf("after: %s", r)
		}
	})
}
