package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
	"orrery/cni/kernel"
)

// resync is how often the kernel is compared with the Node objects although
// none of them has changed.
const resync = 30 * time.Second

// Config says what the daemon works on; all paths are as it sees them in its container.
type Config struct {
	// NodeName is the node it runs on.
	NodeName string
	// Network is the range of all pods of the cluster.
	Network netip.Prefix
	// Template is the CNI configuration list to write; the plugin's ipam.subnet
	// is filled in from the node's podCIDR.
	Template []byte
	// ConfigDir is the folder in which the runtime looks for configurations.
	ConfigDir string
	// PluginSource is the plugin's binary in the image, BinDir the folder it is
	// copied to. With an empty PluginSource nothing is copied.
	PluginSource, BinDir string
}

// Daemon keeps one node's part of the pod network.
type Daemon struct {
	cfg    Config
	client *client.Client
	nodes  *client.Informer[*corev1.Node]
	log    *slog.Logger
}

// New makes a Daemon that reads Node objects through c.
func New(cfg Config, c *client.Client) *Daemon {
	return &Daemon{
		cfg:    cfg,
		client: c,
		nodes:  client.NewInformer(client.For[*corev1.Node](c), "", metav1.ListOptions{}),
		log:    slog.With("component", "cni", "node", cfg.NodeName),
	}
}

// Run keeps the network until ctx ends. It fails only when the plugin cannot be
// installed; everything else is retried.
func (d *Daemon) Run(ctx context.Context) error {
	if d.cfg.PluginSource != "" {
		if err := install(d.cfg.PluginSource, d.cfg.BinDir); err != nil {
			return fmt.Errorf("installing the CNI plugin: %w", err)
		}
	}
	if err := d.awaitServer(ctx); err != nil {
		return nil // ctx ended
	}
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default: // one is waiting already, and will see this change too
		}
	}
	d.nodes.AddHandler(client.Handler[*corev1.Node]{
		Add: func(*corev1.Node) { tell() },
		Update: func(old, now *corev1.Node) {
			if place(old) != place(now) { // heartbeats are no news
				tell()
			}
		},
		Delete: func(*corev1.Node) { tell() },
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.nodes.Run(ctx) })
	g.Go(func() error { return d.loop(ctx, changed) })
	return g.Wait()
}

func (d *Daemon) loop(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-d.nodes.Synced():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(resync)
	defer tick.Stop()
	for {
		if err := d.sync(ctx, d.nodes.List()); err != nil && ctx.Err() == nil {
			d.log.Warn("pod network is not complete yet", "err", err)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// awaitServer waits until the API server's address answers. In a pod that
// address is a Service's; until kube-proxy has made its rules a connection to it
// hangs, and goes on hanging afterwards, because the kernel has decided already
// where it goes. So: many short attempts instead of one long one.
func (d *Daemon) awaitServer(ctx context.Context) error {
	u, err := url.Parse(d.client.Config().Host)
	if err != nil || u.Port() == "" {
		return nil // the client reports it
	}
	dialer := net.Dialer{Timeout: time.Second}
	for first := true; ; first = false {
		conn, err := dialer.DialContext(ctx, "tcp", u.Host)
		if err == nil {
			return conn.Close()
		}
		if first {
			d.log.Info("waiting for the API server", "address", u.Host, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// sync makes the node as the Node objects say. It goes on after an error, so
// that one unreachable node does not cost the others their routes.
func (d *Daemon) sync(ctx context.Context, nodes []*corev1.Node) error {
	own, routes, err := plan(d.cfg.NodeName, nodes)
	if err != nil {
		return err
	}
	errs := []error{kernel.Sysctl("net/ipv4/ip_forward", "1")} // a router
	changed, err := syncRoutes(routes)
	errs = append(errs, err, syncRules(ctx, own, d.cfg.Network))
	for _, c := range changed {
		d.log.Info(c.verb+" route", "dst", c.route.dst.String(), "via", c.route.via.String())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	wrote, err := writeConfig(d.cfg.ConfigDir, d.cfg.Template, own)
	if wrote {
		d.log.Info("wrote the CNI configuration", "dir", d.cfg.ConfigDir, "podCIDR", own.String())
	}
	return err
}

// location is all that matters here of a Node.
type location struct {
	name, podCIDR, address string
}

func place(n *corev1.Node) location {
	l := location{name: n.Name, podCIDR: n.Spec.PodCIDR}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			l.address = a.Address
			break
		}
	}
	return l
}

// plan decides, and does nothing: the node's own range and the routes to the
// others. Nodes without a range or an address yet are left out; they will be back.
func plan(self string, nodes []*corev1.Node) (own netip.Prefix, routes []route, err error) {
	for _, n := range nodes {
		l := place(n)
		cidr, err := netip.ParsePrefix(l.podCIDR)
		if err != nil {
			continue
		}
		if l.name == self {
			own = cidr.Masked()
			continue
		}
		if via, err := netip.ParseAddr(l.address); err == nil && via.Is4() {
			routes = append(routes, route{dst: cidr.Masked(), via: via})
		}
	}
	if !own.IsValid() {
		return own, nil, fmt.Errorf("node %q has no podCIDR yet", self)
	}
	return own, routes, nil
}
