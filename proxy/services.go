package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// servicePort is one port of one Service, as far as rules depend on it.
//
// Upstream: pkg/proxy/serviceport.go, BaseServicePortInfo.
type servicePort struct {
	namespace, service string
	name               string // "namespace/name" and, if the port has a name, ":port"
	protocol           string // lower case, as iptables wants it
	clusterIP          netip.Addr
	port, nodePort     int32
	externalIPs        []netip.Addr
	loadBalancerIPs    []netip.Addr
	sourceRanges       []netip.Prefix
	healthCheckPort    int32
	affinitySeconds    int32 // 0: no session affinity
	externalLocal      bool  // externalTrafficPolicy: Local
	internalLocal      bool  // internalTrafficPolicy: Local

	endpoints []endpoint // in the order of their addresses
}

// endpoint is one address and port behind a servicePort.
//
// Upstream: pkg/proxy/endpoint.go, BaseEndpointInfo.
type endpoint struct {
	addr                        netip.AddrPort
	node                        string
	ready, serving, terminating bool
	nodeHints, zoneHints        []string
}

func (s *servicePort) externallyAccessible() bool {
	return s.nodePort != 0 || len(s.loadBalancerIPs) > 0 || len(s.externalIPs) > 0
}

// usesCluster says whether any traffic may go to endpoints of all nodes. From
// the node itself and its pods, external addresses always lead to all of them.
func (s *servicePort) usesCluster() bool { return !s.internalLocal || s.externallyAccessible() }

// usesLocal says whether any traffic may only go to endpoints of this node.
func (s *servicePort) usesLocal() bool {
	return s.internalLocal || s.externalLocal && s.externallyAccessible()
}

// servicePorts reads the objects: all ports that need rules, in the order of
// their names.
func servicePorts(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) []*servicePort {
	byService := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range endpointSlices {
		key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		byService[key] = append(byService[key], s)
	}
	var ports []*servicePort
	for _, svc := range services {
		ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
		if err != nil || !ip.Is4() || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue // headless, or nothing but a name
		}
		for _, p := range svc.Spec.Ports {
			sp := newServicePort(svc, p, ip)
			sp.endpoints = endpointsOf(byService[svc.Namespace+"/"+svc.Name], p.Name)
			ports = append(ports, sp)
		}
	}
	slices.SortFunc(ports, func(a, b *servicePort) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.protocol, b.protocol))
	})
	return ports
}

func newServicePort(svc *corev1.Service, p corev1.ServicePort, clusterIP netip.Addr) *servicePort {
	spec := svc.Spec
	sp := &servicePort{
		namespace: svc.Namespace, service: svc.Name,
		name:      svc.Namespace + "/" + svc.Name,
		protocol:  strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP))),
		clusterIP: clusterIP, port: p.Port, nodePort: p.NodePort,
		externalIPs:   addrs(spec.ExternalIPs),
		externalLocal: spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		internalLocal: spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
	}
	if p.Name != "" {
		sp.name += ":" + p.Name
	}
	for _, r := range spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && prefix.Addr().Is4() {
			sp.sourceRanges = append(sp.sourceRanges, prefix.Masked())
		}
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		// Mode Proxy says that the load balancer delivers to node or pod addresses.
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			sp.loadBalancerIPs = append(sp.loadBalancerIPs, addrs([]string{in.IP})...)
		}
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && sp.externalLocal {
		sp.healthCheckPort = spec.HealthCheckNodePort
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		sp.affinitySeconds = corev1.DefaultClientIPServiceAffinitySeconds
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			sp.affinitySeconds = *c.ClientIP.TimeoutSeconds
		}
	}
	return sp
}

// addrs keeps the IPv4 addresses of a list of strings.
func addrs(list []string) (out []netip.Addr) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			out = append(out, a)
		}
	}
	return out
}

// endpointsOf collects the endpoints of one named port. The same address may
// stand in two slices while it moves from one to the other.
func endpointsOf(of []*discoveryv1.EndpointSlice, portName string) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for _, slice := range of {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || deref(p.Name, "") != portName {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 {
					continue
				}
				ip, err := netip.ParseAddr(e.Addresses[0])
				if err != nil {
					continue
				}
				addr := netip.AddrPortFrom(ip, uint16(*p.Port))
				found[addr] = newEndpoint(addr, e)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b endpoint) int {
		return strings.Compare(a.addr.String(), b.addr.String()) // as text, as upstream
	})
}

func newEndpoint(addr netip.AddrPort, e discoveryv1.Endpoint) endpoint {
	out := endpoint{
		addr: addr, node: deref(e.NodeName, ""),
		ready:       deref(e.Conditions.Ready, true),
		serving:     deref(e.Conditions.Serving, true),
		terminating: deref(e.Conditions.Terminating, false),
	}
	if e.Hints != nil {
		for _, h := range e.Hints.ForNodes {
			out.nodeHints = append(out.nodeHints, h.Name)
		}
		for _, h := range e.Hints.ForZones {
			out.zoneHints = append(out.zoneHints, h.Name)
		}
	}
	return out
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// choice is which of a port's endpoints this node uses.
type choice struct {
	cluster []endpoint // for traffic that may go anywhere
	local   []endpoint // for traffic that has to stay on the node
	all     []endpoint // both, each once
	any     bool       // there is one that some node could use
}

// choose picks the endpoints: ready ones and, where there is none, those that
// are shutting down but still serve. Local and cluster fall back each by itself.
//
// Upstream: pkg/proxy/topology.go, CategorizeEndpoints.
func choose(sp *servicePort, node, zone string) (c choice) {
	ready := func(e endpoint) bool { return e.ready }
	ending := func(e endpoint) bool { return e.serving && e.terminating }
	if sp.usesCluster() {
		c.cluster = closest(pick(sp.endpoints, ready), node, zone)
		if len(c.cluster) == 0 {
			c.cluster = pick(sp.endpoints, ending)
		}
		c.any = len(c.cluster) > 0
	}
	if sp.usesLocal() {
		here := pick(sp.endpoints, func(e endpoint) bool { return e.node == node })
		c.local = pick(here, ready)
		if len(c.local) == 0 {
			c.local = pick(here, ending)
		}
		c.any = c.any || len(pick(sp.endpoints, func(e endpoint) bool { return ready(e) || ending(e) })) > 0
	}
	c.all = pick(sp.endpoints, func(e endpoint) bool {
		same := func(o endpoint) bool { return o.addr == e.addr }
		return slices.ContainsFunc(c.cluster, same) || slices.ContainsFunc(c.local, same)
	})
	return c
}

// closest narrows ready endpoints to those hinted for this node or else for its
// zone. A hint counts only if every endpoint has one: half a set of hints is one
// that is just being made.
func closest(ready []endpoint, node, zone string) []endpoint {
	for _, level := range []struct {
		hints func(endpoint) []string
		here  string
	}{
		{func(e endpoint) []string { return e.nodeHints }, node},
		{func(e endpoint) []string { return e.zoneHints }, zone},
	} {
		if len(pick(ready, func(e endpoint) bool { return len(level.hints(e)) == 0 })) > 0 {
			continue
		}
		if near := pick(ready, func(e endpoint) bool { return slices.Contains(level.hints(e), level.here) }); len(near) > 0 {
			return near
		}
	}
	return ready
}

func pick(from []endpoint, want func(endpoint) bool) (out []endpoint) {
	for _, e := range from {
		if want(e) {
			out = append(out, e)
		}
	}
	return out
}
