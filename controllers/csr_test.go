package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func request(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func node(name string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + name}}
}

func csrOf(t *testing.T, signer, user string, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *csrRequest {
	return &csrRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Username: user, Request: request(t, template), Usages: usages}}
}

func TestWhichRequestsAreKubelets(t *testing.T) {
	const signer, sign, auth = certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth
	named := node("w1")
	named.DNSNames = []string{"w1"}
	for _, c := range []struct {
		why  string
		csr  *csrRequest
		want string
	}{
		{"a joining node", csrOf(t, signer, "system:bootstrap:abcdef", node("w1"), sign, auth), "nodeclient"},
		{"a node that renews", csrOf(t, signer, "system:node:w1", node("w1"), sign, auth, certificatesv1.UsageKeyEncipherment), "selfnodeclient"},
		{"another signer", csrOf(t, "example.com/x", "u", node("w1"), sign, auth), ""},
		{"not a node's name", csrOf(t, signer, "u", x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "admin"}}, sign, auth), ""},
		{"another group", csrOf(t, signer, "u", x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"system:masters"}, CommonName: "system:node:x"}}, sign, auth), ""},
		{"with a DNS name", csrOf(t, signer, "u", named, sign, auth), ""},
		{"to serve", csrOf(t, signer, "u", node("w1"), sign, certificatesv1.UsageServerAuth), ""},
	} {
		req, err := parseCSR(c.csr.Spec.Request)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r := recognise(c.csr, req); len(r) > 0 {
			got = r[0].subresource
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}

func TestWhatTheSignerRefuses(t *testing.T) {
	serving := node("w1")
	serving.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
	const server, digital = certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature
	for _, c := range []struct {
		csr     *csrRequest
		ours    bool
		refuses bool
	}{
		{csrOf(t, certificatesv1.KubeletServingSignerName, "system:node:w1", serving, digital, server), true, false},
		{csrOf(t, certificatesv1.KubeletServingSignerName, "system:node:w2", serving, digital, server), true, true},
		{csrOf(t, certificatesv1.KubeletServingSignerName, "system:node:w1", node("w1"), digital, server), true, true},
		{csrOf(t, certificatesv1.KubeAPIServerClientSignerName, "u", node("w1"), certificatesv1.UsageClientAuth), true, false},
		{csrOf(t, certificatesv1.KubeAPIServerClientSignerName, "u", node("w1"), server), true, true},
		{csrOf(t, "example.com/x", "u", node("w1"), server), false, false},
	} {
		req, err := parseCSR(c.csr.Spec.Request)
		if err != nil {
			t.Fatal(err)
		}
		ours, problem := signerProblem(c.csr, req)
		if ours != c.ours || (problem != nil) != c.refuses {
			t.Errorf("%s for %s: ours %v, problem %v", c.csr.Spec.SignerName, c.csr.Spec.Username, ours, problem)
		}
	}
}

func TestASignedCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: t0, NotAfter: t0.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	for _, c := range []struct {
		asked *int32
		want  time.Duration
	}{{nil, 365*24*time.Hour - 5*time.Minute}, {new(int32(3600)), time.Hour}, {new(int32(60)), 10 * time.Minute}} {
		csr := csrOf(t, certificatesv1.KubeAPIServerClientKubeletSignerName, "u", node("w1"), certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth)
		csr.Spec.ExpirationSeconds = c.asked
		req, err := parseCSR(csr.Spec.Request)
		if err != nil {
			t.Fatal(err)
		}
		out, err := sign(csr, req, ca, 365*24*time.Hour, t0)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(out)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.NotAfter.Sub(t0); got != c.want || !cert.NotBefore.Equal(t0.Add(-5*time.Minute)) {
			t.Errorf("from %v for %v, want %v", cert.NotBefore, got, c.want)
		}
		if cert.Subject.CommonName != "system:node:w1" || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 1 || cert.CheckSignatureFrom(leaf) != nil {
			t.Errorf("%+v", cert)
		}
	}
}

func TestClusterInfoIsSignedForEachUsableToken(t *testing.T) {
	token := func(id string, change map[string]string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
			"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true"),
		}}
		for k, v := range change {
			s.Data[k] = []byte(v)
		}
		return s
	}
	tokens := []*corev1.Secret{
		token("abcdef", nil), token("expire", map[string]string{"expiration": t0.Add(-time.Second).Format(time.RFC3339)}),
		token("nosign", map[string]string{"usage-bootstrap-signing": "false"}), token("differ", map[string]string{"token-id": "others"}),
	}
	data, err := signed(map[string]string{"kubeconfig": "hello", "jws-kubeconfig-oldold": "x"}, tokens, t0)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != 2 || data["jws-kubeconfig-abcdef"] != "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..MxsnbCjBaYzcbNIFa06F-wuF9LX26rhMlrL4zA1511s" {
		t.Errorf("%v", data)
	}
}
