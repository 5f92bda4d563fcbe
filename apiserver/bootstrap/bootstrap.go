package bootstrap

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"orrery/apiserver/alloc"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/store"
)

// Config is what the objects are made from.
type Config struct {
	Objects objects.Client
	// Store keeps the leases of the API servers, which are no API objects.
	Store store.Store
	// AdvertiseAddress and Port are where this server is reached from the cluster; the
	// kubernetes service leads there. An invalid address leaves the service out.
	AdvertiseAddress netip.Addr
	Port             int
	// ServiceCIDR is --service-cluster-ip-range; its first address is the kubernetes service's.
	ServiceCIDR netip.Prefix
	// RepairServices compares services with the records of their addresses and ports; nil when nobody keeps any.
	RepairServices func(ctx context.Context) error
	// Authentication is published for other servers, which check the same client certificates.
	Authentication Authentication
	Log            *slog.Logger
}

// Authentication is the content of the ConfigMap kube-system/extension-apiserver-authentication.
type Authentication struct {
	// ClientCA and RequestHeaderCA are PEM bundles.
	ClientCA, RequestHeaderCA                                        []byte
	AllowedNames, UsernameHeaders, GroupHeaders, ExtraHeaderPrefixes []string
}

// step is one piece of bootstrapping; name is that of upstream's post-start hook, which /readyz shows.
type step struct {
	name string
	// every is how often the step is repeated after its first success; 0 is never.
	every time.Duration
	do    func(ctx context.Context) error
}

// Bootstrap creates and keeps the objects.
//
// Upstream: pkg/controlplane/instance.go, CompletedConfig.New (the post-start hooks).
type Bootstrap struct {
	config       Config
	steps        []step
	endpointsRow *kinds.Kind

	mu   sync.Mutex
	done map[string]bool
}

// How often the steps are repeated, and how soon one that failed is tried again.
const (
	namespaceInterval      = 60 * time.Second
	authenticationInterval = 60 * time.Second
	endpointInterval       = 10 * time.Second
	retryInterval          = time.Second
)

// New prepares the steps; Run does them.
func New(config Config) *Bootstrap {
	b := &Bootstrap{config: config, done: map[string]bool{}, endpointsRow: kinds.NewTable().Stored(endpoints)}
	b.steps = []step{
		{"start-system-namespaces-controller", namespaceInterval, b.ensureNamespaces},
		{"rbac/bootstrap-roles", 0, b.ensureRBAC},
		{"scheduling/bootstrap-system-priority-classes", 0, b.ensurePriorityClasses},
		{"start-cluster-authentication-info-controller", authenticationInterval, b.ensureAuthentication},
	}
	if config.ServiceCIDR.IsValid() {
		b.steps = append(b.steps, step{"start-kubernetes-service-cidr-controller", 0, b.ensureServiceCIDR})
		if config.RepairServices != nil {
			b.steps = append(b.steps, step{"start-service-ip-repair-controllers", alloc.RepairInterval, config.RepairServices})
		}
		if config.AdvertiseAddress.IsValid() {
			b.steps = append(b.steps, step{"bootstrap-controller", endpointInterval, b.ensureKubernetesService})
		}
	}
	return b
}

// Run does all steps, one after the other the first time (later ones need the
// namespaces of the first), then each at its interval, until ctx ends. On the way
// out it gives up this server's lease.
func (b *Bootstrap) Run(ctx context.Context) error {
	for _, s := range b.steps {
		if !b.untilDone(ctx, s) {
			return nil
		}
	}
	var wg sync.WaitGroup
	for _, s := range b.steps {
		if s.every > 0 {
			wg.Go(func() { b.repeat(ctx, s) })
		}
	}
	wg.Wait()
	return b.removeLease(context.WithoutCancel(ctx))
}

// untilDone tries a step until it succeeds; false when ctx ended first.
func (b *Bootstrap) untilDone(ctx context.Context, s step) bool {
	for ctx.Err() == nil {
		err := s.do(ctx)
		if err == nil {
			b.mu.Lock()
			b.done[s.name] = true
			b.mu.Unlock()
			return true
		}
		b.config.Log.Warn("bootstrap step failed, will be tried again", "key", s.name, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
	return false
}

// repeat does a step at its interval.
func (b *Bootstrap) repeat(ctx context.Context, s step) {
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := s.do(ctx); err != nil && ctx.Err() == nil {
				b.config.Log.Warn("keeping bootstrap objects failed", "key", s.name, "err", err)
			}
		}
	}
}

// Steps are the names of all steps, in order.
func (b *Bootstrap) Steps() []string {
	var names []string
	for _, s := range b.steps {
		names = append(names, s.name)
	}
	return names
}

// Done reports whether a step has succeeded.
func (b *Bootstrap) Done(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[name]
}
