package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"
)

// CredentialIDKey is the user extra that names the credential a request came with, for the audit log.
const CredentialIDKey = "authentication.kubernetes.io/credential-id"

// X509 authenticates the holder of a client certificate: its common name is the
// user, its organizations are the groups. The TLS handshake only asks for the
// certificate (tls.RequestClientCert) and proves that the caller holds its key; whether
// a known authority signed it is decided here, so that a wrong certificate is
// answered with 401 and not with a broken connection.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/x509/x509.go, Authenticator.
type X509 struct {
	// Roots are the authorities of --client-ca-file.
	Roots *x509.CertPool
}

// Authenticate implements Authenticator.
func (a X509) Authenticate(req *http.Request) (*UserInfo, bool, error) {
	if a.Roots == nil || req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	leaf := req.TLS.PeerCertificates[0]
	if err := verifyChain(req.TLS.PeerCertificates, a.Roots); err != nil {
		return nil, false, err
	}
	if leaf.Subject.CommonName == "" {
		return nil, false, nil
	}
	sum := sha256.Sum256(leaf.Raw)
	return &UserInfo{
		Name:   leaf.Subject.CommonName,
		Groups: leaf.Subject.Organization,
		Extra:  map[string][]string{CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}, true, nil
}

// verifyChain checks that certs[0] is a client certificate that leads to one of roots through the others.
func verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   time.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := certs[0].Verify(opts); err != nil {
		return fmt.Errorf("verifying certificate of %q: %w", certs[0].Subject.CommonName, err)
	}
	return nil
}
