package sim

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orrery/client"
)

// eyes see all objects of a kind, as an informer does but without its back-off:
// after an API server has been away they look again at once. What they show may
// be checked the moment it has settled.
type eyes[T client.Object] struct {
	resource *client.Resource[T]
	once     sync.Once
	synced   chan struct{}

	mu  sync.Mutex
	all map[string]T // guarded by mu
}

func newEyes[T client.Object](c *client.Client) *eyes[T] {
	return &eyes[T]{resource: client.For[T](c), synced: make(chan struct{}), all: map[string]T{}}
}

func (e *eyes[T]) run(ctx context.Context) {
	for ctx.Err() == nil {
		e.follow(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// follow lists and watches until either fails: that is what servers that stop do.
func (e *eyes[T]) follow(ctx context.Context) {
	list, err := e.resource.List(ctx, "", metav1.ListOptions{})
	if err != nil {
		return
	}
	now := map[string]T{}
	for _, obj := range list.Items {
		now[client.Key(obj)] = obj
	}
	e.mu.Lock()
	e.all = now
	e.mu.Unlock()
	e.once.Do(func() { close(e.synced) })
	for ev, err := range e.resource.Watch(ctx, "", metav1.ListOptions{ResourceVersion: list.ResourceVersion}) {
		if err != nil {
			return
		}
		e.mu.Lock()
		if ev.Type == watch.Deleted {
			delete(e.all, client.Key(ev.Object))
		} else {
			e.all[client.Key(ev.Object)] = ev.Object
		}
		e.mu.Unlock()
	}
}

func (e *eyes[T]) List() []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]T, 0, len(e.all))
	for _, obj := range e.all {
		out = append(out, obj)
	}
	return out
}

func (e *eyes[T]) Get(namespace, name string) (T, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	obj, ok := e.all[client.JoinKey(namespace, name)]
	return obj, ok
}
