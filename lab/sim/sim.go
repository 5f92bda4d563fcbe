package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"
	"orrery/client"
	"orrery/client/timing"
)

// Config says what to simulate.
type Config struct {
	// Nodes is how many there are, the control plane's among them: at least 1.
	Nodes int
	// Dir holds the certificates, the kubeconfig and the nodes' folders.
	Dir string
	// Store holds the cluster; nil is one in memory. Run closes it.
	Store store.Store
	// Address is the host:port where kubectl is served; "" serves only this process.
	Address string
	// TimeScale speeds up what has to do with time: 10 is ten times as fast.
	TimeScale float64
	// SandboxDelay is how long a pod's sandbox takes.
	SandboxDelay time.Duration
	// Latency is how long each answer of the API server is on its way. Without it,
	// what would take two parts a while to settle takes no time at all in a
	// synctest bubble, and what never settles never ends.
	Latency time.Duration
	// Version is reported as Kubernetes' version everywhere.
	Version string
	Log     *slog.Logger
	// Plain leaves out TLS, users and what they may do: everybody is an
	// administrator. For tests in a synctest bubble, where TLS and HTTP/2, which
	// hold mutexes while they write, could stop the bubble's clock.
	Plain bool
}

// Names of the control plane's parts, as Do takes them.
const (
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

// Sim is one cluster. Make it with New, then Run it.
type Sim struct {
	cfg     Config
	pki     *pki // nil when Plain
	hub     hub
	all     []*Node // the control plane's first
	control []*part // in the order in which they start
	links   map[string]*Link

	ctx    context.Context // Run's; set before anything starts
	wg     sync.WaitGroup
	client *client.Client // the sim's own eyes
	nodes  *client.Informer[*corev1.Node]
	up     chan struct{} // closed when everything has been started
}

// New prepares a cluster: it writes certificates and the kubeconfig, if there
// are to be any, and starts nothing.
func New(cfg Config) (*Sim, error) {
	if cfg.Nodes < 1 {
		return nil, errors.New("a cluster has at least one node")
	}
	if cfg.Store == nil {
		cfg.Store = memory.New()
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.TimeScale == 0 {
		cfg.TimeScale = 1
	}
	s := &Sim{cfg: cfg, links: map[string]*Link{}, up: make(chan struct{})}
	if !cfg.Plain {
		var err error
		if s.pki, err = openPKI(cfg.Dir); err != nil {
			return nil, err
		}
	}
	access, err := s.access("system:sim", "orrery-sim", "system:masters")
	if err != nil {
		return nil, err
	}
	if s.client, err = client.New(access); err != nil {
		return nil, err
	}
	s.nodes = client.NewInformer(client.For[*corev1.Node](s.client), "", metav1.ListOptions{})
	for _, p := range []*part{{name: APIServer, run: s.runAPIServer}, {name: ControllerManager, run: s.runControllers}, {name: Scheduler, run: s.runScheduler}} {
		p.sim = s
		s.control = append(s.control, p)
		s.links[p.name] = newLink(s.dial, cfg.Latency)
	}
	address := netip.MustParseAddr("172.30.0.2")
	for i := range cfg.Nodes {
		name := "orrery"
		if i > 0 {
			name = fmt.Sprintf("orrery-m%02d", i+1)
		}
		s.all = append(s.all, newNode(s, name, address, i == 0))
		address = address.Next()
	}
	return s, nil
}

// dial reaches the API server from inside the process.
func (s *Sim) dial(ctx context.Context, _, _ string) (net.Conn, error) { return s.hub.dial(ctx) }

// access is how a user reaches the API server from inside the process.
func (s *Sim) access(user, agent string, groups ...string) (client.Config, error) {
	cfg := client.Config{Host: "http://kubernetes", UserAgent: agent + "/" + s.cfg.Version, Dial: s.dial, TimeScale: s.cfg.TimeScale}
	if s.cfg.Plain {
		return cfg, nil
	}
	var err error
	cfg.Host, cfg.CAData = "https://kubernetes", s.pki.caPEM
	cfg.CertData, cfg.KeyData, err = s.pki.user(user, groups...)
	return cfg, err
}

// Client is an administrator's, from inside the process.
func (s *Sim) Client() *client.Client { return s.client }

// Node is the node of a name, or nil.
func (s *Sim) Node(name string) *Node {
	for _, n := range s.all {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Nodes is all of them, the control plane's first.
func (s *Sim) Nodes() []*Node { return s.all }

// Link is the cable of the controller manager or the scheduler, or nil.
func (s *Sim) Link(name string) *Link { return s.links[name] }

// Kubeconfig is the file that lets kubectl in; there is none when Plain.
func (s *Sim) Kubeconfig() string { return s.pki.file(kubeconfigFile) }

// Run is the cluster, until the context ends. It owns every goroutine.
func (s *Sim) Run(ctx context.Context) error {
	kept := s.cfg.Store
	s.cfg.Store = unclosed{kept}
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	defer func() {
		cancel()
		s.wg.Wait()
		s.client.Close()
	}()
	if err := s.startAll(ctx); err != nil && ctx.Err() == nil {
		cancel()
		s.wg.Wait()
		return errors.Join(err, kept.Close())
	}
	close(s.up)
	<-ctx.Done()
	// The server last, so that the others can say what they have to say.
	for _, n := range s.all {
		n.kubelet.halt()
	}
	for i := len(s.control) - 1; i >= 0; i-- {
		s.control[i].halt()
	}
	s.wg.Wait()
	return kept.Close()
}

// startAll starts the API server, waits for it, and starts the rest.
func (s *Sim) startAll(ctx context.Context) error {
	if s.cfg.Address != "" { // complain about a taken port now, not in a log
		l, err := net.Listen("tcp", s.cfg.Address)
		if err != nil {
			return err
		}
		s.cfg.Address = l.Addr().String()
		if err := l.Close(); err != nil {
			return err
		}
		if _, err := s.pki.writeKubeconfig("https://" + s.cfg.Address); err != nil {
			return err
		}
	}
	s.control[0].start()
	for {
		if _, err := s.client.Raw(ctx, "GET", "/readyz", nil, "", nil); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	s.wg.Go(func() {
		if err := s.nodes.Run(ctx); err != nil {
			s.cfg.Log.Error("the sim does not see its nodes", "component", "sim", "err", err)
		}
	})
	for _, p := range s.control[1:] {
		p.start()
	}
	for _, n := range s.all {
		n.kubelet.start()
	}
	s.wg.Go(func() { s.all[0].mark(ctx) })
	return nil
}

// AwaitReady waits until every node is ready to take pods.
func (s *Sim) AwaitReady(ctx context.Context) error {
	for {
		if nodes := s.nodes.List(); len(nodes) == len(s.all) && !slices.ContainsFunc(nodes, unready) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// unready says whether a node is not Ready, or not yet known to be.
func unready(n *corev1.Node) bool {
	return n.Spec.PodCIDR == "" || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) ||
		!slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
}

// unclosed lets the store outlive the API servers that it serves one after the other.
type unclosed struct{ store.Store }

func (unclosed) Close() error { return nil }

// part is what can be stopped and started by itself: a process, elsewhere. One
// that fails is started again, at once and then after 10, 20, 40 ... s, as the
// kubelet does with the control plane's static pods.
type part struct {
	name string
	run  func(ctx context.Context) error
	sim  *Sim

	mu   sync.Mutex
	stop context.CancelFunc // nil while it does not run; guarded by mu
	done chan struct{}      // guarded by mu
}

// start has it run until halt or the end of Run.
func (p *part) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.sim.ctx)
	done := make(chan struct{})
	p.stop, p.done = cancel, done
	p.sim.wg.Go(func() {
		defer close(done)
		p.supervise(ctx)
	})
}

func (p *part) supervise(ctx context.Context) {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		err := p.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > timing.CrashLoopReset {
			wait = 0
		}
		p.sim.cfg.Log.Warn("part of the cluster has ended and is started again", "component", p.name, "err", err, "wait", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(max(2*wait, timing.CrashLoopInitial), timing.CrashLoopMax)
	}
}

// halt ends it and waits for its end.
func (p *part) halt() {
	p.mu.Lock()
	stop, done := p.stop, p.done
	p.stop = nil
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
}

func (p *part) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stop != nil
}

// port is where the API server says that it is.
func (s *Sim) port() int {
	_, port, err := net.SplitHostPort(s.cfg.Address)
	if err != nil {
		return 6443
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 6443
	}
	return n
}
