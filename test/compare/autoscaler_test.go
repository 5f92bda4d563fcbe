package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// metricsAPI makes metrics.k8s.io a custom resource, so that the stage says what a pod uses.
const metricsAPI = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
	"metadata": {"name": "pods.metrics.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
	"spec": {"group": "metrics.k8s.io", "scope": "Namespaced", "names": {"plural": "pods", "singular": "podmetrics", "kind": "PodMetrics", "listKind": "PodMetricsList"},
		"versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`

// measure says what a pod uses, in thousandths of a CPU.
func (s *stage) measure(pod *corev1.Pod, milli int) {
	path := "/apis/metrics.k8s.io/v1beta1/namespaces/" + pod.Namespace + "/pods/" + pod.Name
	// A figure of an hour hence: the pod was ready all the while that it was measured.
	body, err := json.Marshal(map[string]any{"apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": map[string]any{"name": pod.Name, "namespace": pod.Namespace, "labels": pod.Labels},
		"timestamp": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "window": "15s",
		"containers": []map[string]any{{"name": "c", "usage": map[string]string{"cpu": fmt.Sprintf("%dm", milli)}}}})
	s.must(err)
	s.eventually("what "+pod.Name+" uses", func() error {
		return s.CoreV1().RESTClient().Patch("application/apply-patch+yaml").AbsPath(path).Param("fieldManager", "stage").Param("force", "true").Body(body).Do(s.ctx).Error()
	})
}

// autoscaling is done without a metrics API, without a figure, up, and down as slowly as is allowed, by what is asked
// for and by value, without behavior and with one. Of each application one pod is measured, and of the others nothing is
// known: two figures cannot change at once, and what an autoscaler makes of the moment between them is chance.
func autoscaling(s *stage) {
	const ns = "elastic"
	s.namespace(ns)
	measured := map[string]*corev1.Pod{}
	measure := func(app string, milli int) {
		if measured[app] == nil {
			list, err := s.CoreV1().Pods(ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
			s.must(err)
			measured[app] = &list.Items[0]
			// It is the last to go.
			dear := fmt.Appendf(nil, `{"metadata": {"annotations": {%q: "1"}}}`, corev1.PodDeletionCost)
			_, err = s.CoreV1().Pods(ns).Patch(s.ctx, measured[app].Name, types.MergePatchType, dear, metav1.PatchOptions{})
			s.must(err)
		}
		s.measure(measured[app], milli)
	}
	scaled := func(name string, f func(*corev1.Container), h autoscalingv2.HorizontalPodAutoscalerSpec) {
		d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, "app:1")}}
		f(&d.Spec.Template.Spec.Containers[0])
		_, err := s.AppsV1().Deployments(ns).Create(s.ctx, &d, metav1.CreateOptions{})
		s.must(err)
		s.complete(ns, name)
		h.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
		h.MaxReplicas = 5
		_, err = s.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(s.ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: h}, metav1.CreateOptions{})
		s.must(err)
	}
	until := func(name, text string) {
		s.eventually("autoscaler "+name, func() error {
			h, err := s.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(s.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if _, all := autoscalerEnd(h); !strings.Contains(all, text) {
				return errors.New(all)
			}
			return nil
		})
	}
	asking := func(c *corev1.Container) {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	}
	cpu := func(t autoscalingv2.MetricTarget) []autoscalingv2.MetricSpec {
		return []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: t}}}
	}
	half := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))}
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("500m"))}

	// Shares of what is asked for, with upstream's old rules of speed.
	scaled("share", asking, autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: cpu(half)})
	until("share", "the server could not find the requested resource (get pods.metrics.k8s.io)")
	s.must(s.CoreV1().RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(metricsAPI)).Do(s.ctx).Error())
	until("share", "no metrics returned from resource metrics API")
	for _, step := range []struct {
		milli int
		want  string
	}{
		{559, "cpu=55%"},    // within a tenth of the target
		{3000, "desired=4"}, // six, but no more than four at once
		{2599, "cpu=259%"},  // six and four without figures make little more than a half
		{100, "cpu=10%"},    // those without figures use all that they ask for, which is more than the target
	} {
		measure("share", step.milli)
		until("share", step.want)
	}
	s.lull(8 * time.Second) // and so it stays

	// By value, with a behavior: two pods more in five seconds, one less, at once.
	most := autoscalingv2.MaxChangePolicySelect
	rules := func(window, pods, period int32) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &most, Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: pods, PeriodSeconds: period}}}
	}
	scaled("value", func(*corev1.Container) {}, autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: cpu(value), Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, 2, 5), ScaleDown: rules(0, 1, 5)}})
	measure("value", 2000)
	until("value", "desired=3")
	until("value", "desired=4")
	measure("value", 0)
	until("value", "desired=1")

	// The size that is there when an autoscaler comes is held as long as any.
	scaled("idle", func(*corev1.Container) {}, autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: cpu(value), MinReplicas: new(int32(2))})
	until("idle", "desired=2")
	s.change(ns, "idle", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) })
	s.complete(ns, "idle")
	measure("idle", 0)
	until("idle", "ScaleDownStabilized")
	until("idle", "desired=2")
	s.change(ns, "idle", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
	until("idle", "ScalingDisabled")
	scaled("silent", func(*corev1.Container) {}, autoscalingv2.HorizontalPodAutoscalerSpec{Metrics: cpu(half)})
	measure("silent", 100)
	until("silent", "missing request for cpu in container c of Pod")
	s.lull(3 * time.Second)
}

// autoscalerState is what an autoscaler has decided; by which rule is of the moment.
func autoscalerState(h *autoscalingv2.HorizontalPodAutoscaler) (class, text string) {
	text = fmt.Sprintf("desired=%d", h.Status.DesiredReplicas)
	for _, c := range h.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive {
			text += fmt.Sprintf(" %s=%s/%s/%s", c.Type, c.Status, c.Reason, plain(c.Message))
		}
	}
	return h.Namespace + "/" + h.Name, text
}

// autoscalerEnd is all that an autoscaler says.
func autoscalerEnd(h *autoscalingv2.HorizontalPodAutoscaler) (class, text string) {
	st := h.Status
	text = fmt.Sprintf("current=%d desired=%d observed=%v", st.CurrentReplicas, st.DesiredReplicas, st.ObservedGeneration)
	for _, m := range st.CurrentMetrics {
		if m.Resource == nil {
			text += fmt.Sprintf(" %q", m.Type)
			continue
		}
		text += " " + string(m.Resource.Name) + "="
		if n := m.Resource.Current.AverageUtilization; n != nil {
			text += fmt.Sprintf("%d%%", *n)
		}
		text += "/" + m.Resource.Current.AverageValue.String()
	}
	var all []string
	for _, c := range st.Conditions {
		all = append(all, fmt.Sprintf("%s=%s/%s/%s", c.Type, c.Status, c.Reason, plain(c.Message)))
	}
	slices.Sort(all)
	return h.Namespace + "/" + h.Name, text + " " + strings.Join(all, " ")
}
