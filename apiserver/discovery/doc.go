// Package discovery tells clients what this server serves: kubectl learns here
// that "deploy" means deployments, that they are namespaced and in which group.
//
//	kinds.Table ──▶ groups ──┬──▶ aggregated: everything in one answer (/api, /apis)
//	                         └──▶ plain: /api, /apis, /apis/<group>, /apis/<group>/<version>
//
// Invariants: nothing is listed here that the table of kinds does not have; documents
// are built once and again only when the table changes; the ETag is a hash of the
// document, so that a client with a cache gets 304.
//
// Read next: documents.go, which builds; serve.go, which answers.
package discovery
