package swap

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery/controllers"
	"orrery/test/peers"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// world is a namespace of its own, and a client.
type world struct {
	*kubernetes.Clientset
	t       *testing.T
	ctx     context.Context
	ns      string
	manager peers.Side
}

func newWorld(t *testing.T, c *peers.Cluster, ns string, manager peers.Side) *world {
	t.Helper()
	w := &world{Clientset: c.Admin(), t: t, ctx: t.Context(), ns: ns, manager: manager}
	_, err := w.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	w.must(err)
	// Pods are refused before their namespace has its service account.
	w.eventually("service account default", func() error {
		_, err := w.CoreV1().ServiceAccounts(ns).Get(w.ctx, "default", metav1.GetOptions{})
		return err
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits until there is no error; on one machine with everything else, a minute is a long time.
func (w *world) eventually(what string, try func() error) {
	w.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func labels(app string) map[string]string { return map[string]string{"app": app} }

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels(app)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.org/app:1"}}},
	}
}

func (w *world) deployment(name string, replicas int32) *appsv1.Deployment {
	w.t.Helper()
	d, err := w.AppsV1().Deployments(w.ns).Create(w.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels(name)}, Template: template(name)}}, metav1.CreateOptions{})
	w.must(err)
	return d
}

// complete is what `kubectl rollout status` waits for.
func (w *world) complete(name string, replicas int32) {
	w.t.Helper()
	w.eventually("deployment "+name, func() error {
		d, err := w.AppsV1().Deployments(w.ns).Get(w.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != replicas || s.Replicas != replicas || s.AvailableReplicas != replicas {
			return fmt.Errorf("generation %d, want %d replicas: %+v", d.Generation, replicas, s)
		}
		return nil
	})
}

func (w *world) pods(app string) []corev1.Pod {
	w.t.Helper()
	list, err := w.CoreV1().Pods(w.ns).List(w.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	w.must(err)
	return list.Items
}

type scenario struct {
	name string
	run  func(*world)
}

var scenarios = []scenario{
	{"a-deployment-rolls-out-and-scales", deploymentRollsOut},
	{"a-service-has-the-endpoints-of-its-pods", serviceHasEndpoints},
	{"a-daemonset-has-a-pod-on-each-node", daemonSetOnEachNode},
	{"a-statefulset-has-its-pods-in-order", statefulSetInOrder},
	{"a-job-completes", jobCompletes},
	{"a-budget-counts-its-pods", budgetCounts},
	{"a-pod-that-fits-nowhere-says-why", podFitsNowhere},
	{"an-autoscaler-is-served-in-both-versions", autoscalerInBothVersions},
	{"a-namespace-goes-with-all-that-is-in-it", namespaceGoes},
	{"what-is-owned-goes-with-its-owner", ownedGoes},
}

func deploymentRollsOut(w *world) {
	w.deployment("web", 3)
	w.complete("web", 3)
	nodes := map[string]bool{}
	for _, p := range w.pods("web") {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != 3 {
		w.t.Errorf("three pods are on %d nodes, want them spread over three", len(nodes))
	}
	scale, err := w.AppsV1().Deployments(w.ns).GetScale(w.ctx, "web", metav1.GetOptions{})
	w.must(err)
	scale.Spec.Replicas = 5
	_, err = w.AppsV1().Deployments(w.ns).UpdateScale(w.ctx, "web", scale, metav1.UpdateOptions{})
	w.must(err)
	w.complete("web", 5)
	w.eventually("a new image", func() error {
		d, err := w.AppsV1().Deployments(w.ns).Get(w.ctx, "web", metav1.GetOptions{})
		w.must(err)
		d.Spec.Template.Spec.Containers[0].Image = "example.org/app:2"
		_, err = w.AppsV1().Deployments(w.ns).Update(w.ctx, d, metav1.UpdateOptions{})
		return err
	})
	w.complete("web", 5)
	d, err := w.AppsV1().Deployments(w.ns).Get(w.ctx, "web", metav1.GetOptions{})
	w.must(err)
	if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "2" {
		w.t.Errorf("revision is %q, want 2", got)
	}
	sets, err := w.AppsV1().ReplicaSets(w.ns).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, rs := range sets.Items {
		want := int32(0)
		if rs.Spec.Template.Spec.Containers[0].Image == "example.org/app:2" {
			want = 5
		}
		if *rs.Spec.Replicas != want {
			w.t.Errorf("%s has %d replicas, want %d", rs.Name, *rs.Spec.Replicas, want)
		}
	}
	if len(sets.Items) != 2 {
		w.t.Errorf("%d replica sets, want the new and the old one", len(sets.Items))
	}
}

func serviceHasEndpoints(w *world) {
	svc, err := w.CoreV1().Services(w.ns).Create(w.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{Selector: labels("be"), Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{})
	w.must(err)
	if !strings.HasPrefix(svc.Spec.ClusterIP, "10.") {
		w.t.Errorf("cluster IP is %q", svc.Spec.ClusterIP)
	}
	w.deployment("be", 2)
	w.complete("be", 2)
	want := map[string]bool{}
	for _, p := range w.pods("be") {
		want[p.Status.PodIP] = true
	}
	w.eventually("endpoint slice", func() error {
		all, err := w.DiscoveryV1().EndpointSlices(w.ns).List(w.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=s"})
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for _, s := range all.Items {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					got[e.Addresses[0]] = true
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("ready endpoints are %v, want %v", got, want)
		}
		return nil
	})
}

func daemonSetOnEachNode(w *world) {
	_, err := w.AppsV1().DaemonSets(w.ns).Create(w.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "ds"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels("ds")}, Template: template("ds")}}, metav1.CreateOptions{})
	w.must(err)
	w.eventually("daemon set", func() error {
		ds, err := w.AppsV1().DaemonSets(w.ns).Get(w.ctx, "ds", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := ds.Status; s.DesiredNumberScheduled != 3 || s.NumberAvailable != 3 || s.UpdatedNumberScheduled != 3 || s.NumberMisscheduled != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	nodes := map[string]int{}
	for _, p := range w.pods("ds") {
		nodes[p.Spec.NodeName]++
	}
	if fmt.Sprint(nodes) != "map[node-1:1 node-2:1 node-3:1]" {
		w.t.Errorf("pods on nodes: %v", nodes)
	}
}

func statefulSetInOrder(w *world) {
	two := int32(2)
	_, err := w.AppsV1().StatefulSets(w.ns).Create(w.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: &two, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels("db")}, Template: template("db")}}, metav1.CreateOptions{})
	w.must(err)
	w.eventually("stateful set", func() error {
		s, err := w.AppsV1().StatefulSets(w.ns).Get(w.ctx, "db", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s.Status.AvailableReplicas != 2 || s.Status.UpdateRevision == "" || s.Status.CurrentRevision != s.Status.UpdateRevision {
			return fmt.Errorf("%+v", s.Status)
		}
		return nil
	})
	first, err := w.CoreV1().Pods(w.ns).Get(w.ctx, "db-0", metav1.GetOptions{})
	w.must(err)
	second, err := w.CoreV1().Pods(w.ns).Get(w.ctx, "db-1", metav1.GetOptions{})
	w.must(err)
	if second.CreationTimestamp.Before(&first.CreationTimestamp) {
		w.t.Error("db-1 is older than db-0")
	}
}

func jobCompletes(w *world) {
	three, two := int32(3), int32(2)
	tpl := template("job")
	tpl.Spec.RestartPolicy = corev1.RestartPolicyNever
	_, err := w.BatchV1().Jobs(w.ns).Create(w.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{Completions: &three, Parallelism: &two, Template: tpl}}, metav1.CreateOptions{})
	w.must(err)
	w.eventually("job", func() error {
		j, err := w.BatchV1().Jobs(w.ns).Get(w.ctx, "job", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				if j.Status.Succeeded != 3 || j.Status.CompletionTime == nil || j.Status.Active != 0 {
					w.t.Errorf("complete, but %+v", j.Status)
				}
				return nil
			}
		}
		return fmt.Errorf("%+v", j.Status)
	})
	for _, p := range w.pods("job") {
		if len(p.Finalizers) > 0 {
			w.t.Errorf("pod %s still has finalizers %v", p.Name, p.Finalizers)
		}
	}
}

func budgetCounts(w *world) {
	w.deployment("ha", 2)
	w.complete("ha", 2)
	one := intstr.FromInt32(2)
	_, err := w.PolicyV1().PodDisruptionBudgets(w.ns).Create(w.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "ha"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: labels("ha")}}}, metav1.CreateOptions{})
	w.must(err)
	w.eventually("budget", func() error {
		b, err := w.PolicyV1().PodDisruptionBudgets(w.ns).Get(w.ctx, "ha", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := b.Status; s.ObservedGeneration != b.Generation || s.CurrentHealthy != 2 || s.DesiredHealthy != 2 || s.ExpectedPods != 2 || s.DisruptionsAllowed != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	name := w.pods("ha")[0].Name
	err = w.PolicyV1().Evictions(w.ns).Evict(w.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns}})
	if !apierrors.IsTooManyRequests(err) || err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." {
		w.t.Errorf("evicting: %v", err)
	}
}

func podFitsNowhere(w *world) {
	tpl := template("big")
	tpl.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("99")}
	_, err := w.CoreV1().Pods(w.ns).Create(w.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Spec: tpl.Spec}, metav1.CreateOptions{})
	w.must(err)
	const why = "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
	w.eventually("condition of the pod", func() error {
		p, err := w.CoreV1().Pods(w.ns).Get(w.ctx, "big", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == why {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.Status.Conditions)
	})
	w.eventually("event", func() error {
		events, err := w.CoreV1().Events(w.ns).List(w.ctx, metav1.ListOptions{FieldSelector: "reason=FailedScheduling,involvedObject.name=big"})
		if err != nil {
			return err
		}
		if len(events.Items) != 1 || events.Items[0].Message != why || events.Items[0].ReportingController != "default-scheduler" {
			return fmt.Errorf("%+v", events.Items)
		}
		return nil
	})
}

func autoscalerInBothVersions(w *world) {
	w.deployment("elastic", 1)
	w.complete("elastic", 1)
	half := int32(50)
	_, err := w.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Create(w.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "elastic"}, MaxReplicas: 4,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &half}}}},
		}}, metav1.CreateOptions{})
	w.must(err)
	v1, err := w.AutoscalingV1().HorizontalPodAutoscalers(w.ns).Get(w.ctx, "h", metav1.GetOptions{})
	w.must(err)
	if v1.Spec.TargetCPUUtilizationPercentage == nil || *v1.Spec.TargetCPUUtilizationPercentage != 50 || *v1.Spec.MinReplicas != 1 {
		w.t.Errorf("as v1 it is %+v", v1.Spec)
	}
	all, _ := controllers.KnownControllers()
	if w.manager == peers.Ours && !slices.Contains(all, "horizontal-pod-autoscaler-controller") {
		w.t.Skip("our controller manager has no controller of autoscalers: the object was looked at, its conditions were not")
	}
	// There are no metrics, and the controller says so.
	w.eventually("conditions", func() error {
		h, err := w.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Get(w.ctx, "h", metav1.GetOptions{})
		if err != nil {
			return err
		}
		got := map[autoscalingv2.HorizontalPodAutoscalerConditionType]string{}
		for _, c := range h.Status.Conditions {
			got[c.Type] = string(c.Status) + " " + c.Reason
		}
		if got[autoscalingv2.AbleToScale] != "True SucceededGetScale" || got[autoscalingv2.ScalingActive] != "False FailedGetResourceMetric" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func namespaceGoes(w *world) {
	w.deployment("inside", 2)
	w.complete("inside", 2)
	_, err := w.CoreV1().ConfigMaps(w.ns).Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/hold"}}}, metav1.CreateOptions{})
	w.must(err)
	w.must(w.CoreV1().Namespaces().Delete(w.ctx, w.ns, metav1.DeleteOptions{}))
	w.eventually("what remains is told", func() error {
		ns, err := w.CoreV1().Namespaces().Get(w.ctx, w.ns, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				if want := "Some content in the namespace has finalizers remaining: example.org/hold in 1 resource instances"; c.Message != want {
					return fmt.Errorf("%q, want %q", c.Message, want)
				}
				return nil
			}
		}
		return fmt.Errorf("%+v", ns.Status)
	})
	w.eventually("letting go", func() error {
		_, err := w.CoreV1().ConfigMaps(w.ns).Patch(w.ctx, "held", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		return err
	})
	w.eventually("namespace gone", func() error {
		ns, err := w.CoreV1().Namespaces().Get(w.ctx, w.ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v %+v", err, ns.Status)
	})
	if left := w.pods("inside"); len(left) > 0 {
		w.t.Errorf("%d pods are left without a namespace", len(left))
	}
}

func ownedGoes(w *world) {
	w.deployment("owner", 2)
	w.complete("owner", 2)
	foreground := metav1.DeletePropagationForeground
	w.must(w.AppsV1().Deployments(w.ns).Delete(w.ctx, "owner", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	w.eventually("deployment gone", func() error {
		_, err := w.AppsV1().Deployments(w.ns).Get(w.ctx, "owner", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %v", err)
	})
	if left := w.pods("owner"); len(left) > 0 {
		w.t.Errorf("the owner went before %d of its pods", len(left))
	}
}
