package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"orrery/client"
)

// The service load balancer controller. Upstream asks a cloud for load
// balancers; here the addresses come from a configured pool, and who owns the
// pool's network sees to it that they lead to the nodes.
//
// Watches: Services.
// Wants: an address in the status of each Service of type LoadBalancer, of its
// own, and the one it asks for if spec.loadBalancerIP does.
// Does: writes status.loadBalancer; frees the address when the type changes.
// Upstream: k8s.io/cloud-provider/controllers/service, Controller.
func startServiceLB(e *env) (func(context.Context) error, error) {
	if len(e.cfg.LoadBalancerPool) == 0 {
		return nil, nil
	}
	services, api, recorder := watching[*corev1.Service](e), client.For[*corev1.Service](e.client), e.recorder("service-controller")
	given := map[netip.Addr]string{} // what the cache may not show yet
	c := client.NewController("service-lb-controller", func(ctx context.Context, key string) (client.Result, error) {
		svc, ok := services.GetKey(key)
		for a, owner := range given {
			if owner == key && (!ok || svc.Spec.Type != corev1.ServiceTypeLoadBalancer) {
				delete(given, a)
			}
		}
		if !ok || svc.Spec.LoadBalancerClass != nil {
			return client.Result{}, nil
		}
		status := corev1.LoadBalancerStatus{}
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil {
			for _, other := range services.List() {
				for _, in := range other.Status.LoadBalancer.Ingress {
					if a, err := netip.ParseAddr(in.IP); err == nil && given[a] == "" {
						given[a] = client.Key(other)
					}
				}
			}
			a, err := poolAddress(e.cfg.LoadBalancerPool, svc, given)
			if err != nil {
				recorder.Eventf(svc, warning, "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer: %v", err)
				return client.Result{}, err
			}
			given[a] = key
			status.Ingress = []corev1.LoadBalancerIngress{{IP: a.String(), IPMode: new(corev1.LoadBalancerIPModeVIP)}}
		}
		if equality.Semantic.DeepEqual(svc.Status.LoadBalancer, status) {
			return client.Result{}, nil
		}
		svc = svc.DeepCopy()
		svc.Status.LoadBalancer = status
		_, err := api.UpdateStatus(ctx, svc)
		if err == nil && len(status.Ingress) > 0 {
			recorder.Event(svc, normal, "EnsuredLoadBalancer", "Ensured load balancer")
		}
		return client.Result{}, err
	})
	c.Workers = 1
	services.AddHandler(client.On[*corev1.Service](c))
	return c.Run, nil
}

// poolAddress keeps a Service's address, or takes the one it asks for, or the
// first that is free.
func poolAddress(pool []netip.Prefix, svc *corev1.Service, given map[netip.Addr]string) (netip.Addr, error) {
	key := client.Key(svc)
	inPool := func(a netip.Addr) bool {
		return slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if want := svc.Spec.LoadBalancerIP; want != "" {
		a, err := netip.ParseAddr(want)
		if err != nil || !inPool(a) || given[a] != "" && given[a] != key {
			return a, fmt.Errorf("address %s is not free in the pool", want)
		}
		return a, nil
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil && inPool(a) && given[a] == key {
			return a, nil
		}
	}
	for _, p := range pool {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			if given[a] == "" || given[a] == key {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("the pool %v is used up", pool)
}
