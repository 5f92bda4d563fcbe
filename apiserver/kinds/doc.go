// Package kinds is THE table of kinds: one row for every resource that the
// server has, with everything that is particular to it. Routes, discovery,
// OpenAPI, tables, field selectors, defaults, validation and warnings are all driven by
// these rows; the rest of the server is the same for a Pod and for a Lease.
//
//	table.go       the rows: names, verbs, keys, subresources
//	strategy_*.go  what is prepared on create and update
//	defaults_*.go, validate_*.go, warnings*.go, columns_*.go   funcs that rows point at
//
//	registry, rest, discovery, openapi ── Table.Lookup ──▶ *Kind
//
// Invariants: rows do not change once they serve, but rows may be added and
// removed at run time (custom resources), so nobody keeps a list of their own.
// All funcs of a row work on its hub version, the one that is stored.
//
// Read next: kind.go, then table.go.
package kinds
