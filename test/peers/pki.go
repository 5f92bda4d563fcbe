package peers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// pki is one CA for everything, and what it has signed, as files.
type pki struct {
	t    testing.TB
	dir  string
	ca   *x509.Certificate
	key  crypto.Signer
	mu   sync.Mutex
	last int64
}

func newPKI(t testing.TB, dir string) *pki {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, dir: dir}
	p.key = p.newKey("ca")
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{"kubernetes"}}
	p.ca = template
	p.ca = p.sign("ca", template, p.key)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for name, subject := range map[string]pkix.Name{
		"apiserver":                {CommonName: "kube-apiserver"},
		"apiserver-kubelet-client": {CommonName: "kube-apiserver-kubelet-client", Organization: []string{"kubeadm:cluster-admins"}},
		"front-proxy-client":       {CommonName: "front-proxy-client"},
		"etcd-client":              {CommonName: "kube-apiserver-etcd-client"},
	} {
		p.sign(name, &x509.Certificate{Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages,
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}}, p.newKey(name))
	}
	p.serviceAccountKeys()
	return p
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// client has a certificate signed for user and returns its files.
func (p *pki) client(user string, groups []string) (cert, key string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	name := "client-" + fileName(strings.Join(append([]string{user}, groups...), "-"))
	if _, err := os.Stat(p.path(name + ".crt")); err != nil {
		p.sign(name, &x509.Certificate{Subject: pkix.Name{CommonName: user, Organization: groups},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, p.newKey(name))
	}
	return p.path(name + ".crt"), p.path(name + ".key")
}

func (p *pki) newKey(name string) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".key", "EC PRIVATE KEY", der)
	return key
}

func (p *pki) sign(name string, template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	p.last++
	template.SerialNumber = big.NewInt(p.last)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".crt", "CERTIFICATE", der)
	return cert
}

// serviceAccountKeys are RSA, as kubeadm makes them.
func (p *pki) serviceAccountKeys() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	p.write("sa.pub", "PUBLIC KEY", public)
}

func (p *pki) write(name, kind string, der []byte) {
	if err := os.WriteFile(p.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// fileName makes a user's name one that a file may have.
func fileName(user string) string { return strings.NewReplacer(":", "_", "/", "_").Replace(user) }
