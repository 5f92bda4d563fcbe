package registry

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"orrery/apiserver/kinds"
	"orrery/apiserver/store"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Resource stores the objects of one kind. All objects that go in and out are
// of the kind's hub version.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go, Store.
type Resource struct {
	Kind     *kinds.Kind
	registry *Registry

	// lastWrite is the newest revision that this server has written here: reads
	// inside the server wait for the cache to have seen it.
	lastWrite atomic.Int64

	mu      sync.Mutex
	cached  *cache
	cancel  context.CancelFunc
	stopped bool
}

// cache returns the resource's cache and starts it at the first call. It
// outlives the request that came first.
func (r *Resource) cache(ctx context.Context) *cache {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cached == nil {
		c := newCache(r.Kind, r.registry.store, r.registry.log)
		r.cached = c
		if r.stopped {
			c.finish()
			return c
		}
		ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
		r.registry.caches.Go(func() { c.run(ctx) })
	}
	return r.cached
}

func (r *Resource) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.cancel != nil {
		r.cancel()
	}
}

func (r *Resource) wrote(rev int64) {
	for {
		old := r.lastWrite.Load()
		if rev <= old || r.lastWrite.CompareAndSwap(old, rev) {
			return
		}
	}
}

// Default fills in the kind's defaults.
func (r *Resource) Default(obj runtime.Object) {
	if r.Kind.Default != nil {
		r.Kind.Default(obj)
	}
}

// Get reads one object from the store itself: the newest there is.
func (r *Resource) Get(ctx context.Context, namespace, name string) (runtime.Object, error) {
	e, err := r.registry.store.Get(ctx, r.Kind.Key(namespace, name))
	if err != nil {
		return nil, r.storeError(err, name)
	}
	return Decode(r.Kind, e.Value, e.Revision)
}

// Cached reads one object from the cache: at least as new as what this server
// has written. It is shared and must not be changed.
func (r *Resource) Cached(ctx context.Context, namespace, name string) (runtime.Object, error) {
	return r.CachedAt(ctx, namespace, name, r.lastWrite.Load())
}

// CachedAt is Cached, of a state not older than a revision.
func (r *Resource) CachedAt(ctx context.Context, namespace, name string, revision int64) (runtime.Object, error) {
	c := r.cache(ctx)
	if err := c.wait(ctx, revision); err != nil {
		return nil, r.readError(ctx, err, revision)
	}
	if obj := c.get(r.Kind.Key(namespace, name)); obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.Kind.GR(), name)
}

// ListOptions say which state is read and how much of it.
type ListOptions struct {
	Namespace string
	// Name narrows the list to one object.
	Name  string
	Match func(obj runtime.Object) bool
	// Limit is the most objects that are returned; 0 means all.
	Limit int64
	// Revision is the least revision of the state; 0 means any state will do. A
	// negative one means now: everything that was written before the call is seen.
	Revision int64
	// Exact reads the state exactly at Revision, from the store's history.
	Exact bool
	// StartAfter is the key (below the resource's folder) to go on behind, with Exact.
	StartAfter string
}

// Listing is the answer to a List.
type Listing struct {
	Items    []*Shared
	Revision int64
	// Next is where to go on; empty at the end.
	Next string
	// Remaining counts what is left; nil when it is not known (a selector is in the way).
	Remaining *int64
}

// List reads the objects in order of namespace and name. They are shared and
// must not be changed. A list from the cache costs no encoding and no reading of the store.
func (r *Resource) List(ctx context.Context, o ListOptions) (Listing, error) {
	if o.Exact {
		return r.listStore(ctx, o)
	}
	rev := o.Revision
	if rev < 0 {
		var err error
		if rev, err = r.registry.store.Revision(ctx); err != nil {
			return Listing{}, r.storeError(err, "")
		}
	}
	c := r.cache(ctx)
	if err := c.wait(ctx, rev); err != nil {
		return Listing{}, r.readError(ctx, err, rev)
	}
	prefix := r.Kind.Key(o.Namespace, "")
	items, at := c.snapshot(prefix)
	out := Listing{Revision: max(at, rev)}
	folder := len(r.Kind.Key("", ""))
	for i, it := range items {
		if !o.selects(it.Object) {
			continue
		}
		if o.Limit > 0 && int64(len(out.Items)) == o.Limit {
			out.Next = items[i-1].key[folder:]
			if o.Match == nil && o.Name == "" {
				left := int64(len(items) - i)
				out.Remaining = &left
			}
			break
		}
		out.Items = append(out.Items, it.Shared)
	}
	return out, nil
}

// listStore reads a page of an exact revision from the store.
func (r *Resource) listStore(ctx context.Context, o ListOptions) (Listing, error) {
	prefix, root := r.Kind.Key(o.Namespace, ""), r.Kind.Key("", "")
	so := store.ListOptions{Revision: o.Revision, Limit: o.Limit}
	if o.StartAfter != "" {
		so.Start = root + o.StartAfter + "\x00"
	}
	out := Listing{}
	for {
		l, err := r.registry.store.List(ctx, prefix, so)
		if errors.Is(err, store.ErrFuture) {
			err = errTooFarAhead
		}
		if err != nil {
			return Listing{}, r.readError(ctx, err, o.Revision)
		}
		out.Revision, so.Revision = l.Revision, l.Revision
		for _, e := range l.Entries {
			obj, err := Decode(r.Kind, e.Value, e.Revision)
			if err != nil {
				return Listing{}, err
			}
			if o.selects(obj) {
				out.Items = append(out.Items, &Shared{Object: obj})
			}
			so.Start = e.Key + "\x00"
		}
		if l.Remaining == 0 {
			return out, nil
		}
		if int64(len(out.Items)) >= o.Limit || o.Match == nil && o.Name == "" {
			out.Next = l.Entries[len(l.Entries)-1].Key[len(root):]
			if o.Match == nil && o.Name == "" {
				out.Remaining = &l.Remaining
			}
			return out, nil
		}
		so.Limit = o.Limit - int64(len(out.Items))
	}
}

func (o *ListOptions) selects(obj runtime.Object) bool {
	if o.Name != "" {
		if m, ok := obj.(metav1.Object); ok && m.GetName() != o.Name {
			return false
		}
	}
	return o.Match == nil || o.Match(obj)
}

// storeError turns the store's sentinels into what clients are told.
func (r *Resource) storeError(err error, name string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(r.Kind.GR(), name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(r.Kind.GR(), name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(r.Kind.GR(), name, errModified)
	case errors.Is(err, store.ErrCompacted):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, store.ErrFuture):
		return apierrors.NewTimeoutError("Too large resource version", 1)
	case errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable("the server is shutting down")
	}
	return err // such as etcd's "request is too large", which reaches the client in these words
}

var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// readError adds to storeError what a read that waits can meet.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/errors.go, NewTooLargeResourceVersionError.
func (r *Resource) readError(ctx context.Context, err error, asked int64) error {
	if !errors.Is(err, errTooFarAhead) {
		return r.storeError(err, "")
	}
	at, err := r.registry.store.Revision(ctx)
	if err != nil {
		return r.storeError(err, "")
	}
	e := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, at), 1)
	e.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return e
}

func tooOldText(asked, oldest int64) string {
	return "too old resource version: " + strconv.FormatInt(asked, 10) + " (" + strconv.FormatInt(oldest, 10) + ")"
}
