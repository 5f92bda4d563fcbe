// Package bench measures our API server beside upstream's: one client program,
// one machine, in turns, so that what else the machine does hits both. Only the
// ratios mean something.
//
//	round 1:  ours ─ upstream     round 2:  upstream ─ ours     ...     medians, ratios
//	            └─ start, idle, create, get, list, memory, watch
//
// Ours runs with etcd inside; upstream's with the etcd of the same version beside
// it, whose memory and processor time count. Both sync every write to disk, but for
// the watches. Clients
// are plain HTTP with bodies made beforehand, and watchers read bare frames, so that
// they cost as little as can be: on a small machine they compete with the server.
// Processor time is measured too, where that competition decides: it does not
// depend on what else runs.
//
// Run it with `make bench-apiserver`. Read next: bench_test.go, load_test.go, watch_test.go.
package bench
