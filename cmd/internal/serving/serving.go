// Package serving is the small HTTPS server that control-plane components have
// beside their work, for the kubelet's probes and kubeadm's checks.
package serving

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// Health serves /healthz, /livez and /readyz over TLS for the kubelet's probes.
//
// Upstream: cmd/kube-controller-manager/app/serve.go.
// Left out: /metrics, /configz and pprof, and so the authentication in front of
// them; its flags are accepted and do nothing.
type Health struct {
	// Component names the server in the certificate that it signs itself.
	Component string
	// Address and Port to listen on; port 0 serves nothing.
	Address string
	Port    int
	// CertFile and KeyFile of the server; without them it signs its own.
	CertFile, KeyFile string
}

// AddFlags puts the fields under upstream's flag names.
func (h *Health) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&h.Address, "bind-address", h.Address, "address of the health server")
	fs.IntVar(&h.Port, "secure-port", h.Port, "port of the health server; 0 for none")
	fs.StringVar(&h.CertFile, "tls-cert-file", h.CertFile, "its certificate; self-signed if empty")
	fs.StringVar(&h.KeyFile, "tls-private-key-file", h.KeyFile, "its key")
	for _, name := range []string{"authentication-kubeconfig", "authorization-kubeconfig", "client-ca-file", "requestheader-client-ca-file"} {
		fs.String(name, "", "accepted as upstream's; nothing here needs authentication")
	}
	fs.IntP("v", "v", 0, "accepted as upstream's; logs have one level of detail")
	fs.Bool("profiling", false, "accepted as upstream's; there is no profiler to serve")
}

// Run serves until the context ends. It fails when the port is taken.
func (h *Health) Run(ctx context.Context) error {
	if h.Port == 0 {
		return nil
	}
	cert, err := h.certificate()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(h.Address, strconv.Itoa(h.Port)))
	if err != nil {
		return fmt.Errorf("health server: %w", err)
	}
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (h *Health) certificate() (tls.Certificate, error) {
	if h.CertFile != "" {
		return tls.LoadX509KeyPair(h.CertFile, h.KeyFile)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: h.Component + "@" + strconv.FormatInt(time.Now().Unix(), 10)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
