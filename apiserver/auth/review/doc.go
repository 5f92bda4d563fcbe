// Package review answers questions about authentication and authorization over the
// API: kubectl auth can-i and whoami, a kubelet's "whose token is this?".
//
//	POST SubjectAccessReview ──▶ the same Authorizer that judges requests ──▶ status.allowed
//	POST TokenReview ──────────▶ the same Authenticator                   ──▶ status.user
//
// Invariant: nothing is stored; the answer is the request with its status filled in.
//
// Read next: review.go.
package review
