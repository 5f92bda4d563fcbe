package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"orrery/client"
)

// component is the manager's own name: in its Lease, its events and its logs.
const component = "kube-controller-manager"

// descriptor is one line of the table of controllers.
type descriptor struct {
	// name is upstream's, as --controllers takes it; alias is the older short one.
	name, alias string
	// account is the service account it acts as, if service accounts are used.
	account string
	// optional controllers run only when they are named: "*" leaves them out.
	optional bool
	// start wires a controller to its informers and returns its loop, or nil when
	// the configuration gives it nothing to do.
	start func(*env) (func(context.Context) error, error)
}

// env is what a controller is made from.
type env struct {
	cfg       *Config
	client    *client.Client // acts under the controller's own name
	informers *client.Informers
	needs     []<-chan struct{} // the informers that must have synced first
	recorders []*client.Recorder
	own       []func(context.Context) error // informers that are not shared
	close     func()                        // gives the client's connections up
}

// watching is the shared informer of a kind, noted as one to wait for.
func watching[T client.Object](e *env) *client.Informer[T] {
	inf := client.InformerFor[T](e.informers)
	e.needs = append(e.needs, inf.Synced())
	return inf
}

// recorder makes the recorder of a controller's events.
func (e *env) recorder(source string) *client.Recorder {
	r := client.NewRecorder(e.client, source, "")
	e.recorders = append(e.recorders, r)
	return r
}

// Run is the controller manager: it waits for the API server, becomes leader,
// and runs the selected controllers until the context ends. It returns
// client.ErrLeaderElectionLost when the lease is lost; the process must then
// exit, for the controllers' last writes may still be under way.
//
// Upstream: cmd/kube-controller-manager/app/controllermanager.go, Run.
func Run(ctx context.Context, cfg Config) error {
	selected, err := cfg.selected()
	if err != nil {
		return err
	}
	cfg.Client.TimeScale = cfg.TimeScale
	c, err := client.New(cfg.Client)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := awaitServer(ctx, c); err != nil {
		return nil //nolint:nilerr // the context ended while we waited
	}
	lead := func(ctx context.Context) error { return runControllers(ctx, &cfg, c, selected) }
	if !cfg.LeaderElect {
		return lead(ctx)
	}
	// The recorder outlives the leadership that it tells of, but not Run.
	recording, stop := context.WithCancel(ctx)
	recorder := client.NewRecorder(c, component, "")
	var wg sync.WaitGroup
	wg.Go(func() { recorder.Run(recording) })
	defer wg.Wait()
	defer stop()
	elector := &client.LeaderElector{
		Client: c, Namespace: "kube-system", Name: component, Identity: cfg.Identity, Recorder: recorder,
		LeaseDuration: cfg.LeaseDuration, RenewDeadline: cfg.RenewDeadline, RetryPeriod: cfg.RetryPeriod,
	}
	return elector.Lead(ctx, lead)
}

// awaitServer waits until the API server says that it is well.
func awaitServer(ctx context.Context, c *client.Client) error {
	for {
		if _, err := c.Raw(ctx, http.MethodGet, "/healthz", nil, "", nil); err == nil {
			return nil
		} else if ctx.Err() == nil {
			slog.Info("waiting for the API server", "component", component, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// runControllers starts all of them in parallel: each begins as soon as the
// informers that it reads have synced.
func runControllers(ctx context.Context, cfg *Config, c *client.Client, selected []descriptor) error {
	informers := client.NewInformers(c)
	accounts := &accounts{root: c, ctx: ctx}
	type loop struct {
		name string
		env  *env
		run  func(context.Context) error
	}
	var loops []loop
	for _, d := range selected {
		e := &env{cfg: cfg, client: c, informers: informers, close: func() {}}
		if cfg.UseServiceAccountCredentials && d.account != "" {
			own, err := client.New(accounts.config(d.account))
			if err != nil {
				return err
			}
			e.client, e.close = own, own.Close
		}
		run, err := d.start(e)
		if err != nil {
			return fmt.Errorf("error starting controllers: failed to start controller %q: %w", d.name, err)
		}
		if run == nil {
			slog.Info("controller has nothing to do", "component", d.name)
			e.close()
			continue
		}
		loops = append(loops, loop{d.name, e, run})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return informers.Run(ctx) })
	for _, l := range loops {
		for _, r := range l.env.recorders {
			g.Go(func() error { return r.Run(ctx) })
		}
		for _, run := range l.env.own {
			g.Go(func() error { return run(ctx) })
		}
		g.Go(func() error {
			defer l.env.close()
			for _, synced := range l.env.needs {
				select {
				case <-synced:
				case <-ctx.Done():
					return nil
				}
			}
			slog.Info("controller started", "component", l.name)
			return l.run(ctx)
		})
	}
	return g.Wait()
}

// selected is the part of the table that --controllers names: "*" is all that are
// on by default, "-name" takes one away, "name" adds one.
func (c *Config) selected() ([]descriptor, error) {
	var unknown []string
	for _, word := range c.Controllers {
		name := strings.TrimPrefix(word, "-")
		if word != "*" && !slices.ContainsFunc(table, func(d descriptor) bool { return d.is(name) }) {
			unknown = append(unknown, fmt.Sprintf("%q is not in the list of known controllers", name))
		}
	}
	if len(unknown) > 0 {
		return nil, errors.New(strings.Join(unknown, "; "))
	}
	var out []descriptor
	for _, d := range table {
		if enabled(d, c.Controllers) {
			out = append(out, d)
		}
	}
	return out, nil
}

func (d descriptor) is(name string) bool { return name == d.name || d.alias != "" && name == d.alias }

// enabled decides for one controller; the first word that names it wins.
func enabled(d descriptor, words []string) bool {
	star := false
	for _, word := range words {
		switch {
		case d.is(word):
			return true
		case strings.HasPrefix(word, "-") && d.is(word[1:]):
			return false
		case word == "*":
			star = true
		}
	}
	return star && !d.optional
}

// KnownControllers are the names that --controllers takes, and those that "*"
// leaves out.
func KnownControllers() (all, optional []string) {
	for _, d := range table {
		all = append(all, d.name)
		if d.optional {
			optional = append(optional, d.name)
		}
	}
	slices.Sort(all)
	return all, optional
}

// every calls f now and then again after each period, until the context ends.
func every(ctx context.Context, period time.Duration, f func(context.Context)) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f(ctx)
			t.Reset(period) // from the end, as upstream's wait.Until
		}
	}
}

// together runs several loops of one controller.
func together(loops ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, l := range loops {
			g.Go(func() error { return l(ctx) })
		}
		return g.Wait()
	}
}

const (
	normal  = corev1.EventTypeNormal
	warning = corev1.EventTypeWarning
)
