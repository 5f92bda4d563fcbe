// Package proxy makes Services work: it turns every Service and the endpoints
// behind it into rules of the node's kernel, which then does all the rest. No
// packet ever goes through this process; that is why its death is not noticed
// until an endpoint changes.
//
//	Services ──────┐                     ┌─► *filter  REJECT and DROP for Services without endpoints
//	EndpointSlices ┼─► Compute ─► Ruleset┤
//	own Node ──────┘   (pure)            └─► *nat     a Service's address becomes an endpoint's
//
//	PREROUTING, OUTPUT ─► KUBE-SERVICES ─► KUBE-SVC-… ─(1/n each)─► KUBE-SEP-… ─► DNAT to a pod
//	                        └─► KUBE-NODEPORTS ─► KUBE-EXT-… ─► KUBE-SVC-…
//	POSTROUTING ─► KUBE-POSTROUTING: what KUBE-MARK-MASQ marked on its way is masqueraded
//
// Invariants:
//
//   - Compute is a function: the same objects give the same text, byte for byte,
//     and nothing of the past is in it. Everything that acts is elsewhere.
//   - All rules change in one transaction (iptables-restore): no packet sees half
//     of them.
//   - Names of chains are hashes of what they are for, as upstream computes them,
//     so the rules of two nodes, or of ours and upstream's, can be compared.
//   - When the process ends its rules stay. Only --cleanup removes them.
//
// Read next: services.go (what the objects say), rules.go (the rules), then
// proxy.go (when) and iptables.go (how).
//
// Upstream: pkg/proxy and pkg/proxy/iptables.
// Left out: modes nftables, ipvs and kernelspace; IPv6; partial restores;
// conntrack sysctls.
package proxy
