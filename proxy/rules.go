package proxy

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Options is what the rules depend on besides Services and endpoints.
type Options struct {
	// Node and Zone say where this proxy runs; NodeIP is the node's address.
	Node, Zone string
	NodeIP     netip.Addr
	// ClusterCIDR is the range of the pods; empty if it is not known.
	ClusterCIDR string
	// MasqueradeMark is the bit of a packet's mark for "masquerade this".
	MasqueradeMark uint32
	// MasqueradeAll masquerades all traffic to Services.
	MasqueradeAll bool
	// LocalhostNodePorts lets 127.0.0.1 take node ports too.
	LocalhostNodePorts bool
	// NodePortIPs are the addresses that take node ports; nil for all of the node's.
	NodePortIPs []netip.Addr
	// Counters says that the kernel has upstream's two nfacct counters.
	Counters bool
}

const (
	counterLocalhost = "localhost_nps_accepted_pkts"
	counterInvalid   = "ct_state_invalid_dropped_pkts"
	localhost        = "127.0.0.0/8"
)

// Ruleset is all rules of a node.
type Ruleset struct {
	filter, nat *table
}

// table is one table of iptables with its chains in the order they were made.
type table struct {
	name   string
	chains []string
	rules  map[string][]string
}

func newTable(name string, chains ...string) *table {
	t := &table{name: name, rules: map[string][]string{}}
	for _, c := range chains {
		t.chain(c)
	}
	return t
}

func (t *table) chain(name string) {
	if _, ok := t.rules[name]; !ok {
		t.chains = append(t.chains, name)
		t.rules[name] = nil
	}
}

// add appends a rule, made of words of which empty ones are left out.
func (t *table) add(chain string, words ...string) {
	t.chain(chain)
	rule := "-A " + chain
	for _, w := range words {
		if w != "" {
			rule += " " + w
		}
	}
	t.rules[chain] = append(t.rules[chain], rule)
}

// restore is the table in the language of iptables-restore. Chains of Services
// that are gone are emptied by naming them and then removed.
func (t *table) restore(stale []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", t.name)
	for _, c := range append(t.chains[:len(t.chains):len(t.chains)], stale...) {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c)
	}
	for _, c := range t.chains {
		for _, r := range t.rules[c] {
			b.WriteString(r + "\n")
		}
	}
	for _, c := range stale {
		fmt.Fprintf(&b, "-X %s\n", c)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// String is what is given to iptables-restore when no chain has become stale.
func (r Ruleset) String() string { return r.filter.restore(nil) + r.nat.restore(nil) }

// Compute makes the rules. It looks at nothing but its arguments.
//
// Upstream: pkg/proxy/iptables/proxier.go, Proxier.syncProxyRules.
func Compute(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, o Options) Ruleset {
	return compute(servicePorts(services, endpointSlices), o)
}

func compute(ports []*servicePort, o Options) Ruleset {
	r := Ruleset{
		filter: newTable("filter", chainServices, chainExternalServices, chainForward, chainNodePorts,
			chainProxyFirewall, chainFirewall, chainCanary),
		nat: newTable("nat", chainServices, chainNodePorts, chainPostrouting, chainMarkMasq, chainCanary),
	}
	r.base(o)
	for _, sp := range ports {
		w := writer{Ruleset: r, sp: sp, o: o, choice: choose(sp, o.Node, o.Zone)}
		w.write()
	}
	r.lastRules(o)
	return r
}

func comment(format string, args ...any) string {
	return fmt.Sprintf(`-m comment --comment "%s"`, fmt.Sprintf(format, args...))
}

// base are the rules that no Service takes part in.
func (r Ruleset) base(o Options) {
	mark := fmt.Sprintf("%#x", o.MasqueradeMark)
	r.nat.add(chainPostrouting, "-m mark ! --mark", mark+"/"+mark, "-j RETURN")
	// The mark is cleared, or the packet would be masqueraded again if it came
	// by a second time; a set bit flips to zero.
	r.nat.add(chainPostrouting, "-j MARK --xor-mark", mark)
	r.nat.add(chainPostrouting, comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE --random-fully")
	r.nat.add(chainMarkMasq, "-j MARK --or-mark", mark)

	// route_localnet, which node ports on 127.0.0.1 need, would let neighbours
	// on the network reach what listens on 127.0.0.1 only.
	if o.LocalhostNodePorts {
		r.filter.add(chainFirewall, comment("block incoming localnet connections"), "-d", localhost, "! -s", localhost,
			"-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
	}
	// A reply that conntrack cannot place would reach the client with the pod's
	// address and make it reset the connection.
	counter := ""
	if o.Counters {
		counter = "-m nfacct --nfacct-name " + counterInvalid
	}
	r.filter.add(chainForward, "-m conntrack --ctstate INVALID", counter, "-j DROP")
	r.filter.add(chainForward, comment("kubernetes forwarding rules"), "-m mark --mark", mark+"/"+mark, "-j ACCEPT")
	r.filter.add(chainForward, comment("kubernetes forwarding conntrack rule"), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
}

// lastRules lead from KUBE-SERVICES to node ports, behind all Services: an
// address of the node may be that of a Service too.
func (r Ruleset) lastRules(o Options) {
	last := comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
	if o.NodePortIPs == nil {
		not := ""
		if !o.LocalhostNodePorts {
			not = "! -d " + localhost
		}
		r.nat.add(chainServices, last, "-m addrtype --dst-type LOCAL", not, "-j", chainNodePorts)
	}
	for _, ip := range o.NodePortIPs {
		if !ip.IsLoopback() || o.LocalhostNodePorts {
			r.nat.add(chainServices, last, "-d", ip.String(), "-j", chainNodePorts)
		}
	}
}
