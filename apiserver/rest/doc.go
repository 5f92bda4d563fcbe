// Package rest turns HTTP into calls of the registry and back: content
// negotiation, list and delete options, selectors, patches, watches, Tables
// and Status errors. It is the same code for all kinds; what differs comes
// from the kind's row.
//
//	routes.go ──▶ Handlers.{Get,List,Watch,Create,Update,Patch,Delete...}
//	                 │ decode, admit        │ encode (JSON, YAML, protobuf, Table)
//	                 ▼                      ▲
//	             registry.Resource ── objects of the hub version
//
// Invariants: this is the one edge where errors become a metav1.Status; a
// request body is decoded once, in the version of the path; nothing here knows
// a particular kind, except the few subresources in files of their own.
//
// Read next: handlers.go, then write.go, patch.go and watch.go.
package rest
