package controllers

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"orrery/client"
)

const (
	sliceManager = "endpointslice-controller.k8s.io"
	// maxEndpoints is --max-endpoints-per-slice.
	maxEndpoints = 100
)

// endpointSlices is the EndpointSlice controller.
//
// Watches: Services, Pods, Nodes, EndpointSlices.
// Wants: all addresses behind each Service with a selector, in slices of at most
// a hundred, one set of slices for each address family and set of ports.
// Does: changes as few slices as it can: endpoints stay where they are.
// Upstream: pkg/controller/endpointslice and k8s.io/endpointslice, Reconciler.
// Left out: topology hints and traffic distribution.
type endpointSlices struct {
	*client.Controller
	services *client.Informer[*corev1.Service]
	pods     *client.Informer[*corev1.Pod]
	nodes    *client.Informer[*corev1.Node]
	slices   *client.Informer[*discoveryv1.EndpointSlice]
	writer   sliceWriter
	triggers *triggers
}

func startEndpointSlice(e *env) (func(context.Context) error, error) {
	c := &endpointSlices{
		services: watching[*corev1.Service](e), pods: watching[*corev1.Pod](e), nodes: watching[*corev1.Node](e),
		slices: watching[*discoveryv1.EndpointSlice](e), triggers: newTriggers(),
	}
	c.writer = sliceWriter{api: client.For[*discoveryv1.EndpointSlice](e.client), newest: map[string]map[string]string{}}
	c.Controller = client.NewController("endpointslice-controller", c.reconcile)
	c.services.AddHandler(client.On[*corev1.Service](c.Controller))
	c.pods.AddIndex(byNamespace, namespaceIndex[*corev1.Pod])
	c.pods.AddHandler(servicesOfPods(c.Controller, c.services))
	c.slices.AddIndex(sliceIndex, sliceServiceIndex)
	c.slices.AddHandler(c.writer.handler(c.Controller, sliceManager))
	zoneChanged := func(old, n *corev1.Node) {
		if old.Labels[corev1.LabelTopologyZone] != n.Labels[corev1.LabelTopologyZone] {
			for _, svc := range c.services.List() {
				c.Enqueue(svc)
			}
		}
	}
	c.nodes.AddHandler(client.Handler[*corev1.Node]{Update: zoneChanged})
	return c.Run, nil
}

const sliceIndex = "service"

// sliceServiceIndex files a slice under the key of its Service.
func sliceServiceIndex(s *discoveryv1.EndpointSlice) []string {
	return []string{client.JoinKey(s.Namespace, s.Labels[discoveryv1.LabelServiceName])}
}

func (c *endpointSlices) reconcile(ctx context.Context, key string) (client.Result, error) {
	svc, ok := c.services.GetKey(key)
	if !ok {
		c.triggers.forget(key)
		c.writer.forget(key)
		return client.Result{}, nil // the slices go with their owner
	}
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return client.Result{}, nil
	}
	have := managedBy(c.slices.ByIndex(sliceIndex, key), sliceManager)
	if c.writer.stale(key, have) {
		return client.Result{RequeueAfter: time.Second}, nil // the event that is missing comes before that
	}
	behind := servicePods(svc, c.pods)
	trigger := c.triggers.next(svc, behind)
	families := svc.Spec.IPFamilies
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	var plan slicePlan
	for _, f := range families {
		of := discoveryv1.AddressType(f)
		mine := filter(have, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == of && s.DeletionTimestamp == nil })
		wanted := groupEndpoints(svc, behind, of, c.zone)
		plan.add(packSlices(mine, wanted, func() *discoveryv1.EndpointSlice { return newSlice(svc, of) }, sliceLabels(svc)))
	}
	plan.remove = append(plan.remove, filter(have, func(s *discoveryv1.EndpointSlice) bool {
		return !slices.Contains(families, corev1.IPFamily(s.AddressType))
	})...)
	return client.Result{}, c.writer.apply(ctx, key, plan, trigger)
}

func (c *endpointSlices) zone(node string) string {
	if n, ok := c.nodes.GetKey(node); ok {
		return n.Labels[corev1.LabelTopologyZone]
	}
	return ""
}

func managedBy(all []*discoveryv1.EndpointSlice, manager string) []*discoveryv1.EndpointSlice {
	mine := filter(all, func(s *discoveryv1.EndpointSlice) bool { return s.Labels[discoveryv1.LabelManagedBy] == manager })
	slices.SortFunc(mine, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	return mine
}

// sliceLabels are the labels of a Service's slices: its own and three more.
func sliceLabels(svc *corev1.Service) map[string]string {
	out := withLabel(svc.Labels, discoveryv1.LabelServiceName, svc.Name)
	out[discoveryv1.LabelManagedBy] = sliceManager
	delete(out, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		out[corev1.IsHeadlessService] = ""
	}
	return out
}

func newSlice(svc *corev1.Service, of discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, GenerateName: svc.Name + "-", Labels: sliceLabels(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: of,
	}
}

// endpointGroup is the endpoints that share one set of ports.
type endpointGroup struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// groupEndpoints makes the endpoints of one address family.
func groupEndpoints(svc *corev1.Service, pods []*corev1.Pod, of discoveryv1.AddressType, zone func(node string) string) []*endpointGroup {
	groups := map[string]*endpointGroup{}
	for _, p := range pods {
		addresses := podAddresses(p, of)
		if !podHasEndpoint(p, true) || len(addresses) == 0 {
			continue
		}
		var ports []discoveryv1.EndpointPort
		for _, ep := range endpointPorts(svc, p) {
			ports = append(ports, discoveryv1.EndpointPort{Name: &ep.Name, Port: &ep.Port, Protocol: &ep.Protocol, AppProtocol: ep.AppProtocol})
		}
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &endpointGroup{ports: ports}
		}
		groups[key].endpoints = append(groups[key].endpoints, podEndpoint(svc, p, addresses, zone))
	}
	var out []*endpointGroup
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, groups[key])
	}
	return out
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%d/%s", *p.Name, *p.Port, *p.Protocol)
		if p.AppProtocol != nil {
			fmt.Fprintf(&b, "/%s", *p.AppProtocol)
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func podAddresses(p *corev1.Pod, of discoveryv1.AddressType) (out []string) {
	ips := p.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() == (of == discoveryv1.AddressTypeIPv4) {
			out = append(out, ip.IP)
		}
	}
	return out
}

// podEndpoint is a pod as an endpoint. It is ready if the pod is and is not
// going away; serving does not look at the latter.
//
// Upstream: k8s.io/endpointslice/utils.go, podToEndpoint.
func podEndpoint(svc *corev1.Service, p *corev1.Pod, addresses []string, zone func(string) string) discoveryv1.Endpoint {
	serving, terminating := podReady(p), p.DeletionTimestamp != nil
	ep := discoveryv1.Endpoint{
		Addresses: addresses, TargetRef: podReference(p),
		Conditions: discoveryv1.EndpointConditions{
			Ready: new(svc.Spec.PublishNotReadyAddresses || serving && !terminating), Serving: &serving, Terminating: &terminating,
		},
	}
	if p.Spec.NodeName != "" {
		ep.NodeName = new(p.Spec.NodeName)
		if z := zone(p.Spec.NodeName); z != "" {
			ep.Zone = &z
		}
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == svc.Name {
		ep.Hostname = new(p.Spec.Hostname)
	}
	return ep
}

// slicePlan is what is to be written.
type slicePlan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

func (p *slicePlan) add(q slicePlan) {
	p.create, p.update, p.remove = append(p.create, q.create...), append(p.update, q.update...), append(p.remove, q.remove...)
}

// packSlices lays endpoints into slices with as few writes as possible: endpoints
// that are in a slice stay there, new ones fill the gaps of slices that change
// anyway, then of others, then new slices. One slice stays when all endpoints go.
//
// Upstream: k8s.io/endpointslice/reconciler.go, reconcileByPortMapping.
func packSlices(have []*discoveryv1.EndpointSlice, groups []*endpointGroup, fresh func() *discoveryv1.EndpointSlice, labels map[string]string) (plan slicePlan) {
	free := slices.Clone(have) // not used by any group yet
	if len(groups) == 0 {
		groups = []*endpointGroup{{}}
	}
	var lay []*discoveryv1.EndpointSlice // all that shall be, with their endpoints
	for _, g := range groups {
		waiting := map[string]discoveryv1.Endpoint{}
		var order []string
		for _, ep := range g.endpoints {
			waiting[endpointKey(ep)] = ep
			order = append(order, endpointKey(ep))
		}
		var mine []*discoveryv1.EndpointSlice
		free = slices.DeleteFunc(free, func(s *discoveryv1.EndpointSlice) bool {
			if portsKey(s.Ports) != portsKey(g.ports) {
				return false
			}
			kept := s.DeepCopy()
			kept.Endpoints = nil
			for _, ep := range s.Endpoints {
				if now, ok := waiting[endpointKey(ep)]; ok {
					kept.Endpoints = append(kept.Endpoints, now)
					delete(waiting, endpointKey(ep))
				}
			}
			mine = append(mine, kept)
			return true
		})
		order = filter(order, func(k string) bool { _, ok := waiting[k]; return ok })
		for _, s := range mine {
			for len(order) > 0 && len(s.Endpoints) < maxEndpoints {
				s.Endpoints, order = append(s.Endpoints, waiting[order[0]]), order[1:]
			}
		}
		for len(order) > 0 || len(mine) == 0 {
			s := fresh()
			s.Ports = g.ports
			for len(order) > 0 && len(s.Endpoints) < maxEndpoints {
				s.Endpoints, order = append(s.Endpoints, waiting[order[0]]), order[1:]
			}
			mine = append(mine, s)
		}
		lay = append(lay, mine...)
	}
	return planSlices(have, free, lay, labels)
}

func endpointKey(ep discoveryv1.Endpoint) string {
	if ep.TargetRef != nil {
		return string(ep.TargetRef.UID) + "/" + strings.Join(ep.Addresses, ",")
	}
	return strings.Join(ep.Addresses, ",")
}

// planSlices turns a layout into writes; slices that are free are used again
// before new ones are made.
func planSlices(have, free, lay []*discoveryv1.EndpointSlice, labels map[string]string) (plan slicePlan) {
	empty := func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) == 0 }
	full := slices.ContainsFunc(lay, func(s *discoveryv1.EndpointSlice) bool { return !empty(s) })
	for i, s := range lay {
		switch {
		case empty(s) && (full || i > 0):
			if s.Name != "" {
				plan.remove = append(plan.remove, s)
			}
		case s.Name == "" && len(free) > 0:
			again := free[0].DeepCopy()
			free = free[1:]
			again.Ports, again.Endpoints, again.Labels = s.Ports, s.Endpoints, labels
			plan.update = append(plan.update, again)
		case s.Name == "":
			plan.create = append(plan.create, s)
		default:
			s.Labels = labels
			before := have[slices.IndexFunc(have, func(h *discoveryv1.EndpointSlice) bool { return h.Name == s.Name })]
			if !equality.Semantic.DeepEqual(before.Endpoints, s.Endpoints) || !maps.Equal(before.Labels, s.Labels) {
				plan.update = append(plan.update, s)
			}
		}
	}
	plan.remove = append(plan.remove, free...)
	return plan
}

// sliceWriter writes slices and remembers the newest version of each, so that a
// pass over a cache that is behind does not make the same slice twice.
//
// Upstream: k8s.io/endpointslice/util, EndpointSliceTracker.
type sliceWriter struct {
	api    *client.Resource[*discoveryv1.EndpointSlice]
	mu     sync.Mutex
	newest map[string]map[string]string // service key -> slice name -> resourceVersion
}

func (w *sliceWriter) handler(c *client.Controller, manager string) client.Handler[*discoveryv1.EndpointSlice] {
	return client.Handler[*discoveryv1.EndpointSlice]{
		Add: func(s *discoveryv1.EndpointSlice) {
			if s.Labels[discoveryv1.LabelManagedBy] == manager {
				c.Queue.Add(sliceServiceIndex(s)[0])
			}
		},
		Update: func(old, s *discoveryv1.EndpointSlice) {
			if s.Labels[discoveryv1.LabelManagedBy] == manager || old.Labels[discoveryv1.LabelManagedBy] == manager {
				c.Queue.Add(sliceServiceIndex(s)[0])
				c.Queue.Add(sliceServiceIndex(old)[0])
			}
		},
		Delete: func(s *discoveryv1.EndpointSlice) {
			key := sliceServiceIndex(s)[0]
			w.mu.Lock()
			delete(w.newest[key], s.Name)
			w.mu.Unlock()
			if s.Labels[discoveryv1.LabelManagedBy] == manager {
				c.Queue.Add(key)
			}
		},
	}
}

func (w *sliceWriter) stale(key string, have []*discoveryv1.EndpointSlice) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, version := range w.newest[key] {
		i := slices.IndexFunc(have, func(s *discoveryv1.EndpointSlice) bool { return s.Name == name })
		if i < 0 {
			return true
		}
		if c, err := resourceversion.CompareResourceVersion(have[i].ResourceVersion, version); err == nil && c < 0 {
			return true
		}
	}
	return false
}

func (w *sliceWriter) remember(key string, s *discoveryv1.EndpointSlice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.newest[key] == nil {
		w.newest[key] = map[string]string{}
	}
	w.newest[key][s.Name] = s.ResourceVersion
}

func (w *sliceWriter) forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.newest, key)
}

// apply carries a plan out.
func (w *sliceWriter) apply(ctx context.Context, key string, plan slicePlan, trigger time.Time) error {
	for _, s := range plan.create {
		noteTrigger(&s.ObjectMeta, trigger)
		created, err := w.api.Create(ctx, s)
		if namespaceEnds(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("failed to create EndpointSlice for Service %s: %w", key, err)
		}
		w.remember(key, created)
	}
	for _, s := range plan.update {
		noteTrigger(&s.ObjectMeta, trigger)
		updated, err := w.api.Update(ctx, s)
		if err != nil {
			return fmt.Errorf("failed to update %s EndpointSlice for Service %s: %w", s.Name, key, err)
		}
		w.remember(key, updated)
	}
	for _, s := range plan.remove {
		err := w.api.Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{})
		if ignoring(err, apierrors.IsNotFound) != nil {
			return fmt.Errorf("failed to delete %s EndpointSlice for Service %s: %w", s.Name, key, err)
		}
		w.mu.Lock()
		delete(w.newest[key], s.Name)
		w.mu.Unlock()
	}
	return nil
}
