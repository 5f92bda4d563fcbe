package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"orrery/client"
)

const (
	caValidity   = 10 * 365 * 24 * time.Hour
	certValidity = 365 * 24 * time.Hour
	// clockSkew lets a certificate be used by machines whose clock is behind.
	clockSkew = 5 * time.Minute
	keyBits   = 2048
)

// keyPair is a certificate with its key.
type keyPair struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// certSpec says what a certificate of the PKI directory is for.
type certSpec struct {
	name   string // file name without its ending
	cn     string
	org    []string
	ca     string // the name of the CA that signs it; "" for a CA
	usages []x509.ExtKeyUsage
	dns    []string
	ips    []string
}

var (
	client1 = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server1 = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	peer1   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// certList is every certificate of a control plane, in the order of creation.
//
// Upstream: cmd/kubeadm/app/phases/certs/certlist.go.
func (s *settings) certList() []certSpec {
	node, ip := s.Init.NodeRegistration.Name, s.Init.LocalAPIEndpoint.AdvertiseAddress
	api := certSpec{
		name: "apiserver", cn: "kube-apiserver", ca: "ca", usages: server1,
		dns: []string{node, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.Cluster.Networking.DNSDomain},
		ips: []string{nthAddress(s.Cluster.Networking.ServiceSubnet, 1), ip},
	}
	sans := s.Cluster.APIServer.CertSANs
	if host, _, err := net.SplitHostPort(s.endpoint()); err == nil && host != ip {
		sans = append([]string{host}, sans...)
	}
	for _, san := range sans {
		if net.ParseIP(san) != nil {
			api.ips = append(api.ips, san)
		} else {
			api.dns = append(api.dns, san)
		}
	}
	etcdDNS, etcdIPs := []string{node, "localhost"}, []string{ip, "127.0.0.1", "::1"}
	return []certSpec{
		{name: "ca", cn: "kubernetes"},
		api,
		{name: "apiserver-kubelet-client", cn: "kube-apiserver-kubelet-client", org: []string{"kubeadm:cluster-admins"}, ca: "ca", usages: client1},
		{name: "front-proxy-ca", cn: "front-proxy-ca"},
		{name: "front-proxy-client", cn: "front-proxy-client", ca: "front-proxy-ca", usages: client1},
		{name: "etcd/ca", cn: "etcd-ca"},
		{name: "etcd/server", cn: node, ca: "etcd/ca", usages: peer1, dns: etcdDNS, ips: etcdIPs},
		{name: "etcd/peer", cn: node, ca: "etcd/ca", usages: peer1, dns: etcdDNS, ips: etcdIPs},
		{name: "etcd/healthcheck-client", cn: "kube-etcd-healthcheck-client", ca: "etcd/ca", usages: client1},
		{name: "apiserver-etcd-client", cn: "kube-apiserver-etcd-client", ca: "etcd/ca", usages: client1},
	}
}

// createCerts makes the certificates that are not there yet.
func (s *settings) createCerts() error {
	dir := s.Cluster.CertificatesDir
	fmt.Printf("[certs] Using certificateDir folder %q\n", dir)
	for _, spec := range s.certList() {
		if _, err := os.Stat(filepath.Join(dir, spec.name+".crt")); err == nil {
			if spec.ca == "" {
				fmt.Printf("[certs] Using existing %s certificate authority\n", spec.name)
			} else {
				fmt.Printf("[certs] Using existing %s certificate and key on disk\n", spec.name)
			}
			continue
		}
		fmt.Printf("[certs] Generating %q certificate and key\n", spec.name)
		if len(spec.dns) > 0 {
			fmt.Printf("[certs] %s serving cert is signed for DNS names %v and IPs %v\n", spec.name, spec.dns, spec.ips)
		}
		if err := createCert(dir, spec); err != nil {
			return fmt.Errorf("certificate %q: %w", spec.name, err)
		}
	}
	return createServiceAccountKey(dir)
}

func createCert(dir string, spec certSpec) error {
	var ca *keyPair
	if spec.ca != "" {
		var err error
		if ca, err = loadKeyPair(dir, spec.ca); err != nil {
			return err
		}
	}
	pair, err := newKeyPair(spec, ca)
	if err != nil {
		return err
	}
	base := filepath.Join(dir, spec.name)
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(base+".key", keyPEM(pair.key), 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".crt", certPEM(pair.cert), 0o644)
}

// newKeyPair signs a new key with ca, or with itself where ca is nil.
func newKeyPair(spec certSpec, ca *keyPair) (*keyPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).SetInt64(1<<62))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	tmpl := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: spec.cn, Organization: spec.org},
		DNSNames:     spec.dns,
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(certValidity),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: spec.usages,
		BasicConstraintsValid: true,
	}
	for _, ip := range spec.ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.ParseIP(ip))
	}
	parent, signer := tmpl, crypto.Signer(key)
	if ca == nil {
		tmpl.IsCA, tmpl.NotAfter, tmpl.DNSNames = true, now.Add(caValidity), []string{spec.cn}
		tmpl.KeyUsage |= x509.KeyUsageCertSign
	} else {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &keyPair{cert, key}, err
}

func createServiceAccountKey(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "sa.key")); err == nil {
		fmt.Printf("[certs] Using the existing \"sa\" key\n")
		return nil
	}
	fmt.Println(`[certs] Generating "sa" key and public key`)
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "sa.key"), keyPEM(key), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), 0o600)
}

func loadKeyPair(dir, name string) (*keyPair, error) {
	certRaw, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(certRaw)
	if err != nil {
		return nil, err
	}
	keyRaw, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyRaw)
	if block == nil {
		return nil, errors.New(name + ".key holds no PEM block")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	return &keyPair{cert, key}, err
}

func parseCert(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("no PEM block in the certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(k *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
}

// publicKeyPin is how a join command names a CA: the hash of its public key, so
// that the certificate may be renewed.
//
// Upstream: cmd/kubeadm/app/util/pubkeypin, Hash.
func publicKeyPin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// kubeconfigs makes the five kubeconfig files of a control plane.
//
// Upstream: cmd/kubeadm/app/phases/kubeconfig/kubeconfig.go.
func (s *settings) createKubeconfigs() error {
	fmt.Printf("[kubeconfig] Using kubeconfig folder %q\n", kubernetesDir)
	ca, err := loadKeyPair(s.Cluster.CertificatesDir, "ca")
	if err != nil {
		return err
	}
	public := "https://" + s.endpoint()
	// What runs on this machine talks to this machine's API server.
	local := "https://" + net.JoinHostPort(s.Init.LocalAPIEndpoint.AdvertiseAddress, fmt.Sprint(s.Init.LocalAPIEndpoint.BindPort))
	for _, k := range []struct{ file, user, server, org string }{
		{"admin.conf", "kubernetes-admin", public, "kubeadm:cluster-admins"},
		{"super-admin.conf", "kubernetes-super-admin", public, "system:masters"},
		{"kubelet.conf", "system:node:" + s.Init.NodeRegistration.Name, local, "system:nodes"},
		{"controller-manager.conf", "system:kube-controller-manager", local, ""},
		{"scheduler.conf", "system:kube-scheduler", local, ""},
	} {
		path := filepath.Join(kubernetesDir, k.file)
		if _, err := os.Stat(path); err == nil {
			fmt.Printf("[kubeconfig] Using existing kubeconfig file: %q\n", path)
			continue
		}
		fmt.Printf("[kubeconfig] Writing %q kubeconfig file\n", k.file)
		cn := k.user
		spec := certSpec{cn: cn, usages: client1}
		if k.org != "" {
			spec.org = []string{k.org}
		}
		pair, err := newKeyPair(spec, ca)
		if err != nil {
			return err
		}
		file := client.NewKubeconfig(s.Cluster.ClusterName,
			client.Cluster{Server: k.server, CAData: certPEM(ca.cert)},
			k.user, client.AuthInfo{CertData: certPEM(pair.cert), KeyData: keyPEM(pair.key)})
		if err := writeYAML(path, file, 0o600); err != nil {
			return err
		}
	}
	return nil
}
