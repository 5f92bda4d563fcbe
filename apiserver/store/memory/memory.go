// Package memory is a Store in the memory of the process. Whole control planes
// run on it in tests, inside a testing/synctest bubble: it owns no goroutine
// but those of its watches and uses nothing but channels, mutexes and the time package.
//
//	current: key ──▶ entry           history: every write since the last compaction
//	keys:    sorted, for lists       watchers: each with the writes that it has still to deliver
//
// Invariant: history[i].Revision == compacted+1+i, so that a watch finds where to
// begin by a subtraction, and the state at an old revision is the current one with
// later writes undone. Read next: ../store.go for the contract.
package memory

import (
	"container/heap"
	"context"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"orrery/apiserver/store"
)

// Store is an in-memory store.Store. Make it with New.
type Store struct {
	mu       sync.Mutex
	current  map[string]store.Entry
	keys     []string // sorted
	history  []store.Event
	revision int64
	// compacted is the newest revision whose history is gone.
	compacted int64
	watchers  map[*watcher]bool
	closed    bool

	expires map[string]time.Time
	// due has every expiry, the earliest first; one that expires no longer agrees
	// with is passed over.
	due   expiries
	timer *time.Timer
}

var _ store.Store = (*Store)(nil)

// New returns an empty store at revision 1, where etcd begins too.
func New() *Store {
	return &Store{
		current: map[string]store.Entry{}, revision: 1, compacted: 1,
		watchers: map[*watcher]bool{}, expires: map[string]time.Time{},
	}
}

// Create implements store.Store.
func (s *Store) Create(_ context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	if _, ok := s.current[key]; ok {
		return 0, store.ErrExists
	}
	s.write(key, value, ttl)
	return s.revision, nil
}

// Get implements store.Store.
func (s *Store) Get(_ context.Context, key string) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.current[key]
	switch {
	case s.closed:
		return store.Entry{}, store.ErrClosed
	case !ok:
		return store.Entry{}, store.ErrNotFound
	}
	return e, nil
}

// Update implements store.Store.
func (s *Store) Update(_ context.Context, key string, value []byte, expected int64, ttl time.Duration) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, err := s.check(key, expected); err != nil {
		return e, err
	}
	s.write(key, value, ttl)
	return s.current[key], nil
}

// Delete implements store.Store.
func (s *Store) Delete(_ context.Context, key string, expected int64) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.check(key, expected)
	if err != nil {
		return e, err
	}
	s.write(key, nil, 0)
	return store.Entry{Key: key, Value: e.Value, Revision: s.revision}, nil
}

// check finds the entry that a writer expects to change.
func (s *Store) check(key string, expected int64) (store.Entry, error) {
	if s.closed {
		return store.Entry{}, store.ErrClosed
	}
	e, ok := s.current[key]
	if !ok {
		return store.Entry{}, store.ErrNotFound
	}
	if expected != 0 && e.Revision != expected {
		return e, store.ErrConflict
	}
	return e, nil
}

// write changes one key (a nil value deletes it), records it and wakes the watchers.
func (s *Store) write(key string, value []byte, ttl time.Duration) {
	prev, existed := s.current[key]
	s.revision++
	event := store.Event{Key: key, Value: value, Revision: s.revision, Prev: prev.Value, PrevRevision: prev.Revision}
	s.history = append(s.history, event)
	i := sort.SearchStrings(s.keys, key)
	switch {
	case value == nil:
		delete(s.current, key)
		s.keys = slices.Delete(s.keys, i, i+1)
	default:
		s.current[key] = store.Entry{Key: key, Value: value, Revision: s.revision}
		if !existed {
			s.keys = slices.Insert(s.keys, i, key)
		}
	}
	delete(s.expires, key)
	if ttl > 0 {
		at := time.Now().Add(ttl)
		s.expires[key] = at
		heap.Push(&s.due, expiry{key, at})
		if s.due[0].key == key {
			s.schedule()
		}
	}
	for w := range s.watchers {
		w.tell(event)
	}
}

// schedule sets the one timer to the earliest expiry.
func (s *Store) schedule() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if len(s.due) > 0 && !s.closed {
		s.timer = time.AfterFunc(time.Until(s.due[0].at), s.expire)
	}
}

func (s *Store) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for now := time.Now(); len(s.due) > 0 && !s.due[0].at.After(now); {
		e := heap.Pop(&s.due).(expiry)
		if at, ok := s.expires[e.key]; ok && at.Equal(e.at) {
			s.write(e.key, nil, 0)
		}
	}
	s.schedule()
}

// expiry is when a key ends by itself.
type expiry struct {
	key string
	at  time.Time
}

// expiries is a heap.Interface.
type expiries []expiry

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiry)) }
func (e *expiries) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// List implements store.Store.
func (s *Store) List(_ context.Context, prefix string, opts store.ListOptions) (store.Listing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Listing{}, store.ErrClosed
	}
	at := opts.Revision
	switch {
	case at == 0:
		at = s.revision
	case at > s.revision:
		return store.Listing{}, store.ErrFuture
	case at < s.compacted:
		return store.Listing{}, store.ErrCompacted
	}
	keys, current := s.keys, s.current
	if at < s.revision {
		keys, current = s.past(at)
	}
	from := sort.SearchStrings(keys, max(prefix, opts.Start))
	keys = keys[from:]
	n := sort.Search(len(keys), func(i int) bool { return !strings.HasPrefix(keys[i], prefix) })
	keys = keys[:n]
	out := store.Listing{Revision: at}
	if opts.Limit > 0 && int64(len(keys)) > opts.Limit {
		out.Remaining = int64(len(keys)) - opts.Limit
		keys = keys[:opts.Limit]
	}
	for _, k := range keys {
		e := current[k]
		if opts.KeysOnly {
			e.Value = nil
		}
		out.Entries = append(out.Entries, e)
	}
	return out, nil
}

// past is the state at an older revision: later writes undone, newest first.
func (s *Store) past(at int64) ([]string, map[string]store.Entry) {
	m := make(map[string]store.Entry, len(s.current))
	for k, e := range s.current {
		m[k] = e
	}
	for i := len(s.history) - 1; i >= 0 && s.history[i].Revision > at; i-- {
		e := s.history[i]
		if e.PrevRevision == 0 {
			delete(m, e.Key)
		} else {
			m[e.Key] = store.Entry{Key: e.Key, Value: e.Prev, Revision: e.PrevRevision}
		}
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys, m
}

// watcher is one running watch.
type watcher struct {
	prefix string
	after  int64
	events []store.Event // still to be delivered; guarded by the store's mu
	wake   chan struct{} // holds a token when a batch is due, with events or to show progress
}

// tell adds an event that the watch is about; the store's mu is held.
func (w *watcher) tell(e store.Event) {
	if e.Revision > w.after && strings.HasPrefix(e.Key, w.prefix) {
		w.events = append(w.events, e)
		w.rouse()
	}
}

func (w *watcher) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan store.Batch {
	out := make(chan store.Batch)
	w := &watcher{prefix: prefix, after: after, wake: make(chan struct{}, 1)}
	err := s.attach(w)
	go func() {
		defer close(out)
		defer s.detach(w)
		batch := store.Batch{Err: err}
		for {
			if batch.Err == nil {
				select {
				case <-w.wake:
				case <-ctx.Done():
					return
				}
				batch = s.take(w)
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
			if batch.Err != nil {
				return
			}
		}
	}()
	return out
}

// attach begins a watch with what it has missed.
func (s *Store) attach(w *watcher) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return store.ErrClosed
	case w.after < s.compacted:
		return store.ErrCompacted
	case w.after < s.revision:
		for _, e := range s.history[w.after-s.compacted:] {
			w.tell(e)
		}
	}
	s.watchers[w] = true
	return nil
}

func (s *Store) detach(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// take is what a watch has to deliver.
func (s *Store) take(w *watcher) store.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Batch{Err: store.ErrClosed}
	}
	b := store.Batch{Events: w.events, Revision: s.revision}
	w.events = nil
	return b
}

// Revision implements store.Store.
func (s *Store) Revision(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	return s.revision, nil
}

// Progress implements store.Store.
func (s *Store) Progress(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.rouseAll()
	return nil
}

// Compact implements store.Store.
func (s *Store) Compact(_ context.Context, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return store.ErrClosed
	case revision > s.revision:
		return store.ErrFuture
	case revision <= s.compacted:
		return store.ErrCompacted
	}
	s.history = slices.Clone(s.history[revision-s.compacted:])
	s.compacted = revision
	return nil
}

// Close implements store.Store. Closing twice is allowed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.rouseAll()
	return nil
}

// rouseAll has every watch deliver a batch, be it without events; mu is held.
func (s *Store) rouseAll() {
	for w := range s.watchers {
		w.rouse()
	}
}
