package ingress

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
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

const (
	// statusPeriod is how often the leader compares the Ingresses' status with what
	// it should be. While it is right that asks nothing of the API server.
	statusPeriod = time.Second
	// drainTimeout is how long requests may go on when the controller is to end.
	drainTimeout = 10 * time.Second
	// headerTimeout bounds the sending of a request's header, idleTimeout the
	// silence between two requests.
	headerTimeout, idleTimeout = 10 * time.Second, 3 * time.Minute
)

// Config says where the controller listens and who it is.
type Config struct {
	// HTTPAddress and HTTPSAddress to listen on; with "" it does not.
	HTTPAddress, HTTPSAddress string
	// Namespace is where the controller's pods and its lease are, Selector the label
	// selector of these pods.
	Namespace, Selector string
	// Identity is the name of this replica among them.
	Identity string
}

// Controller is one replica: it routes, and if it leads it also writes status.
type Controller struct {
	cfg       Config
	client    *client.Client
	informers *client.Informers
	ingresses *client.Informer[*networkingv1.Ingress]
	classes   *client.Informer[*networkingv1.IngressClass]
	services  *client.Informer[*corev1.Service]
	slices    *client.Informer[*discoveryv1.EndpointSlice]
	secrets   *client.Informer[*corev1.Secret]
	pods      *client.Informer[*corev1.Pod] // the controller's own
	transport http.RoundTripper
	table     atomic.Pointer[table]
	complaint string // the last error of newTable; sync's own
	changed   chan struct{}
	log       *slog.Logger
}

// New makes a Controller that reads and writes through c.
func New(cfg Config, c *client.Client) *Controller {
	set := client.NewInformers(c)
	out := &Controller{
		cfg: cfg, client: c, informers: set,
		ingresses: client.InformerFor[*networkingv1.Ingress](set),
		classes:   client.InformerFor[*networkingv1.IngressClass](set),
		services:  client.InformerFor[*corev1.Service](set),
		slices:    client.InformerFor[*discoveryv1.EndpointSlice](set),
		secrets:   client.InformerWith[*corev1.Secret](set, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeTLS)}),
		pods:      client.NewInformer(client.For[*corev1.Pod](c), cfg.Namespace, metav1.ListOptions{LabelSelector: cfg.Selector}),
		transport: newTransport(),
		changed:   make(chan struct{}, 1),
		log:       slog.With("component", "ingress"),
	}
	out.table.Store(&table{})
	return out
}

// Run routes until ctx ends. It fails when a port is taken.
func (c *Controller) Run(ctx context.Context) error {
	follow(c.ingresses, c.changed)
	follow(c.classes, c.changed)
	follow(c.services, c.changed)
	follow(c.slices, c.changed)
	follow(c.secrets, c.changed)
	certs, err := c.certificates()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.informers.Run(ctx) })
	g.Go(func() error { return c.pods.Run(ctx) })
	g.Go(func() error {
		if c.informers.WaitForSync(ctx) != nil {
			return nil // ctx ended
		}
		c.sync()
		g.Go(func() error { return c.loop(ctx) })
		g.Go(func() error { return c.lead(ctx) })
		g.Go(func() error { return c.listen(ctx, c.cfg.HTTPAddress, nil) })
		return c.listen(ctx, c.cfg.HTTPSAddress, certs)
	})
	return g.Wait()
}

// follow has every change of an informer noted in a channel of one element.
func follow[T client.Object](inf *client.Informer[T], changed chan<- struct{}) {
	inf.AddHandler(client.HandlerFunc(func(T) {
		select {
		case changed <- struct{}{}:
		default: // one is waiting already, and will see this change too
		}
	}))
}

func (c *Controller) loop(ctx context.Context) error {
	for {
		select {
		case <-c.changed:
			c.sync()
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Controller) objects() objects {
	return objects{c.ingresses.List(), c.classes.List(), c.services.List(), c.slices.List(), c.secrets.List()}
}

// sync puts a new table in the place of the old.
func (c *Controller) sync() {
	t, err := newTable(c.objects())
	c.table.Store(t)
	if complaint := fmt.Sprint(err); err != nil && complaint != c.complaint {
		c.log.Warn("not all of the Ingresses can be followed", "err", err)
	}
	c.complaint = fmt.Sprint(err)
}

func (c *Controller) listen(ctx context.Context, address string, certs *tls.Config) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return c.serve(ctx, l, certs)
}

// serve answers until ctx ends, and lets the requests that are under way finish.
func (c *Controller) serve(ctx context.Context, l net.Listener, certs *tls.Config) error {
	server := &http.Server{Handler: c, TLSConfig: certs, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)} // mostly handshakes that clients gave up
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		serve := server.Serve
		if certs != nil {
			serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if server.Shutdown(limit) != nil {
			return server.Close()
		}
		return nil
	})
	return g.Wait()
}

// lead writes status while this replica is the leader. Losing the lease ends the
// writing and nothing else: the API server may be gone, and requests go on.
func (c *Controller) lead(ctx context.Context) error {
	select {
	case <-c.pods.Synced(): // else the first status would be empty
	case <-ctx.Done():
	}
	elector := &client.LeaderElector{Client: c.client, Namespace: c.cfg.Namespace, Name: "orrery-ingress", Identity: c.cfg.Identity, ReleaseOnCancel: true}
	for ctx.Err() == nil {
		if err := elector.Lead(ctx, c.keepStatus); err != nil {
			c.log.Warn("not the leader any more", "err", err)
		}
	}
	return nil
}

func (c *Controller) keepStatus(ctx context.Context) error {
	tick := time.NewTicker(statusPeriod)
	defer tick.Stop()
	for {
		if err := c.writeStatus(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("status could not be written", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// writeStatus tells the users of each Ingress where it is served: at the nodes
// with a ready pod of the controller. It stops at the first error.
func (c *Controller) writeStatus(ctx context.Context) error {
	status := networkingv1.IngressLoadBalancerStatus{Ingress: addresses(c.pods.List())}
	for _, ing := range c.objects().ours() {
		if equality.Semantic.DeepEqual(ing.Status.LoadBalancer, status) {
			continue
		}
		ing = ing.DeepCopy()
		ing.Status.LoadBalancer = status
		if _, err := client.For[*networkingv1.Ingress](c.client).UpdateStatus(ctx, ing); err != nil {
			return fmt.Errorf("ingress %s/%s: %w", ing.Namespace, ing.Name, err)
		}
	}
	return nil
}

// addresses are those of the nodes that the ready ones of some pods run on.
func addresses(pods []*corev1.Pod) (out []networkingv1.IngressLoadBalancerIngress) {
	for _, p := range pods {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if ready && p.DeletionTimestamp == nil && p.Status.HostIP != "" {
			out = append(out, networkingv1.IngressLoadBalancerIngress{IP: p.Status.HostIP})
		}
	}
	slices.SortFunc(out, func(a, b networkingv1.IngressLoadBalancerIngress) int { return strings.Compare(a.IP, b.IP) })
	return out
}

// certificates chooses one by the name that a client asks for: the table's or,
// where that has none, one that the controller signed itself.
func (c *Controller) certificates() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "ORRERY DEFAULT CERT"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	own := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if cert, ok := forHost(c.table.Load().certs, hello.ServerName); ok {
			return cert, nil
		}
		return own, nil
	}}, nil
}
