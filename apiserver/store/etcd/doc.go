// Package etcd is a Store in etcd: a server apart, as on a cluster of kubeadm's, or
// one that runs inside this process, as in orrery sim.
//
//	registry ── Store ── clientv3 ──┬── Open:  gRPC, mutual TLS ──▶ etcd :2379 ◀── etcdctl
//	                                └── Embed: direct calls ──▶ embed.Etcd ── data dir
//
// Invariants: keys and values are upstream's, byte for byte, so that either API
// server can open what the other wrote; a resourceVersion is an etcd revision.
//
// Read next: ../store.go for the contract, store.go, then embed.go.
package etcd
