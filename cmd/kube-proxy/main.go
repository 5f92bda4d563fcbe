// Command kube-proxy keeps the rules that make Services work on its node.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"orrery/client"
	"orrery/cmd/internal/version"
	"orrery/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("kube-proxy ends", "component", "kube-proxy", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	file := pflag.String("config", "", "The path to the configuration file.")
	override := pflag.String("hostname-override", "", "The name of this node; its host name if empty.")
	kubeconfig := pflag.String("kubeconfig", "", "The path to the kubeconfig; overrides the configuration file's.")
	cidr := pflag.String("cluster-cidr", "", "The range of the pods; overrides the configuration file's.")
	mode := pflag.String("proxy-mode", "", "The proxy mode: only iptables is there.")
	cleanup := pflag.Bool("cleanup", false, "Remove all rules and exit.")
	verbosity := pflag.IntP("v", "v", 0, "The log level: 2 and more shows every change of the rules.")
	show := pflag.Bool("version", false, "Print the version and exit.")
	pflag.Parse()
	if *verbosity >= 2 {
		slog.SetLogLoggerLevel(slog.LevelDebug)
	}
	if *show {
		fmt.Println("Kubernetes", version.Kubernetes)
		return nil
	}
	if *cleanup {
		return proxy.Cleanup(ctx)
	}
	cfg, err := proxy.LoadConfig(*file)
	if err != nil {
		return err
	}
	if err := proxy.CheckMode(*mode); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	// Node names are lower case whatever the host calls itself.
	cfg.Node = strings.ToLower(strings.TrimSpace(cmp.Or(*override, cfg.Node, host)))
	cfg.ClusterCIDR = cmp.Or(*cidr, cfg.ClusterCIDR)
	config, err := client.InCluster()
	if path := cmp.Or(*kubeconfig, cfg.Kubeconfig); path != "" {
		config, err = client.LoadKubeconfig(path)
	}
	if err != nil {
		return err
	}
	config.UserAgent = "kube-proxy/" + version.Kubernetes
	c, err := client.New(config)
	if err != nil {
		return err
	}
	return proxy.New(cfg, c).Run(ctx)
}
