package proxy

import (
	"fmt"
	"net/netip"
)

// writer writes the rules of one Service port.
type writer struct {
	Ruleset
	choice
	sp *servicePort
	o  Options
}

func (w writer) write() {
	sp := w.sp
	hasInternal := w.any && (!sp.internalLocal || len(w.local) > 0)
	hasExternal := w.any && (!sp.externalLocal || len(w.local) > 0)
	w.captureClusterIP(hasInternal)
	w.captureExternal(hasExternal)
	if sp.healthCheckPort != 0 {
		w.filter.add(chainNodePorts, comment("%s health check node port", sp.name),
			"-m tcp -p tcp --dport", fmt.Sprint(sp.healthCheckPort), "-j ACCEPT")
	}
	if hasInternal {
		w.masqueradeInternal()
	}
	if w.any && sp.externallyAccessible() {
		w.externalChain(hasExternal)
	}
	if w.usesFirewall() {
		w.firewallChain()
	}
	if len(w.cluster) > 0 && sp.usesCluster() {
		w.balance(sp.chain(prefixService), w.cluster)
	}
	if len(w.local) > 0 && sp.usesLocal() {
		w.balance(sp.chain(prefixLocal), w.local)
	}
	for _, e := range w.all {
		w.endpointChain(e)
	}
}

// to matches traffic to an address and port.
func (w writer) to(addr netip.Addr, port int32) string {
	return fmt.Sprintf("-m %s -p %s -d %s --dport %d", w.sp.protocol, w.sp.protocol, addr, port)
}

// policyChain is where traffic under a policy chooses its endpoint.
func (w writer) policyChain(local bool) string {
	if local {
		return w.sp.chain(prefixLocal)
	}
	return w.sp.chain(prefixService)
}

// refusal says what becomes of traffic that no endpoint can take: it is refused
// where no node could take it, and dropped where another node could, so that a
// client or load balancer tries again elsewhere.
func (w writer) refusal() (why, target string) {
	if !w.any {
		return comment("%s has no endpoints", w.sp.name), "-j REJECT"
	}
	return comment("%s has no local endpoints", w.sp.name), "-j DROP"
}

func (w writer) captureClusterIP(hasInternal bool) {
	sp := w.sp
	if hasInternal {
		w.nat.add(chainServices, comment("%s cluster IP", sp.name), w.to(sp.clusterIP, sp.port), "-j", w.policyChain(sp.internalLocal))
		return
	}
	why, target := w.refusal()
	w.filter.add(chainServices, why, w.to(sp.clusterIP, sp.port), target)
}

// captureExternal catches what comes for external addresses and node ports. If
// there are endpoints but none for traffic from outside, both kinds of rules
// are made: the nat rules serve the node's own traffic, the rest is dropped.
func (w writer) captureExternal(hasExternal bool) {
	sp := w.sp
	external, why, target := sp.chain(prefixExternal), "", ""
	if !hasExternal {
		why, target = w.refusal()
	}
	capture := func(addrs []netip.Addr, kind, chain string) {
		for _, ip := range addrs {
			if w.any {
				w.nat.add(chainServices, comment("%s %s IP", sp.name, kind), w.to(ip, sp.port), "-j", chain)
			}
			if !hasExternal {
				w.filter.add(chainExternalServices, why, w.to(ip, sp.port), target)
			}
		}
	}
	capture(sp.externalIPs, "external", external)
	balancer := external
	if w.usesFirewall() {
		balancer = sp.chain(prefixFirewall)
		for _, ip := range sp.loadBalancerIPs {
			w.filter.add(chainProxyFirewall, comment("%s traffic not accepted by %s", sp.name, balancer), w.to(ip, sp.port), "-j DROP")
		}
	}
	capture(sp.loadBalancerIPs, "loadbalancer", balancer)
	if sp.nodePort == 0 {
		return
	}
	port := fmt.Sprintf("--dport %d", sp.nodePort)
	proto := fmt.Sprintf("-m %s -p %s", sp.protocol, sp.protocol)
	if w.any {
		if w.o.Counters && w.o.LocalhostNodePorts {
			w.nat.add(chainNodePorts, comment("%s", sp.name), proto, "-d", localhost, port,
				"-m nfacct --nfacct-name", counterLocalhost, "-j", external)
		}
		w.nat.add(chainNodePorts, comment("%s", sp.name), proto, port, "-j", external)
	}
	if !hasExternal {
		w.filter.add(chainExternalServices, why, "-m addrtype --dst-type LOCAL", proto, port, target)
	}
}

func (w writer) usesFirewall() bool {
	return w.any && len(w.sp.loadBalancerIPs) > 0 && len(w.sp.sourceRanges) > 0
}

// masqueradeInternal marks traffic to the cluster IP that does not come from a
// pod: the endpoint may be on another node, whose reply must come back by way
// of this one.
func (w writer) masqueradeInternal() {
	sp, source := w.sp, ""
	switch {
	case w.o.MasqueradeAll:
	case w.o.ClusterCIDR != "":
		source = "! -s " + w.o.ClusterCIDR
	default:
		return
	}
	w.nat.add(w.policyChain(sp.internalLocal), comment("%s cluster IP", sp.name),
		w.to(sp.clusterIP, sp.port), source, "-j", chainMarkMasq)
}

// externalChain handles all traffic for external addresses and node ports.
func (w writer) externalChain(hasExternal bool) {
	sp, chain := w.sp, w.sp.chain(prefixExternal)
	if !sp.externalLocal {
		w.nat.add(chain, comment("masquerade traffic for %s external destinations", sp.name), "-j", chainMarkMasq)
	} else {
		// The policy is for clients outside. What starts here, in a pod or on the
		// node, is treated as if it had gone out to a load balancer and come back.
		if w.o.ClusterCIDR != "" {
			w.nat.add(chain, comment("pod traffic for %s external destinations", sp.name),
				"-s", w.o.ClusterCIDR, "-j", sp.chain(prefixService))
		}
		w.nat.add(chain, comment("masquerade LOCAL traffic for %s external destinations", sp.name),
			"-m addrtype --src-type LOCAL -j", chainMarkMasq)
		w.nat.add(chain, comment("route LOCAL traffic for %s external destinations", sp.name),
			"-m addrtype --src-type LOCAL -j", sp.chain(prefixService))
	}
	if hasExternal {
		w.nat.add(chain, "-j", w.policyChain(sp.externalLocal))
	}
}

// firewallChain lets through what comes from loadBalancerSourceRanges. The rest
// falls off its end untranslated, and KUBE-PROXY-FIREWALL drops it.
func (w writer) firewallChain() {
	sp, chain, external := w.sp, w.sp.chain(prefixFirewall), w.sp.chain(prefixExternal)
	fromNode := false
	for _, r := range sp.sourceRanges {
		w.nat.add(chain, comment("%s loadbalancer IP", sp.name), "-s", r.String(), "-j", external)
		fromNode = fromNode || r.Contains(w.o.NodeIP)
	}
	// The address may be one of this node's own: then the node talks to it with
	// that address as its source.
	if fromNode {
		for _, ip := range sp.loadBalancerIPs {
			w.nat.add(chain, comment("%s loadbalancer IP", sp.name), "-s", ip.String(), "-j", external)
		}
	}
	w.nat.add(chain, comment("other traffic to %s will be dropped by KUBE-PROXY-FIREWALL", sp.name))
}

// balance chooses an endpoint: the first of n with probability 1/n, the next of
// the n-1 that are left with 1/(n-1), and so on; each gets the same share.
func (w writer) balance(chain string, endpoints []endpoint) {
	sp := w.sp
	if sp.affinitySeconds > 0 {
		for _, e := range endpoints {
			w.nat.add(chain, comment("%s -> %s", sp.name, e.addr), "-m recent --name", sp.endpointChain(e),
				fmt.Sprintf("--rcheck --seconds %d --reap", sp.affinitySeconds), "-j", sp.endpointChain(e))
		}
	}
	for i, e := range endpoints {
		chance := ""
		if left := len(endpoints) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %0.10f", 1/float64(left))
		}
		w.nat.add(chain, comment("%s -> %s", sp.name, e.addr), chance, "-j", sp.endpointChain(e))
	}
}

// endpointChain is the translation. A pod that gets itself as its endpoint
// would see its own address as the client's, and answer itself: masqueraded.
func (w writer) endpointChain(e endpoint) {
	sp, chain, affinity := w.sp, w.sp.endpointChain(e), ""
	w.nat.add(chain, comment("%s", sp.name), "-s", e.addr.Addr().String(), "-j", chainMarkMasq)
	if sp.affinitySeconds > 0 {
		affinity = "-m recent --name " + chain + " --set"
	}
	w.nat.add(chain, comment("%s", sp.name), affinity, fmt.Sprintf("-m %s -p %s", sp.protocol, sp.protocol),
		"-j DNAT --to-destination", e.addr.String())
}
