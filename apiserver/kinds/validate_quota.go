package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Names of resources without a domain are from fixed lists: of what containers have, what is counted, and what pods have together.
//
// Upstream: pkg/apis/core/helper/helpers.go, standardContainerResources, integerResources and standardQuotaResources.
var (
	containerResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	countedResources   = []corev1.ResourceName{corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}
	podResources   = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory}
	quotaResources = slices.Concat(containerResources, countedResources, podResources,
		[]corev1.ResourceName{corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage})
)

// resourceName checks the name of a resource, and reports whether it is one at all; known are those of our own that it may be, nil for any.
func (c *checks) resourceName(name corev1.ResourceName, at *field.Path, of string, known []corev1.ResourceName) bool {
	before := len(c.errs)
	huge := strings.HasPrefix(strings.TrimPrefix(string(name), corev1.DefaultResourceRequestsPrefix), corev1.ResourceHugePagesPrefix)
	own := !strings.Contains(string(name), "/") && !huge
	if messages := utilvalidation.IsQualifiedName(string(name)); len(messages) > 0 {
		c.texts(name, at, messages)
	} else if own && name != corev1.ResourceStorage && !slices.Contains(quotaResources, name) {
		c.add(field.Invalid(at, name, "must be a standard resource type or fully qualified"))
	}
	is := len(c.errs) == before
	if known != nil && own && !slices.Contains(known, name) {
		c.add(field.Invalid(at, name, "must be a standard resource for "+of))
	}
	return is
}

// amount refuses less than nothing, and parts of what is counted.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateResourceQuantityValue.
func (c *checks) amount(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
	c.quantity(q, at)
	extended := strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	if (extended || slices.Contains(countedResources, name)) && q.MilliValue()%1000 != 0 {
		c.add(field.Invalid(at, q, "must be an integer"))
	}
}

func (c *checks) quotaAmounts(amounts corev1.ResourceList, at *field.Path) {
	for _, name := range sortedKeys(amounts) {
		at := at.Key(string(name))
		c.resourceName(name, at, "quota", quotaResources)
		c.amount(name, amounts[name], at)
	}
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateResourceQuotaSpec.
func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	var c checks
	s := &q.Spec
	c.quotaAmounts(s.Hard, specPath.Child("hard"))
	at := specPath.Child("scopes")
	for _, scope := range s.Scopes {
		if !podScope(scope) && !classScope(scope) {
			c.add(field.Invalid(at, s.Scopes, "unsupported scope"))
			continue
		}
		for _, name := range sortedKeys(s.Hard) {
			if slices.Contains(quotaResources, name) && !fits(scope, name) {
				c.add(field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
			}
		}
	}
	c.conflicts(s, s.Scopes, at)
	c.scopeSelector(s)
	return c.errs
}

// scopeSelector checks scopes that may have values.
//
// Upstream: pkg/apis/core/validation/validation.go, validateScopedResourceSelectorRequirement.
func (c *checks) scopeSelector(s *corev1.ResourceQuotaSpec) {
	if s.ScopeSelector == nil {
		return
	}
	at := specPath.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, e := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, e.ScopeName)
		if !podScope(e.ScopeName) && !classScope(e.ScopeName) {
			c.add(field.Invalid(at.Child("scopeName"), e.ScopeName, "unsupported scope"))
		}
		for _, name := range sortedKeys(s.Hard) {
			if slices.Contains(quotaResources, name) && !fits(e.ScopeName, name) {
				c.add(field.Invalid(at, s.ScopeSelector, "unsupported scope applied to resource"))
			}
		}
		if podScope(e.ScopeName) && e.Operator != corev1.ScopeSelectorOpExists {
			c.add(field.Invalid(at.Child("operator"), e.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
				"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch e.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(e.Values) == 0 {
				c.add(field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				c.add(field.Invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			c.add(field.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator"))
		}
	}
	c.conflicts(s, scopes, at)
}

// conflicts refuses pairs of scopes that no pod is in.
func (c *checks) conflicts(s *corev1.ResourceQuotaSpec, scopes []corev1.ResourceQuotaScope, at *field.Path) {
	has := sets.New(scopes...)
	if has.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) {
		c.add(field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	if has.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
		c.add(field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
}

// podScope reports whether a scope is a property of pods that has no values.
func podScope(scope corev1.ResourceQuotaScope) bool {
	return slices.Contains([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity}, scope)
}

// classScope reports whether a scope is a class that pods or claims name.
func classScope(scope corev1.ResourceQuotaScope) bool {
	return scope == corev1.ResourceQuotaScopePriorityClass || scope == corev1.ResourceQuotaScopeVolumeAttributesClass
}

// fits reports whether a scope means something for what the quota limits.
func fits(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	}
	return name == corev1.ResourcePods || slices.Contains(podResources, name)
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	if sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		return nil
	}
	return field.ErrorList{field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable")}
}

func validateQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	var c checks
	c.quotaAmounts(q.Status.Hard, field.NewPath("status", "hard"))
	c.quotaAmounts(q.Status.Used, field.NewPath("status", "used"))
	return c.errs
}

// validateLimitRange: minimum, default request, default limit and maximum must follow one another.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateLimitRange.
func validateLimitRange(lr *corev1.LimitRange) field.ErrorList {
	var c checks
	types := sets.New[corev1.LimitType]()
	for i := range lr.Spec.Limits {
		item, at := &lr.Spec.Limits[i], specPath.Child("limits").Index(i)
		if messages := utilvalidation.IsQualifiedName(string(item.Type)); len(messages) > 0 {
			c.texts(item.Type, at.Child("type"), messages)
		} else if !strings.Contains(string(item.Type), "/") && !slices.Contains([]corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}, item.Type) {
			c.add(field.Invalid(at.Child("type"), item.Type, "must be a standard limit type or fully qualified"))
		}
		if types.Has(item.Type) {
			c.add(field.Duplicate(at.Child("type"), item.Type))
		}
		types.Insert(item.Type)
		c.limit(item, at)
	}
	return c.errs
}

func (c *checks) limit(item *corev1.LimitRangeItem, at *field.Path) {
	pod := item.Type == corev1.LimitTypePod
	var known []corev1.ResourceName
	if pod || item.Type == corev1.LimitTypeContainer {
		known = containerResources
	}
	names := sets.New[corev1.ResourceName]()
	named := func(amounts corev1.ResourceList, field string) {
		for _, name := range sortedKeys(amounts) {
			c.resourceName(name, at.Child(field).Key(string(name)), "containers", known)
			names.Insert(name)
		}
	}
	named(item.Max, "max")
	named(item.Min, "min")
	if pod {
		c.forbidden(len(item.Default) > 0, at.Child("default"), "may not be specified when `type` is 'Pod'")
		c.forbidden(len(item.DefaultRequest) > 0, at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'")
	} else {
		named(item.Default, "default")
		named(item.DefaultRequest, "defaultRequest")
	}
	_, smallest := item.Min[corev1.ResourceStorage]
	_, biggest := item.Max[corev1.ResourceStorage]
	if item.Type == corev1.LimitTypePersistentVolumeClaim && !smallest && !biggest {
		c.add(field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	named(item.MaxLimitRequestRatio, "maxLimitRequestRatio")
	for _, name := range sortedKeys(names) {
		c.limitOf(name, item, at)
	}
}

// limitOf compares the amounts of one resource. Where two are in the wrong order, upstream does not always show the one that the field has.
func (c *checks) limitOf(name corev1.ResourceName, item *corev1.LimitRangeItem, at *field.Path) {
	lowest, hasMin := item.Min[name]
	highest, hasMax := item.Max[name]
	limit, hasLimit := item.Default[name]
	request, hasRequest := item.DefaultRequest[name]
	if item.Type == corev1.LimitTypePod {
		hasLimit, hasRequest = false, false
	}
	follow := func(both bool, low, high resource.Quantity, lowName, highName, wrong string, shown resource.Quantity) {
		if both && low.Cmp(high) > 0 {
			c.add(field.Invalid(at.Child(wrong).Key(string(name)), shown, fmt.Sprintf("%s value %s is greater than %s value %s", lowName, low.String(), highName, high.String())))
		}
	}
	follow(hasMin && hasMax, lowest, highest, "min", "max", "min", lowest)
	follow(hasRequest && hasMin, lowest, request, "min", "default request", "defaultRequest", request)
	follow(hasRequest && hasMax, request, highest, "default request", "max", "defaultRequest", request)
	follow(hasRequest && hasLimit, request, limit, "default request", "default limit", "defaultRequest", request)
	follow(hasLimit && hasMin, lowest, limit, "min", "default", "default", lowest)
	follow(hasLimit && hasMax, limit, highest, "default", "max", "default", highest)
	c.ratio(name, item, at.Child("maxLimitRequestRatio").Key(string(name)))
}

// ratio checks how many times its request a limit may be.
func (c *checks) ratio(name corev1.ResourceName, item *corev1.LimitRangeItem, at *field.Path) {
	most, ok := item.MaxLimitRequestRatio[name]
	if !ok {
		return
	}
	if most.Cmp(resource.MustParse("1")) < 0 {
		c.add(field.Invalid(at, most, fmt.Sprintf("ratio %s is less than 1", most.String())))
	}
	lowest, hasMin := item.Min[name]
	highest, hasMax := item.Max[name]
	if can := highest.AsApproximateFloat64() / lowest.AsApproximateFloat64(); hasMin && hasMax && most.AsApproximateFloat64() > can {
		c.add(field.Invalid(at, most, fmt.Sprintf("ratio %s is greater than max/min = %f", most.String(), can)))
	}
}
