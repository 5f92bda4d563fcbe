// Package controllers is the controller manager: some thirty loops, each of
// which makes one kind of promise come true and knows nothing of the others.
// They meet only in the API server.
//
//	             ┌───────────── shared informers (one copy of each kind) ◀── watch ──┐
//	             ▼                                                                   │
//	handlers ─ keys ─▶ Queue ─▶ Reconcile(key) ─▶ decide (pure) ─▶ act ─▶ API server ┘
//
//	Deployment ─▶ ReplicaSet ─▶ Pod ─▶ EndpointSlice      each arrow is a controller
//	Node ─ heartbeat ─▶ condition ─▶ taint ─▶ eviction    so is each of these
//
// Every controller file has the same four-part shape in its comment: Watches,
// Wants, Does, Upstream. What is decided stands in pure functions, from state to
// actions, which the tests drive as tables; what acts is thin.
//
// Invariants:
//   - A controller acts on what is, never on what just happened: the same key
//     reconciled twice does nothing the second time.
//   - A controller changes only objects that it owns (an ownerReference with
//     controller=true) or fields that are its own.
//   - Only the leader runs. Whatever a controller remembers besides the API may
//     be forgotten at any time; a restarted manager starts its timers afresh.
//
// Read next: manager.go, replicaset.go, deployment.go, node_lifecycle.go,
// taint_eviction.go.
//
// Upstream: cmd/kube-controller-manager and pkg/controller.
package controllers
