package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orrery/client"
)

type autoscaler = autoscalingv2.HorizontalPodAutoscaler

// autoscalers is the horizontal pod autoscaler.
//
// Watches: HorizontalPodAutoscalers, Pods; asks metrics.k8s.io.
// Wants: as many replicas that the pods' mean usage is what the metric's target
// says.
// Does: each 15 s computes a size for each metric and takes the greatest; follows
// it upwards at once and downwards only when it was lower for five minutes, and
// both no faster than the policies allow; writes the target's scale.
// Upstream: pkg/controller/podautoscaler/horizontal.go, HorizontalController.
// Left out: metrics of type Pods, Object and External (custom.metrics.k8s.io).
type autoscalers struct {
	*client.Controller
	cfg      *Config
	client   *client.Client
	hpas     *client.Informer[*autoscaler]
	pods     *client.Informer[*corev1.Pod]
	api      *client.Resource[*autoscaler]
	recorder *client.Recorder

	mu      sync.Mutex
	history map[string]*scaleHistory // by HPA key; guarded by mu
}

func startHPA(e *env) (func(context.Context) error, error) {
	c := &autoscalers{
		cfg: e.cfg, client: e.client, hpas: watching[*autoscaler](e), pods: watching[*corev1.Pod](e),
		api: client.For[*autoscaler](e.client), recorder: e.recorder("horizontal-pod-autoscaler"), history: map[string]*scaleHistory{},
	}
	c.Controller = client.NewController("horizontal-pod-autoscaler-controller", c.reconcile)
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.hpas.AddHandler(client.Handler[*autoscaler]{
		// Its first turn is a period from now, and from then on each: no change is a reason to look sooner.
		Add:    func(h *autoscaler) { c.Queue.AddAfter(client.Key(h), c.cfg.HPASyncPeriod) },
		Delete: func(h *autoscaler) { c.Enqueue(h) },
	})
	return c.Run, nil
}

func (c *autoscalers) reconcile(ctx context.Context, key string) (client.Result, error) {
	cached, ok := c.hpas.GetKey(key)
	c.mu.Lock()
	if !ok {
		delete(c.history, key)
		c.mu.Unlock()
		return client.Result{}, nil
	}
	if c.history[key] == nil {
		c.history[key] = &scaleHistory{}
	}
	past := c.history[key]
	c.mu.Unlock()
	h := cached.DeepCopy()
	err := c.scale(ctx, h, past)
	if !equality.Semantic.DeepEqual(cached.Status, h.Status) {
		if _, statusErr := c.api.UpdateStatus(ctx, h); statusErr != nil {
			c.recorder.Event(h, warning, "FailedUpdateStatus", statusErr.Error())
			err = errors.Join(err, fmt.Errorf("failed to update status for %s: %w", h.Name, statusErr))
		}
	}
	if err != nil {
		logFailure("horizontal-pod-autoscaler-controller", key, err)
	}
	return client.Result{RequeueAfter: c.cfg.HPASyncPeriod}, nil
}

// scale is one pass over one autoscaler; h gets the new status.
func (c *autoscalers) scale(ctx context.Context, h *autoscaler, past *scaleHistory) error {
	path, err := c.scalePath(ctx, h)
	var scale autoscalingv1.Scale
	if err == nil {
		err = getJSON(ctx, c.client, path, &scale)
	}
	if err != nil {
		c.recorder.Event(h, warning, "FailedGetScale", err.Error())
		setHPA(h, autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return err
	}
	setHPA(h, autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := scale.Spec.Replicas
	past.begin(current, time.Now())
	h.Status.CurrentReplicas, h.Status.CurrentMetrics = current, nil
	least := int32(1)
	if h.Spec.MinReplicas != nil {
		least = *h.Spec.MinReplicas
	}
	desired, reason := current, ""
	switch {
	case current == 0 && least != 0:
		h.Status.DesiredReplicas = 0
		setHPA(h, autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return nil
	case current > h.Spec.MaxReplicas:
		desired, reason = h.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case current < least:
		desired, reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		if desired, reason, err = c.proposal(ctx, h, current, scale.Status.Selector); err != nil {
			c.recorder.Event(h, warning, "FailedComputeMetricsReplicas", err.Error())
			return err
		}
		desired = past.limit(h, current, desired, least, c.cfg.HPADownscaleStabilization, time.Now())
	}
	if desired == current {
		h.Status.DesiredReplicas = desired
		return nil
	}
	// Whatever else has changed about the target meanwhile, it should have this size.
	scale.Spec.Replicas, scale.ResourceVersion = desired, ""
	body, err := json.Marshal(scale)
	if err == nil {
		_, err = c.client.Raw(ctx, http.MethodPut, path, nil, "application/json", body)
	}
	if err != nil {
		c.recorder.Eventf(h, warning, "FailedRescale", "New size: %d; reason: %s; error: %v", desired, reason, err)
		setHPA(h, autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
		return err
	}
	setHPA(h, autoscalingv2.AbleToScale, true, "SucceededRescale", "the HPA controller was able to update the target scale to %d", desired)
	c.recorder.Eventf(h, normal, "SuccessfulRescale", "New size: %d; reason: %s", desired, reason)
	past.note(current, desired, time.Now())
	h.Status.DesiredReplicas, h.Status.LastScaleTime = desired, new(metav1.Now())
	return nil
}

// scalePath is where the target's scale is.
func (c *autoscalers) scalePath(ctx context.Context, h *autoscaler) (string, error) {
	gv, err := schema.ParseGroupVersion(h.Spec.ScaleTargetRef.APIVersion)
	if err != nil {
		return "", fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	all, err := discover(ctx, c.client)
	i := slices.IndexFunc(all, func(r apiResource) bool { return r.gvr.Group == gv.Group && r.kind == h.Spec.ScaleTargetRef.Kind })
	if i < 0 {
		return "", errors.Join(fmt.Errorf("no matches for kind %q in version %q", h.Spec.ScaleTargetRef.Kind, h.Spec.ScaleTargetRef.APIVersion), err)
	}
	root := "/apis/" + all[i].gvr.Group + "/"
	if all[i].gvr.Group == "" {
		root = "/api/"
	}
	return fmt.Sprintf("%s%s/namespaces/%s/%s/%s/scale", root, all[i].gvr.Version, h.Namespace, all[i].gvr.Resource, h.Spec.ScaleTargetRef.Name), nil
}

// proposal is the greatest size that a metric asks for. Metrics that fail do not
// count upwards, and downwards only a full set is believed.
//
// Upstream: pkg/controller/podautoscaler/horizontal.go, computeReplicasForMetrics.
func (c *autoscalers) proposal(ctx context.Context, h *autoscaler, current int32, selector string) (desired int32, reason string, err error) {
	var first error // of those that failed
	why, of, failed, found := "", "", 0, ""
	h.Status.CurrentMetrics = make([]autoscalingv2.MetricStatus, len(h.Spec.Metrics))
	for i, spec := range h.Spec.Metrics {
		n, name, status, err := c.metric(ctx, h, spec, current, selector)
		if err != nil {
			failing := "FailedGet" + string(spec.Type) + "Metric"
			c.recorder.Event(h, warning, failing, err.Error())
			if failed++; failed == 1 {
				first, why, of = err, failing, source(spec)
			}
			continue
		}
		h.Status.CurrentMetrics[i] = status
		if found == "" || n > desired {
			desired, found = n, name
		}
	}
	if first != nil && (found == "" || desired < current) {
		setHPA(h, autoscalingv2.ScalingActive, false, why, "the HPA was unable to compute the replica count: %v", first)
		return 0, "", fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: failed to get %s metric value: %w", failed, len(h.Spec.Metrics), of, first)
	}
	setHPA(h, autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", found)
	if desired > current {
		reason = found + " above target"
	} else if desired < current {
		reason = "All metrics below target"
	}
	return desired, reason, nil
}

// source is how errors call a metric.
func source(spec autoscalingv2.MetricSpec) string {
	switch {
	case spec.Resource != nil:
		return string(spec.Resource.Name) + " resource"
	case spec.ContainerResource != nil:
		return spec.ContainerResource.Container + " container"
	}
	return strings.ToLower(string(spec.Type))
}

// metric is the size that one metric asks for.
//
// Upstream: pkg/controller/podautoscaler/horizontal.go, computeStatusForResourceMetricGeneric.
func (c *autoscalers) metric(ctx context.Context, h *autoscaler, spec autoscalingv2.MetricSpec, current int32, selector string) (n int32, name string, status autoscalingv2.MetricStatus, err error) {
	var target autoscalingv2.MetricTarget
	var res corev1.ResourceName
	container, kind := "", "resource"
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		res, target = spec.Resource.Name, spec.Resource.Target
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		res, target, container, kind = spec.ContainerResource.Name, spec.ContainerResource.Target, spec.ContainerResource.Container, "container resource"
	default:
		return 0, "", status, fmt.Errorf("metric source type %q is not supported here", spec.Type)
	}
	value := autoscalingv2.MetricValueStatus{}
	switch {
	case target.AverageValue != nil:
		w, err := c.weights(ctx, h.Namespace, selector, res, container, func(*corev1.Pod) (int64, error) { return 0, nil })
		if err != nil {
			return 0, "", status, fmt.Errorf("failed to get %s usage: %w", res, err)
		}
		average, goal := func(g group) int64 { return g.used / g.count }, target.AverageValue.MilliValue()
		value.AverageValue = quantity(average(w.ready), res)
		n = w.size(h, current, w.missing.count*goal, func(g group) float64 { return float64(average(g)) / float64(goal) })
		name = fmt.Sprintf("%s resource", res)
	case target.AverageUtilization != nil:
		w, err := c.weights(ctx, h.Namespace, selector, res, container, func(p *corev1.Pod) (int64, error) { return requested(p, res, container) })
		if err == nil && w.ready.asked == 0 {
			err = errors.New("no metrics returned matched known pods")
		}
		if err != nil {
			return 0, "", status, fmt.Errorf("failed to get %s utilization: %w", res, err)
		}
		goal := int64(*target.AverageUtilization)
		value.AverageValue, value.AverageUtilization = quantity(w.ready.used/w.ready.count, res), new(int32(w.ready.utilization()))
		n = w.size(h, current, w.missing.asked*max(100, goal)/100, func(g group) float64 { return float64(g.utilization()) / float64(goal) })
		name = fmt.Sprintf("%s %s utilization (percentage of request)", res, kind)
	default:
		return 0, "", status, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	if container != "" {
		return n, name, autoscalingv2.MetricStatus{Type: spec.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: res, Container: container, Current: value}}, nil
	}
	return n, name, autoscalingv2.MetricStatus{Type: spec.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: res, Current: value}}, nil
}

// quantity is an amount in the notation in which it is measured.
func quantity(milli int64, res corev1.ResourceName) *resource.Quantity {
	if res == corev1.ResourceMemory {
		return resource.NewMilliQuantity(milli, resource.BinarySI)
	}
	return resource.NewMilliQuantity(milli, resource.DecimalSI)
}

// weights are the weights of the pods that a selector chooses.
func (c *autoscalers) weights(ctx context.Context, namespace, selector string, res corev1.ResourceName, container string, request func(*corev1.Pod) (int64, error)) (weights, error) {
	sel, err := labels.Parse(selector)
	if err != nil {
		return weights{}, err
	}
	usage, err := c.usage(ctx, namespace, selector, res, container)
	if err != nil {
		return weights{}, fmt.Errorf("unable to get metrics for resource %s: %w", res, err)
	}
	pods := filter(c.pods.ByIndex(byNamespace, namespace), func(p *corev1.Pod) bool { return sel.Matches(labels.Set(p.Labels)) })
	return c.cfg.weigh(pods, usage, res, request, time.Now())
}

// podMetrics is the part of metrics.k8s.io that is read here.
type podMetrics struct {
	Items []struct {
		Metadata   metav1.ObjectMeta `json:"metadata"`
		Timestamp  metav1.Time       `json:"timestamp"`
		Window     metav1.Duration   `json:"window"`
		Containers []struct {
			Name  string              `json:"name"`
			Usage corev1.ResourceList `json:"usage"`
		} `json:"containers"`
	} `json:"items"`
}

// usage is what each pod, or one container of each, uses of a resource.
//
// Upstream: pkg/controller/podautoscaler/metrics/client.go, resourceMetricsClient.GetResourceMetric.
func (c *autoscalers) usage(ctx context.Context, namespace, selector string, res corev1.ResourceName, container string) (map[string]measured, error) {
	var list podMetrics
	raw, err := c.client.Raw(ctx, http.MethodGet, "/apis/metrics.k8s.io/v1beta1/namespaces/"+namespace+"/pods", url.Values{"labelSelector": {selector}}, "", nil)
	if apierrors.IsNotFound(err) || apierrors.IsServiceUnavailable(err) { // nobody has said of what
		err = fmt.Errorf("%w (get pods.metrics.k8s.io)", err)
	}
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := map[string]measured{}
	for _, p := range list.Items {
		m := measured{at: p.Timestamp.Time, window: p.Window.Duration}
		whole := false // of which all containers are measured
		for _, ct := range p.Containers {
			if container != "" && ct.Name != container {
				continue
			}
			q, ok := ct.Usage[res]
			if whole = ok; !ok {
				break
			}
			m.value += q.MilliValue()
		}
		if whole {
			out[p.Metadata.Name] = m
		}
	}
	return out, nil
}

// setHPA sets a condition.
func setHPA(h *autoscaler, t autoscalingv2.HorizontalPodAutoscalerConditionType, ok bool, reason, format string, args ...any) {
	c := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...), LastTransitionTime: metav1.Now()}
	if ok {
		c.Status = corev1.ConditionTrue
	}
	i := slices.IndexFunc(h.Status.Conditions, func(have autoscalingv2.HorizontalPodAutoscalerCondition) bool { return have.Type == t })
	if i < 0 {
		h.Status.Conditions = append(h.Status.Conditions, c)
		return
	}
	if h.Status.Conditions[i].Status == c.Status {
		c.LastTransitionTime = h.Status.Conditions[i].LastTransitionTime
	}
	h.Status.Conditions[i] = c
}
