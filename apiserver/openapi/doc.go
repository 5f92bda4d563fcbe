// Package openapi serves the machine-readable description of the API, with which
// kubectl checks manifests before it sends them, merges lists by the right key, and explains fields.
//
//	k8s.io/api ── go generate ──▶ schemas.json.gz ─┐
//	                                               ├─▶ /openapi/v3/<group version>, /openapi/v2
//	kinds.Table ──────────────── paths ────────────┘    └─▶ /swagger-ui/, for people
//
// Invariants: schemas come from the published Go types and nowhere else; paths come
// from the table of kinds; a document is built when it is first asked for, kept both
// plain and compressed, and dropped when the table changes; its hash is its ETag.
//
// Read next: schemas.go, paths.go, then serve.go.
package openapi

//go:generate go run ./gen
