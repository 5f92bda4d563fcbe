package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"

	"orrery/kubelet"
	"orrery/kubelet/certificate"
	"orrery/kubelet/server"
)

// serving prepares the server on the kubelet's port and its health check.
func serving(k *kubelet.Kubelet, cfg kubelet.Config, certDir string) (func(context.Context) error, error) {
	s := cfg.Settings
	cert, err := certificate.Serving(certDir, s.TLSCertFile, s.TLSPrivateKeyFile, cfg.NodeName, cfg.NodeIP.String())
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	on := func(p *bool, otherwise bool) bool {
		if p == nil {
			return otherwise
		}
		return *p
	}
	auth := &server.Authenticator{Client: cfg.Client, NodeName: cfg.NodeName, Anonymous: on(s.Authentication.Anonymous.Enabled, false),
		Webhook: on(s.Authentication.Webhook.Enabled, true), AlwaysYes: s.Authorization.Mode == "AlwaysAllow",
		TokenTTL:   s.Authentication.Webhook.CacheTTL.Duration,
		AllowedTTL: s.Authorization.Webhook.CacheAuthorizedTTL.Duration, DeniedTTL: s.Authorization.Webhook.CacheUnauthorizedTTL.Duration}
	if file := s.Authentication.X509.ClientCAFile; file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("client CA: %w", err)
		}
		auth.ClientCA = x509.NewCertPool()
		auth.ClientCA.AppendCertsFromPEM(raw)
	}
	srv := &server.Server{Host: k, Auth: auth, Cert: cert, Address: net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port)))}
	if *s.HealthzPort > 0 {
		srv.Healthz = net.JoinHostPort(s.HealthzBindAddress, strconv.Itoa(int(*s.HealthzPort)))
	}
	return srv.Run, nil
}
