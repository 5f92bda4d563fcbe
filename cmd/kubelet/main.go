// Command kubelet runs the pods of a node. With the default runtime endpoint it
// carries the container runtime service in the same process.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"orrery/client"
	"orrery/cmd/internal/version"
	"orrery/kubelet"
	"orrery/kubelet/certificate"
	"orrery/kubelet/runtime"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("kubelet ends", "component", "kubelet", "err", err)
		os.Exit(1)
	}
}

// ownSocket is where our runtime serves CRI.
const ownSocket = "/run/orrery/cri.sock"

// flags are what is not in the configuration file, and what overrides it.
//
// Upstream: cmd/kubelet/app/options/options.go, KubeletFlags.
type flags struct {
	*pflag.FlagSet
	config, kubeconfig, bootstrap, hostname, nodeIP, endpoint, rootDir, certDir, manifests string
	containerd, pause, labels                                                              string
	verbosity                                                                              int
	timeScale                                                                              float64
}

func parse(args []string) (*flags, error) {
	f := &flags{FlagSet: pflag.NewFlagSet("kubelet", pflag.ContinueOnError)}
	f.StringVar(&f.config, "config", "", "file with a KubeletConfiguration")
	f.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server; without it only static pods run")
	f.StringVar(&f.bootstrap, "bootstrap-kubeconfig", "", "kubeconfig to get the first client certificate with")
	f.StringVar(&f.hostname, "hostname-override", "", "name of the node, if not the host's")
	f.StringVar(&f.nodeIP, "node-ip", "", "address of the node, if not that of the default route")
	f.StringVar(&f.endpoint, "container-runtime-endpoint", "", "CRI socket; the default "+ownSocket+" is served by this process")
	f.StringVar(&f.rootDir, "root-dir", "/var/lib/kubelet", "folder of pods' files")
	f.StringVar(&f.certDir, "cert-dir", "/var/lib/kubelet/pki", "folder of certificates")
	f.StringVar(&f.manifests, "pod-manifest-path", "", "folder of static pods")
	f.StringVar(&f.labels, "node-labels", "", "labels to register the node with, as k=v,k=v")
	f.StringVar(&f.containerd, "containerd", "/run/containerd/containerd.sock", "containerd's socket, for the runtime in this process")
	f.StringVar(&f.pause, "pod-infra-container-image", "docker.io/orrery/pause:"+version.Upstream, "image of the pause container")
	f.Float64Var(&f.timeScale, "time-scale", 1, "speed heartbeats, back-offs and probes up by this factor (not upstream: for drills in class)")
	f.IntVarP(&f.verbosity, "v", "v", 0, "log level; 4 and more is debug")
	showVersion := f.Bool("version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *showVersion {
		fmt.Println("Kubernetes " + version.Kubernetes)
		return nil, pflag.ErrHelp
	}
	return f, nil
}

// configure makes the kubelet's configuration of the file and the flags.
func (f *flags) configure() (cfg kubelet.Config, err error) {
	cfg = kubelet.Config{Version: version.Kubernetes, RootDir: f.rootDir, NodeName: f.hostname, NodeLabels: map[string]string{}, TimeScale: f.timeScale}
	if f.config != "" {
		raw, err := os.ReadFile(f.config)
		if err != nil {
			return cfg, fmt.Errorf("failed to load Kubelet config file %s: %w", f.config, err)
		}
		if err := yaml.UnmarshalStrict(raw, &cfg.Settings); err != nil {
			return cfg, fmt.Errorf("failed to load Kubelet config file %s: %w", f.config, err)
		}
	}
	if f.endpoint != "" {
		cfg.Settings.ContainerRuntimeEndpoint = f.endpoint
	}
	if f.manifests != "" {
		cfg.Settings.StaticPodPath = f.manifests
	}
	kubelet.SetDefaults(&cfg.Settings)
	if cfg.NodeName == "" {
		if cfg.NodeName, err = os.Hostname(); err != nil {
			return cfg, err
		}
	}
	cfg.NodeName = strings.ToLower(cfg.NodeName)
	if f.nodeIP != "" {
		if cfg.NodeIP, err = netip.ParseAddr(f.nodeIP); err != nil {
			return cfg, err
		}
	}
	for _, pair := range strings.FieldsFunc(f.labels, func(r rune) bool { return r == ',' }) {
		k, v, _ := strings.Cut(pair, "=")
		cfg.NodeLabels[k] = v
	}
	return cfg, nil
}

func run(ctx context.Context) error {
	f, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.verbosity >= 4 {
		slog.SetLogLoggerLevel(slog.LevelDebug)
	}
	cfg, err := f.configure()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	socket := strings.TrimPrefix(cfg.Settings.ContainerRuntimeEndpoint, "unix://")
	if socket == ownSocket {
		service, err := runtime.New(runtime.Config{Address: f.containerd, Socket: socket, SandboxImage: f.pause,
			SystemdCgroup: cfg.Settings.CgroupDriver == "systemd"})
		if err != nil {
			return err
		}
		g.Go(func() error { return service.Run(ctx) })
	}
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg.Runtime, cfg.Images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	if f.kubeconfig != "" {
		certs, err := certificate.New(certificate.Options{Kubeconfig: f.kubeconfig, Bootstrap: f.bootstrap, Dir: f.certDir,
			NodeName: cfg.NodeName, Rotate: cfg.Settings.RotateCertificates})
		if err != nil {
			return err
		}
		access := certs.Config().As("kubelet/" + version.Kubernetes)
		access.TimeScale = f.timeScale
		if cfg.Client, err = client.New(access); err != nil {
			return err
		}
		cfg.Credentials = certs.Ready()
		g.Go(func() error { return certs.Run(ctx) })
	}
	k, err := kubelet.New(cfg)
	if err != nil {
		return err
	}
	serve, err := serving(k, cfg, f.certDir)
	if err != nil {
		return err
	}
	g.Go(func() error { return serve(ctx) })
	g.Go(func() error { return k.Run(ctx) })
	return g.Wait()
}

// dial connects to a CRI socket, now or when it appears.
func dial(socket string) (*grpc.ClientConn, error) {
	retry := backoff.DefaultConfig
	retry.MaxDelay = 3 * time.Second
	return grpc.NewClient("passthrough:///cri", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}
