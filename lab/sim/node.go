package sim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/kubelet"
	"orrery/kubelet/probes"
	"orrery/kubelet/server"
)

// Node is a hollow node: a kubelet, the runtime that pretends, and a cable.
type Node struct {
	Name    string
	Runtime *Runtime
	Link    *Link

	sim     *Sim
	ip      netip.Addr
	kubelet *part
	port    hub // the kubelet's own server
	control bool
}

func newNode(s *Sim, name string, ip netip.Addr, control bool) *Node {
	n := &Node{Name: name, sim: s, ip: ip, control: control, Runtime: NewRuntime(), Link: newLink(s.dial, s.cfg.Latency)}
	n.Runtime.Delay, n.Runtime.CIDR = s.cfg.SandboxDelay, n.podCIDR
	n.kubelet = &part{name: "kubelet " + name, sim: s, run: n.run}
	return n
}

// podCIDR waits until the controller manager has given the node its range.
func (n *Node) podCIDR(ctx context.Context) (netip.Prefix, error) {
	for {
		if obj, ok := n.sim.nodes.Get("", n.Name); ok && obj.Spec.PodCIDR != "" {
			return netip.ParsePrefix(obj.Spec.PodCIDR)
		}
		select {
		case <-ctx.Done():
			return netip.Prefix{}, fmt.Errorf("node %s has no podCIDR: %w", n.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// settings is the kubelet's configuration file, and makes it: all of its times are scaled.
func (n *Node) settings() (cfg kubelet.Config) {
	dir := filepath.Join(n.sim.cfg.Dir, "nodes", n.Name)
	cfg = kubelet.Config{NodeName: n.Name, NodeIP: n.ip, RootDir: dir, Version: n.sim.cfg.Version, Runtime: n.Runtime, Images: n.Runtime,
		TimeScale: n.sim.cfg.TimeScale, NoCgroups: true, NoTmpfs: true, Probe: func(context.Context, probes.Target) (bool, string, error) { return true, "", nil },
		Machine: kubelet.Machine{CPUs: 4, Memory: 8 << 30, Disk: 100 << 30, HugePages: map[string]int64{},
			Info: corev1.NodeSystemInfo{MachineID: n.Name, SystemUUID: n.Name, BootID: n.Name, OperatingSystem: "linux", Architecture: runtime.GOARCH,
				OSImage: "Orrery, simulated", KernelVersion: "none"}}}
	s := &cfg.Settings
	s.PodLogsDir, s.ResolverConfig = filepath.Join(dir, "logs"), new("")
	s.ClusterDNS = []string{"10.96.0.10"}
	if n.control {
		s.RegisterWithTaints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
	}
	return cfg
}

// mark gives the control plane's node the labels that no kubelet may give itself.
//
// Upstream: cmd/kubeadm/app/phases/markcontrolplane/markcontrolplane.go, MarkControlPlane.
func (n *Node) mark(ctx context.Context) {
	labels := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"","node.kubernetes.io/exclude-from-external-load-balancers":""}}}`)
	for {
		_, err := client.For[*corev1.Node](n.sim.client).Patch(ctx, "", n.Name, types.StrategicMergePatchType, labels)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// run is one life of the node's kubelet, with its server.
func (n *Node) run(ctx context.Context) error {
	cfg := n.settings()
	access, err := n.sim.access("system:node:"+n.Name, "kubelet", "system:nodes")
	if err != nil {
		return err
	}
	access.Dial = n.Link.Dial
	if cfg.Client, err = client.New(access); err != nil {
		return err
	}
	defer cfg.Client.Close()
	k, err := kubelet.New(cfg)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.Run(ctx) })
	if !n.sim.cfg.Plain {
		g.Go(func() error { return n.serve(ctx, k) })
	}
	return g.Wait()
}

// serve answers the API server, for logs. Nobody else finds this server, so it
// does not check who asks.
func (n *Node) serve(ctx context.Context, k *kubelet.Kubelet) error {
	cert, err := tls.LoadX509KeyPair(n.sim.pki.file(serving+".crt"), n.sim.pki.file(serving+".key"))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: (&server.Server{Host: k}).Handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	l := tls.NewListener(n.port.listen(nil), &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// dialKubelet is how the API server reaches the nodes, and the parts beside it; there is nothing else to reach.
func (s *Sim) dialKubelet(ctx context.Context, _, address string) (net.Conn, error) {
	for _, p := range s.control {
		if healthPorts[p.name] == address {
			return s.dialHealth(p)
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for _, n := range s.all {
		if n.ip.String() == host && port == "10250" {
			way := newLink(func(ctx context.Context, _, _ string) (net.Conn, error) { return n.port.dial(ctx) }, 0)
			if gate, _ := n.Link.state(); !isClosed(gate) {
				way.Cut()
			}
			return way.Dial(ctx, "", address)
		}
	}
	return nil, fmt.Errorf("dial tcp %s: no route to host: there is no network between hollow pods", address)
}
