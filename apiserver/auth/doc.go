// Package auth says who a client is and what it may do.
//
//	request ── Authenticator ──▶ UserInfo ── Authorizer(Attributes) ──▶ Allow | Deny | NoOpinion
//
// Invariants: a request without a user never reaches an authorizer; what no
// authorizer allows is denied. Read next: auth.go for the interfaces.
package auth
