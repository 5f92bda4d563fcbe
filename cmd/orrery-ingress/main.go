// Command orrery-ingress is the ingress controller: it runs on every worker and
// sends HTTP requests where the Ingress objects say. deploy/ingress.yaml starts it.
package main

import (
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"orrery/client"
	"orrery/cmd/internal/version"
	"orrery/proxy/ingress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("orrery-ingress ends", "component", "ingress", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := ingress.Config{}
	flag.StringVar(&cfg.HTTPAddress, "http-address", ":80", "where HTTP requests come")
	flag.StringVar(&cfg.HTTPSAddress, "https-address", ":443", "where HTTPS requests come")
	flag.StringVar(&cfg.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of the controller")
	flag.StringVar(&cfg.Selector, "pod-selector", "app=orrery-ingress", "labels of the controller's pods, whose nodes are an Ingress' addresses")
	flag.StringVar(&cfg.Identity, "identity", os.Getenv("POD_NAME"), "name of this replica")
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file; empty inside a pod")
	flag.Parse()

	config, err := client.InCluster()
	if *kubeconfig != "" {
		config, err = client.LoadKubeconfig(*kubeconfig)
	}
	if err != nil {
		return err
	}
	config.UserAgent = "orrery-ingress/" + version.Kubernetes
	// On a new node the API server's address leads nowhere until kube-proxy has made
	// its rules, and a connection begun before hangs: better a short attempt again.
	config.Dial = (&net.Dialer{Timeout: 3 * time.Second}).DialContext
	c, err := client.New(config)
	if err != nil {
		return err
	}
	return ingress.New(cfg, c).Run(ctx)
}
