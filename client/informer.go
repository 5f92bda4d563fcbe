package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orrery/client/timing"
)

// Key is the name of an object in caches and queues: "namespace/name", or
// "name" where there is no namespace.
func Key(obj metav1.Object) string { return JoinKey(obj.GetNamespace(), obj.GetName()) }

// JoinKey is Key for parts.
func JoinKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// SplitKey takes a Key apart.
func SplitKey(key string) (namespace, name string) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:]
		}
	}
	return "", key
}

// Handler is told of changes of an Informer's cache, after the cache changed
// and in order, one call at a time; nil funcs are skipped. Handlers must be
// quick: they put keys into queues. Update is also called when a relist finds
// an object again unchanged.
type Handler[T Object] struct {
	Add    func(obj T)
	Update func(old, new T)
	Delete func(obj T)
}

// Informer keeps a copy of a collection: it lists once, then watches, and after
// any break lists or watches again, with back-off. Its objects are shared and
// must not be changed.
//
// Upstream: k8s.io/client-go/tools/cache, Reflector and SharedIndexInformer.
// Left out: resync periods, watch-list streams, transforms, pages of a list.
type Informer[T Object] struct {
	resource  *Resource[T]
	namespace string
	opts      metav1.ListOptions
	synced    chan struct{}

	// deliver is held while the cache changes and handlers hear of it, so that
	// they hear everything once and in order. mu guards the maps alone and is
	// never held while a handler runs: handlers may read any cache.
	deliver  sync.Mutex
	handlers []Handler[T] // guarded by deliver

	mu       sync.RWMutex
	items    map[string]T
	indexers map[string]func(T) []string
	indices  map[string]map[string]map[string]T // index name -> value -> key

	version string // of the collection, where the next watch begins; only Run's goroutine reads and writes it
	shown   atomic.Pointer[string]
	once    sync.Once
}

// NewInformer makes an Informer of a collection, narrowed by the namespace ("" for
// all) and the selectors of opts. Run starts it.
func NewInformer[T Object](r *Resource[T], namespace string, opts metav1.ListOptions) *Informer[T] {
	return &Informer[T]{
		resource: r, namespace: namespace, opts: opts, synced: make(chan struct{}),
		items: map[string]T{}, indexers: map[string]func(T) []string{}, indices: map[string]map[string]map[string]T{},
	}
}

// AddHandler registers h; objects already in the cache are given to h.Add at once.
func (inf *Informer[T]) AddHandler(h Handler[T]) {
	inf.deliver.Lock()
	defer inf.deliver.Unlock()
	inf.handlers = append(inf.handlers, h)
	if h.Add != nil {
		for _, obj := range inf.List() {
			h.Add(obj)
		}
	}
}

// AddIndex files each object under the values that f gives it, for ByIndex.
func (inf *Informer[T]) AddIndex(name string, f func(T) []string) {
	inf.mu.Lock()
	defer inf.mu.Unlock()
	if _, ok := inf.indexers[name]; ok {
		return // the same index, asked for by another controller
	}
	inf.indexers[name], inf.indices[name] = f, map[string]map[string]T{}
	for key, obj := range inf.items {
		inf.index(name, key, obj)
	}
}

// Synced is closed when the first list has been delivered.
func (inf *Informer[T]) Synced() <-chan struct{} { return inf.synced }

// Get reads from the cache.
func (inf *Informer[T]) Get(namespace, name string) (T, bool) {
	return inf.GetKey(JoinKey(namespace, name))
}

// GetKey is Get for a Key.
func (inf *Informer[T]) GetKey(key string) (T, bool) {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	obj, ok := inf.items[key]
	return obj, ok
}

// Version is the resource version that the cache has come to, "" before the first
// list: everything up to it is there, and the handlers have heard of it.
//
// Upstream: k8s.io/client-go/tools/cache, Store.LastStoreSyncResourceVersion.
func (inf *Informer[T]) Version() string {
	if v := inf.shown.Load(); v != nil {
		return *v
	}
	return ""
}

// List is the whole cache, in no order.
func (inf *Informer[T]) List() []T {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	out := make([]T, 0, len(inf.items))
	for _, obj := range inf.items {
		out = append(out, obj)
	}
	return out
}

// ByIndex lists the objects filed under a value of an index.
func (inf *Informer[T]) ByIndex(name, value string) []T {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	found := inf.indices[name][value]
	out := make([]T, 0, len(found))
	for _, obj := range found {
		out = append(out, obj)
	}
	return out
}

// Run keeps the cache until the context ends. It always returns nil: failures
// are retried with a back-off of 0.8 s to 30 s.
func (inf *Informer[T]) Run(ctx context.Context) error {
	initial, most, reset := timing.ReflectorBackOffInitial, timing.ReflectorBackOffMax, timing.ReflectorBackOffReset
	timing.Scale(inf.resource.c.cfg.TimeScale, &initial, &most, &reset)
	backoff, failed := initial, time.Now()
	for ctx.Err() == nil {
		err := inf.listAndWatch(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			slog.Warn("list and watch failed", "resource", inf.resource.gvr.Resource, "err", err)
		}
		if time.Since(failed) > reset {
			backoff = initial
		}
		failed = time.Now()
		Sleep(ctx, backoff+time.Duration(rand.Float64()*float64(backoff)))
		backoff = min(2*backoff, most)
	}
	return nil
}

// listAndWatch lists, replaces the cache, and watches for as long as watches
// resume; it returns when only a wait or a fresh list can help. When a watch ends,
// in order or because its connection broke, the next begins at once from where it
// stopped.
func (inf *Informer[T]) listAndWatch(ctx context.Context) error {
	if inf.version == "" {
		opts := inf.opts
		opts.ResourceVersion = "0" // any version will do: the watch catches up
		list, err := inf.resource.List(ctx, inf.namespace, opts)
		if err != nil {
			return err
		}
		inf.replace(list.Items)
		inf.version = list.ResourceVersion
		inf.shown.Store(&list.ResourceVersion)
		inf.once.Do(func() { close(inf.synced) })
	}
	for ctx.Err() == nil {
		opts := inf.opts
		opts.ResourceVersion, opts.AllowWatchBookmarks = inf.version, true
		timeout := int64(timing.WatchTimeoutMin.Seconds() * (1 + rand.Float64()))
		opts.TimeoutSeconds = &timeout
		began := time.Now()
		events, err := inf.watch(ctx, opts)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			inf.version = "" // the next round lists
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if events == 0 && time.Since(began) < time.Second {
			return err // a server that hangs up at once gets the back-off
		}
	}
	return nil
}

// watch follows one watch and says how many events it had.
func (inf *Informer[T]) watch(ctx context.Context, opts metav1.ListOptions) (events int, err error) {
	for ev, err := range inf.resource.Watch(ctx, inf.namespace, opts) {
		if err != nil {
			return events, err
		}
		events++
		inf.apply(ev)
		inf.version = ev.Object.GetResourceVersion()
		inf.shown.Store(new(inf.version))
	}
	return events, nil
}

func (inf *Informer[T]) apply(ev Event[T]) {
	if ev.Type == watch.Bookmark {
		return
	}
	inf.deliver.Lock()
	defer inf.deliver.Unlock()
	if ev.Type == watch.Deleted {
		inf.delete(Key(ev.Object), ev.Object)
	} else {
		inf.put(ev.Object)
	}
}

// replace makes the cache equal to a list and tells the handlers what changed.
func (inf *Informer[T]) replace(objs []T) {
	inf.deliver.Lock()
	defer inf.deliver.Unlock()
	listed := make(map[string]bool, len(objs))
	for _, obj := range objs {
		listed[Key(obj)] = true
		inf.put(obj)
	}
	for _, obj := range inf.List() {
		if key := Key(obj); !listed[key] {
			inf.delete(key, obj)
		}
	}
}

// put stores obj and tells the handlers; the caller holds deliver.
func (inf *Informer[T]) put(obj T) {
	key := Key(obj)
	inf.mu.Lock()
	old, had := inf.items[key]
	if had {
		inf.unindex(key, old)
	}
	inf.items[key] = obj
	for name := range inf.indexers {
		inf.index(name, key, obj)
	}
	inf.mu.Unlock()
	for _, h := range inf.handlers {
		switch {
		case had && h.Update != nil:
			h.Update(old, obj)
		case !had && h.Add != nil:
			h.Add(obj)
		}
	}
}

// delete forgets the object of a key and tells the handlers its last state; the
// caller holds deliver.
func (inf *Informer[T]) delete(key string, last T) {
	inf.mu.Lock()
	old, had := inf.items[key]
	if had {
		delete(inf.items, key)
		inf.unindex(key, old)
	}
	inf.mu.Unlock()
	for _, h := range inf.handlers {
		if had && h.Delete != nil {
			h.Delete(last)
		}
	}
}

func (inf *Informer[T]) index(name, key string, obj T) {
	for _, v := range inf.indexers[name](obj) {
		if inf.indices[name][v] == nil {
			inf.indices[name][v] = map[string]T{}
		}
		inf.indices[name][v][key] = obj
	}
}

func (inf *Informer[T]) unindex(key string, obj T) {
	for name, f := range inf.indexers {
		for _, v := range f(obj) {
			delete(inf.indices[name][v], key)
			if len(inf.indices[name][v]) == 0 {
				delete(inf.indices[name], v)
			}
		}
	}
}
