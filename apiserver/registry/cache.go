package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/kinds"
	"orrery/apiserver/store"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// ringSize is how many events of a resource a watcher may lag behind.
	ringSize = 4096
	// progressEvery is how often the store is asked again how far it is.
	progressEvery = 100 * time.Millisecond
	// freshFor is how long a read waits for the cache to reach a revision.
	freshFor = 3 * time.Second
	// relistAfter is the pause before a broken store watch is made anew.
	relistAfter = 100 * time.Millisecond
	// convertAfter is the pause before stored objects are once more asked to be converted.
	convertAfter = time.Second
	// forgetAfter is how long an encoding that nobody asks for is kept, at least; twice that at most.
	forgetAfter = 30 * time.Second
	// muchForgotten is how many bytes of encodings must go at a time to look for what the system can have back.
	muchForgotten = 16 << 20
)

var errTooFarAhead = errors.New("the revision has not been reached")

// item is one object in the cache.
type item struct {
	key string
	*Shared
	rev int64
}

// Event is one change of one object. It is shared by all watchers.
type Event struct {
	Type watch.EventType // Added, Modified or Deleted
	Key  string
	// Shared is the object after the change, the same one that lists get; for
	// Deleted the last state, with the revision of the deletion.
	*Shared
	// Prev is the object before the change; nil for Added.
	Prev     runtime.Object
	Revision int64

	part, was string // Kind.WatchedBy of Object and of Prev
}

// cache follows one resource in the store.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go, Cacher.
type cache struct {
	kind  *kinds.Kind
	store store.Store
	log   *slog.Logger

	mu    sync.RWMutex
	ready bool
	// unread is why it does not become ready, if waiting does not help.
	unread error
	items  []*item // sorted by key; what they point at never changes
	// ring holds the newest events; ring[i] has the number base+i.
	ring []*Event
	base int64
	// oldest is the revision after which the ring is complete.
	oldest int64
	// rev is how far the cache has come.
	rev int64
	// wake is closed and replaced with every change of the above.
	wake chan struct{}
	done bool
	// bells are the same for watchers of one key, or of one part of the collection
	// ("=" before its value): a change rings its own, and all of them only when
	// unheard events have come to a quarter of the ring.
	bells   map[string]chan struct{}
	unheard int
	bellMu  sync.Mutex // beside mu held for reading, guards the map
}

func newCache(k *kinds.Kind, st store.Store, log *slog.Logger) *cache {
	return &cache{kind: k, store: st, log: log, wake: make(chan struct{}), bells: map[string]chan struct{}{}}
}

// run lists and watches until ctx ends.
func (c *cache) run(ctx context.Context) {
	defer c.finish()
	for ctx.Err() == nil {
		err := c.follow(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return
		}
		c.log.Warn("watch of the store ended, listing again", "resource", c.kind.GR().String(), "err", err)
		pause := relistAfter
		if later := (*unconverted)(nil); errors.As(err, &later) {
			pause = convertAfter
			c.alter(func() (bells []string) {
				c.unread = err
				return c.allBells()
			})
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (c *cache) finish() {
	c.alter(func() (bells []string) {
		c.done = true
		return c.allBells()
	})
}

func (c *cache) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := c.kind.Key("", "")
	l, err := c.store.List(ctx, prefix, store.ListOptions{})
	if err != nil {
		return err
	}
	items := make([]*item, 0, len(l.Entries))
	for _, e := range l.Entries {
		obj, err := Decode(c.kind, e.Value, e.Revision)
		if later := (*unconverted)(nil); errors.As(err, &later) {
			return err
		}
		if err != nil {
			c.log.Error("unreadable object left out", "key", e.Key, "err", err)
			continue
		}
		if len(items) > 0 {
			fold(obj, items[len(items)-1].Object)
		}
		items = append(items, &item{e.Key, &Shared{Object: obj}, e.Revision})
	}
	c.alter(func() (bells []string) {
		// Whoever watches has missed something: their cursors fall before base.
		c.base += int64(len(c.ring)) + 1
		c.items, c.ring, c.oldest, c.rev, c.ready = items, nil, l.Revision, l.Revision, true
		c.unread = nil
		return c.allBells()
	})
	batches := c.store.Watch(ctx, prefix, l.Revision)
	tick := time.NewTicker(forgetAfter)
	defer tick.Stop()
	for {
		select {
		case batch, ok := <-batches:
			if !ok {
				return errors.New("the watch was closed")
			}
			if batch.Err != nil {
				return batch.Err
			}
			c.apply(batch)
		case <-tick.C:
			c.forget()
		}
	}
}

// forget drops the encodings that nobody has asked for lately: they are larger
// than the objects, and often made for a client that comes once.
func (c *cache) forget() {
	if c.forgotten(time.Now().Add(-forgetAfter)) >= muchForgotten {
		debug.FreeOSMemory() // by itself the runtime would keep it for many minutes
	}
}

// forgotten drops the encodings not asked for since a time and tells how many bytes they had.
func (c *cache) forgotten(since time.Time) (bytes int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, it := range c.items {
		bytes += it.forget(since)
	}
	for _, e := range c.ring {
		bytes += e.forget(since)
	}
	return bytes
}

// alter makes a change, wakes those who wait for anything, and rings the bells
// that change returns. They ring when mu is free again, else each of a thousand
// watchers would wake only to wait for it.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go, indexedWatchers.
func (c *cache) alter(change func() (bells []string)) {
	c.mu.Lock()
	names := change()
	ring := []chan struct{}{c.wake}
	c.wake = make(chan struct{})
	for _, name := range names {
		if bell := c.bells[name]; bell != nil {
			ring = append(ring, bell)
			delete(c.bells, name)
		}
	}
	c.mu.Unlock()
	for _, bell := range ring {
		close(bell)
	}
}

// allBells leaves nobody asleep; c.mu is held.
func (c *cache) allBells() []string {
	c.unheard = 0
	return slices.Collect(maps.Keys(c.bells))
}

// bell is what rings for a name, "" for everything; c.mu is held for reading.
func (c *cache) bell(name string) <-chan struct{} {
	if name == "" {
		return c.wake
	}
	c.bellMu.Lock()
	defer c.bellMu.Unlock()
	if c.bells[name] == nil {
		c.bells[name] = make(chan struct{})
	}
	return c.bells[name]
}

// part is the value of the field that watches of the kind are narrowed by.
func (c *cache) part(obj runtime.Object) string {
	if c.kind.WatchedBy == "" || obj == nil {
		return ""
	}
	return c.kind.FieldLabels[c.kind.WatchedBy](obj)
}

func (c *cache) apply(b store.Batch) {
	var about []string
	for _, e := range b.Events {
		if ev := c.applyOne(e); ev != nil {
			about = append(about, ev.Key, "="+ev.part, "="+ev.was)
		}
	}
	c.alter(func() (bells []string) {
		if cut := len(c.ring) - ringSize; cut > ringSize/4 {
			c.oldest = c.ring[cut-1].Revision
			c.ring = slices.Clone(c.ring[cut:])
			c.base += int64(cut)
		}
		c.rev = max(c.rev, b.Revision)
		if c.unheard += len(b.Events); c.unheard > ringSize/4 {
			return c.allBells()
		}
		return about
	})
}

func (c *cache) applyOne(e store.Event) *Event {
	var obj runtime.Object
	if !e.Deleted() {
		var err error
		if obj, err = Decode(c.kind, e.Value, e.Revision); err != nil {
			c.log.Error("unreadable object left out", "key", e.Key, "err", err)
			return nil
		}
		fold(obj, c.relative(e.Key))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ev := c.change(e, obj)
	if ev != nil {
		ev.part, ev.was = c.part(ev.Object), c.part(ev.Prev)
		c.ring = append(c.ring, ev)
	}
	c.rev = e.Revision
	return ev
}

// relative is what an object is probably much like: its last state, or its
// neighbour, as pods of one owner are. It is for run's goroutine, the only one that changes items.
func (c *cache) relative(key string) runtime.Object {
	i, found := c.find(key)
	if !found && i > 0 {
		i--
	}
	if i == len(c.items) {
		return nil
	}
	return c.items[i].Object
}

// find tells where in items a key is, or would be.
func (c *cache) find(key string) (int, bool) {
	return slices.BinarySearchFunc(c.items, key, func(it *item, key string) int { return strings.Compare(it.key, key) })
}

// change brings one write into items and says what watchers are to see.
func (c *cache) change(e store.Event, obj runtime.Object) *Event {
	i, found := c.find(e.Key)
	var prev runtime.Object
	if found {
		prev = c.items[i].Object
	}
	switch {
	case e.Deleted() && !found, !e.Deleted() && obj == nil:
		return nil
	case e.Deleted():
		c.items = slices.Delete(c.items, i, i+1)
		return &Event{Type: watch.Deleted, Key: e.Key, Shared: &Shared{Object: atRevision(prev, e.Revision)}, Prev: prev, Revision: e.Revision}
	}
	it := &item{e.Key, &Shared{Object: obj}, e.Revision}
	if found {
		c.items[i] = it
		return &Event{Type: watch.Modified, Key: e.Key, Shared: it.Shared, Prev: prev, Revision: e.Revision}
	}
	c.items = slices.Insert(c.items, i, it)
	return &Event{Type: watch.Added, Key: e.Key, Shared: it.Shared, Revision: e.Revision}
}

// atRevision is the object with another resourceVersion.
func atRevision(obj runtime.Object, rev int64) runtime.Object {
	out := obj.DeepCopyObject()
	if m, err := meta.Accessor(out); err == nil {
		m.SetResourceVersion(strconv.FormatInt(rev, 10))
	}
	fold(out, obj)
	return out
}

// snapshot returns the items under a key prefix, and the revision they are of.
func (c *cache) snapshot(prefix string) ([]*item, int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	from, _ := c.find(prefix)
	rest := c.items[from:]
	n := sort.Search(len(rest), func(i int) bool { return !strings.HasPrefix(rest[i].key, prefix) })
	return slices.Clone(rest[:n]), c.rev
}

// wait blocks until the cache has reached a revision. errTooFarAhead after freshFor.
func (c *cache) wait(ctx context.Context, rev int64) error {
	var expired <-chan time.Time
	var ticker *time.Ticker
	for {
		c.mu.RLock()
		ready, at, wake, done, unread := c.ready, c.rev, c.wake, c.done, c.unread
		c.mu.RUnlock()
		if ready && at >= rev {
			return nil
		}
		if done {
			return store.ErrClosed
		}
		if !ready && unread != nil {
			return unread
		}
		if expired == nil {
			timer := time.NewTimer(freshFor)
			defer timer.Stop()
			ticker = time.NewTicker(progressEvery)
			defer ticker.Stop()
			expired = timer.C
			if ready {
				if err := c.store.Progress(ctx); err != nil {
					return err
				}
			}
		}
		select {
		case <-wake:
		case <-ticker.C:
			if err := c.store.Progress(ctx); err != nil {
				return err
			}
		case <-expired:
			return fmt.Errorf("waiting for revision %d at %d: %w", rev, at, errTooFarAhead)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// get returns the cached object of a key, or nil.
func (c *cache) get(key string) runtime.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if i, found := c.find(key); found {
		return c.items[i].Object
	}
	return nil
}
