// Package client is how every component talks to the API server, and the
// pattern that all of them are built on: list, watch, cache, queue, reconcile.
//
//	API server ──list+watch──▶ Informer ──keys──▶ Queue ──key──▶ Controller.Reconcile
//	     ▲                        │ (a local cache)                      │
//	     └────────────────── Resource.Create/Update/Patch ◀──────────────┘
//
// A [Client] holds one connection pool and one identity. [For] gives the typed
// endpoint of a kind, [Resource], with the verbs of the API; its Watch is an
// iterator. An [Informer] keeps a copy of a collection up to date through all
// reconnects. A [Queue] holds keys and not events, so that a reconciler always
// acts on the newest state and a hundred changes may cost one pass: the system
// is level-triggered. [Controller] ties the two together, [LeaderElector] lets
// only one of several replicas act, and [Recorder] writes Events.
//
// Invariants:
//   - An object that comes out of an Informer is shared: read it, DeepCopy
//     before changing it.
//   - One key is never reconciled by two workers at once, and a key added while
//     it is being worked on is worked on again afterwards.
//   - Run methods block, own the goroutines they start, and return when their
//     context ends.
//
// Read next: resource.go, informer.go, queue.go, controller.go.
//
// Upstream: k8s.io/client-go.
package client
