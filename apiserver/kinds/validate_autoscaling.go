package kinds

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long an autoscaler may look back.
const (
	maxScalingPeriodSeconds       = 1800
	maxStabilizationWindowSeconds = 3600
)

// Upstream: pkg/apis/autoscaling/validation/validation.go, validateHorizontalPodAutoscalerSpec.
func validateHPA(hpa *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var c checks
	s := &hpa.Spec
	least := int32(1)
	if s.MinReplicas != nil {
		least = *s.MinReplicas
	}
	if least < 1 {
		c.add(field.Invalid(specPath.Child("minReplicas"), least, "must be greater than or equal to 1"))
	}
	at := specPath.Child("maxReplicas")
	if s.MaxReplicas == 0 {
		c.add(field.Required(at, "must be set and greater than 0"))
	} else if s.MaxReplicas < 0 {
		c.add(field.Invalid(at, s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MaxReplicas < least {
		c.add(field.Invalid(at, s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	ref, at := s.ScaleTargetRef, specPath.Child("scaleTargetRef")
	c.reference(nil, ref.Kind, ref.Name, at)
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil {
		c.add(field.Invalid(at.Child("apiVersion"), ref.APIVersion, err.Error()))
	} else if gv.Group == "" && ref.Kind != "ReplicationController" { // the one kind without a group that can be scaled
		c.add(field.Invalid(at.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group"))
	}
	fromZero := false
	for i := range s.Metrics {
		m := &s.Metrics[i]
		c.metric(m, specPath.Child("metrics").Index(i))
		fromZero = fromZero || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if least == 0 && !fromZero {
		c.add(field.Forbidden(specPath.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := s.Behavior; b != nil {
		c.scalingRules(b.ScaleUp, specPath.Child("behavior", "scaleUp"))
		c.scalingRules(b.ScaleDown, specPath.Child("behavior", "scaleDown"))
	}
	return c.errs
}

func (c *checks) metricName(id autoscalingv2.MetricIdentifier, at *field.Path) {
	if c.required(id.Name, at.Child("name"), "must specify a metric name") {
		c.texts(id.Name, at.Child("name"), path.IsValidPathSegmentName(id.Name))
	}
}

// metric checks that of the sources of a metric the one is given that its type names.
//
// Upstream: pkg/apis/autoscaling/validation/validation.go, validateMetricSpec.
func (c *checks) metric(m *autoscalingv2.MetricSpec, at *field.Path) {
	sources := []struct {
		of    autoscalingv2.MetricSourceType
		name  string
		given bool
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil},
	}
	c.required(string(m.Type), at.Child("type"), "must specify a metric source type")
	c.metricType(m.Type, at.Child("type"))
	c.metricSource(m, at)
	given := 0
	for _, s := range sources {
		if s.given {
			given++
		} else if s.of == m.Type {
			c.add(field.Required(at.Child(s.name), "must populate information for the given metric source"))
		}
	}
	c.metricType(m.Type, at.Child("type")) // upstream says so twice
	for _, s := range sources {
		if s.given && s.of != m.Type && given > 1 {
			c.add(field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
	}
}

func (c *checks) metricType(t autoscalingv2.MetricSourceType, at *field.Path) {
	listed(c, t, at, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
}

// metricSource checks the first source that is given.
func (c *checks) metricSource(m *autoscalingv2.MetricSpec, at *field.Path) {
	switch {
	case m.Object != nil:
		at, t := at.Child("object"), &m.Object.Target
		c.reference(nil, m.Object.DescribedObject.Kind, m.Object.DescribedObject.Name, at.Child("describedObject"))
		c.metricName(m.Object.Metric, at.Child("metric"))
		c.metricTarget(t, at.Child("target"))
		if t.Value == nil && t.AverageValue == nil {
			c.add(field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
		}
	case m.External != nil:
		at, t := at.Child("external"), &m.External.Target
		c.metricName(m.External.Metric, at.Child("metric"))
		c.metricTarget(t, at.Child("target"))
		if t.Value == nil && t.AverageValue == nil {
			c.add(field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
		}
		c.forbidden(t.Value != nil && t.AverageValue != nil, at.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
	case m.Pods != nil:
		at := at.Child("pods")
		c.metricName(m.Pods.Metric, at.Child("metric"))
		c.metricTarget(&m.Pods.Target, at.Child("target"))
		if m.Pods.Target.AverageValue == nil {
			c.add(field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
		}
	case m.Resource != nil:
		at := at.Child("resource")
		c.required(string(m.Resource.Name), at.Child("name"), "must specify a resource name")
		c.resourceTarget(&m.Resource.Target, at.Child("target"))
	case m.ContainerResource != nil:
		at := at.Child("containerResource")
		c.required(string(m.ContainerResource.Name), at.Child("name"), "must specify a resource name")
		c.required(m.ContainerResource.Container, at.Child("container"), "must specify a container")
		c.name(m.ContainerResource.Container, at.Child("container"), utilvalidation.IsDNS1123Label)
		c.resourceTarget(&m.ContainerResource.Target, at.Child("target"))
	}
}

func (c *checks) metricTarget(t *autoscalingv2.MetricTarget, at *field.Path) {
	c.required(string(t.Type), at.Child("type"), "must specify a metric target type")
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		c.add(field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		c.add(field.Invalid(at.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		c.add(field.Invalid(at.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if u := t.AverageUtilization; u != nil && *u < 1 {
		c.add(field.Invalid(at.Child("averageUtilization"), *u, "must be greater than 0"))
	}
}

// resourceTarget checks a target of what containers ask for: an amount, or a share of what they requested.
func (c *checks) resourceTarget(t *autoscalingv2.MetricTarget, at *field.Path) {
	c.metricTarget(t, at)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		c.add(field.Required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	} else if t.AverageUtilization != nil && t.AverageValue != nil {
		c.add(field.Forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
}

func (c *checks) scalingRules(r *autoscalingv2.HPAScalingRules, at *field.Path) {
	if r == nil {
		return
	}
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		c.add(field.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
	} else if w != nil && *w > maxStabilizationWindowSeconds {
		c.add(field.Invalid(at.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %d", maxStabilizationWindowSeconds)))
	}
	if r.SelectPolicy != nil {
		listed(c, *r.SelectPolicy, at.Child("selectPolicy"), autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if len(r.Policies) == 0 {
		c.add(field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := at.Child("policies").Index(i)
		listed(c, p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		if p.Value <= 0 {
			c.add(field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			c.add(field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		} else if p.PeriodSeconds > maxScalingPeriodSeconds {
			c.add(field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxScalingPeriodSeconds)))
		}
	}
	if r.Tolerance != nil {
		c.quantity(*r.Tolerance, at.Child("tolerance"))
	}
}

// Upstream: pkg/apis/policy/validation/validation.go, ValidatePodDisruptionBudgetSpec.
func validatePDB(p *policyv1.PodDisruptionBudget) field.ErrorList {
	var c checks
	if p.Spec.MinAvailable != nil && p.Spec.MaxUnavailable != nil {
		c.add(field.Invalid(specPath, p.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	c.percentOrCount(p.Spec.MinAvailable, specPath.Child("minAvailable"))
	c.notAboveAll(p.Spec.MinAvailable, specPath.Child("minAvailable"))
	c.percentOrCount(p.Spec.MaxUnavailable, specPath.Child("maxUnavailable"))
	c.notAboveAll(p.Spec.MaxUnavailable, specPath.Child("maxUnavailable"))
	c.selector(p.Spec.Selector, specPath.Child("selector"))
	if policy := p.Spec.UnhealthyPodEvictionPolicy; policy != nil {
		listed(&c, *policy, specPath.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return c.errs
}

func validatePDBStatus(p, old *policyv1.PodDisruptionBudget) field.ErrorList {
	return append(metavalidation.ValidateConditions(p.Status.Conditions, statusPath.Child("conditions")), validateCounts(p, old)...)
}
