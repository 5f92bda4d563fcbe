// Package plugin is the CNI plugin: the binary which the container runtime runs
// when it makes or removes a pod sandbox.
//
//	runtime ──exec──► orrery-cni        CNI_COMMAND=ADD CNI_CONTAINERID=… CNI_NETNS=/proc/…/ns/net CNI_IFNAME=eth0
//	        ──stdin─► the configuration, one entry of /etc/cni/net.d/10-orrery.conflist
//	        ◄─stdout─ the result: interfaces, addresses, routes; or an error as JSON
//
//	ADD:  address from ipam ─► bridge cni0 ─► veth pair ─► address and default route in the pod ─► host ports
//	DEL:  host ports ─► veth pair ─► address: the same backwards, and whatever is missing is done already
//
// A pod's address is a /32: everything, even the pod next door, is reached by
// way of the bridge's own address. With the whole range on its interface a pod
// would answer its neighbour through the bridge at layer 2, past the node's
// connection tracking; a reply that belongs to a Service's virtual address
// would then come from the wrong one, unless the kernel module br_netfilter
// sends bridged frames through iptables too. Not every kernel has it.
//
// Invariants:
//
//   - ADD leaves nothing behind when it fails.
//   - DEL never fails for what is gone: the runtime repeats it until it succeeds,
//     also after a reboot, when the network namespace no longer exists.
//   - Names are functions of the container id, so DEL finds what ADD made
//     without any note of its own.
//
// Read next: plugin.go, then cni/ipam.
//
// Upstream: containernetworking/plugins, plugins/main/bridge, plugins/main/ptp, plugins/meta/portmap.
// Left out: IPv6, VLANs, several ranges, traffic shaping, DNS, ipMasq (the daemon does it for the node).
package plugin
