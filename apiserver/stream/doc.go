// Package stream carries bytes between clients and kubelets: logs, exec, attach,
// port-forward, and the proxies to pods, services and nodes.
//
//	kubectl ── WebSocket v5 ──▶ translate ──┐
//	kubectl ── SPDY ───────────────────────▶├── mutual TLS ──▶ kubelet:10250/exec/...
//	kubectl ── WebSocket tunnel of SPDY ───▶┘
//
// Invariants: who may do it was decided before a request comes here; the caller's
// credentials never leave this server, it speaks to kubelets with its own certificate;
// every stream ends when either side does.
//
// Read next: kubelet.go (where to), exec.go, websocket.go, portforward.go, proxy.go.
package stream
