package registry

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/store"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Registry holds a Resource for every stored kind of the table. Make it with New.
type Registry struct {
	table *kinds.Table
	store store.Store
	log   *slog.Logger

	caches sync.WaitGroup

	mu        sync.Mutex
	resources map[*kinds.Kind]*Resource
	closed    bool
}

var _ objects.Client = (*Registry)(nil)

// New returns a registry over a store. The caches that it starts, when they are
// first asked for, live until Close.
func New(table *kinds.Table, st store.Store, log *slog.Logger) *Registry {
	return &Registry{table: table, store: st, log: log, resources: map[*kinds.Kind]*Resource{}}
}

// Close ends all caches, and with them all watches, and waits for them.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	for _, res := range r.resources {
		res.stop()
	}
	r.mu.Unlock()
	r.caches.Wait()
}

// Warm starts the caches of all stored kinds, so that the first client does not
// wait and a client that comes back after a restart can resume its watch.
func (r *Registry) Warm(ctx context.Context) {
	for _, k := range r.table.All() {
		if !k.Virtual() && k.Hub == nil {
			r.For(k).cache(ctx)
		}
	}
}

// Synced reports that the caches of all resources that were asked for have read what is stored.
func (r *Registry) Synced() bool {
	synced := true
	r.each(func(_ *kinds.Kind, c *cache) { synced = synced && c.ready })
	return synced
}

// Counts tells how many objects of each resource there are.
func (r *Registry) Counts() map[schema.GroupResource]int {
	counts := map[schema.GroupResource]int{}
	r.each(func(k *kinds.Kind, c *cache) { counts[k.GR()] = len(c.items) })
	return counts
}

// each looks at every running cache while it is locked.
func (r *Registry) each(look func(k *kinds.Kind, c *cache)) {
	r.mu.Lock()
	resources := slices.Collect(maps.Values(r.resources))
	r.mu.Unlock()
	for _, res := range resources {
		res.mu.Lock()
		c := res.cached
		res.mu.Unlock()
		if c != nil {
			c.mu.RLock()
			look(res.Kind, c)
			c.mu.RUnlock()
		}
	}
}

// For returns the Resource that stores a kind; versions of one kind share it.
func (r *Registry) For(k *kinds.Kind) *Resource {
	k = k.Stored()
	r.mu.Lock()
	defer r.mu.Unlock()
	res, ok := r.resources[k]
	if !ok {
		res = &Resource{registry: r, Kind: k, stopped: r.closed}
		r.resources[k] = res
	}
	return res
}

// Forget drops the Resource of a kind that is no longer served; its watches end.
func (r *Registry) Forget(k *kinds.Kind) {
	r.mu.Lock()
	res := r.resources[k]
	delete(r.resources, k)
	r.mu.Unlock()
	if res != nil {
		res.stop()
	}
}

func (r *Registry) resource(gr schema.GroupResource) (*Resource, error) {
	k := r.table.Stored(gr)
	if k == nil || k.Virtual() {
		return nil, apierrors.NewNotFound(gr, "")
	}
	return r.For(k), nil
}

// Get implements objects.Reader.
func (r *Registry) Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	res, err := r.resource(gr)
	if err != nil {
		return nil, err
	}
	return res.Cached(ctx, namespace, name)
}

// List implements objects.Reader.
func (r *Registry) List(ctx context.Context, gr schema.GroupResource, namespace string, selector labels.Selector) ([]runtime.Object, error) {
	res, err := r.resource(gr)
	if err != nil {
		return nil, err
	}
	c := res.cache(ctx)
	if err := c.wait(ctx, res.lastWrite.Load()); err != nil {
		return nil, err
	}
	items, _ := c.snapshot(res.Kind.Key(namespace, ""))
	out := make([]runtime.Object, 0, len(items))
	for _, it := range items {
		if selector != nil && !selector.Empty() {
			m, err := meta.Accessor(it.Object)
			if err != nil || !selector.Matches(labels.Set(m.GetLabels())) {
				continue
			}
		}
		out = append(out, it.Object)
	}
	return out, nil
}

// Create implements objects.Client.
func (r *Registry) Create(ctx context.Context, gr schema.GroupResource, obj runtime.Object) (runtime.Object, error) {
	res, err := r.resource(gr)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	obj = obj.DeepCopyObject()
	res.Default(obj)
	return res.Create(ctx, m.GetNamespace(), obj, WriteOptions{})
}

// Update implements objects.Client.
func (r *Registry) Update(ctx context.Context, gr schema.GroupResource, namespace, name, subresource string, change func(runtime.Object) error) (runtime.Object, error) {
	res, err := r.resource(gr)
	if err != nil {
		return nil, err
	}
	obj, _, err := res.Update(ctx, namespace, name, func(_ context.Context, obj runtime.Object) (runtime.Object, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		if err := change(obj); err != nil {
			return nil, err
		}
		m.SetResourceVersion("") // written again on top of whatever is there
		res.Default(obj)
		return obj, nil
	}, WriteOptions{Subresource: res.Kind.Sub(subresource), AnyVersion: true})
	return obj, err
}

// Delete implements objects.Client.
func (r *Registry) Delete(ctx context.Context, gr schema.GroupResource, namespace, name string) error {
	res, err := r.resource(gr)
	if err != nil {
		return err
	}
	_, _, err = res.Delete(ctx, namespace, name, nil, WriteOptions{})
	return err
}
