// Package upstream holds the mains of the upstream components that the tests put in the place of ours, and ours in the
// place of: same release, same API, other code.
//
//	                test/swap
//	     ours ────────────────────── theirs
//	kube-apiserver    ◀── API ──▶   kube-scheduler, kube-controller-manager
//	kube-scheduler, … ◀── API ──▶   kube-apiserver ── etcd
//
// Invariant: each main is what upstream's own main does, and nothing more; what they are built from is fixed by go.sum.
//
// Read next: test/swap.
package upstream
