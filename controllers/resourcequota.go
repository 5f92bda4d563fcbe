package controllers

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	helpers "k8s.io/component-helpers/resource"

	"orrery/client"
)

// quotas is the resource quota controller.
//
// Watches: ResourceQuotas, Pods, Services, PersistentVolumeClaims.
// Wants: status.used to be what the namespace really uses; admission in the API
// server refuses what would exceed it.
// Does: counts afresh when something changes that gives quota back, and every
// five minutes.
// Upstream: pkg/controller/resourcequota/resource_quota_controller.go, Controller.
// Left out: quotas by device class and by volume attributes class.
type quotas struct {
	*client.Controller
	client   *client.Client
	quotas   *client.Informer[*corev1.ResourceQuota]
	pods     *client.Informer[*corev1.Pod]
	services *client.Informer[*corev1.Service]
	claims   *client.Informer[*pvc]
	api      *client.Resource[*corev1.ResourceQuota]
}

// quotaResync is --resource-quota-sync-period.
const quotaResync = 5 * time.Minute

func startResourceQuota(e *env) (func(context.Context) error, error) {
	c := &quotas{
		client: e.client, quotas: watching[*corev1.ResourceQuota](e), pods: watching[*corev1.Pod](e),
		services: watching[*corev1.Service](e), claims: watching[*pvc](e), api: client.For[*corev1.ResourceQuota](e.client),
	}
	c.Controller = client.NewController("resourcequota-controller", c.reconcile)
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.quotas.AddHandler(client.Handler[*corev1.ResourceQuota]{
		Add: func(q *corev1.ResourceQuota) { c.Enqueue(q) },
		// Not for what admission books in the status: what it books for is not in the
		// caches yet, and counting now would take the booking back.
		Update: func(old, q *corev1.ResourceQuota) {
			if !equality.Semantic.DeepEqual(old.Spec, q.Spec) {
				c.Enqueue(q)
			}
		},
	})
	again := func(namespace string) {
		for _, q := range c.quotas.List() {
			if q.Namespace == namespace {
				c.Enqueue(q)
			}
		}
	}
	c.pods.AddHandler(client.Handler[*corev1.Pod]{
		Update: func(old, p *corev1.Pod) {
			if podFinished(old) != podFinished(p) {
				again(p.Namespace)
			}
		},
		Delete: func(p *corev1.Pod) { again(p.Namespace) },
	})
	c.services.AddHandler(client.Handler[*corev1.Service]{
		Update: func(_, s *corev1.Service) { again(s.Namespace) }, Delete: func(s *corev1.Service) { again(s.Namespace) },
	})
	c.claims.AddHandler(client.Handler[*pvc]{Delete: func(p *pvc) { again(p.Namespace) }})
	return c.Run, nil
}

func (c *quotas) reconcile(ctx context.Context, key string) (client.Result, error) {
	q, ok := c.quotas.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	used := corev1.ResourceList{}
	for name := range q.Spec.Hard {
		n, known, err := c.usage(ctx, q, name)
		if err != nil {
			return client.Result{}, err
		}
		if known {
			used[name] = n
		}
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: used}
	if !equality.Semantic.DeepEqual(q.Status, status) {
		q = q.DeepCopy()
		q.Status = status
		if _, err := c.api.UpdateStatus(ctx, q); err != nil {
			return client.Result{}, err
		}
	}
	return client.Result{RequeueAfter: quotaResync}, nil
}

// usage is how much of one resource the quota's namespace uses now.
func (c *quotas) usage(ctx context.Context, q *corev1.ResourceQuota, name corev1.ResourceName) (n resource.Quantity, known bool, err error) {
	pods := c.pods.ByIndex(byNamespace, q.Namespace)
	if name == "count/pods" {
		return *resource.NewQuantity(int64(len(pods)), resource.DecimalSI), true, nil // those that have ended too
	}
	if n, known = podUsage(name, filter(pods, func(p *corev1.Pod) bool { return charged(p) && inScopes(q, p) })); known {
		return n, true, nil
	}
	if n, known = serviceUsage(name, filter(c.services.List(), func(s *corev1.Service) bool { return s.Namespace == q.Namespace })); known {
		return n, true, nil
	}
	if n, known = claimUsage(name, filter(c.claims.List(), func(p *pvc) bool { return p.Namespace == q.Namespace })); known {
		return n, true, nil
	}
	gr, ok := countedKind(name)
	if !ok {
		return n, false, nil
	}
	all, err := discover(ctx, c.client)
	i := slices.IndexFunc(all, func(r apiResource) bool { return r.gvr.GroupResource() == gr })
	if i < 0 {
		return n, false, err
	}
	list, err := client.Metadata(c.client, all[i].gvr, true).List(ctx, q.Namespace, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return n, false, nil
	}
	return *resource.NewQuantity(int64(len(list.Items)), resource.DecimalSI), true, err
}

// countedKind is the kind whose objects a quota resource counts.
func countedKind(name corev1.ResourceName) (schema.GroupResource, bool) {
	if rest, ok := strings.CutPrefix(string(name), "count/"); ok {
		return schema.ParseGroupResource(rest), true
	}
	switch name {
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceReplicationControllers, corev1.ResourceQuotas:
		return schema.GroupResource{Resource: string(name)}, true
	}
	return schema.GroupResource{}, false
}

// charged says whether a pod takes anything of a quota still: one whose node does not answer is let go with the end of its grace period.
//
// Upstream: pkg/quota/v1/evaluator/core/pods.go, QuotaV1Pod.
func charged(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil {
		grace := time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
		if time.Now().After(p.DeletionTimestamp.Add(grace)) {
			return false
		}
	}
	return !podFinished(p)
}

// inScopes says whether a pod is of the sort that a quota is about.
//
// Upstream: pkg/quota/v1/evaluator/core/pods.go, podMatchesScopeFunc.
func inScopes(q *corev1.ResourceQuota, p *corev1.Pod) bool {
	for _, s := range q.Spec.Scopes {
		if !inScope(p, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists}) {
			return false
		}
	}
	if q.Spec.ScopeSelector != nil {
		for _, r := range q.Spec.ScopeSelector.MatchExpressions {
			if !inScope(p, r) {
				return false
			}
		}
	}
	return true
}

func inScope(p *corev1.Pod, r corev1.ScopedResourceSelectorRequirement) bool {
	limited := p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return limited
	case corev1.ResourceQuotaScopeNotTerminating:
		return !limited
	case corev1.ResourceQuotaScopeBestEffort:
		return p.Status.QOSClass == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return p.Status.QOSClass != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(p.Spec.Affinity)
	case corev1.ResourceQuotaScopePriorityClass:
		switch class := p.Spec.PriorityClassName; r.Operator {
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

// looksElsewhere says whether an affinity is to pods of other namespaces.
func looksElsewhere(a *corev1.Affinity) bool {
	var terms []corev1.PodAffinityTerm
	var soft []corev1.WeightedPodAffinityTerm
	if a != nil && a.PodAffinity != nil {
		terms, soft = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	if a != nil && a.PodAntiAffinity != nil {
		terms = slices.Concat(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		soft = slices.Concat(soft, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for _, w := range soft {
		terms = append(terms[:len(terms):len(terms)], w.PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// podUsage adds up pods: their number, and what they request, or may use, of one resource.
//
// Upstream: pkg/quota/v1/evaluator/core/pods.go, PodUsageFunc.
func podUsage(name corev1.ResourceName, pods []*corev1.Pod) (n resource.Quantity, known bool) {
	if name == corev1.ResourcePods {
		return *resource.NewQuantity(int64(len(pods)), resource.DecimalSI), true
	}
	of, limits := strings.CutPrefix(string(name), "limits.")
	requests := false
	if !limits {
		of, requests = strings.CutPrefix(of, "requests.")
	}
	switch r := corev1.ResourceName(of); {
	case r == corev1.ResourceCPU, r == corev1.ResourceMemory, r == corev1.ResourceEphemeralStorage:
	case strings.HasPrefix(of, corev1.ResourceHugePagesPrefix), requests && strings.Contains(of, "/"):
	default:
		return n, false
	}
	for _, p := range pods {
		list := helpers.PodRequests(p, helpers.PodResourcesOptions{})
		if limits {
			list = helpers.PodLimits(p, helpers.PodResourcesOptions{})
		}
		n.Add(list[corev1.ResourceName(of)])
	}
	return n, true
}

func serviceUsage(name corev1.ResourceName, services []*corev1.Service) (resource.Quantity, bool) {
	n := 0
	for _, s := range services {
		balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
		switch name {
		case corev1.ResourceServices, "count/services":
			n++
		case corev1.ResourceServicesLoadBalancers:
			if balanced {
				n++
			}
		case corev1.ResourceServicesNodePorts:
			if s.Spec.Type == corev1.ServiceTypeNodePort || balanced && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts) {
				n += len(s.Spec.Ports)
			}
		}
	}
	known := slices.Contains([]corev1.ResourceName{corev1.ResourceServices, "count/services", corev1.ResourceServicesLoadBalancers, corev1.ResourceServicesNodePorts}, name)
	return *resource.NewQuantity(int64(n), resource.DecimalSI), known
}

func claimUsage(name corev1.ResourceName, claims []*pvc) (n resource.Quantity, known bool) {
	s := string(name)
	if class, rest, ok := strings.Cut(s, ".storageclass.storage.k8s.io/"); ok {
		claims = filter(claims, func(p *pvc) bool { return p.Spec.StorageClassName != nil && *p.Spec.StorageClassName == class })
		s = rest
	}
	switch s {
	case "persistentvolumeclaims", "count/persistentvolumeclaims":
		return *resource.NewQuantity(int64(len(claims)), resource.DecimalSI), true
	case "requests.storage":
		for _, p := range claims {
			n.Add(*p.Spec.Resources.Requests.Storage())
		}
		return n, true
	}
	return n, false
}
