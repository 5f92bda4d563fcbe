// Package apiserver is kube-apiserver: the one part that all others talk to,
// and the only one that touches the store.
//
//	           kubectl, kubelets, controllers, scheduler
//	                           │ TLS
//	chain.go    who? may they? not too many at once
//	routes.go   which handler
//	            ├── rest        resources: reads, writes, patches, watches
//	            ├── discovery, openapi, stream, health
//	            ▼
//	admission ── kinds (THE table) ── registry ── store (etcd or memory)
//
// Invariants: no state outside of the store; no request is served before it is
// authenticated and authorized; errors become a metav1.Status in rest only.
//
// Read next: routes.go, then server.go, then package rest.
package apiserver
