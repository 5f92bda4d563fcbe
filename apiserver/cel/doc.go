// Package cel compiles and evaluates the expressions of admission: of policies,
// and of the matchConditions of webhooks.
//
//	text ──▶ Compiler.Compile ──▶ Program (or why it is none)
//	                                 │
//	object, oldObject, request ... ──▶ Evaluation.Run ──▶ a value, or an error in upstream's words
//	                                 │
//	                      variables.x, computed when first asked for
//
// Invariants: an expression costs at most perCallLimit and all of one Evaluation
// at most its budget, and the deadline of the request ends what takes longer than it
// costs, so that none can keep the server busy; a call whose result would not fit is
// refused before it is made. Objects are maps of JSON's types,
// whole numbers int64; a field that is not there is "no such key".
//
// Left out: the functions url, ip, cidr, format.* and semver, which do not compile.
//
// Read next: env.go, evaluate.go; package policy has what is evaluated when.
package cel
