// Package bench measures our API server beside upstream's: one client program,
// one machine, in turns, so that what else the machine does hits both. Only the
// ratios mean something.
//
//	round 1:  ours ─ upstream     round 2:  upstream ─ ours     ...     medians, ratios
//	            └─ start, idle, create, get, list, watch, memory
//
// Ours runs with etcd inside; upstream's with the etcd of the same version beside
// it, whose memory counts. Both sync every write to disk. Clients are plain HTTP
// with bodies made beforehand, so that they cost as little as can be: on a small
// machine they compete with the server.
//
// Run it with `make bench-apiserver`. Read next: bench_test.go, then load_test.go.
package bench
