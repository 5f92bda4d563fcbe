package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// Proxy keeps the rules of one node.
type Proxy struct {
	cfg      Config
	services *client.Informer[*corev1.Service]
	slices   *client.Informer[*discoveryv1.EndpointSlice]
	nodes    *client.Informer[*corev1.Node] // only this one
	events   *client.Recorder
	health   *health
	metrics  *prometheus.Registry
	duration prometheus.Histogram
	log      *slog.Logger

	changed chan struct{} // has one element while a change waits
	kernel  kernel
}

// kernel is all that a Proxy does to its node.
type kernel interface {
	// prepare is called once, and says whether rules may use counters.
	prepare(o Options, log *slog.Logger) (counters bool, err error)
	// put makes the rules those of the node; with jumps, also sees to it that
	// the kernel's own chains lead to them.
	put(ctx context.Context, r Ruleset, jumps bool) error
	// forget ends conversations with endpoints that are gone.
	forget(ports []*servicePort) error
}

// New makes a Proxy that reads from c.
func New(cfg Config, c *client.Client) *Proxy {
	p := &Proxy{
		cfg: cfg,
		// Headless Services have no address, and Services with this label belong
		// to somebody else's proxy.
		services: client.NewInformer(client.For[*corev1.Service](c), "", metav1.ListOptions{
			FieldSelector: "spec.clusterIP!=" + corev1.ClusterIPNone,
			LabelSelector: "!service.kubernetes.io/service-proxy-name"}),
		slices: client.NewInformer(client.For[*discoveryv1.EndpointSlice](c), "", metav1.ListOptions{
			LabelSelector: "!" + corev1.IsHeadlessService}),
		nodes: client.NewInformer(client.For[*corev1.Node](c), "", metav1.ListOptions{
			FieldSelector: "metadata.name=" + cfg.Node}),
		events:  client.NewRecorder(c, "kube-proxy", cfg.Node),
		metrics: prometheus.NewRegistry(),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubeproxy_sync_proxy_rules_duration_seconds", Help: "SyncProxyRules latency in seconds",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		log:     slog.With("component", "kube-proxy", "node", cfg.Node),
		changed: make(chan struct{}, 1),
		kernel:  linux{},
	}
	p.health = &health{timeout: 2 * cfg.SyncPeriod, log: p.log, servers: map[int32]*http.Server{}}
	p.metrics.MustRegister(p.duration, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return p
}

// Run keeps the rules until ctx ends, and then leaves them as they are. It fails
// when an address to listen on is taken.
func (p *Proxy) Run(ctx context.Context) error {
	var err error
	if p.cfg.Counters, err = p.kernel.prepare(p.cfg.Options, p.log); err != nil {
		return err
	}
	// Nodes change with every heartbeat; what the rules need of this one can wait
	// for the next full sync.
	watch(p.services, p.tell)
	watch(p.slices, p.tell)
	p.events.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: p.cfg.Node},
		corev1.EventTypeNormal, "Starting", "")

	defer p.health.close()
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{p.services.Run, p.slices.Run, p.nodes.Run, p.events.Run, p.loop} {
		g.Go(func() error { return run(ctx) })
	}
	if p.cfg.HealthzAddress != "" {
		mux := http.NewServeMux()
		mux.Handle("/healthz", p.health)
		mux.Handle("/livez", p.health)
		g.Go(func() error { return serve(ctx, p.cfg.HealthzAddress, mux) })
	}
	if p.cfg.MetricsAddress != "" {
		g.Go(func() error { return serve(ctx, p.cfg.MetricsAddress, p.metricsMux()) })
	}
	return g.Wait()
}

func (p *Proxy) metricsMux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}))
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	mux.Handle("/proxyMode", text("iptables"))
	mux.Handle("/healthz", text("ok"))
	return mux
}

func watch[T client.Object](inf *client.Informer[T], tell func()) {
	inf.AddHandler(client.Handler[T]{
		Add: func(T) { tell() },
		Update: func(old, now T) {
			if old.GetResourceVersion() != now.GetResourceVersion() {
				tell()
			}
		},
		Delete: func(T) { tell() },
	})
}

// tell notes that something changed. What exactly is of no interest: the next
// sync looks at everything.
func (p *Proxy) tell() {
	p.health.changed()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// loop syncs at once when something changed, but never more often than each
// MinSyncPeriod; and each SyncPeriod in any case, in full.
//
// Upstream: pkg/proxy/runner/bounded_frequency_runner.go, BoundedFrequencyRunner.
func (p *Proxy) loop(ctx context.Context) error {
	// A sync before everything is known would remove the rules of what is not.
	for _, synced := range []<-chan struct{}{p.services.Synced(), p.slices.Synced(), p.nodes.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return nil
		}
	}
	tick := time.NewTicker(p.cfg.SyncPeriod)
	defer tick.Stop()
	for jumps := true; ; {
		began := time.Now()
		select {
		case <-p.changed: // what came until now will be in this sync
		default:
		}
		if err := p.sync(ctx, jumps); err != nil && ctx.Err() == nil {
			p.log.Error("rules could not be changed", "err", err)
		}
		select {
		case <-p.changed:
			if !client.Sleep(ctx, time.Until(began.Add(p.cfg.MinSyncPeriod))) {
				return nil
			}
			jumps = false
		case <-tick.C:
			jumps = true
		case <-ctx.Done():
			return nil
		}
	}
}

// sync makes the node follow the objects as they are now.
func (p *Proxy) sync(ctx context.Context, jumps bool) error {
	began := time.Now()
	o := p.cfg.Options
	if n, ok := p.nodes.Get("", p.cfg.Node); ok {
		o.Zone = n.Labels[corev1.LabelTopologyZone]
		o.NodeIP = internalIP(n)
		p.health.setLeaving(n.DeletionTimestamp != nil || leaving(n))
	}
	var err error
	if o.NodePortIPs, err = p.cfg.nodePortIPs(o.NodeIP); err != nil {
		return err
	}
	ports := servicePorts(p.services.List(), p.slices.List())
	if err := p.kernel.put(ctx, compute(ports, o), jumps); err != nil {
		return err
	}
	p.duration.Observe(time.Since(began).Seconds())
	p.log.Debug("rules follow the Services", "ports", len(ports), "took", time.Since(began))
	p.health.synced(began)
	p.health.setServices(ports, p.cfg.Node)
	return p.kernel.forget(ports)
}

func internalIP(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && a.Type == corev1.NodeInternalIP {
			return ip
		}
	}
	return netip.Addr{}
}

// leaving says that the cluster autoscaler is about to remove the node.
func leaving(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == "ToBeDeletedByClusterAutoscaler" {
			return true
		}
	}
	return false
}
