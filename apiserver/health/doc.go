// Package health is what operators and probes see of the server: is it alive, is it
// ready, what does it do, how long does it take, is it overloaded.
//
//	request ──▶ Metrics ──▶ InFlight (429 when full) ──▶ the API
//	/livez /readyz /healthz ──▶ Checks      /metrics ──▶ Metrics      /version, /
//	componentstatuses ──▶ Components ──▶ /healthz of the others
//
// Invariants: a check never blocks for long; why one failed is logged, not told to strangers;
// watches and streams do not count against the limit of requests in flight.
//
// Read next: checks.go, metrics.go, inflight.go, components.go.
package health
