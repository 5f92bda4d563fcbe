// Package alloc gives services their cluster IPs and node ports, each to one service only, however many API servers there are on one store.
//
//	write of a Service ── Begin ──▶ create IPAddress 10.96.0.7       (AlreadyExists: somebody has it)
//	                          └───▶ compare and swap the set of node ports
//	                      done(written) ──▶ kept, or given back
//	every 3 minutes ── Repair ── services ⇄ records
//
// Invariants: what a stored service has stands in the records before the service is written, and the records are where upstream has them,
// so its API server may run on the same store. A server that dies in between leaves a record too many, never one too few; Repair finds it.
// Explicit requests may take anything in range; automatic choice prefers the upper part, so that low addresses and ports
// stay free for those who choose by hand.
//
// Read next: services.go, then addresses.go, ports.go and repair.go.
package alloc
