// Package cni is the pod network: what gives a pod its interface and address,
// and what lets pods on different nodes reach each other. It holds no code of
// its own; its four small packages do.
//
//		 node orrery (10.244.0.0/24)                node orrery-m02 (10.244.1.0/24)
//		 ┌────────────────────────────┐             ┌────────────────────────────┐
//		 │ pod netns                  │             │                  pod netns │
//		 │  eth0 10.244.0.5/32        │             │        eth0 10.244.1.7/32  │
//		 │   │ default via 10.244.0.1 │             │                 │          │
//		 │   └─veth─ cni0 10.244.0.1  │             │  10.244.1.1 cni0 ─veth─┘   │
//		 │            │ ip_forward    │             │     ip_forward │           │
//		 │           eth0 172.30.0.2 ─┼── network ──┼─ 172.30.0.3 eth0           │
//		 │ 10.244.1.0/24 via .3       │             │       10.244.0.0/24 via .2 │
//		 └────────────────────────────┘             └────────────────────────────┘
//
//	  - cni/plugin makes the left part of the picture: the CNI binary which the
//	    container runtime runs once for every sandbox made and once for every
//	    sandbox removed. It lives for milliseconds and asks nobody: stdin, its
//	    environment and the kernel are all it sees.
//	  - cni/ipam hands out the addresses: a folder with one file per address.
//	  - cni/daemon makes the right part: it runs on every node, learns from the
//	    Node objects which range lives where, and keeps the routes.
//	  - cni/kernel is the few lines that both need to put rules into the kernel.
//
// Invariants:
//
//   - The only thing that plugin and daemon share is a file: the daemon writes
//     /etc/cni/net.d/10-orrery.conflist by rename, and the runtime reads it.
//     Until it is there the node is NotReady with NetworkPluginNotReady.
//   - Nothing of this is needed for traffic that flows already: kill the
//     daemon, the API server or both, and routes, bridge and pods stay.
//
// Read next: cni/plugin, then cni/daemon. In upstream Kubernetes this is not
// part of Kubernetes at all: flannel (host-gw backend) with the bridge,
// host-local and portmap plugins of containernetworking come closest.
package cni
