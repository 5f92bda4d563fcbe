package client

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Informers is a set of informers that the parts of one process share, one for
// each kind: fifty controllers need one copy of the pods, not fifty.
//
// Upstream: k8s.io/client-go/informers, SharedInformerFactory.
type Informers struct {
	c  *Client
	mu sync.Mutex
	// informers holds an *Informer[T] for each T; guarded by mu.
	informers map[reflect.Type]runner
	order     []runner
}

type runner interface {
	Run(context.Context) error
	Synced() <-chan struct{}
}

// NewInformers is an empty set on a Client.
func NewInformers(c *Client) *Informers {
	return &Informers{c: c, informers: map[reflect.Type]runner{}}
}

// Client is the client that the set reads with.
func (s *Informers) Client() *Client { return s.c }

// InformerFor is the set's informer of all objects of a kind; the first call
// makes it. All calls come before Run.
func InformerFor[T Object](s *Informers) *Informer[T] {
	return InformerWith[T](s, metav1.ListOptions{})
}

// InformerWith is InformerFor with selectors, which the first call decides.
func InformerWith[T Object](s *Informers, opts metav1.ListOptions) *Informer[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := reflect.TypeFor[T]()
	if inf, ok := s.informers[t]; ok {
		return inf.(*Informer[T])
	}
	inf := NewInformer(For[T](s.c), metav1.NamespaceAll, opts)
	s.informers[t] = inf
	s.order = append(s.order, inf)
	return inf
}

// Run runs all informers of the set until the context ends.
func (s *Informers) Run(ctx context.Context) error {
	s.mu.Lock()
	order := s.order
	s.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	for _, inf := range order {
		g.Go(func() error { return inf.Run(ctx) })
	}
	return g.Wait()
}

// WaitForSync returns when every informer of the set has its first list, or with
// an error when the context ends before.
func (s *Informers) WaitForSync(ctx context.Context) error {
	s.mu.Lock()
	order := s.order
	s.mu.Unlock()
	for _, inf := range order {
		select {
		case <-inf.Synced():
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first list of %T: %w", inf, ctx.Err())
		}
	}
	return nil
}
