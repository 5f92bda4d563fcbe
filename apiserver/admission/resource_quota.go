package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"orrery/apiserver/kinds"
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
// Left out: quotas by device class and volume attributes class; limited resources from a configuration file.
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
	quotas = slices.DeleteFunc(quotas, func(q *corev1.ResourceQuota) bool { return !inScope(q, a.Object) })
	for _, quota := range quotas { // what one refuses is booked in none
		if missing := unspecified(quota, a.Object); missing != "" && a.Operation == Create {
			return forbidden(a, "failed quota: %s: must specify %s", quota.Name, missing)
		}
		if err := book(a, quota.DeepCopy(), delta); err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
	}
	if a.DryRun {
		return nil
	}
	for _, quota := range quotas {
		change := func(o runtime.Object) error {
			q, ok := o.(*corev1.ResourceQuota)
			if !ok {
				return errUnchanged
			}
			return book(a, q, delta)
		}
		_, err := p.objects.Update(ctx, schema.GroupResource{Resource: "resourcequotas"}, a.Namespace, quota.Name, "status", change)
		if err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
	}
	return nil
}

// errUnchanged is said of a quota that has nothing to say about the request.
var errUnchanged = errors.New("quota is not concerned")

// book adds what a request takes to a quota's status, or says why it may not have it.
func book(a *Attributes, q *corev1.ResourceQuota, delta corev1.ResourceList) error {
	if q.Status.Hard == nil {
		return errUnchanged // the controller has not counted yet
	}
	concerned := false
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
		concerned = true
	}
	if len(over) > 0 {
		return forbidden(a, "exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
			amounts(delta, over), amounts(q.Status.Used, over), amounts(q.Status.Hard, over))
	}
	if !concerned {
		return errUnchanged
	}
	if q.Status.Used == nil {
		q.Status.Used = corev1.ResourceList{}
	}
	for name, d := range delta {
		if _, ok := q.Status.Hard[name]; ok {
			addTo(q.Status.Used, corev1.ResourceList{name: d})
		}
	}
	return nil
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
			if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
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
			use[corev1.ResourceServicesLoadBalancers] = one
			if o.Spec.AllocateLoadBalancerNodePorts == nil || *o.Spec.AllocateLoadBalancerNodePorts {
				use[corev1.ResourceServicesNodePorts] = *ports
			}
		}
	case *corev1.PersistentVolumeClaim:
		storage := o.Spec.Resources.Requests[corev1.ResourceStorage]
		if more := o.Status.AllocatedResources[corev1.ResourceStorage]; more.Cmp(storage) > 0 { // it is being made smaller again
			storage = more
		}
		use[corev1.ResourceRequestsStorage] = storage
		if class := o.Spec.StorageClassName; class != nil && *class != "" {
			use[ofClass(*class, corev1.ResourcePersistentVolumeClaims)], use[ofClass(*class, corev1.ResourceRequestsStorage)] = one, storage
		}
	case nil:
		return nil
	}
	return use
}

// ofClass is the name of what the claims of one storage class have of a resource.
func ofClass(class string, name corev1.ResourceName) corev1.ResourceName {
	return corev1.ResourceName(class + ".storageclass.storage.k8s.io/" + string(name))
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
	var asked []corev1.ScopedResourceSelectorRequirement
	for _, s := range quota.Spec.Scopes {
		asked = append(asked, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists})
	}
	if s := quota.Spec.ScopeSelector; s != nil {
		asked = append(asked, s.MatchExpressions...)
	}
	pod, isPod := o.(*corev1.Pod)
	return len(asked) == 0 || isPod && !slices.ContainsFunc(asked, func(r corev1.ScopedResourceSelectorRequirement) bool { return !podInScope(pod, r) })
}

func podInScope(pod *corev1.Pod, r corev1.ScopedResourceSelectorRequirement) bool {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return pod.Spec.ActiveDeadlineSeconds != nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return pod.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return pod.Status.QOSClass != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return slices.ContainsFunc(kinds.PodAffinityTerms(pod.Spec.Affinity), func(t *corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
	case corev1.ResourceQuotaScopePriorityClass:
		switch class := pod.Spec.PriorityClassName; r.Operator {
		case corev1.ScopeSelectorOpIn:
			return slices.Contains(r.Values, class)
		case corev1.ScopeSelectorOpNotIn:
			return !slices.Contains(r.Values, class)
		case corev1.ScopeSelectorOpDoesNotExist:
			return class == ""
		default:
			return class != ""
		}
	}
	return false
}
