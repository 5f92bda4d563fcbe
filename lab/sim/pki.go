package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"orrery/client"
)

// pki is the cluster's authority and the files that the components read. The
// authority and the key of service accounts stay in the folder, so that tokens
// and kubeconfigs outlive the process; all else is signed anew at each start.
type pki struct {
	dir   string
	ca    *x509.Certificate
	caPEM []byte
	key   *ecdsa.PrivateKey
}

// In the folder, under kubeadm's names.
const (
	caCert, caKey   = "ca.crt", "ca.key"
	serving         = "apiserver"
	kubeletClient   = "apiserver-kubelet-client"
	accountsKey     = "sa.key"
	kubeconfigFile  = "kubeconfig"
	certificateLife = 365 * 24 * time.Hour
)

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func openPKI(dir string) (*pki, error) {
	p := &pki{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := p.authority(); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if _, err := os.Stat(p.file(accountsKey)); err != nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if err := writeKey(p.file(accountsKey), key); err != nil {
			return nil, err
		}
	}
	for name, t := range map[string]*x509.Certificate{
		serving: {Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}},
		kubeletClient: {Subject: pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		cert, key, err := p.sign(t)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(p.file(name+".crt"), cert, 0o644); err != nil {
			return nil, err
		}
		if err := os.WriteFile(p.file(name+".key"), key, 0o600); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// authority reads the CA, or makes one.
func (p *pki) authority() error {
	raw, err := os.ReadFile(p.file(caKey))
	if err == nil {
		if p.caPEM, err = os.ReadFile(p.file(caCert)); err != nil {
			return err
		}
		certBlock, _ := pem.Decode(p.caPEM)
		keyBlock, _ := pem.Decode(raw)
		if certBlock == nil || keyBlock == nil {
			return fmt.Errorf("%s or %s is not PEM", p.file(caCert), p.file(caKey))
		}
		if p.ca, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
			return err
		}
		p.key, err = x509.ParseECPrivateKey(keyBlock.Bytes)
		return err
	}
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * certificateLife), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, t, t, p.key.Public(), p.key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(p.file(caCert), p.caPEM, 0o644); err != nil {
		return err
	}
	return writeKey(p.file(caKey), p.key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// sign makes a key and its certificate, both PEM.
func (p *pki) sign(t *x509.Certificate) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 62))
	if err != nil {
		return nil, nil, err
	}
	t.SerialNumber, t.NotBefore, t.NotAfter = serial, time.Now().Add(-time.Hour), time.Now().Add(certificateLife)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, private.Public(), p.key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), err
}

// user is a client's certificate.
func (p *pki) user(name string, groups ...string) (cert, key []byte, err error) {
	return p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// writeKubeconfig lets kubectl in as an administrator.
func (p *pki) writeKubeconfig(server string) (string, error) {
	cert, key, err := p.user("kubernetes-admin", "system:masters")
	if err != nil {
		return "", err
	}
	raw, err := yaml.Marshal(client.NewKubeconfig("sim", client.Cluster{Server: server, CAData: p.caPEM}, "kubernetes-admin", client.AuthInfo{CertData: cert, KeyData: key}))
	if err != nil {
		return "", err
	}
	return p.file(kubeconfigFile), os.WriteFile(p.file(kubeconfigFile), raw, 0o600)
}
