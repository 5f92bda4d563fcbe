package client

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Result is what a reconciler wants after it succeeded.
type Result struct {
	// RequeueAfter, if positive, has the key reconciled again after that time:
	// the way to wait for a deadline without a timer of one's own.
	RequeueAfter time.Duration
}

// Controller calls Reconcile for each key of its queue until the cluster is as
// it should be. Fill in Name and Reconcile, put keys into Queue from informer
// handlers, and Run it once the informers have synced.
//
// Upstream: the worker loop of every pkg/controller; sigs.k8s.io/controller-runtime.
type Controller struct {
	// Name is for logs.
	Name string
	// Reconcile brings the world of one key nearer to what is wanted. An error
	// has the key tried again with back-off; it must be safe to call at any time.
	Reconcile func(ctx context.Context, key string) (Result, error)
	// Workers is how many keys are reconciled at once; 0 means 5, as upstream's
	// controllers mostly have.
	Workers int
	// Queue holds the keys.
	Queue *Queue[string]
}

// NewController is a Controller with an empty queue.
func NewController(name string, reconcile func(ctx context.Context, key string) (Result, error)) *Controller {
	return &Controller{Name: name, Reconcile: reconcile, Queue: NewQueue[string]()}
}

// Enqueue adds the key of an object; it fits where a Handler wants a func.
func (c *Controller) Enqueue(obj Object) { c.Queue.Add(Key(obj)) }

// Run works until the context ends, and returns nil.
func (c *Controller) Run(ctx context.Context) error {
	workers := c.Workers
	if workers == 0 {
		workers = 5
	}
	defer c.Queue.ShutDown()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				key, ok := c.Queue.Get(ctx)
				if !ok {
					return
				}
				c.work(ctx, key)
			}
		})
	}
	wg.Wait()
	return nil
}

func (c *Controller) work(ctx context.Context, key string) {
	defer c.Queue.Done(key)
	result, err := c.reconcile(ctx, key)
	switch {
	case err != nil && ctx.Err() != nil:
	case err != nil:
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
			// Our cache is behind: not worth a warning.
			slog.Debug("reconcile conflicted", "component", c.Name, "key", key, "err", err)
		} else {
			slog.Warn("reconcile failed", "component", c.Name, "key", key, "err", err)
		}
		c.Queue.AddRateLimited(key)
	default:
		c.Queue.Forget(key)
		if result.RequeueAfter > 0 {
			c.Queue.AddAfter(key, result.RequeueAfter)
		}
	}
}

// reconcile turns a panic into an error: one bad object must not stop the rest.
func (c *Controller) reconcile(ctx context.Context, key string) (_ Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return c.Reconcile(ctx, key)
}

// On queues an object's own key whenever it changes: the Handler of the kind
// that a controller is about.
func On[T Object](c *Controller) Handler[T] {
	return HandlerFunc(func(obj T) { c.Queue.Add(Key(obj)) })
}

// HandlerFunc is a Handler that does the same for every change; an update calls
// f with the new object only.
func HandlerFunc[T Object](f func(T)) Handler[T] {
	return Handler[T]{Add: f, Update: func(_, obj T) { f(obj) }, Delete: f}
}

// Sleep waits for d, or until the context ends, and says whether it waited.
//
// Upstream: k8s.io/apimachinery/pkg/util/wait, whose loops do this between turns.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
