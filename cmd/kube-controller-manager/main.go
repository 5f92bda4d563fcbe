// Command kube-controller-manager runs the controllers, with its upstream
// namesake's flags.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"orrery/client"
	"orrery/cmd/internal/serving"
	"orrery/cmd/internal/version"
	"orrery/controllers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("kube-controller-manager ends", "component", "kube-controller-manager", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, health := controllers.DefaultConfig(), serving.Health{Component: "kube-controller-manager", Address: "0.0.0.0", Port: 10257}
	fs := pflag.NewFlagSet("kube-controller-manager", pflag.ExitOnError)
	kubeconfig := fs.String("kubeconfig", "", "kubeconfig file; empty inside a pod")
	showVersion := fs.Bool("version", false, "print the version and exit")
	cfg.AddFlags(fs)
	health.AddFlags(fs)
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	if *showVersion {
		fmt.Println("Kubernetes", version.Kubernetes)
		return nil
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	var err error
	if *kubeconfig != "" {
		cfg.Client, err = client.LoadKubeconfig(*kubeconfig)
	} else {
		cfg.Client, err = client.InCluster()
	}
	if err != nil {
		return err
	}
	cfg.Client.UserAgent = "kube-controller-manager/" + version.Kubernetes
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return health.Run(ctx) })
	g.Go(func() error { return controllers.Run(ctx, cfg) })
	return g.Wait()
}
