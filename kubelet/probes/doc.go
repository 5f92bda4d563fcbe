// Package probes asks containers how they are.
//
//	            startup ──succeeded──▶ liveness   failed: the container is restarted
//	container ─┤                  └──▶ readiness  failed: the pod is taken out of its Services
//	            one goroutine a probe, one question each periodSeconds
//
// A worker asks, counts equal answers in a row, and notes a result once there are
// as many as the threshold says; the pod's next sync acts on it. Until a startup
// probe has succeeded the other two do not ask.
//
// Invariants:
//   - A result belongs to one run of a container, by its id: a restarted
//     container begins without any.
//   - A container that ran before this kubelet started keeps the readiness that
//     the API has, until its probe has been asked: a restart of the kubelet is
//     not seen from outside.
//
// Read next: probes.go, prober.go.
//
// Upstream: pkg/kubelet/prober, pkg/probe.
package probes
