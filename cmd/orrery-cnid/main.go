// Command orrery-cnid is the pod network's daemon: it runs on every node and
// keeps the routes to the other nodes' pods. deploy/cni.yaml starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"orrery/client"
	"orrery/cni/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("orrery-cnid ends", "component", "cni", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	conf := flag.String("config-dir", "/etc/kube-orrery-cni", "folder with net-conf.json and cni-conf.json")
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file; empty inside a pod")
	node := flag.String("node-name", os.Getenv("NODE_NAME"), "the node it runs on")
	cfg := daemon.Config{}
	flag.StringVar(&cfg.ConfigDir, "cni-conf-dir", "/etc/cni/net.d", "where the runtime looks for configurations")
	flag.StringVar(&cfg.BinDir, "cni-bin-dir", "/opt/cni/bin", "where the runtime looks for plugins")
	flag.StringVar(&cfg.PluginSource, "plugin", "/usr/local/bin/orrery-cni", "the plugin to install; empty for none")
	flag.Parse()

	netConf, err := os.ReadFile(filepath.Join(*conf, "net-conf.json"))
	if err != nil {
		return err
	}
	parsed, err := daemon.ParseNetConf(netConf)
	if err != nil {
		return err
	}
	if cfg.Template, err = os.ReadFile(filepath.Join(*conf, "cni-conf.json")); err != nil {
		return err
	}
	if cfg.NodeName, cfg.Network = *node, parsed.Network; cfg.NodeName == "" {
		return fmt.Errorf("no node name: set NODE_NAME or --node-name")
	}
	config, err := client.InCluster()
	if *kubeconfig != "" {
		config, err = client.LoadKubeconfig(*kubeconfig)
	}
	if err != nil {
		return err
	}
	c, err := client.New(config)
	if err != nil {
		return err
	}
	return daemon.New(cfg, c).Run(ctx)
}
