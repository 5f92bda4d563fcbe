// Package sim is a whole cluster in one process: the API server, the controller
// manager and the scheduler as they are, and any number of hollow nodes, each of
// them the real kubelet on a container runtime that only pretends. No Docker, no
// root, any operating system; kubectl cannot tell until it asks for a process.
//
//	kubectl ──TCP, TLS──▶ ┌ hub ┐ ──▶ API server ──▶ store (memory, or etcd)
//	controllers ──pipe──▶ │     │
//	scheduler ────pipe──▶ │     │
//	node ──link────pipe─▶ └─────┘     node = kubelet ──CRI──▶ Runtime: a clock and some maps
//
// What can fail is taken away by Do, from `orrery sim node stop NAME` and from
// tests: a node is stopped, paused or cut off, a component is stopped, a
// connection dropped or slowed down. What follows is what the components make of it.
//
// Invariants: the parts meet only through the API, as everywhere; the sim itself
// only turns things on and off. Inside the process everything goes through pipes,
// so that a thousand nodes need no file descriptors and a testing/synctest bubble
// holds the whole of it. Run owns every goroutine; when it has returned, none is left.
//
// Left out: packets. Nothing listens at a pod's address, so Services lead nowhere,
// probes of hollow pods succeed, and exec says that there is no process.
//
// Read next: sim.go, node.go, runtime.go, link.go.
package sim
