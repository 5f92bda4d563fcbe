package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"orrery/client"
	"orrery/test/cluster"
)

// authority signs requests as the controller manager does.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	life time.Duration
}

func newAuthority(t *testing.T, life time.Duration) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: time.Now(),
		NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, life}
}

func (a *authority) sign(t *testing.T, request []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: csr.Subject,
		NotBefore: time.Now(), NotAfter: time.Now().Add(a.life)}, a.cert, csr.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestBootstrapAndRenewal(t *testing.T) {
	dir := t.TempDir()
	bootstrap := filepath.Join(dir, "bootstrap.conf")
	raw, err := yaml.Marshal(client.NewKubeconfig("kubernetes", client.Cluster{Server: "http://apiserver"}, "tls-bootstrap-token-user", client.AuthInfo{Token: "abcdef.0123456789abcdef"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bootstrap, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server := cluster.Start(t)
		var wg sync.WaitGroup
		c, err := client.New(server.Config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			c.Close()
			wg.Wait()
			server.Stop()
		}()

		opts := Options{Kubeconfig: filepath.Join(dir, "kubelet.conf"), Bootstrap: bootstrap, Dir: filepath.Join(dir, "pki"), NodeName: "w1", Rotate: true}
		m, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		m.log = slog.New(slog.DiscardHandler)
		m.first.Dial, m.config.Dial = server.Config.Dial, server.Config.Dial
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case <-m.Ready():
			t.Fatal("ready before anybody has signed")
		default:
		}
		ca := newAuthority(t, 100*time.Hour)
		requests := client.For[*certificatesv1.CertificateSigningRequest](c)
		signAll := func() (n int) {
			list, err := requests.List(ctx, "", metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, csr := range list.Items {
				if csr.Spec.SignerName != "kubernetes.io/kube-apiserver-client-kubelet" || len(csr.Spec.Usages) != 2 {
					t.Errorf("the request is %+v", csr.Spec)
				}
				if len(csr.Status.Certificate) == 0 {
					csr.Status.Certificate = ca.sign(t, csr.Spec.Request)
					if _, err := requests.UpdateStatus(ctx, csr); err != nil {
						t.Fatal(err)
					}
				}
			}
			synctest.Wait()
			time.Sleep(2 * time.Second)
			return len(list.Items)
		}
		if n := signAll(); n != 1 {
			t.Fatalf("%d requests", n)
		}
		select {
		case <-m.Ready():
		default:
			t.Fatal("not ready although it is signed")
		}
		first, err := leaf(filepath.Join(opts.Dir, "kubelet-client-current.pem"))
		if err != nil || first.Subject.CommonName != "system:node:w1" || first.Subject.Organization[0] != "system:nodes" {
			t.Fatalf("certificate %v, %v", first, err)
		}
		if next, err := New(opts); err != nil || next.need || next.Config().CertFile != filepath.Join(opts.Dir, "kubelet-client-current.pem") {
			t.Errorf("the next start asks again: %v", err)
		}

		// The next is asked for when seven to nine tenths of its life have passed.
		time.Sleep(69 * time.Hour)
		if n := signAll(); n != 1 {
			t.Errorf("%d requests after 69 of 100 hours", n)
		}
		n := 0
		for range 22 * 12 { // somebody signs within five minutes, or another request would come
			time.Sleep(5 * time.Minute)
			n = signAll()
		}
		if n != 2 {
			t.Errorf("%d requests after 91 of 100 hours", n)
		}
		second, err := leaf(filepath.Join(opts.Dir, "kubelet-client-current.pem"))
		if err != nil || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
			t.Errorf("the certificate was not renewed: %v", err)
		}
	})
}

func TestServingCertificateIsKept(t *testing.T) {
	dir := t.TempDir()
	a, err := Serving(dir, "", "", "w1", "172.30.0.3")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Serving(dir, "", "", "w1", "172.30.0.3")
	if err != nil || string(a.Certificate[0]) != string(b.Certificate[0]) {
		t.Errorf("made again: %v", err)
	}
	cert, err := x509.ParseCertificate(a.Certificate[0])
	if err != nil || cert.VerifyHostname("w1") != nil || cert.VerifyHostname("172.30.0.3") != nil {
		t.Errorf("certificate for %v %v, %v", cert.DNSNames, cert.IPAddresses, err)
	}
}
