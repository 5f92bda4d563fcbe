package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

const mirrorManager = "endpointslicemirroring-controller.k8s.io"

// The EndpointSlice mirroring controller.
//
// Watches: Endpoints, Services, EndpointSlices.
// Wants: Endpoints that people write by hand, for a Service without a selector,
// to be seen by those who read EndpointSlices only.
// Does: keeps slices equal to the subsets.
// Upstream: pkg/controller/endpointslicemirroring, Controller.
// Left out: the cut at a thousand addresses a subset.
func startEndpointSliceMirroring(e *env) (func(context.Context) error, error) {
	endpoints, services, all := watching[*corev1.Endpoints](e), watching[*corev1.Service](e), watching[*discoveryv1.EndpointSlice](e)
	writer := sliceWriter{api: client.For[*discoveryv1.EndpointSlice](e.client), newest: map[string]map[string]string{}}
	all.AddIndex(sliceIndex, sliceServiceIndex)
	c := client.NewController("endpointslice-mirroring-controller", func(ctx context.Context, key string) (client.Result, error) {
		have := managedBy(all.ByIndex(sliceIndex, key), mirrorManager)
		if writer.stale(key, have) {
			return client.Result{RequeueAfter: time.Second}, nil
		}
		ep, ok := endpoints.GetKey(key)
		svc, served := services.GetKey(key)
		if !ok || !served || len(svc.Spec.Selector) > 0 || !mirrored(ep) {
			return client.Result{}, writer.apply(ctx, key, slicePlan{remove: have}, time.Time{})
		}
		var plan slicePlan
		for _, of := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			groups := mirrorGroups(ep, of)
			mine := filter(have, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == of })
			if len(groups) == 0 {
				plan.remove = append(plan.remove, mine...)
				continue
			}
			plan.add(packSlices(mine, groups, func() *discoveryv1.EndpointSlice { return mirrorSlice(ep, of) }, mirrorLabels(ep)))
		}
		return client.Result{}, writer.apply(ctx, key, plan, time.Time{})
	})
	endpoints.AddHandler(client.On[*corev1.Endpoints](c))
	services.AddHandler(client.On[*corev1.Service](c))
	all.AddHandler(writer.handler(c, mirrorManager))
	return c.Run, nil
}

// mirrored says whether Endpoints want to be mirrored: not those of the Endpoints
// controller, of a leader election, or with the label that says no.
func mirrored(ep *corev1.Endpoints) bool {
	_, election := ep.Annotations["control-plane.alpha.kubernetes.io/leader"]
	return ep.Labels[discoveryv1.LabelSkipMirror] != "true" && ep.Labels[managedByLabel] != endpointsManager && !election
}

func mirrorLabels(ep *corev1.Endpoints) map[string]string {
	out := withLabel(ep.Labels, discoveryv1.LabelServiceName, ep.Name)
	out[discoveryv1.LabelManagedBy] = mirrorManager
	return out
}

func mirrorSlice(ep *corev1.Endpoints, of discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ep.Namespace, GenerateName: ep.Name + "-", Labels: mirrorLabels(ep),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: of,
	}
}

// mirrorGroups turns subsets into groups of endpoints of one address family.
func mirrorGroups(ep *corev1.Endpoints, of discoveryv1.AddressType) (out []*endpointGroup) {
	for _, s := range ep.Subsets {
		g := &endpointGroup{}
		for i := range s.Ports {
			p := &s.Ports[i]
			g.ports = append(g.ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for _, a := range addresses {
				if len(podAddresses(&corev1.Pod{Status: corev1.PodStatus{PodIP: a.IP}}, of)) == 0 {
					continue
				}
				e := discoveryv1.Endpoint{Addresses: []string{a.IP}, NodeName: a.NodeName, TargetRef: a.TargetRef, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
				if a.Hostname != "" {
					e.Hostname = &a.Hostname
				}
				g.endpoints = append(g.endpoints, e)
			}
		}
		add(s.Addresses, true)
		add(s.NotReadyAddresses, false)
		if len(g.endpoints) > 0 {
			out = append(out, g)
		}
	}
	return out
}
