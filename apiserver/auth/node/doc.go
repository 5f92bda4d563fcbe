// Package node lets each kubelet at what belongs to its own node, and at nothing else:
// a stolen node certificate is worth one node's pods.
//
//	user system:node:N ──▶ own Node, Lease, CSINode, CSRs ............ by name
//	                  └──▶ Secret, ConfigMap, PVC, PV, ServiceAccount ─ if a pod on N refers to it
//
// Invariant: "refers to" is looked up among the pods of the node in the server's cache
// at the time of the request; upstream keeps a graph up to date instead, which pays
// with thousands of nodes. The answers are the same.
//
// Read next: node.go, then references.go.
package node
