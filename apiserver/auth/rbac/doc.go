// Package rbac answers who may do what from Roles, ClusterRoles and their bindings.
//
//	request ──▶ every ClusterRoleBinding, and the RoleBindings of its namespace
//	              │ has the user as a subject?
//	              ▼
//	            the role's rules ── does one allow verb, group, resource, name? ──▶ Allow
//
// Invariants: rules only ever allow, so their order does not matter; nobody can
// write a role or a binding that gives more than the writer has (escalation.go).
//
// Read next: rbac.go for the search, match.go for one rule, escalation.go.
package rbac
