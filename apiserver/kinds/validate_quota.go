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

// resourceName checks the name of a resource; alone also that it is one of a list.
func (c *checks) resourceName(name corev1.ResourceName, at *field.Path, of string, known []corev1.ResourceName) {
	huge := strings.HasPrefix(strings.TrimPrefix(string(name), corev1.DefaultResourceRequestsPrefix), corev1.ResourceHugePagesPrefix)
	own := !strings.Contains(string(name), "/") && !huge
	if messages := utilvalidation.IsQualifiedName(string(name)); len(messages) > 0 {
		c.texts(name, at, messages)
	} else if own && name != corev1.ResourceStorage && !slices.Contains(quotaResources, name) {
		c.add(field.Invalid(at, name, "must be a standard resource type or fully qualified"))
	}
	if known != nil && own && !slices.Contains(known, name) {
		c.add(field.Invalid(at, name, "must be a standard resource for "+of))
	}
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
		c.quotaScope(scope, s.Hard, at, s.Scopes, at, s.Scopes)
	}
	c.scopePairs(s.Scopes, at, s.Scopes)
	if s.ScopeSelector == nil {
		return c.errs
	}
	at = specPath.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		c.quotaScope(r.ScopeName, s.Hard, at.Child("scopeName"), r.ScopeName, at, s.ScopeSelector)
		if podScope(r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
			c.add(field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
				"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				c.add(field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				c.add(field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			c.add(field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		scopes = append(scopes, r.ScopeName)
	}
	c.scopePairs(scopes, at, s.Scopes)
	return c.errs
}

// podScope reports whether a scope is a property of pods that has no values.
func podScope(scope corev1.ResourceQuotaScope) bool {
	return slices.Contains([]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity}, scope)
}

// quotaScope: a scope is known, and means something for all that the quota limits.
func (c *checks) quotaScope(scope corev1.ResourceQuotaScope, hard corev1.ResourceList, at *field.Path, value any, all *field.Path, values any) {
	if !podScope(scope) && scope != corev1.ResourceQuotaScopePriorityClass && scope != corev1.ResourceQuotaScopeVolumeAttributesClass {
		c.add(field.Invalid(at, value, "unsupported scope"))
		return
	}
	for _, name := range sortedKeys(hard) {
		fits := name == corev1.ResourcePods || scope != corev1.ResourceQuotaScopeBestEffort && slices.Contains(podResources, name)
		if scope == corev1.ResourceQuotaScopeVolumeAttributesClass {
			fits = name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
		}
		if slices.Contains(quotaResources, name) && !fits {
			c.add(field.Invalid(all, values, "unsupported scope applied to resource"))
		}
	}
}

// scopePairs refuses scopes that exclude each other.
func (c *checks) scopePairs(scopes []corev1.ResourceQuotaScope, at *field.Path, value any) {
	has := sets.New(scopes...)
	if has.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) {
		c.add(field.Invalid(at, value, "conflicting scopes"))
	}
	if has.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
		c.add(field.Invalid(at, value, "conflicting scopes"))
	}
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
	if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
		at := at.Child("maxLimitRequestRatio").Key(string(name))
		if ratio.Cmp(resource.MustParse("1")) < 0 {
			c.add(field.Invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
		}
		if most := highest.AsApproximateFloat64() / lowest.AsApproximateFloat64(); hasMin && hasMax && ratio.AsApproximateFloat64() > most {
			c.add(field.Invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
		}
	}
	overcommitted := !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) && (!strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix))
	if !overcommitted && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		c.add(field.Invalid(at.Child("defaultRequest").Key(string(name)), request, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
}
