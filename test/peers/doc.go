// Package peers runs a control plane as processes on the loopback of this
// machine, each part of it either ours or upstream's, with the flags that
// kubeadm gives it and certificates made for the test.
//
//	Cluster ── certificates, kubeconfigs, ports, one etcd data directory
//	   ├─ StartAPIServer(Ours | Upstream)   ours has etcd inside; upstream's gets one beside it, on the same directory
//	   ├─ StartAPIServers(...)              any number of either, on one etcd
//	   ├─ StartControllerManager(Ours | Upstream)
//	   ├─ StartScheduler(Ours | Upstream)
//	   └─ StartNodes(n)    hollow: they say that they are well and that their pods run
//
// Invariants: every process ends before its test does; RBAC is on, and each part
// has its own user; ours is built from this tree when it is first needed, so no
// test passes on an old binary; upstream's comes from bin/upstream, and a test
// that needs it is skipped when `make upstream` was not run.
//
// Read next: ../swap, which puts the parts together.
package peers
