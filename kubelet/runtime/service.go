package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/defaults"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/pkg/cap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// idLength is the length of a sandbox's or container's id: 32 random bytes in hexadecimal, as containerd's are.
const idLength = 64

// Config says where everything lies. The zero value of a field means the default that stands beside it.
type Config struct {
	Address       string // containerd's socket; /run/containerd/containerd.sock
	Namespace     string // containerd's namespace; k8s.io
	Socket        string // where we serve CRI; /run/orrery/cri.sock
	StateDir      string // sandbox files, kept over a reboot; /var/lib/orrery/cri
	RunDir        string // pipes and sockets of containers, short because a socket's path is; /run/orrery/cri
	SandboxImage  string // docker.io/orrery/pause:v1.36.3
	Snapshotter   string // containerd's default
	Runtime       string // io.containerd.runc.v2
	SystemdCgroup bool   // make cgroups through systemd; else by writing to /sys/fs/cgroup
	CNIConfDir    string // /etc/cni/net.d
	CNIBinDirs    []string
	CNICacheDir   string // /var/lib/cni
	NetNSDir      string // where network namespaces are pinned; /run/netns
	LoggerPath    string // the cri-logger binary; looked for beside our own binary, then in PATH
	StreamingAddr string // host:port for exec, attach and port-forward; 127.0.0.1:0
	Log           *slog.Logger
}

func (c *Config) setDefaults() {
	for field, value := range map[*string]string{
		&c.Address:       defaults.DefaultAddress,
		&c.Namespace:     "k8s.io",
		&c.Socket:        "/run/orrery/cri.sock",
		&c.StateDir:      "/var/lib/orrery/cri",
		&c.RunDir:        "/run/orrery/cri",
		&c.SandboxImage:  "docker.io/orrery/pause:v1.36.3",
		&c.Snapshotter:   containerd.DefaultSnapshotter,
		&c.Runtime:       "io.containerd.runc.v2",
		&c.CNIConfDir:    "/etc/cni/net.d",
		&c.CNICacheDir:   "/var/lib/cni",
		&c.NetNSDir:      "/run/netns",
		&c.StreamingAddr: "127.0.0.1:0",
	} {
		if *field == "" {
			*field = value
		}
	}
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{"/opt/cni/bin"}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Service is CRI's RuntimeService and ImageService on one containerd.
// It keeps no truth of its own: what it is asked, it asks containerd.
type Service struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	cfg       Config
	log       *slog.Logger
	client    *containerd.Client
	conn      *grpc.ClientConn
	streaming streaming.Server   // set by Run
	reaping   singleflight.Group // by container id: one reap at a time
	events    broadcaster
	base      context.Context // Run's: outlives a request, ends with the service
	tasks     sync.WaitGroup  // goroutines that outlive a request
}

// New makes the service. containerd need not be up: calls fail with Unavailable until it is.
// An error means that the cri-logger binary is missing or that a folder cannot be made.
func New(cfg Config) (*Service, error) {
	cfg.setDefaults()
	if cfg.LoggerPath == "" {
		path, err := findLogger()
		if err != nil {
			return nil, err
		}
		cfg.LoggerPath = path
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir, cfg.NetNSDir, filepath.Dir(cfg.Socket)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	retry := backoff.DefaultConfig
	retry.MaxDelay = 3 * time.Second // containerd comes back within seconds of a restart
	conn, err := grpc.NewClient("unix://"+cfg.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
			grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("containerd's address: %w", err)
	}
	client, err := containerd.NewWithConn(conn, containerd.WithDefaultRuntime(cfg.Runtime))
	if err != nil {
		return nil, fmt.Errorf("containerd's client: %w", err)
	}
	return &Service{cfg: cfg, log: cfg.Log.With("component", "cri"), client: client, conn: conn}, nil
}

func findLogger() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "cri-logger")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path, err = exec.LookPath("cri-logger")
	if err != nil {
		return "", fmt.Errorf("cri-logger has to lie beside %s or in PATH: %w", self, err)
	}
	return filepath.Abs(path)
}

// Run serves CRI on the socket until ctx is done. Containers run on when it ends.
func (s *Service) Run(ctx context.Context) error {
	defer s.conn.Close()
	defer s.tasks.Wait()
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(ctx, s.cfg.Namespace))
	defer cancel()
	s.base = ctx

	streams, err := net.Listen("tcp", s.cfg.StreamingAddr)
	if err != nil {
		return fmt.Errorf("streaming server: %w", err)
	}
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: streams.Addr().String()}
	if s.streaming, err = streaming.NewServer(config, streamRuntime{s}); err != nil {
		return fmt.Errorf("streaming server: %w", err)
	}
	os.Remove(s.cfg.Socket) // left by a process that was killed
	listener, err := net.Listen("unix", s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("CRI socket: %w", err)
	}
	rpc := grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	cri.RegisterRuntimeServiceServer(rpc, s)
	cri.RegisterImageServiceServer(rpc, s)
	web := &http.Server{Handler: s.streaming, BaseContext: func(net.Listener) context.Context { return ctx }}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return rpc.Serve(listener) })
	group.Go(func() error {
		if err := web.Serve(streams); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { s.watchExits(ctx); return nil })
	group.Go(func() error {
		<-ctx.Done()
		rpc.Stop()
		return web.Close()
	})
	return group.Wait()
}

// unary gives each call containerd's namespace and turns its errors into gRPC's, the one edge where that happens.
func (s *Service) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(namespaces.WithNamespace(ctx, s.cfg.Namespace), req)
	if err != nil {
		s.log.Debug("CRI call failed", "key", info.FullMethod, "err", err)
	}
	return resp, errdefs.ToGRPC(err)
}

type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (n namespacedStream) Context() context.Context { return n.ctx }

func (s *Service) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return errdefs.ToGRPC(next(srv, namespacedStream{ss, namespaces.WithNamespace(ss.Context(), s.cfg.Namespace)}))
}

// Version names the runtime as the node's status shows it: containerd, since that is what runs the containers.
// Upstream: containerd pkg/cri/server/version.go, Version.
func (s *Service) Version(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
	v, err := s.client.Version(ctx)
	if err != nil {
		return nil, err
	}
	version, _, _ := strings.Cut(v.Version, "~") // Debian says 1.7.24~ds1
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "containerd",
		RuntimeVersion: version, RuntimeApiVersion: "v1"}, nil
}

// Status says whether containers can run and whether pods can have a network. It fails while containerd is down.
// Upstream: containerd pkg/cri/server/status.go, Status.
func (s *Service) Status(ctx context.Context, _ *cri.StatusRequest) (*cri.StatusResponse, error) {
	if _, err := s.client.Version(ctx); err != nil {
		return nil, err
	}
	network := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	if _, err := s.loadCNI(); err != nil {
		network.Status = false
		network.Reason = "NetworkPluginNotReady"
		network.Message = "Network plugin returns error: " + err.Error()
	}
	return &cri.StatusResponse{
		Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
			{Type: cri.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: []*cri.RuntimeHandler{{Features: &cri.RuntimeHandlerFeatures{}}},
		Features:        &cri.RuntimeFeatures{},
	}, nil
}

// RuntimeConfig tells the kubelet which cgroup driver to name its cgroups for.
func (s *Service) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	driver := cri.CgroupDriver_CGROUPFS
	if s.cfg.SystemdCgroup {
		driver = cri.CgroupDriver_SYSTEMD
	}
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig is told the node's pod CIDR and has no use for it: the CNI configuration comes as a file.
func (s *Service) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

func newID() string {
	var b [idLength / 2]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// oomScoreAdj is the score that may be set: without CAP_SYS_RESOURCE, as on a node in a container, nobody may go below
// the score that the machine was given.
// Upstream: containerd pkg/cri/server, restrictOOMScoreAdj.
func oomScoreAdj(want int64) *int {
	score := int(want)
	caps, err := cap.Current()
	if err == nil {
		for _, c := range caps {
			if c == "CAP_SYS_RESOURCE" {
				return &score
			}
		}
	}
	var own int
	if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		fmt.Sscan(string(b), &own)
	}
	score = max(score, own)
	return &score
}
