// Package conform looks at the API server with foreign eyes: the clients that
// others build on, client-go's, do here what they do in operators, kubectl and
// helm. Nothing of orrery/client is used.
//
//	typed, dynamic, metadata, discovery, scale clients ─┐
//	informers, pagers, retrying watches, until          ├── HTTP ──▶ test/cluster
//	leader election, locks, events                      │
//	apply configurations, extract                       │
//	k8s.io/api's golden objects                        ─┘
//	helm 4 and 3 ───────────────────────────── HTTPS ──▶ lab/sim
//
// Invariant: a test that fails here shows a difference that some client out there sees.
//
// Read next: ../swap, where whole components are such clients.
package conform
