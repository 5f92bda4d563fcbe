package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery/apiserver/store"
	"orrery/apiserver/store/etcd"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Side says whose part runs.
type Side string

// The two sides.
const (
	Ours     Side = "ours"
	Upstream Side = "upstream"
)

// Start-up of a process on a busy machine, and of everything after it.
const readyWithin = 2 * time.Minute

// Cluster is a control plane of processes. Parts may be started in any order and
// stopped and replaced while the rest goes on.
type Cluster struct {
	// Dir holds everything: certificates, logs, etcd's data.
	Dir string

	t       testing.TB
	pki     *pki
	apiPort int
	// Where the etcd that is a process apart serves clients and peers, once it was started.
	etcdURL, etcdPeerURL string
}

// New makes certificates, and nothing runs yet.
func New(t testing.TB) *Cluster {
	t.Helper()
	return newIn(t, t.TempDir())
}

// NewInMemory is New with everything in memory: what is measured then is the
// parts, and not the disk that etcd syncs its log to.
func NewInMemory(t testing.TB) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "peers")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // after those that stop the parts
	return newIn(t, dir)
}

func newIn(t testing.TB, dir string) *Cluster {
	c := &Cluster{Dir: dir, t: t, apiPort: freePort(t)}
	c.pki = newPKI(t, filepath.Join(c.Dir, "pki"))
	return c
}

// Config is for a foreign client that is user, in groups.
func (c *Cluster) Config(user string, groups ...string) *rest.Config {
	cert, key := c.pki.client(user, groups)
	return &rest.Config{
		Host: c.URL(), UserAgent: user, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki.path("ca.crt"), CertFile: cert, KeyFile: key},
	}
}

// Admin is a client in system:masters.
func (c *Cluster) Admin() *kubernetes.Clientset { return c.clientFor("admin", "system:masters") }

func (c *Cluster) clientFor(user string, groups ...string) *kubernetes.Clientset {
	c.t.Helper()
	set, err := kubernetes.NewForConfig(c.Config(user, groups...))
	if err != nil {
		c.t.Fatal(err)
	}
	return set
}

// URL is where the API server is, or will be.
func (c *Cluster) URL() string { return fmt.Sprintf("https://127.0.0.1:%d", c.apiPort) }

// Kubeconfig writes one for user and returns its path.
func (c *Cluster) Kubeconfig(user string) string {
	cert, key := c.pki.client(user, nil)
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthority: c.pki.path("ca.crt")}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificate: cert, ClientKey: key}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	path := filepath.Join(c.Dir, fileName(user)+".conf")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// StartAPIServer runs one on the cluster's data directory and waits until it is
// ready. The flags are kubeadm's.
func (c *Cluster) StartAPIServer(side Side) *Part {
	c.t.Helper()
	if side == Ours {
		return c.runAPIServer(side, "--data-dir="+c.dataDir())
	}
	under := c.startEtcd()
	part := c.runAPIServer(side, c.etcdFlags()...)
	part.under = under
	return part
}

// StartAPIServers runs several on one etcd, which is a process apart. Each cluster
// that it returns is this one, seen through another of them.
func (c *Cluster) StartAPIServers(sides ...Side) (views []*Cluster) {
	c.t.Helper()
	if c.etcdURL == "" {
		c.startEtcd()
	}
	for _, side := range sides {
		view := *c
		view.apiPort = freePort(c.t)
		view.runAPIServer(side, c.etcdFlags()...)
		views = append(views, &view)
	}
	return views
}

func (c *Cluster) etcdFlags() []string {
	p := c.pki.path
	return []string{"--etcd-cafile=" + p("ca.crt"), "--etcd-certfile=" + p("etcd-client.crt"), "--etcd-keyfile=" + p("etcd-client.key"), "--etcd-servers=" + c.etcdURL}
}

// apiServerFlags are kubeadm's.
func (c *Cluster) apiServerFlags(store ...string) []string {
	p := c.pki.path
	return append(store,
		"--advertise-address=127.0.0.1", "--bind-address=127.0.0.1", "--allow-privileged=true", "--authorization-mode=Node,RBAC",
		"--client-ca-file="+p("ca.crt"), "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth=true",
		"--kubelet-client-certificate="+p("apiserver-kubelet-client.crt"), "--kubelet-client-key="+p("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--proxy-client-cert-file="+p("front-proxy-client.crt"), "--proxy-client-key-file="+p("front-proxy-client.key"),
		"--requestheader-allowed-names=front-proxy-client", "--requestheader-client-ca-file="+p("ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		fmt.Sprintf("--secure-port=%d", c.apiPort),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+p("sa.pub"),
		"--service-account-signing-key-file="+p("sa.key"), "--service-cluster-ip-range=10.96.0.0/12",
		"--tls-cert-file="+p("apiserver.crt"), "--tls-private-key-file="+p("apiserver.key"),
	)
}

// TryAPIServer runs one that is expected to give up, on the etcd apart, and tells its exit code and how long it took.
func (c *Cluster) TryAPIServer(side Side) (code int, took time.Duration) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), binary(c.t, side, "kube-apiserver"), c.apiServerFlags(c.etcdFlags()...)...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%v\n%s", err, out)
	}
	return cmd.ProcessState.ExitCode(), time.Since(began)
}

func (c *Cluster) runAPIServer(side Side, store ...string) *Part {
	c.t.Helper()
	part := &Part{}
	admin := c.Admin().RESTClient()
	binary(c.t, side, "kube-apiserver") // building it is not part of its start
	began := time.Now()
	part.process = c.start(side, "kube-apiserver", c.apiServerFlags(store...)...)
	c.Wait("kube-apiserver ready", func(ctx context.Context) error { return admin.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error() })
	part.ReadyAfter = time.Since(began)
	// The first thing that any object in it asks for.
	c.Wait("namespace default", func(ctx context.Context) error {
		return c.Admin().RESTClient().Get().AbsPath("/api/v1/namespaces/default").Do(ctx).Error()
	})
	return part
}

func (c *Cluster) dataDir() string { return filepath.Join(c.Dir, "etcd") }

// StartEtcd runs an etcd apart; one that was stopped or killed comes back where it was.
func (c *Cluster) StartEtcd() *Part {
	c.t.Helper()
	return &Part{process: c.startEtcd()}
}

// startEtcd runs an etcd server on the data directory, whoever wrote it, and waits until it listens.
func (c *Cluster) startEtcd() *process {
	p := c.pki.path
	if c.etcdURL == "" {
		c.etcdURL, c.etcdPeerURL = fmt.Sprintf("https://127.0.0.1:%d", freePort(c.t)), fmt.Sprintf("http://127.0.0.1:%d", freePort(c.t))
	}
	client, peer := c.etcdURL, c.etcdPeerURL
	etcd := c.start(Upstream, "etcd", "--name=default", "--data-dir="+c.dataDir(), "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--client-cert-auth=true",
		"--trusted-ca-file="+p("ca.crt"), "--cert-file="+p("apiserver.crt"), "--key-file="+p("apiserver.key"),
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		"--watch-progress-notify-interval=5s")
	c.Wait("etcd listens", func(context.Context) error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(client, "https://"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return etcd
}

// Store opens the etcd under upstream's API server, past the server.
func (c *Cluster) Store() store.Store {
	c.t.Helper()
	p := c.pki.path
	s, err := etcd.Open(c.t.Context(), etcd.Config{Servers: []string{c.etcdURL}, CAFile: p("ca.crt"), CertFile: p("etcd-client.crt"), KeyFile: p("etcd-client.key")})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = s.Close() })
	return s
}

// StartControllerManager runs one with kubeadm's flags, and extra.
func (c *Cluster) StartControllerManager(side Side, extra ...string) *Part {
	c.t.Helper()
	p, conf := c.pki.path, c.Kubeconfig("system:kube-controller-manager")
	args := []string{
		"--allocate-node-cidrs=true", "--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf, "--bind-address=127.0.0.1",
		"--client-ca-file=" + p("ca.crt"), "--cluster-cidr=10.244.0.0/16", "--cluster-name=kubernetes",
		"--cluster-signing-cert-file=" + p("ca.crt"), "--cluster-signing-key-file=" + p("ca.key"), "--controllers=*,bootstrapsigner,tokencleaner",
		"--kubeconfig=" + conf, "--leader-elect=true", "--requestheader-client-ca-file=" + p("ca.crt"), "--root-ca-file=" + p("ca.crt"),
		"--service-account-private-key-file=" + p("sa.key"), "--service-cluster-ip-range=10.96.0.0/12", "--use-service-account-credentials=true",
		fmt.Sprintf("--secure-port=%d", freePort(c.t)),
	}
	if side == Upstream {
		args = append(args, "--flex-volume-plugin-dir="+filepath.Join(c.Dir, "flex"), "--cert-dir="+filepath.Join(c.Dir, "kcm"))
	}
	return &Part{process: c.start(side, "kube-controller-manager", append(args, extra...)...)}
}

// StartScheduler runs one with kubeadm's flags, and extra.
func (c *Cluster) StartScheduler(side Side, extra ...string) *Part {
	c.t.Helper()
	conf := c.Kubeconfig("system:kube-scheduler")
	args := []string{
		"--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf, "--bind-address=127.0.0.1", "--kubeconfig=" + conf,
		"--leader-elect=true", fmt.Sprintf("--secure-port=%d", freePort(c.t)),
	}
	if side == Upstream {
		args = append(args, "--cert-dir="+filepath.Join(c.Dir, "sched"))
	}
	return &Part{process: c.start(side, "kube-scheduler", append(args, extra...)...)}
}

// Wait tries until there is no error; the test fails with the last one after
// two minutes.
func (c *Cluster) Wait(what string, try func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), readyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("%s: after %v: %v", what, readyWithin, err)
		}
	}
}

// freePort is one that nobody listens on at the moment.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
