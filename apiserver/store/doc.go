// Package store is where the API server keeps bytes: an ordered map from keys
// to values with one global revision counter, history, and watches. It knows
// nothing of Kubernetes; package registry turns objects into values.
//
//	registry ── Store ──┬── store/etcd    (embedded or --etcd-servers)
//	                    └── store/memory  (tests, synctest bubbles)
//
// Invariants, for every implementation:
//   - Every successful write raises the revision by exactly one, and the new
//     revision is the ModRevision of the key that was written.
//   - A watch delivers every write after its start revision exactly once, in
//     order of revision, or it ends with an error.
//   - Values are never changed in place: a returned slice may be kept, and may
//     not be written to.
//
// Both are held to these by the suite in store/storetest. Read next: store.go,
// memory/memory.go, then ../registry.
package store
