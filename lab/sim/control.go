package sim

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"orrery/apiserver"
	"orrery/client"
	"orrery/client/timing"
	"orrery/controllers"
	"orrery/scheduler"
)

// The ranges of a kubeadm cluster; pods have the wide one when there are more
// nodes than a /16 has /24s.
var (
	podCIDR     = netip.MustParsePrefix("10.244.0.0/16")
	widePodCIDR = netip.MustParsePrefix("10.128.0.0/9")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/12")
	lbPool      = netip.MustParsePrefix("172.31.0.0/24")
)

// lives numbers the processes of components, so that each has an identity of its own.
var lives atomic.Int64

func identity(name string) string {
	return name + "_" + strconv.FormatInt(lives.Add(1), 10)
}

// healthPorts are where the parts say how they are.
var healthPorts = map[string]string{ControllerManager: "127.0.0.1:10257", Scheduler: "127.0.0.1:10259"}

// healthWithin is how long who asks for a part's health may take, in real time.
const healthWithin = 5 * time.Second

// dialHealth connects to a part's /healthz: while it runs, it is well. When Plain there is no certificate to answer with.
func (s *Sim) dialHealth(p *part) (net.Conn, error) {
	if !p.runs() || s.cfg.Plain {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", healthPorts[p.name], syscall.ECONNREFUSED)}
	}
	cert, err := tls.LoadX509KeyPair(s.pki.file(serving+".crt"), s.pki.file(serving+".key"))
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	s.wg.Go(func() {
		c := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}})
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(healthWithin)); err != nil {
			return
		}
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	return ours, nil
}

// runAPIServer is one life of kube-apiserver, with the flags that kubeadm gives it.
func (s *Sim) runAPIServer(ctx context.Context) error {
	cfg := apiserver.Config{
		Store: s.cfg.Store, Version: s.cfg.Version, Log: s.cfg.Log, AllowAll: s.cfg.Plain,
		AdvertiseAddress: s.all[0].ip, SecurePort: s.port(), KubeletDial: s.dialKubelet, KubeletAddressTypes: []string{"InternalIP"},
		ServiceCIDR: serviceCIDR, FirstNodePort: 30000, LastNodePort: 32767, EnableAdmission: []string{"NodeRestriction"},
		Times: apiserver.Times{EventTTL: timing.EventTTL, Compaction: timing.CompactionInterval, RequestTimeout: timing.RequestTimeout, BookmarkPeriod: timing.BookmarkPeriod},
	}
	notReady, unreachable := timing.NotReadyToleration, timing.UnreachableToleration
	timing.Scale(s.cfg.TimeScale, &notReady, &unreachable)
	cfg.NotReadyTolerationSeconds, cfg.UnreachableTolerationSeconds = new(int64(notReady/time.Second)), new(int64(unreachable/time.Second))
	if !s.cfg.Plain {
		cfg.TLSCertFile, cfg.TLSKeyFile = s.pki.file(serving+".crt"), s.pki.file(serving+".key")
		cfg.KubeletClientCertificate, cfg.KubeletClientKey = s.pki.file(kubeletClient+".crt"), s.pki.file(kubeletClient+".key")
		cfg.AuthorizationModes = []string{"Node", "RBAC"}
		issuer := "https://kubernetes.default.svc.cluster.local"
		cfg.Authentication = apiserver.Authentication{ClientCAFile: s.pki.file(caCert), Anonymous: true, BootstrapTokens: true,
			ServiceAccountIssuers: []string{issuer}, ServiceAccountKeyFiles: []string{s.pki.file(accountsKey)},
			ServiceAccountSigningKey: s.pki.file(accountsKey), ServiceAccountExtendedToken: true}
	}
	var tcp net.Listener
	if s.cfg.Address != "" {
		var err error
		if tcp, err = net.Listen("tcp", s.cfg.Address); err != nil {
			return err
		}
	}
	cfg.Listener = s.hub.listen(tcp)
	server, err := apiserver.New(cfg)
	if err != nil {
		return errors.Join(err, cfg.Listener.Close())
	}
	return server.Run(ctx)
}

// runControllers is one life of kube-controller-manager.
func (s *Sim) runControllers(ctx context.Context) error {
	cfg := controllers.DefaultConfig()
	var err error
	if cfg.Client, err = s.access("system:kube-controller-manager", ControllerManager); err != nil {
		return err
	}
	cfg.Client.Dial = s.links[ControllerManager].Dial
	cfg.Identity = identity("orrery")
	cfg.AllocateNodeCIDRs, cfg.ClusterCIDR, cfg.ServiceCIDR = true, podCIDR, serviceCIDR
	if len(s.all) > 250 {
		cfg.ClusterCIDR = widePodCIDR
	}
	cfg.LoadBalancerPool = []netip.Prefix{lbPool}
	cfg.TimeScale = s.cfg.TimeScale
	if s.cfg.Plain {
		cfg.RootCA = []byte("none")
	} else {
		cfg.UseServiceAccountCredentials, cfg.RootCA = true, s.pki.caPEM
		cfg.ClusterSigningCert, cfg.ClusterSigningKey, cfg.ServiceAccountKeyFile = s.pki.file(caCert), s.pki.file(caKey), s.pki.file(accountsKey)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	return controllers.Run(ctx, cfg)
}

// runScheduler is one life of kube-scheduler.
func (s *Sim) runScheduler(ctx context.Context) error {
	access, err := s.access("system:kube-scheduler", Scheduler)
	if err != nil {
		return err
	}
	access.Dial = s.links[Scheduler].Dial
	c, err := client.New(access)
	if err != nil {
		return err
	}
	defer c.Close()
	recording, stop := context.WithCancel(ctx)
	recorder := client.NewRecorder(c, scheduler.DefaultName, "")
	var wg sync.WaitGroup
	wg.Go(func() { _ = recorder.Run(recording) })
	defer wg.Wait()
	defer stop()
	e := client.LeaderElector{Client: c, Namespace: "kube-system", Name: Scheduler, Identity: identity("orrery"), Recorder: recorder, ReleaseOnCancel: true,
		LeaseDuration: timing.LeaderLeaseDuration, RenewDeadline: timing.LeaderRenewDeadline, RetryPeriod: timing.LeaderRetryPeriod}
	timing.Scale(s.cfg.TimeScale, &e.LeaseDuration, &e.RenewDeadline, &e.RetryPeriod)
	return e.Lead(ctx, func(ctx context.Context) error {
		return scheduler.New(scheduler.Config{Client: c, Recorder: recorder, TimeScale: s.cfg.TimeScale}).Run(ctx)
	})
}
