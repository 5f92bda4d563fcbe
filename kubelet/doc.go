// Package kubelet runs the pods of one node. It is told by the API server, or by
// a folder of static pods, what shall run; it asks the container runtime, by CRI,
// what does run; and it works on the difference, one pod at a time.
//
//	API server ─┐                 ┌─▶ worker of a pod ─▶ computeActions ─▶ CRI runtime
//	            ├─▶ podStore ─▶ workers                        ▲                 │
//	manifests ──┘                 ▲  └─▶ statusManager ─▶ API  │                 │
//	                              ├── pleg, each second ◀──────┴── what runs ◀───┘
//	                              └── probes
//
// Beside that a node registers itself, renews its lease each ten seconds, and
// says what it has and how it is (node.go, lease.go).
//
// Invariants:
//   - The runtime is the memory: labels on containers tell a kubelet that has
//     just started what runs. Its own restart touches no container.
//   - A pod is worked on by one goroutine from its first pass to its last.
//   - What runs is what the pleg has seen last; after a pass a worker waits until
//     it has looked again.
//   - A decision is pure and apart from the act: computeActions, podStatus, refuse.
//   - A pod leaves the API only after its last container has ended.
//   - Static pods need no API server; that is how a control plane boots.
//
// Read next: kubelet.go, workers.go, pleg.go, sync.go, actions.go, podstatus.go; then
// node.go, and the folders runtime, volumes, probes, server, certificate.
//
// Upstream: pkg/kubelet.
package kubelet
