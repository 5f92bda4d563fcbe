package sim

import (
	"context"
	"maps"
	"slices"
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
	resource  *client.Resource[T]
	namespace string
	once      sync.Once
	synced    chan struct{}

	mu  sync.Mutex
	all map[string]T // guarded by mu
}

// newEyes look at a namespace, "" for all.
func newEyes[T client.Object](c *client.Client, namespace string) *eyes[T] {
	return &eyes[T]{resource: client.For[T](c), namespace: namespace, synced: make(chan struct{}), all: map[string]T{}}
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
	list, err := e.resource.List(ctx, e.namespace, metav1.ListOptions{})
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
	for ev, err := range e.resource.Watch(ctx, e.namespace, metav1.ListOptions{ResourceVersion: list.ResourceVersion}) {
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

// List is in the order of names, so that a schedule picks the same each time.
func (e *eyes[T]) List() []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]T, 0, len(e.all))
	for _, key := range slices.Sorted(maps.Keys(e.all)) {
		out = append(out, e.all[key])
	}
	return out
}

func (e *eyes[T]) Get(namespace, name string) (T, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	obj, ok := e.all[client.JoinKey(namespace, name)]
	return obj, ok
}
