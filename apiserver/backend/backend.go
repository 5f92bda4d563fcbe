// Package backend reaches the servers that extend this one: webhooks
// and aggregated APIs. They are named by a URL or by a Service, and known by a
// CA bundle of their own.
//
//	webhook, crd, aggregation ──▶ Pool ──▶ TLS as name.namespace.svc, to the Service's cluster IP
//
// Call posts a question to a webhook and reads its answer.
//
// Invariant: connections are kept per target and closed by Close.
//
// Read next: ../webhook, ../crd/convert.go and ../aggregation, which use it.
package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// dialTimeout is how long a connection may take to come about.
const dialTimeout = 30 * time.Second

// Target is a server: a Service, or with an empty Name whatever the URL says.
type Target struct {
	Namespace, Name string
	Port            int32
	// CABundle is PEM; empty means the system's authorities.
	CABundle string
	// Insecure does not check who answers.
	Insecure bool
}

// Host is the name by which a Service's certificate is checked, with the port.
func (t Target) Host() string {
	return net.JoinHostPort(t.serverName(), strconv.Itoa(int(t.Port)))
}

func (t Target) serverName() string { return t.Name + "." + t.Namespace + ".svc" }

// Pool holds connections to targets. The zero value with Objects works.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/client.go, ClientManager, and
// staging/src/k8s.io/apiserver/pkg/util/proxy/proxy.go, ResolveCluster.
type Pool struct {
	Objects objects.Reader
	// Dial connects; nil is an ordinary dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Certificates are shown to targets that ask.
	Certificates []tls.Certificate

	mu         sync.Mutex
	transports map[Target]*http.Transport
}

// Transport returns the connections to a target.
func (p *Pool) Transport(t Target) (*http.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if tr, ok := p.transports[t]; ok {
		return tr, nil
	}
	config := &tls.Config{InsecureSkipVerify: t.Insecure, Certificates: p.Certificates} // #nosec G402: the APIService asks for it
	if t.CABundle != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(t.CABundle)) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	dial := p.dial
	if t.Name != "" {
		config.ServerName = t.serverName()
		dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			address, err := p.Resolve(ctx, t)
			if err != nil {
				return nil, err
			}
			return p.dial(ctx, network, address)
		}
	}
	tr := &http.Transport{DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25}
	if p.transports == nil {
		p.transports = map[Target]*http.Transport{}
	}
	p.transports[t] = tr
	return tr, nil
}

func (p *Pool) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if p.Dial != nil {
		return p.Dial(ctx, network, address)
	}
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
}

// Resolve finds the address of a target's Service.
func (p *Pool) Resolve(ctx context.Context, t Target) (string, error) {
	obj, err := p.Objects.Get(ctx, schema.GroupResource{Resource: "services"}, t.Namespace, t.Name)
	if err != nil {
		return "", err
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return "", fmt.Errorf("%T is no service", obj)
	}
	port := strconv.Itoa(int(t.Port))
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return net.JoinHostPort(service.Spec.ExternalName, port), nil
	case service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone:
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("service %q has no cluster IP", t.Name))
	}
	for _, sp := range service.Spec.Ports {
		if sp.Port == t.Port {
			return net.JoinHostPort(service.Spec.ClusterIP, port), nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", t.Port, t.Name))
}

// Close closes the connections that nobody uses.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}
