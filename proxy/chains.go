package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
)

// Chains that always exist.
//
// Upstream: pkg/proxy/iptables/proxier.go, the constants at its top.
const (
	chainServices         = "KUBE-SERVICES"
	chainExternalServices = "KUBE-EXTERNAL-SERVICES"
	chainNodePorts        = "KUBE-NODEPORTS"
	chainPostrouting      = "KUBE-POSTROUTING"
	chainMarkMasq         = "KUBE-MARK-MASQ"
	chainForward          = "KUBE-FORWARD"
	chainProxyFirewall    = "KUBE-PROXY-FIREWALL"
	chainFirewall         = "KUBE-FIREWALL"     // the kubelet's; the rule in it is needed by both
	chainCanary           = "KUBE-PROXY-CANARY" // empty: if it is gone, somebody flushed the tables
)

// Prefixes of the chains of one Service port or endpoint.
const (
	prefixService  = "KUBE-SVC-" // choose among all endpoints
	prefixLocal    = "KUBE-SVL-" // choose among the endpoints of this node
	prefixExternal = "KUBE-EXT-" // traffic from outside, before it goes to one of those
	prefixFirewall = "KUBE-FW-"  // loadBalancerSourceRanges, before KUBE-EXT-
	prefixEndpoint = "KUBE-SEP-" // the translation itself
)

// ownChain finds chains that come and go with Services.
var ownChain = regexp.MustCompile(`^KUBE-(SVC|SVL|EXT|FW|SEP)-`)

// chain is the name of a port's chain; what follows the prefix is its hash, in
// which nothing but the name and the protocol takes part.
//
// Upstream: pkg/proxy/iptables/proxier.go, portProtoHash.
func (s *servicePort) chain(prefix string) string { return prefix + hash(s.name+s.protocol) }

// endpointChain is the name of the chain of one endpoint of a port.
func (s *servicePort) endpointChain(e endpoint) string {
	return prefixEndpoint + hash(s.name+s.protocol+e.addr.String())
}

// hash keeps names below the kernel's limit of 28 bytes.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// jump is the rule by which a chain of the kernel leads to one of ours.
type jump struct {
	table, from, to string
	match           []string
}

// jumps in the order in which they are put before everything else, so the last
// of a chain stands first in it.
func jumps() []jump {
	fresh := []string{"-m", "conntrack", "--ctstate", "NEW"}
	comment := func(text string, match ...string) []string {
		return append(match, "-m", "comment", "--comment", text)
	}
	return []jump{
		{"filter", "INPUT", chainFirewall, nil},
		{"filter", "OUTPUT", chainFirewall, nil},
		{"filter", "INPUT", chainExternalServices, comment("kubernetes externally-visible service portals", fresh...)},
		{"filter", "FORWARD", chainExternalServices, comment("kubernetes externally-visible service portals", fresh...)},
		{"filter", "INPUT", chainNodePorts, comment("kubernetes health check service ports")},
		{"filter", "FORWARD", chainServices, comment("kubernetes service portals", fresh...)},
		{"filter", "OUTPUT", chainServices, comment("kubernetes service portals", fresh...)},
		{"filter", "FORWARD", chainForward, comment("kubernetes forwarding rules")},
		{"filter", "INPUT", chainProxyFirewall, comment("kubernetes load balancer firewall", fresh...)},
		{"filter", "OUTPUT", chainProxyFirewall, comment("kubernetes load balancer firewall", fresh...)},
		{"filter", "FORWARD", chainProxyFirewall, comment("kubernetes load balancer firewall", fresh...)},
		{"nat", "OUTPUT", chainServices, comment("kubernetes service portals")},
		{"nat", "PREROUTING", chainServices, comment("kubernetes service portals")},
		{"nat", "POSTROUTING", chainPostrouting, comment("kubernetes postrouting rules")},
	}
}
