// Package etcd is a Store in etcd: an external cluster, or an etcd server that
// runs inside this process and still serves etcdctl on its client port.
//
//	registry ── Store ── clientv3 ──┬── Open:  gRPC, mutual TLS ──▶ etcd cluster
//	                                └── Embed: direct calls ──▶ embed.Etcd ── data dir
//	                                                                └── :2379 for etcdctl
//
// Invariants: keys and values are upstream's, byte for byte, so that either API
// server can open what the other wrote; a resourceVersion is an etcd revision.
//
// Read next: ../store.go for the contract, store.go, then embed.go.
package etcd
