package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"orrery/client/timing"
)

// Config says where an API server is and who we are.
//
// Upstream: k8s.io/client-go/rest/config.go, Config.
type Config struct {
	// Host is the server's URL, as "https://172.30.0.2:6443".
	Host string
	// CAData is the PEM bundle that the server's certificate must chain to;
	// CAFile names a file with one.
	CAData []byte
	CAFile string
	// ServerName overrides the name that the server's certificate is checked for.
	ServerName string
	// Insecure turns off the check of the server's certificate. Only bootstrap
	// discovery does so, and verifies what it read by other means.
	Insecure bool
	// CertFile and KeyFile name a client certificate that is read again for each
	// new connection, so that a rotated certificate is picked up. CertData and
	// KeyData hold one in memory instead.
	CertFile, KeyFile string
	CertData, KeyData []byte
	// BearerToken is a fixed token; TokenFile names one that is read for each
	// request (projected service-account tokens are rotated by the kubelet).
	BearerToken, TokenFile string
	// Token, if set, is asked for the token of each request instead.
	Token func() (string, error)
	// UserAgent is sent with each request; the server takes the default field
	// manager from it, up to the first slash.
	UserAgent string
	// Dial replaces the network, for servers inside the same process.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TimeScale divides the wait of informers after a failure and the time after
	// which a silent peer counts as dead, for drills in class; 0 counts as 1.
	TimeScale float64
}

// As is a copy of the Config with another user agent.
func (c Config) As(userAgent string) Config {
	c.UserAgent = userAgent
	return c
}

// WithToken is a copy of the Config that trusts the same server but speaks as
// the bearer of a token instead.
func (c Config) WithToken(token string) Config {
	c.CertFile, c.KeyFile, c.CertData, c.KeyData, c.TokenFile = "", "", nil, nil, ""
	c.BearerToken, c.Token = token, nil
	return c
}

// token is the bearer token for the next request, or "".
func (c *Config) token() (string, error) {
	if c.Token != nil {
		return c.Token()
	}
	if c.TokenFile == "" {
		return c.BearerToken, nil
	}
	raw, err := os.ReadFile(c.TokenFile)
	return strings.TrimSpace(string(raw)), err
}

// TLS is the client side of TLS for this Config; nil for a plain HTTP server.
func (c Config) TLS() (*tls.Config, error) {
	if !strings.HasPrefix(c.Host, "https://") {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, InsecureSkipVerify: c.Insecure}
	ca := c.CAData
	if len(ca) == 0 && c.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.CAFile); err != nil {
			return nil, err
		}
	}
	if len(ca) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the CA data holds no PEM certificate")
		}
	}
	switch {
	case c.CertFile != "":
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &cert, err
		}
	case len(c.CertData) > 0:
		cert, err := tls.X509KeyPair(c.CertData, c.KeyData)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

// transport is an HTTP transport with the dead-peer detection that failover
// times depend on: a connection whose peer does not answer a ping is dropped
// after HTTP2PingInterval + HTTP2PingTimeout, less than the node grace period.
func (c Config) transport() (*http.Transport, error) {
	t, err := c.TLS()
	if err != nil {
		return nil, err
	}
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: timing.DialTimeout, KeepAlive: timing.DialTimeout}).DialContext
	}
	ping, pong := timing.HTTP2PingInterval, timing.HTTP2PingTimeout
	timing.Scale(c.TimeScale, &ping, &pong)
	return &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     t,
		TLSHandshakeTimeout: timing.TLSHandshakeTimeout,
		ForceAttemptHTTP2:   t != nil,
		MaxIdleConnsPerHost: 25,
		IdleConnTimeout:     timing.IdleConnTimeout,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: ping,
			PingTimeout:     pong,
		},
	}, nil
}
