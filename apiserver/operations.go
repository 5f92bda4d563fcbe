package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"time"

	"orrery/apiserver/health"
	"orrery/apiserver/openapi"
	"orrery/apiserver/rest"
	"orrery/apiserver/store"
	"orrery/apiserver/stream"

	"github.com/gorilla/mux"
	corev1 "k8s.io/api/core/v1"
)

// storeHealthTimeout is how long the store may take to answer a health check.
const storeHealthTimeout = 2 * time.Second

// routeOperations: what operators and probes ask for.
func (s *Server) routeOperations(r *mux.Router) {
	etcd := func(r *http.Request) error { return s.checkStore(r.Context()) }
	live := []health.Check{health.Ping, {Name: "etcd", Run: etcd}}
	if !s.config.Bare {
		live = append(live, health.Check{Name: "poststarthook/crd-informer-synced", Run: func(*http.Request) error {
			if !s.definitions.Synced() {
				return errors.New("not finished")
			}
			return nil
		}})
		for _, step := range s.bootstrap.Steps() {
			live = append(live, health.Check{Name: "poststarthook/" + step, Run: func(*http.Request) error {
				if !s.bootstrap.Done(step) {
					return errors.New("not finished")
				}
				return nil
			}})
		}
	}
	// A server is ready when it can also serve from its caches.
	ready := slices.Insert(slices.Clone(live), 2, health.Check{Name: "etcd-readiness", Run: etcd}, health.Check{Name: "informer-sync", Run: s.checkCaches})
	ready = append(ready, s.stopping.Check())
	var paths []string
	for path, checks := range map[string][]health.Check{"/healthz": live, "/livez": live, "/readyz": ready} {
		endpoint := health.NewChecks(path, s.config.Log, checks...)
		r.Path(path).Handler(endpoint)
		r.PathPrefix(path + "/").Handler(endpoint)
		paths = append(paths, endpoint.Paths()...)
	}
	r.Path("/metrics").Handler(s.metrics)
	r.Path("/version").Methods(http.MethodGet).Handler(health.ServeVersion(health.VersionInfo(s.config.Version)))
	r.PathPrefix("/version/").HandlerFunc(rest.NotFound)
	if s.config.Profiling {
		r.HandleFunc("/debug/pprof/profile", pprof.Profile)
		r.HandleFunc("/debug/pprof/trace", pprof.Trace)
		r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		r.PathPrefix("/debug/pprof/").HandlerFunc(pprof.Index)
	}
	r.Path("/").Handler(health.ServeIndex(func() []string { return append(s.apiPaths(), paths...) }))
}

// apiPaths are the roots of all that is served, for the index at /.
func (s *Server) apiPaths() []string {
	paths := []string{"/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3", openapi.UIPath, "/version"}
	if s.oidc != nil {
		paths = append(paths, "/.well-known/openid-configuration", "/openid/v1/jwks")
	}
	for _, k := range s.table.All() {
		if k.Group == "" {
			paths = append(paths, "/api/"+k.Version)
			continue
		}
		paths = append(paths, "/apis/"+k.Group, "/apis/"+k.Group+"/"+k.Version)
	}
	return paths
}

// checkStore asks the store for a key that is not there: the answer shows that it answers.
func (s *Server) checkStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeHealthTimeout)
	defer cancel()
	if _, err := s.config.Store.Get(ctx, "/registry/health"); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("error getting data from etcd: %w", err)
	}
	return nil
}

// checkCaches succeeds once every cache has read what is stored.
func (s *Server) checkCaches(*http.Request) error {
	if !s.registry.Synced() {
		return errors.New("not all caches are filled yet")
	}
	return nil
}

// connectStreams adds the handlers of log, exec and the like.
func (s *Server) connectStreams() error {
	config := stream.Config{Objects: s.registry, KubeletTLS: &tls.Config{}, Dial: s.config.KubeletDial}
	if s.config.KubeletClientCertificate != "" {
		cert, err := tls.LoadX509KeyPair(s.config.KubeletClientCertificate, s.config.KubeletClientKey)
		if err != nil {
			return fmt.Errorf("client certificate for kubelets: %w", err)
		}
		config.KubeletTLS.Certificates = []tls.Certificate{cert}
	}
	if s.config.KubeletCAFile != "" {
		pem, err := os.ReadFile(s.config.KubeletCAFile)
		if err != nil {
			return err
		}
		config.KubeletTLS.RootCAs = x509.NewCertPool()
		if !config.KubeletTLS.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate", s.config.KubeletCAFile)
		}
	}
	types := s.config.KubeletAddressTypes
	if len(types) == 0 {
		types = []string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"}
	}
	for _, t := range types {
		config.AddressTypes = append(config.AddressTypes, corev1.NodeAddressType(t))
	}
	s.streams = stream.New(config)
	for key, connect := range s.streams.Handlers() {
		s.hooks.Connect[key] = connect
	}
	return nil
}
