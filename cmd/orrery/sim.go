package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"orrery/apiserver/store/etcd"
	"orrery/cmd/internal/version"
	"orrery/lab"
	"orrery/lab/sim"
)

// simCommand is the cluster in this process, and what is done to it from another.
func simCommand(c *lab.Cluster) *cobra.Command {
	cfg := sim.Config{Version: version.Kubernetes, SandboxDelay: 200 * time.Millisecond}
	dataDir, verbose, port := "", false, 0
	cmd := &cobra.Command{Use: "sim", Short: "Run a whole cluster in this process, with hollow nodes, until Ctrl-C", Args: cobra.NoArgs}
	cmd.Flags().IntVar(&cfg.Nodes, "nodes", 3, "number of nodes, the control plane's among them")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "folder of an etcd that keeps the cluster; without it, it is in memory")
	cmd.Flags().IntVar(&port, "port", 0, "port of 127.0.0.1 to serve the API at (0: chosen)")
	cmd.Flags().Float64Var(&cfg.TimeScale, "time-scale", 1, "speed up what has to do with time: 10 is ten times as fast")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "write the components' logs to standard error")
	folder := func() string { return filepath.Join(c.Home, "sim") }
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg.Dir, cfg.Address = folder(), fmt.Sprintf("127.0.0.1:%d", port)
		logs := io.Discard
		if verbose {
			logs = os.Stderr
		}
		slog.SetDefault(slog.New(slog.NewTextHandler(logs, nil)))
		if dataDir != "" {
			store, err := etcd.Embed(etcd.EmbedConfig{DataDir: dataDir, ReadyWithin: time.Minute})
			if err != nil {
				return err
			}
			cfg.Store = store
		}
		return runSim(cmd.Context(), cfg, c.Out)
	}
	send := func(use, short string, args cobra.PositionalArgs, line func(args []string) string) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := sim.Send(cmd.Context(), folder(), line(args))
			fmt.Fprint(c.Out, answer)
			return err
		}}
	}
	node := &cobra.Command{Use: "node", Short: "Do something to a node or component of the cluster that runs"}
	node.AddCommand(send("list", "List nodes and components", cobra.NoArgs, func([]string) string { return "nodes" }))
	for verb, short := range map[string]string{"stop": "Switch a node or component off", "start": "Switch it on", "pause": "Freeze a node",
		"cut": "Unplug a node's cable", "heal": "Undo pause and cut"} {
		node.AddCommand(send(verb+" NAME", short, cobra.ExactArgs(1), func(args []string) string { return verb + " " + args[0] }))
	}
	cmd.AddCommand(node, send("exit [NAMESPACE/]POD [CODE]", "Have a pod's containers exit", cobra.RangeArgs(1, 2),
		func(args []string) string { return "exit " + strings.Join(args, " ") }))
	return cmd
}

// runSim runs the cluster and tells when it is ready and how to reach it.
func runSim(ctx context.Context, cfg sim.Config, out io.Writer) error {
	began := time.Now()
	s, err := sim.New(cfg)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.ServeCommands(ctx) })
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error {
		if s.AwaitReady(ctx) != nil {
			return nil // it ends
		}
		fmt.Fprintf(out, "%d nodes ready after %s.\n\n  export KUBECONFIG=%s\n  kubectl get nodes\n  orrery sim node list\n\nCtrl-C ends it.\n",
			cfg.Nodes, time.Since(began).Round(time.Millisecond), s.Kubeconfig())
		return nil
	})
	return g.Wait()
}
