// Package crd lets users bring kinds of their own. A CustomResourceDefinition
// says what a kind is called and which fields it has; a controller turns that
// into rows of the table of kinds, and from there on the new kind is served like
// any other: routes, discovery, OpenAPI, tables, patches and watches all come
// from the table.
//
//	CustomResourceDefinition ──▶ Controller ──▶ kinds.Table ──▶ rest, discovery, openapi
//	        ▲                        │
//	        └─ status: names, Established, Terminating
//
// Versions of a kind are views of the stored one: they differ in name alone, or
// the definition's webhook converts between them.
//
// Definitions are checked, and objects pruned, defaulted and validated, by the
// library that upstream uses too (k8s.io/apiextensions-apiserver/pkg): what a
// schema means is a contract and not the lesson.
//
// Invariants: a row is in the table only while its definition's names are
// accepted; rows of an unchanged definition keep their identity, and with it
// their watches; a definition that goes takes its objects with it.
//
// Left out: ratcheting of invalid fields that an update leaves alone.
//
// Read next: controller.go, then rows.go, convert.go.
package crd
