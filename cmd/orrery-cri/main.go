// Command orrery-cri serves our container runtime by itself, for a kubelet that
// does not carry it: upstream's, or ours on another endpoint.
//
//	orrery-cri --socket /run/orrery/cri.sock
//	kubelet --container-runtime-endpoint unix:///run/orrery/cri.sock
//
// Our own kubelet serves that socket in its process, so beside it this one is not wanted.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"orrery/cmd/internal/version"
	"orrery/kubelet/runtime"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cfg := runtime.Config{}
	pflag.StringVar(&cfg.Socket, "socket", "/run/orrery/cri.sock", "where to serve CRI")
	pflag.StringVar(&cfg.Address, "containerd", "/run/containerd/containerd.sock", "containerd's socket")
	pflag.StringVar(&cfg.SandboxImage, "pod-infra-container-image", "docker.io/orrery/pause:"+version.Upstream, "image of the pause container")
	pflag.BoolVar(&cfg.SystemdCgroup, "systemd-cgroup", false, "make cgroups through systemd, as a kubelet with cgroupDriver: systemd wants it")
	pflag.Parse()
	if err := run(ctx, cfg); err != nil {
		slog.Error("CRI service ends", "component", "cri", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg runtime.Config) error {
	service, err := runtime.New(cfg)
	if err != nil {
		return err
	}
	return service.Run(ctx)
}
