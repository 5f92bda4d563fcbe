// Package daemon runs on every node and makes one network of the nodes' pods.
// It is host-gw: no tunnel, only routes; every node is the router of its own
// range of pod addresses.
//
//	Node objects ──informer──► sync ─► net/ipv4/ip_forward = 1
//	 (name, podCIDR,            │  ─► a route to every other node's podCIDR, by way of its InternalIP
//	  InternalIP)               │  ─► ORRERY-POSTRTG: pods that leave the cluster take the node's address
//	 every 30 s ────────────────┘  ─► ORRERY-FWD:     traffic from and to pods is forwarded
//	                               ─► /etc/cni/net.d/10-orrery.conflist, last and by rename
//
// Invariants:
//
//   - sync is level-triggered: it compares the kernel with the Node objects and
//     corrects the difference, whatever happened before. A route that somebody
//     deleted by hand is back within 30 s.
//   - It only removes routes that carry its own protocol number; `ip route show
//     proto 111` lists exactly them.
//   - The configuration file comes last: when the kubelet finds the network
//     ready, it is.
//   - Without the API server it keeps what it knew, and when it ends it removes nothing.
//
// Read next: daemon.go, routes.go; then cni/plugin, which makes a pod's end of it.
//
// Upstream: flannel-io/flannel, pkg/backend/hostgw and pkg/trafficmngr/iptables.
// Left out: tunnels (nodes must share a network), IPv6, NetworkPolicy.
package daemon
