// Package registry keeps API objects: it turns them into keys and values of
// the store, runs each kind's strategy around every write, and serves reads
// and watches from one cache a resource.
//
//	rest (HTTP)          objects.Client (admission, RBAC, bootstrap)
//	      └──────┬───────────────┘
//	          Resource ── Create, Update, Delete ──▶ store   (compare and swap)
//	             │                                     │ one watch a resource
//	             └── Get, List, Watch ◀── cache ◀──────┘
//
// Invariants:
//   - resourceVersion is the store's revision of the write.
//   - An object in the cache is shared by all readers and never changed.
//   - A write that changes nothing is not written, and makes no event.
//   - A watcher is a cursor into the cache's ring of events: a slow one falls
//     off its end and is closed; nobody waits for it. A change wakes those whom it
//     concerns: a kubelet sleeps through the pods of other nodes.
//
// Read next: registry.go, update.go, cache.go, watch.go, fold.go.
package registry
