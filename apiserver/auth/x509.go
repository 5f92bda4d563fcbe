package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync"
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
	// known are chains that were found good lately, until when: a client sends
	// many requests on one connection, and each check costs a signature.
	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time
}

const (
	// knownFor is how long a chain is not checked again.
	knownFor = time.Minute
	maxKnown = 1024
)

// Authenticate implements Authenticator.
func (a *X509) Authenticate(req *http.Request) (*UserInfo, bool, error) {
	if a.Roots == nil || req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	leaf := req.TLS.PeerCertificates[0]
	if err := a.verify(req.TLS.PeerCertificates); err != nil {
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

// verify is verifyChain with a memory.
func (a *X509) verify(certs []*x509.Certificate) error {
	h := sha256.New()
	for _, c := range certs {
		h.Write(c.Raw)
	}
	key, now := [sha256.Size]byte(h.Sum(nil)), time.Now()
	a.mu.Lock()
	until := a.known[key]
	a.mu.Unlock()
	if now.Before(until) && now.Before(certs[0].NotAfter) {
		return nil
	}
	if err := verifyChain(certs, a.Roots); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxKnown {
		a.known = map[[sha256.Size]byte]time.Time{}
	}
	a.known[key] = now.Add(knownFor)
	return nil
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
