package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/admission"
	"orrery/apiserver/aggregation"
	"orrery/apiserver/alloc"
	"orrery/apiserver/audit"
	"orrery/apiserver/auth"
	"orrery/apiserver/auth/rbac"
	"orrery/apiserver/backend"
	"orrery/apiserver/bootstrap"
	"orrery/apiserver/crd"
	"orrery/apiserver/discovery"
	"orrery/apiserver/health"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/openapi"
	"orrery/apiserver/policy"
	"orrery/apiserver/registry"
	"orrery/apiserver/rest"
	"orrery/apiserver/store"
	"orrery/apiserver/stream"
	"orrery/apiserver/webhook"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Server is one API server. Make it with New.
type Server struct {
	config   Config
	table    *kinds.Table
	registry *registry.Registry
	rest     *rest.Handlers
	hooks    rest.Hooks
	handler  http.Handler

	authenticator auth.Authenticator
	authorizer    auth.Authorizer
	escalation    *rbac.Escalation
	clientCAs     *x509.CertPool
	oidc          *auth.OIDC
	discovery     *discovery.Handler
	openapi       *openapi.Handler
	bootstrap     *bootstrap.Bootstrap
	definitions   *crd.Controller
	webhooks      *backend.Pool
	aggregator    *aggregation.Aggregator
	streams       *stream.Streams
	services      *alloc.Services // nil without a ServiceCIDR
	metrics       *health.Metrics
	audit         *audit.Log
	stopping      health.Shutdown
}

// New builds a server that does nothing yet: its Handler answers, but the
// objects that every cluster has are made by Run. It reads all files that the
// config names.
func New(config Config) (*Server, error) {
	if config.Store == nil {
		return nil, errors.New("an API server needs a store")
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	config.Log = config.Log.With("component", "kube-apiserver")
	table := kinds.NewTable()
	metrics := health.NewMetrics(table)
	metrics.Build(health.VersionInfo(config.Version))
	config.Store = metrics.Store(config.Store)
	defaultTimes(&config.Times)
	s := &Server{config: config, table: table, metrics: metrics, audit: &audit.Log{Out: config.AuditLog}, clientCAs: x509.NewCertPool(),
		hooks: rest.Hooks{Connect: map[string]rest.Connecter{}, Create: map[string]rest.Creater{}, Read: map[string]rest.Reader{}}}
	if events := s.table.Stored(schema.GroupResource{Resource: "events"}); events != nil {
		events.TTL = config.Times.EventTTL
	}
	s.registry = registry.New(s.table, config.Store, config.Log)
	metrics.Objects(s.registry.Counts)
	if err := s.build(); err != nil {
		s.registry.Close()
		return nil, err
	}
	return s, nil
}

func defaultTimes(t *Times) {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.RequestTimeout, time.Minute}, {&t.MinRequestTimeout, 30 * time.Minute},
		{&t.BookmarkPeriod, time.Minute}, {&t.Shutdown, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// build puts the parts together.
func (s *Server) build() error {
	if err := s.secure(); err != nil {
		return fmt.Errorf("authentication and authorization: %w", err)
	}
	s.webhooks = &backend.Pool{Objects: s.registry, Dial: s.config.KubeletDial}
	var plugins admission.Chain
	if !s.config.Bare {
		var err error
		if plugins, err = admission.New(admission.Config{Objects: s.registry, Authorizer: s.authorizer,
			Configured: slices.Insert(webhook.New(webhook.Config{Objects: s.registry, Table: s.table, Authorizer: s.authorizer, Pool: s.webhooks, Log: s.config.Log}),
				1, policy.New(policy.Config{Objects: s.registry, Table: s.table, Authorizer: s.authorizer})),
			Enable: s.config.EnableAdmission, Disable: s.config.DisableAdmission,
			NotReadySeconds: s.config.NotReadyTolerationSeconds, UnreachableSeconds: s.config.UnreachableTolerationSeconds}); err != nil {
			return err
		}
		plugins = append(plugins, s.escalation)
	}
	if s.config.ServiceCIDR.IsValid() {
		var err error
		if s.services, err = alloc.New(alloc.Config{ServiceCIDR: s.config.ServiceCIDR, FirstPort: s.config.FirstNodePort, LastPort: s.config.LastNodePort},
			s.registry, s.config.Store, s.table); err != nil {
			return err
		}
	}
	s.definitions = crd.New(s.table, s.registry, s.webhooks, s.config.Log)
	others := &backend.Pool{Objects: s.registry, Dial: s.config.KubeletDial}
	if s.config.ProxyClientCertificate != "" {
		cert, err := tls.LoadX509KeyPair(s.config.ProxyClientCertificate, s.config.ProxyClientKey)
		if err != nil {
			return fmt.Errorf("client certificate for aggregated servers: %w", err)
		}
		others.Certificates = []tls.Certificate{cert}
	}
	s.aggregator = aggregation.New(s.table, s.registry, others, s.definitions.Synced, s.config.Log)
	s.discovery = discovery.New(s.table, s.address())
	s.openapi = openapi.New(s.table, minor(s.config.Version))
	s.bootstrap = bootstrap.New(s.bootstrapConfig())
	if err := s.connectStreams(); err != nil {
		return err
	}
	components := &health.Components{Store: s.checkStore, Dial: s.config.KubeletDial, UserAgent: "kube-probe/" + minor(s.config.Version)}
	s.hooks.Read["componentstatuses"] = components.Read
	s.rest = rest.New(rest.Config{Table: s.table, Registry: s.registry, Admission: plugins, Hooks: s.hooks, Log: s.config.Log, Types: openapi.Types, WatchEvents: s.metrics.WatchEvents,
		BookmarkPeriod: s.config.Times.BookmarkPeriod, MinRequestTimeout: s.config.Times.MinRequestTimeout})
	s.handler = s.chain(s.aggregator.Wrap(s.routes()))
	return nil
}

// minor is "1.36" of "v1.36.3+orrery".
func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}

func (s *Server) bootstrapConfig() bootstrap.Config {
	c := &s.config.Authentication
	read := func(file string) []byte {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil // secure has read the same file and said so
		}
		return pem
	}
	b := bootstrap.Config{Objects: s.registry, Store: s.config.Store, AdvertiseAddress: s.config.AdvertiseAddress,
		Port: s.config.SecurePort, ServiceCIDR: s.config.ServiceCIDR, Log: s.config.Log}
	if s.services != nil {
		b.RepairServices = s.services.Repair
	}
	b.Authentication.AllowedNames, b.Authentication.UsernameHeaders = c.RequestHeaderAllowedNames, c.RequestHeaderUsername
	b.Authentication.GroupHeaders, b.Authentication.ExtraHeaderPrefixes = c.RequestHeaderGroup, c.RequestHeaderExtraPrefix
	if c.ClientCAFile != "" {
		b.Authentication.ClientCA = read(c.ClientCAFile)
	}
	if c.RequestHeaderCAFile != "" {
		b.Authentication.RequestHeaderCA = read(c.RequestHeaderCAFile)
	}
	return b
}

// Handler is the whole server behind the listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Objects reads and writes as the server itself does: without authorization
// and admission. Tests use it to set a stage.
func (s *Server) Objects() objects.Client { return s.registry }

// Run serves until ctx ends, then ends watches, lets other requests finish, and
// closes the store. It owns every goroutine that it starts.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	var background sync.WaitGroup
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	s.registry.Warm(ctx)
	if !s.config.Bare {
		background.Go(func() {
			if err := s.bootstrap.Run(inner); err != nil {
				s.config.Log.Error("bootstrap ended", "err", err)
			}
		})
	}
	background.Go(func() { s.compact(inner) })
	background.Go(func() {
		if err := s.definitions.Run(inner); err != nil {
			s.config.Log.Error("serving custom resources ended", "err", err)
		}
	})
	if !s.config.Bare {
		background.Go(func() {
			if err := s.aggregator.Run(inner); err != nil {
				s.config.Log.Error("aggregation ended", "err", err)
			}
		})
	}
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 32 * time.Second,
		ErrorLog: log.New(logWriter{s.config.Log}, "", 0)}
	background.Go(func() {
		<-inner.Done()
		s.shutdown(ctx, server)
	})
	s.config.Log.Info("serving", "address", listener.Addr().String(), "version", s.config.Version)
	err = server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	cancel()
	background.Wait()
	return errors.Join(err, s.config.Store.Close())
}

// shutdown ends watches first: they would never end by themselves.
func (s *Server) shutdown(ctx context.Context, server *http.Server) {
	s.stopping.Begin()
	s.registry.Close()
	defer s.streams.Close()
	defer s.webhooks.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.Times.Shutdown)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // what is left has had its time
	}
}

// compact forgets history that is older than one interval.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/etcd3/compact.go.
func (s *Server) compact(ctx context.Context) {
	if s.config.Times.Compaction <= 0 {
		return
	}
	ticker := time.NewTicker(s.config.Times.Compaction)
	defer ticker.Stop()
	last := int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := s.config.Store.Revision(ctx)
		if err == nil && last > 0 {
			err = s.config.Store.Compact(ctx, last)
		}
		if err != nil && !errors.Is(err, store.ErrCompacted) && ctx.Err() == nil {
			s.config.Log.Warn("compaction failed", "err", err)
			continue
		}
		last = now
	}
}

// logWriter brings net/http's complaints (mostly broken handshakes) to the log.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug("http server", "err", strings.TrimSpace(string(b)))
	return len(b), nil
}
