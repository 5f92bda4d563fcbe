// Package alloc gives services their cluster IPs and node ports, each to one service only.
//
//	write of a Service ── Begin ──▶ pools (memory) ── done(written) ──▶ kept, or given back
//	                                  ▲
//	                       first use: every stored Service is read
//
// Invariants: what a stored service has is taken in the pools; the pools are nothing but a summary of the stored services, so a restart
// repairs them. Explicit requests may take anything in range; automatic choice prefers the upper part, so that low addresses and ports
// stay free for those who choose by hand.
//
// Read next: services.go, then pool.go.
package alloc
