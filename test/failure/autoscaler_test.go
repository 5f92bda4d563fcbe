package failure

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// measure says what the pods of the world use, in thousandths of a CPU, where metrics.k8s.io is a custom resource.
func (w *world) measure(milli int) {
	w.t.Helper()
	for _, p := range w.pods("") {
		body := fmt.Sprintf(`{"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": {"name": %q, "labels": {"app": "web"}},
			"timestamp": %q, "window": "15s", "containers": [{"name": "app", "usage": {"cpu": "%dm"}}]}`, p.Name, time.Now().UTC().Format(time.RFC3339), milli)
		_, err := w.client.Raw(w.ctx, http.MethodPatch, "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/"+p.Name,
			url.Values{"fieldManager": {"test"}, "force": {"true"}}, "application/apply-patch+yaml", []byte(body))
		w.must(err)
	}
}

// An autoscaler looks each 15 s, for the first time 15 s after its creation; it says why it knows nothing; it follows load
// at once, and its end after five minutes without a higher thought, which begin anew with the controller manager.
func TestAnAutoscalerFollowsLoadAtOnceAndItsEndAfterFiveMinutes(t *testing.T) {
	inCluster(t, func(w *world) {
		w.twoNodes()
		pods := template(map[string]string{"app": "web"}, "docker.io/demo/app:1")
		pods.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		deployments, hpas := client.For[*appsv1.Deployment](w.client), client.For[*autoscalingv2.HorizontalPodAutoscaler](w.client)
		_, err := deployments.Create(w.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods}})
		w.must(err)
		w.until(10 * time.Second)
		_, err = hpas.Create(w.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MaxReplicas: 5,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))}}}}}})
		w.must(err)
		look := func(at time.Duration, want string) {
			t.Helper()
			w.until(at)
			h, err := hpas.Get(w.ctx, "default", "web")
			w.must(err)
			d, err := deployments.Get(w.ctx, "default", "web")
			w.must(err)
			got := fmt.Sprint(*d.Spec.Replicas)
			for _, c := range h.Status.Conditions {
				if c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionFalse {
					got += " " + c.Message
				} else if c.Type == autoscalingv2.AbleToScale && len(h.Status.CurrentMetrics) > 0 && h.Status.CurrentMetrics[0].Resource != nil {
					got += fmt.Sprintf(" %s %d%%", c.Reason, *h.Status.CurrentMetrics[0].Resource.Current.AverageUtilization)
				}
			}
			if got != want {
				t.Errorf("at %v: %s\nwant: %s", at, got, want)
			}
		}
		const unable = "1 the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: "
		look(24*time.Second, "1")
		look(25*time.Second, unable+"unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)")
		_, err = w.client.Raw(w.ctx, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", nil, "application/json", []byte(`{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": {"name": "pods.metrics.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
			"spec": {"group": "metrics.k8s.io", "scope": "Namespaced", "names": {"plural": "pods", "singular": "podmetrics", "kind": "PodMetrics", "listKind": "PodMetricsList"},
				"versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`))
		w.must(err)
		look(40*time.Second, unable+"no metrics returned from resource metrics API")
		w.measure(1500)
		look(54*time.Second, unable+"no metrics returned from resource metrics API")
		look(55*time.Second, "3 SucceededRescale 150%")
		w.until(95 * time.Second) // the new pods count once they were ready for the whole of a window
		w.measure(500)
		look(100*time.Second, "3 ReadyForNewScale 50%")
		w.measure(0)
		look(115*time.Second, "3 ScaleDownStabilized 0%")
		// Its thoughts are in the memory of the controller manager. One that starts thinks that three, which are there, are right.
		w.until(130 * time.Second)
		w.stopController()
		w.startManager()
		look(445*time.Second, "3 ScaleDownStabilized 0%") // that was at 145 s, 300 s ago
		look(459*time.Second, "3 ScaleDownStabilized 0%")
		look(460*time.Second, "1 SucceededRescale 0%")

		events, err := client.For[*corev1.Event](w.client).List(w.ctx, "default", metav1.ListOptions{})
		w.must(err)
		var said []string
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == "HorizontalPodAutoscaler" {
				said = append(said, fmt.Sprintf("%d %s: %s", e.Count, e.Reason, e.Message))
			}
		}
		slices.Sort(said)
		const why = "failed to get cpu utilization: unable to get metrics for resource cpu: "
		const first = "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: " + why
		const absent = "unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"
		want := []string{
			"1 FailedComputeMetricsReplicas: " + first + "no metrics returned from resource metrics API",
			"1 FailedComputeMetricsReplicas: " + first + absent,
			"1 FailedGetResourceMetric: " + why + "no metrics returned from resource metrics API",
			"1 FailedGetResourceMetric: " + why + absent,
			"1 SuccessfulRescale: New size: 1; reason: All metrics below target",
			"1 SuccessfulRescale: New size: 3; reason: cpu resource utilization (percentage of request) above target",
		}
		if !slices.Equal(said, want) {
			t.Errorf("events:\n%s\nwant:\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
		}
	})
}
