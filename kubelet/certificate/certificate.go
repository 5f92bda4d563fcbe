package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"orrery/client"
)

// Options says where things lie.
type Options struct {
	Kubeconfig string // read if it is there, else written after bootstrap
	Bootstrap  string // kubeconfig with a bootstrap token; "" for none
	Dir        string // /var/lib/kubelet/pki
	NodeName   string
	Rotate     bool // ask for a new certificate before the old one expires
}

// Manager holds the client identity of a kubelet.
type Manager struct {
	opts   Options
	log    *slog.Logger
	config client.Config // the kubelet's; its certificate may not be there yet
	first  client.Config // what the first request is sent with
	need   bool          // a first certificate has to be asked for
	renew  bool          // the certificate that is there shall be replaced at once
	ready  chan struct{}
}

const (
	currentName = "kubelet-client-current.pem"
	stampFormat = "2006-01-02-15-04-05"
)

// New reads the kubeconfig, or the bootstrap kubeconfig when there is no usable
// one. It fails when neither gives an identity.
//
// Upstream: cmd/kubelet/app/server.go, buildKubeletClientConfig;
// pkg/kubelet/certificate/bootstrap, LoadClientConfig.
func New(opts Options) (*Manager, error) {
	m := &Manager{opts: opts, log: slog.With("component", "kubelet"), ready: make(chan struct{})}
	current := filepath.Join(opts.Dir, currentName)
	config, err := client.LoadKubeconfig(opts.Kubeconfig)
	if err == nil {
		switch {
		case len(config.CertData) > 0: // as kubeadm init writes it: take it over, then get one of our own
			if !valid(current) {
				if err := m.store(config.CertData, config.KeyData); err != nil {
					return nil, err
				}
				m.renew = opts.Rotate
			}
			config.CertData, config.KeyData = nil, nil
			config.CertFile, config.KeyFile = current, current
		case config.CertFile != "" && !valid(config.CertFile):
			err = fmt.Errorf("%s holds no valid certificate", config.CertFile)
		}
	}
	if err == nil {
		m.config = config
		close(m.ready)
		return m, nil
	}
	if opts.Bootstrap == "" {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	boot, bootErr := client.LoadKubeconfig(opts.Bootstrap)
	if bootErr != nil {
		return nil, fmt.Errorf("bootstrap kubeconfig: %w", bootErr)
	}
	m.first, m.need = boot, true
	m.config = boot.WithToken("")
	m.config.CertFile, m.config.KeyFile = current, current
	return m, nil
}

// Config is how the kubelet speaks to the API server, once Ready is closed.
func (m *Manager) Config() client.Config { return m.config }

// Ready is closed when the identity is there.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Run gets the first certificate if there is none, and renews it in time, until
// the context ends.
func (m *Manager) Run(ctx context.Context) error {
	if m.need {
		if !m.insist(ctx, m.first) {
			return nil
		}
		if err := m.writeKubeconfig(); err != nil {
			return err
		}
		close(m.ready)
	}
	if !m.opts.Rotate || m.config.CertFile == "" {
		<-ctx.Done()
		return nil
	}
	for {
		if !m.renew && !client.Sleep(ctx, m.untilRenewal()) {
			return nil
		}
		m.renew = false
		if !m.insist(ctx, m.config) {
			return nil
		}
	}
}

// untilRenewal is the time to the moment when the certificate shall be replaced:
// at seven to nine tenths of its life, so that not all nodes come at once.
//
// Upstream: client-go/util/certificate/certificate_manager.go, nextRotationDeadline.
func (m *Manager) untilRenewal() time.Duration {
	cert, err := leaf(m.config.CertFile)
	if err != nil {
		return 0
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	return time.Until(cert.NotBefore.Add(time.Duration((0.7 + 0.2*mrand.Float64()) * float64(life))))
}

// insist asks until a certificate comes, and says whether it did before the context ended.
func (m *Manager) insist(ctx context.Context, as client.Config) bool {
	wait := 2 * time.Second
	for {
		err := m.request(ctx, as)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		m.log.Info("Client certificate not issued yet", "node", m.opts.NodeName, "err", err)
		if !client.Sleep(ctx, wait) {
			return false
		}
		wait = min(2*wait, time.Minute)
	}
}

// request makes a key, asks for a certificate for it, and waits until it is signed.
//
// Upstream: client-go/util/certificate/csr, RequestCertificate and WaitForCertificate.
func (m *Manager) request(ctx context.Context, as client.Config) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + m.opts.NodeName}}, key)
	if err != nil {
		return err
	}
	c, err := client.New(as)
	if err != nil {
		return err
	}
	defer c.Close()
	requests := client.For[*certificatesv1.CertificateSigningRequest](c)
	csr, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		}})
	if err != nil {
		return fmt.Errorf("cannot create certificate signing request: %w", err)
	}
	m.log.Info("Certificate signing request sent", "key", csr.Name)
	cert, err := await(ctx, requests, csr)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	m.log.Info("Client certificate issued", "key", csr.Name)
	return m.store(cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

// signTimeout is how long a request waits for its signature before another is made.
const signTimeout = 15 * time.Minute

func await(ctx context.Context, requests *client.Resource[*certificatesv1.CertificateSigningRequest], csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	for {
		for _, c := range csr.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
				return nil, fmt.Errorf("certificate signing request %s is %s, reason: %s, message: %s", csr.Name, c.Type, c.Reason, c.Message)
			}
		}
		if len(csr.Status.Certificate) > 0 {
			return csr.Status.Certificate, nil
		}
		next, err := change(ctx, requests, csr)
		if err != nil {
			return nil, err
		}
		csr = next
	}
}

// change waits for the next version of a request. A stream that ends is asked for again.
func change(ctx context.Context, requests *client.Resource[*certificatesv1.CertificateSigningRequest], csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	opts := metav1.ListOptions{FieldSelector: "metadata.name=" + csr.Name, ResourceVersion: csr.ResourceVersion}
	for ev, err := range requests.Watch(ctx, "", opts) {
		if err != nil {
			break
		}
		if ev.Object.Name == csr.Name {
			return ev.Object, nil
		}
	}
	if !client.Sleep(ctx, time.Second) {
		return nil, ctx.Err()
	}
	return requests.Get(ctx, "", csr.Name)
}

// store writes a pair under a name of its own and moves the link to it.
//
// Upstream: client-go/util/certificate/certificate_store.go, fileStore.Update.
func (m *Manager) store(cert, key []byte) error {
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	if err := os.MkdirAll(m.opts.Dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(m.opts.Dir, "kubelet-client-"+time.Now().Format(stampFormat)+".pem")
	if err := os.WriteFile(file, append(append([]byte{}, cert...), key...), 0o600); err != nil {
		return err
	}
	link := filepath.Join(m.opts.Dir, currentName)
	next := link + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(file, next); err != nil {
		return err
	}
	return os.Rename(next, link)
}

// writeKubeconfig leaves behind what the next start reads instead of the bootstrap file.
func (m *Manager) writeKubeconfig() error {
	k := client.NewKubeconfig("default-cluster", client.Cluster{Server: m.first.Host, CAData: m.first.CAData, CAFile: m.first.CAFile},
		"default-auth", client.AuthInfo{CertFile: m.config.CertFile, KeyFile: m.config.KeyFile})
	k.Contexts[0].Name, k.CurrentContext = "default-context", "default-context"
	raw, err := yaml.Marshal(k)
	if err != nil {
		return err
	}
	return os.WriteFile(m.opts.Kubeconfig, raw, 0o600)
}

func leaf(file string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, fmt.Errorf("%s holds no certificate", file)
}

func valid(file string) bool {
	cert, err := leaf(file)
	return err == nil && time.Now().Before(cert.NotAfter)
}

// Serving is the certificate of the kubelet's own server: files if they are
// named, else one that signs itself and is kept as kubelet.crt and kubelet.key.
//
// Upstream: cmd/kubelet/app/server.go, InitializeTLS.
// Left out: serving certificates by CSR (serverTLSBootstrap).
func Serving(dir, certFile, keyFile, nodeName, ip string) (tls.Certificate, error) {
	if certFile != "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	certFile, keyFile = filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key")
	if valid(certFile) {
		if cert, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
			return cert, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", nodeName, now.Unix())},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), DNSNames: []string{nodeName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if addr := net.ParseIP(ip); addr != nil {
		template.IPAddresses = []net.IP{addr}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(certFile, certPEM, 0o644), os.WriteFile(keyFile, keyPEM, 0o600))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}
