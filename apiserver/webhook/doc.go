// Package webhook asks servers outside about writes: mutating webhooks may
// change an object, validating ones may refuse it.
//
//	write ──▶ plugins ──▶ Mutating, one after the other ──▶ ... ──▶ Validating, all at once ──▶ store
//	                          │ JSON patch                             │ yes or no
//	                          ▼                                        ▼
//	                    AdmissionReview over HTTPS, to a URL or a Service
//
// Invariants: the configurations of webhooks are never shown to webhooks, so
// that a broken one can always be removed; a webhook is asked at most twice
// about one write.
//
// Left out: AdmissionReview v1beta1; a write of a scale shows the object that is
// scaled.
//
// Read next: call.go; matchConditions are evaluated in ../policy, the order of plugins is in ../admission/default.go.
package webhook
