// Package bootstrap creates the objects that a cluster has before anybody creates one, and keeps them.
//
//	start ─▶ namespaces ─▶ RBAC roles and bindings ─▶ priority classes, ServiceCIDR, authentication ConfigMap
//	      └▶ every 10 s: lease under /registry/masterleases ─▶ default/kubernetes Service, Endpoints, EndpointSlice
//
// Invariants: what an administrator changed stays (roles only gain missing rules,
// annotation rbac.authorization.kubernetes.io/autoupdate=false keeps even those away);
// every step is repeated until it succeeds; the endpoints are the servers whose lease
// lives, and are never erased to nothing.
//
// Read next: bootstrap.go, rbac.go with rbac.yaml, kubernetes.go.
package bootstrap
