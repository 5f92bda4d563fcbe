package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
)

// resourceQuota refuses what would take a namespace over one of its quotas. It books the new use at once in the quota's status, so
// that two requests at the same time cannot both take the last of it; a controller counts everything afresh from time to time.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go, quotaEvaluator.checkRequest.
// Left out: quotas by device class, storage class and volume attributes class; limited resources from a configuration file.
type resourceQuota struct {
	Base
	objects objects.Client
}

func (resourceQuota) Name() string { return "ResourceQuota" }

func (p resourceQuota) Validate(ctx context.Context, a *Attributes) error {
	if a.Namespace == "" || a.Subresource != "" || a.Operation != Create && a.Operation != Update || a.Kind.Virtual() {
		return nil
	}
	delta := usage(a.Kind.GR(), a.Object)
	if a.Operation == Update {
		for name, before := range usage(a.Kind.GR(), a.Old) {
			q := delta[name]
			q.Sub(before)
			delta[name] = q
		}
	}
	more := slices.ContainsFunc(sortedNames(delta), func(n corev1.ResourceName) bool { q := delta[n]; return q.Sign() > 0 })
	if len(delta) == 0 || a.Operation == Update && !more {
		return nil
	}
	quotas, err := list[corev1.ResourceQuota](ctx, p.objects, "", "resourcequotas", a.Namespace)
	if err != nil {
		return err
	}
	for _, quota := range quotas {
		if !inScope(quota, a.Object) {
			continue
		}
		if err := p.charge(ctx, a, quota, delta); err != nil {
			return err
		}
	}
	return nil
}

// errUnchanged ends an update of a quota that has nothing to say about the request.
var errUnchanged = errors.New("quota is not concerned")

func (p resourceQuota) charge(ctx context.Context, a *Attributes, quota *corev1.ResourceQuota, delta corev1.ResourceList) error {
	if missing := unspecified(quota, a.Object); missing != "" && a.Operation == Create {
		return forbidden(a, "failed quota: %s: must specify %s", quota.Name, missing)
	}
	change := func(o runtime.Object) error {
		q, ok := o.(*corev1.ResourceQuota)
		if !ok || q.Status.Hard == nil {
			return errUnchanged // the controller has not counted yet
		}
		booked := false
		var over []corev1.ResourceName
		for _, name := range sortedNames(delta) {
			hard, limited := q.Status.Hard[name]
			d := delta[name]
			if !limited || d.Sign() <= 0 {
				continue
			}
			total := q.Status.Used[name].DeepCopy()
			total.Add(d)
			if total.Cmp(hard) > 0 {
				over = append(over, name)
			}
			booked = true
		}
		if len(over) > 0 {
			return forbidden(a, "exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
				amounts(delta, over), amounts(q.Status.Used, over), amounts(q.Status.Hard, over))
		}
		if !booked || a.DryRun {
			return errUnchanged
		}
		for name, d := range delta {
			if _, ok := q.Status.Hard[name]; ok {
				addTo(q.Status.Used, corev1.ResourceList{name: d})
			}
		}
		return nil
	}
	_, err := p.objects.Update(ctx, schema.GroupResource{Resource: "resourcequotas"}, a.Namespace, quota.Name, "status", change)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

func amounts(l corev1.ResourceList, names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		q := l[name]
		parts = append(parts, fmt.Sprintf("%s=%s", name, q.String()))
	}
	return strings.Join(parts, ",")
}

// counted are the resources whose number has a plain name beside count/<resource>.
var counted = []string{"pods", "services", "configmaps", "secrets", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas"}

// usage is what an object takes of a quota.
//
// Upstream: pkg/quota/v1/evaluator/core, Usage of each evaluator.
func usage(gr schema.GroupResource, o runtime.Object) corev1.ResourceList {
	one := resource.MustParse("1")
	use := corev1.ResourceList{corev1.ResourceName("count/" + gr.String()): one}
	if gr.Group == "" && slices.Contains(counted, gr.Resource) {
		use[corev1.ResourceName(gr.Resource)] = one
	}
	switch o := o.(type) {
	case *corev1.Pod:
		if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
			return corev1.ResourceList{objectCount(gr): one}
		}
		for name, q := range resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{}) {
			use["requests."+name] = q
			if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
				use[name] = q
			}
		}
		for name, q := range resourcehelper.PodLimits(o, resourcehelper.PodResourcesOptions{}) {
			use["limits."+name] = q
		}
	case *corev1.Service:
		ports := resource.NewQuantity(int64(len(o.Spec.Ports)), resource.DecimalSI)
		switch o.Spec.Type {
		case corev1.ServiceTypeNodePort:
			use[corev1.ResourceServicesNodePorts] = *ports
		case corev1.ServiceTypeLoadBalancer:
			use[corev1.ResourceServicesNodePorts], use[corev1.ResourceServicesLoadBalancers] = *ports, one
		}
	case *corev1.PersistentVolumeClaim:
		if q, ok := o.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
			use[corev1.ResourceRequestsStorage] = q
		}
	case nil:
		return nil
	}
	return use
}

// objectCount is all that a pod that has ended still takes: its place in the count of objects.
func objectCount(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// unspecified says which amounts a quota counts that a pod's containers do not state: without them it cannot be counted.
//
// Upstream: pkg/quota/v1/evaluator/core/pods.go, podEvaluator.Constraints.
func unspecified(quota *corev1.ResourceQuota, o runtime.Object) string {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return ""
	}
	var parts []string
	for _, name := range sortedNames(quota.Status.Hard) {
		plain, isLimit := strings.CutPrefix(string(name), "limits.")
		plain = strings.TrimPrefix(plain, "requests.")
		switch r := corev1.ResourceName(plain); r {
		case corev1.ResourceCPU, corev1.ResourceMemory:
			var lacking []string
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				amounts := c.Resources.Requests
				if isLimit {
					amounts = c.Resources.Limits
				}
				if _, ok := amounts[r]; !ok {
					lacking = append(lacking, c.Name)
				}
			}
			if len(lacking) > 0 {
				parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(lacking, ",")))
			}
		}
	}
	return strings.Join(parts, "; ")
}

// inScope reports whether a quota is about an object of this sort.
//
// Upstream: pkg/quota/v1/evaluator/core/pods.go, podMatchesScopeFunc.
func inScope(quota *corev1.ResourceQuota, o runtime.Object) bool {
	scopes := slices.Clone(quota.Spec.Scopes)
	var classes []corev1.ScopedResourceSelectorRequirement
	if quota.Spec.ScopeSelector != nil {
		classes = quota.Spec.ScopeSelector.MatchExpressions
	}
	pod, isPod := o.(*corev1.Pod)
	if !isPod {
		return len(scopes)+len(classes) == 0
	}
	has := func(s corev1.ResourceQuotaScope) bool {
		amounts := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
		addTo(amounts, resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{}))
		_, cpu := amounts[corev1.ResourceCPU]
		_, memory := amounts[corev1.ResourceMemory]
		switch s {
		case corev1.ResourceQuotaScopeTerminating:
			return pod.Spec.ActiveDeadlineSeconds != nil
		case corev1.ResourceQuotaScopeNotTerminating:
			return pod.Spec.ActiveDeadlineSeconds == nil
		case corev1.ResourceQuotaScopeBestEffort:
			return !cpu && !memory
		case corev1.ResourceQuotaScopeNotBestEffort:
			return cpu || memory
		}
		return s != corev1.ResourceQuotaScopePriorityClass || pod.Spec.PriorityClassName != ""
	}
	for _, s := range scopes {
		if !has(s) {
			return false
		}
	}
	for _, m := range classes {
		if m.ScopeName != corev1.ResourceQuotaScopePriorityClass {
			if !has(m.ScopeName) {
				return false
			}
			continue
		}
		in := slices.Contains(m.Values, pod.Spec.PriorityClassName)
		switch m.Operator {
		case corev1.ScopeSelectorOpIn:
			if !in {
				return false
			}
		case corev1.ScopeSelectorOpNotIn:
			if in {
				return false
			}
		case corev1.ScopeSelectorOpExists:
			if pod.Spec.PriorityClassName == "" {
				return false
			}
		case corev1.ScopeSelectorOpDoesNotExist:
			if pod.Spec.PriorityClassName != "" {
				return false
			}
		}
	}
	return true
}
