// Command kube-apiserver serves the Kubernetes API, with etcd inside or beside it.
//
//	kube-apiserver --etcd-servers URLS   etcd runs elsewhere, as with kubeadm
//	kube-apiserver --data-dir DIR        etcd runs inside, its data in DIR
//
// Flags are upstream's, plus --data-dir (see flags.go). Read next: ../../apiserver.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"orrery/apiserver"
	"orrery/cmd/internal/version"

	"github.com/spf13/cobra"
)

// gcPercent is what the heap may grow by between collections. Most of it is the
// cache, which hardly changes: Go's usual 100 would double it for nothing.
const gcPercent = 50

func main() {
	o := defaults()
	cmd := &cobra.Command{
		Use: "kube-apiserver", Args: cobra.NoArgs, SilenceUsage: true, Version: version.Kubernetes,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.SetVersionTemplate("Kubernetes {{.Version}}\n")
	o.flags(cmd.Flags())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if cmd.ExecuteContext(ctx) != nil {
		os.Exit(1)
	}
}

func (o *options) run(ctx context.Context) error {
	level := slog.LevelInfo
	if o.verbosity >= 4 {
		level = slog.LevelDebug
	}
	o.config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := o.complete(); err != nil {
		return err
	}
	store, err := o.openStore(ctx)
	if err != nil {
		return err
	}
	o.config.Store = store
	server, err := apiserver.New(o.config)
	if err != nil {
		_ = store.Close()
		return fmt.Errorf("setting up: %w", err)
	}
	return server.Run(ctx)
}
