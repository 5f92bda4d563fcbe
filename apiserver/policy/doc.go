// Package policy refuses writes by rules that are objects themselves: a
// ValidatingAdmissionPolicy says in CEL what must hold, its bindings say where,
// with which parameters, and what becomes of a write of which it does not hold.
//
//	write ──▶ policy: matchConstraints? ──▶ each binding: matchResources? ──▶ each parameter of paramRef
//	                                                                              │
//	      denied, warned, audited ◀── validations hold? ◀── matchConditions? ◀────┘
//
// Invariants: policies and bindings are never asked about themselves, so that a bad one can
// always be removed; what fails to be evaluated is what failurePolicy says; policies, bindings
// and parameters come from the cache of the registry, so that the write after the one of a
// policy obeys it; an expression is compiled once a generation.
//
// Left out: MutatingAdmissionPolicy; parameters that an aggregated server has;
// policies from files; a write of a scale shows the object that is scaled.
//
// Read next: policy.go, evaluate.go; then package cel. Webhooks share conditions.go.
package policy
