// Package ingress is an ingress controller: an HTTP proxy on the workers' ports
// 80 and 443 that sends each request where the Ingress objects say. Unlike the
// service proxy it is in the way of every request, and so it can look into it.
//
//	Ingresses, IngressClasses ─┐
//	Services, EndpointSlices ──┼─► newTable ─► table ─(swapped whole)─┐
//	Secrets (certificates) ────┘   (pure)                             ▼
//	curl ─► node:80, node:443 ─► ServeHTTP ─► host, then longest path ─► next endpoint
//
//	one leader ─► status.loadBalancer of each Ingress: the nodes that answer
//
// Invariants:
//
//   - newTable is a function: the same objects give the same table.
//   - A request sees one table from its beginning to its end.
//   - Routing needs no API server: without one, the last table stays.
//   - Before the first table nothing listens, so that nobody is told 404 for
//     what is only not known yet.
//   - Requests go to endpoints, past the Service's address: a dead one can be
//     noticed, and the request given to another.
//
// Read next: table.go (where), forward.go (how), controller.go (when).
//
// Upstream: staging/src/k8s.io/api/networking/v1/types.go, IngressSpec; Kubernetes
// itself has no controller for it.
// Left out: backends that are other resources, Services of type ExternalName,
// redirects to HTTPS, annotations that change requests, session affinity,
// connections to pods that are used again, metrics.
package ingress
