// Command kube-scheduler gives pods nodes, with its upstream namesake's flags.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"orrery/client"
	"orrery/client/timing"
	"orrery/cmd/internal/serving"
	"orrery/cmd/internal/version"
	"orrery/scheduler"
)

const component = "kube-scheduler"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("kube-scheduler ends", "component", component, "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	health := serving.Health{Component: component, Address: "0.0.0.0", Port: 10259}
	fs := pflag.NewFlagSet(component, pflag.ExitOnError)
	health.AddFlags(fs)
	kubeconfig := fs.String("kubeconfig", "", "kubeconfig file; empty inside a pod")
	explain := fs.Bool("explain", false, "write the working of each decision to its pod, as annotation "+scheduler.AnnotationWorking)
	leaderElect := fs.Bool("leader-elect", true, "act only while holding the Lease")
	lease := fs.Duration("leader-elect-lease-duration", timing.LeaderLeaseDuration, "how long a leader is believed in without renewal")
	renew := fs.Duration("leader-elect-renew-deadline", timing.LeaderRenewDeadline, "how long a leader tries to renew before it gives up")
	retry := fs.Duration("leader-elect-retry-period", timing.LeaderRetryPeriod, "how often candidates and leader try")
	scale := fs.Float64("time-scale", 1, "speed back-offs and leader election up by this factor (not upstream: for drills in class)")
	showVersion := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	if *showVersion {
		fmt.Println("Kubernetes", version.Kubernetes)
		return nil
	}
	if *scale <= 0 {
		return fmt.Errorf("--time-scale must be positive, not %v", *scale)
	}
	timing.Scale(*scale, lease, renew, retry)
	var cfg client.Config
	var err error
	if *kubeconfig != "" {
		cfg, err = client.LoadKubeconfig(*kubeconfig)
	} else {
		cfg, err = client.InCluster()
	}
	if err != nil {
		return err
	}
	cfg.TimeScale = *scale
	c, err := client.New(cfg.As(component + "/" + version.Kubernetes))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return health.Run(ctx) })
	g.Go(func() error {
		// The recorder outlives the leadership that it tells of, but not run.
		recording, stop := context.WithCancel(ctx)
		recorder := client.NewRecorder(c, scheduler.DefaultName, "").Parallel(8)
		var wg sync.WaitGroup
		wg.Go(func() { recorder.Run(recording) })
		defer wg.Wait()
		defer stop()
		lead := func(ctx context.Context) error {
			return scheduler.New(scheduler.Config{Client: c, Recorder: recorder, Explain: *explain, TimeScale: *scale}).Run(ctx)
		}
		if !*leaderElect {
			return lead(ctx)
		}
		e := client.LeaderElector{
			Client: c, Namespace: "kube-system", Name: component, Identity: identity(), Recorder: recorder,
			LeaseDuration: *lease, RenewDeadline: *renew, RetryPeriod: *retry, ReleaseOnCancel: true,
		}
		return e.Lead(ctx, lead)
	})
	return g.Wait()
}

// identity tells replicas apart, even on one machine.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = fmt.Sprint(time.Now().UnixNano())
	}
	return host + "_" + uuid.NewString()
}
