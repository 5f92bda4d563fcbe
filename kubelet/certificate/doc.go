// Package certificate gets a kubelet its identity and keeps it valid.
//
//	bootstrap token ──▶ CertificateSigningRequest ──approved and signed──▶ pki/kubelet-client-current.pem
//	                                                                        │ before it expires
//	                                                                        └──▶ the next request, under its own name
//
// Invariants:
//   - The private key is made here and never leaves the node.
//   - kubelet-client-current.pem is a link that is renamed onto the newest pair:
//     a reader finds an old pair or a new one, never half of each.
//
// Read next: certificate.go.
//
// Upstream: pkg/kubelet/certificate, k8s.io/client-go/util/certificate.
package certificate
