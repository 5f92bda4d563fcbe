package registry

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrSlow ends a watch whose reader has fallen behind the ring of events, or
// whose cache had to begin anew. The client lists again.
var ErrSlow = errors.New("the watcher has fallen behind")

// WatchOptions say where a watch begins and what it sees.
type WatchOptions struct {
	Namespace string
	// Name narrows the watch to one object; it is a shortcut before Match.
	Name string
	// Part narrows it to objects whose field Kind.WatchedBy has this value, unless it is empty; the same.
	Part string
	// Match selects objects; nil selects all.
	Match func(obj runtime.Object) bool
	// After is the revision after which events are wanted. With Initial it is the
	// least revision of the state that is sent first; 0 means any state will do,
	// a negative one the newest.
	After int64
	// Initial begins with an Added event for everything that exists.
	Initial bool
}

// Watcher is a cursor into a cache's ring of events. It owns no goroutine: its
// reader takes what there is and waits on Wake. It is for one goroutine.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/cache_watcher.go, cacheWatcher
// (which has a buffer and a goroutine each).
type Watcher struct {
	cache  *cache
	opts   WatchOptions
	prefix string
	exact  string
	bell   string // what wakes it; "" is any change
	next   int64  // number of the next event to look at
	rev    int64  // everything up to it has been delivered
	skip   int64  // events up to this revision are in the initial state already
}

// Watch begins a watch. The initial state, when asked for, comes back as Added
// events together with the watcher. The error is an apierrors Expired when
// opts.After is older than what the cache remembers.
func (r *Resource) Watch(ctx context.Context, opts WatchOptions) (*Watcher, []*Event, error) {
	c := r.cache(ctx)
	least := int64(0)
	if opts.Initial {
		if least = opts.After; least < 0 {
			var err error
			if least, err = c.store.Revision(ctx); err != nil {
				return nil, nil, r.storeError(err, "")
			}
		}
	}
	if err := c.wait(ctx, least); err != nil {
		return nil, nil, r.readError(ctx, err, least)
	}
	w := &Watcher{cache: c, opts: opts, prefix: r.Kind.Key(opts.Namespace, "")}
	if opts.Name != "" && (opts.Namespace != "" || !r.Kind.Namespaced) {
		w.exact = r.Kind.Key(opts.Namespace, opts.Name)
		w.bell = w.exact
	} else if opts.Part != "" {
		w.bell = "=" + opts.Part
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if opts.Initial {
		w.next, w.rev, w.skip = c.base+int64(len(c.ring)), c.rev, c.rev
		return w, w.initial(c.items), nil
	}
	if opts.After < c.oldest {
		return nil, nil, tooOld(opts.After, c.oldest)
	}
	w.next, w.rev, w.skip = c.base, opts.After, opts.After
	return w, nil, nil
}

func (w *Watcher) initial(items []*item) []*Event {
	var out []*Event
	for _, it := range items {
		if w.sees(it.key) && w.matches(it.Object) {
			out = append(out, &Event{Type: watch.Added, Key: it.key, Shared: it.Shared, Revision: it.rev})
		}
	}
	return out
}

// Take returns the events that have come since the last call, as this watcher
// is to see them, and the channel that is closed when there may be more.
func (w *Watcher) Take() ([]*Event, <-chan struct{}, error) {
	c := w.cache
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case c.done:
		return nil, nil, errors.New("the server is shutting down")
	case w.next < c.base:
		return nil, nil, ErrSlow
	}
	var out []*Event
	for _, e := range c.ring[w.next-c.base:] {
		if e.Revision > w.skip {
			if seen := w.see(e); seen != nil {
				out = append(out, seen)
			}
		}
	}
	w.next, w.rev = c.base+int64(len(c.ring)), max(w.rev, c.rev)
	return out, c.bell(w.bell), nil
}

// Revision up to which everything has been taken, for bookmarks.
func (w *Watcher) Revision() int64 { return w.rev }

// Progress asks the store how far it is, so that the next bookmark says something new.
func (w *Watcher) Progress(ctx context.Context) error { return w.cache.store.Progress(ctx) }

func (w *Watcher) sees(key string) bool {
	if w.exact != "" {
		return key == w.exact
	}
	return strings.HasPrefix(key, w.prefix)
}

func (w *Watcher) matches(obj runtime.Object) bool {
	return obj != nil && (w.opts.Match == nil || w.opts.Match(obj))
}

// see is the event as the watcher's selector makes it look: an object that
// comes to match is Added, one that no longer does is Deleted (with its old
// content and the new revision).
func (w *Watcher) see(e *Event) *Event {
	if part := w.opts.Part; !w.sees(e.Key) || part != "" && part != e.part && part != e.was {
		return nil
	}
	was := w.matches(e.Prev)
	is := e.Type != watch.Deleted && w.matches(e.Object)
	switch {
	case is && was, is && e.Type == watch.Added, was && e.Type == watch.Deleted:
		return e
	case is:
		return &Event{Type: watch.Added, Key: e.Key, Shared: e.Shared, Revision: e.Revision}
	case was:
		return &Event{Type: watch.Deleted, Key: e.Key, Shared: &Shared{Object: atRevision(e.Prev, e.Revision)}, Revision: e.Revision}
	}
	return nil
}

func tooOld(asked, oldest int64) error {
	return apierrors.NewResourceExpired(tooOldText(asked, oldest))
}
