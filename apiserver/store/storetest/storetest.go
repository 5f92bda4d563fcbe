// Package storetest holds every implementation of store.Store to the contract.
//
//	memory_test ──┐
//	              ├── storetest.Run(t, open)
//	etcd_test   ──┘
//
// Invariant: a sentence of ../store.go without a test here is a wish. Read next: ../store.go.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"orrery/apiserver/store"
)

// Run tests a store; open is called for each test and returns an empty one.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"create gives the next revision and refuses a second time", create},
		{"update needs the expected revision and returns the current entry", update},
		{"delete needs the expected revision and has a revision of its own", remove},
		{"list is in order of key, in pages, at a revision", list},
		{"watch delivers each write once and in order", watchAll},
		{"watch sees only its prefix, with what was there before", watchPrefix},
		{"watch that begins in compacted history ends with an error", watchCompacted},
		{"progress brings a batch that is as new as the store", progress},
		{"only one of many racing writers wins a revision", race},
		{"a key with a ttl goes by itself", ttl},
		{"many watches that end together all end", endTogether},
		{"close ends watches", closes},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			c.test(t, s)
		})
	}
}

const patience = 20 * time.Second

func put(t *testing.T, s store.Store, key, value string) int64 {
	t.Helper()
	rev, err := s.Create(t.Context(), key, []byte(value), 0)
	if err != nil {
		t.Fatalf("create %s: %v", key, err)
	}
	return rev
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

func next(t *testing.T, ch <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b, ok := <-ch:
		if !ok {
			t.Fatal("the watch was closed")
		}
		return b
	case <-time.After(patience):
		t.Fatal("nothing came from the watch")
	}
	panic("unreachable")
}

// events reads n events.
func events(t *testing.T, ch <-chan store.Batch, n int) []store.Event {
	t.Helper()
	var out []store.Event
	for len(out) < n {
		b := next(t, ch)
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		out = append(out, b.Events...)
	}
	return out
}

func create(t *testing.T, s store.Store) {
	ctx := t.Context()
	before, err := s.Revision(ctx)
	want(t, err, nil)
	rev := put(t, s, "/a", "1")
	if rev != before+1 {
		t.Errorf("revision %d after %d", rev, before)
	}
	_, err = s.Create(ctx, "/a", []byte("2"), 0)
	want(t, err, store.ErrExists)
	e, err := s.Get(ctx, "/a")
	want(t, err, nil)
	if string(e.Value) != "1" || e.Revision != rev {
		t.Errorf("got %q at %d", e.Value, e.Revision)
	}
	_, err = s.Get(ctx, "/b")
	want(t, err, store.ErrNotFound)
	if now, _ := s.Revision(ctx); now != rev {
		t.Errorf("a refused write moved the revision to %d", now)
	}
}

func update(t *testing.T, s store.Store) {
	ctx := t.Context()
	rev := put(t, s, "/a", "1")
	e, err := s.Update(ctx, "/a", []byte("2"), rev, 0)
	want(t, err, nil)
	if e.Revision != rev+1 {
		t.Errorf("revision %d", e.Revision)
	}
	cur, err := s.Update(ctx, "/a", []byte("3"), rev, 0)
	want(t, err, store.ErrConflict)
	if string(cur.Value) != "2" || cur.Revision != e.Revision {
		t.Errorf("conflict came with %q at %d", cur.Value, cur.Revision)
	}
	_, err = s.Update(ctx, "/b", []byte("1"), rev, 0)
	want(t, err, store.ErrNotFound)
}

func remove(t *testing.T, s store.Store) {
	ctx := t.Context()
	rev := put(t, s, "/a", "1")
	cur, err := s.Delete(ctx, "/a", rev+5)
	want(t, err, store.ErrConflict)
	if cur.Revision != rev {
		t.Errorf("conflict came with revision %d", cur.Revision)
	}
	e, err := s.Delete(ctx, "/a", rev)
	want(t, err, nil)
	if e.Revision != rev+1 || string(e.Value) != "1" {
		t.Errorf("deleted %q at %d", e.Value, e.Revision)
	}
	_, err = s.Delete(ctx, "/a", 0)
	want(t, err, store.ErrNotFound)
	put(t, s, "/a", "again")
	_, err = s.Delete(ctx, "/a", 0)
	want(t, err, nil)
}

func list(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, k := range []string{"/p/c", "/p/a", "/q/x", "/p/b", "/o"} {
		put(t, s, k, k)
	}
	old, err := s.Revision(ctx)
	want(t, err, nil)
	put(t, s, "/p/bb", "later")
	keys := func(o store.ListOptions) string {
		l, err := s.List(ctx, "/p/", o)
		want(t, err, nil)
		text := ""
		for _, e := range l.Entries {
			text += e.Key + " "
		}
		return fmt.Sprintf("%s+%d", text, l.Remaining)
	}
	for _, c := range []struct {
		o    store.ListOptions
		want string
	}{
		{store.ListOptions{}, "/p/a /p/b /p/bb /p/c +0"},
		{store.ListOptions{Limit: 2}, "/p/a /p/b +2"},
		{store.ListOptions{Start: "/p/b\x00", Limit: 2}, "/p/bb /p/c +0"},
		{store.ListOptions{Revision: old}, "/p/a /p/b /p/c +0"},
		{store.ListOptions{Revision: old, Limit: 1, Start: "/p/b"}, "/p/b +1"},
	} {
		if got := keys(c.o); got != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got, c.want)
		}
	}
	_, err = s.List(ctx, "/p/", store.ListOptions{Revision: old + 100})
	want(t, err, store.ErrFuture)
	want(t, s.Compact(ctx, old+1), nil)
	_, err = s.List(ctx, "/p/", store.ListOptions{Revision: old})
	want(t, err, store.ErrCompacted)
}

func watchAll(t *testing.T, s store.Store) {
	ctx := t.Context()
	start := put(t, s, "/w/0", "0")
	put(t, s, "/w/1", "1")
	ch := s.Watch(ctx, "/w/", start)
	const n = 300
	for i := 2; i < n; i++ {
		put(t, s, fmt.Sprintf("/w/%d", i), "v")
	}
	for i, e := range events(t, ch, n-1) {
		if e.Revision != start+int64(i)+1 {
			t.Fatalf("event %d has revision %d, want %d", i, e.Revision, start+int64(i)+1)
		}
	}
}

func watchPrefix(t *testing.T, s store.Store) {
	ctx := t.Context()
	start, err := s.Revision(ctx)
	want(t, err, nil)
	ch := s.Watch(ctx, "/w/", start)
	first := put(t, s, "/w/a", "1")
	put(t, s, "/x/a", "other")
	second, err := s.Update(ctx, "/w/a", []byte("2"), first, 0)
	want(t, err, nil)
	_, err = s.Delete(ctx, "/w/a", 0)
	want(t, err, nil)
	got := ""
	for _, e := range events(t, ch, 3) {
		got += fmt.Sprintf("%s=%q was %q@%d deleted=%v; ", e.Key, e.Value, e.Prev, e.PrevRevision, e.Deleted())
	}
	wanted := fmt.Sprintf(`/w/a="1" was ""@0 deleted=false; /w/a="2" was "1"@%d deleted=false; /w/a="" was "2"@%d deleted=true; `, first, second.Revision)
	if got != wanted {
		t.Errorf("got  %s\nwant %s", got, wanted)
	}
}

func watchCompacted(t *testing.T, s store.Store) {
	ctx := t.Context()
	start := put(t, s, "/w/a", "1")
	for i := range 5 {
		put(t, s, fmt.Sprintf("/w/b%d", i), "1")
	}
	now, err := s.Revision(ctx)
	want(t, err, nil)
	want(t, s.Compact(ctx, now), nil)
	want(t, next(t, s.Watch(ctx, "/w/", start)).Err, store.ErrCompacted)
	ch := s.Watch(ctx, "/w/", now)
	put(t, s, "/w/c", "1")
	events(t, ch, 1)
}

func progress(t *testing.T, s store.Store) {
	ctx := t.Context()
	start, err := s.Revision(ctx)
	want(t, err, nil)
	ch := s.Watch(ctx, "/w/", start)
	put(t, s, "/w/a", "1")
	events(t, ch, 1)
	rev := put(t, s, "/x/elsewhere", "1")
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		want(t, s.Progress(ctx), nil)
		select {
		case b := <-ch:
			if b.Revision >= rev {
				return
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("no batch reached revision %d", rev)
}

func race(t *testing.T, s store.Store) {
	ctx := t.Context()
	rev := put(t, s, "/a", "0")
	var won sync.Map
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Update(ctx, "/a", fmt.Appendf(nil, "%d", i), rev, 0); err == nil {
				won.Store(i, true)
			} else if !errors.Is(err, store.ErrConflict) {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d writers won", n)
	}
}

func ttl(t *testing.T, s store.Store) {
	ctx := t.Context()
	start, err := s.Revision(ctx)
	want(t, err, nil)
	ch := s.Watch(ctx, "/w/", start)
	_, err = s.Create(ctx, "/w/a", []byte("1"), time.Second)
	want(t, err, nil)
	if got := events(t, ch, 2); !got[1].Deleted() {
		t.Errorf("got %+v, want a deletion", got[1])
	}
	_, err = s.Get(ctx, "/w/a")
	want(t, err, store.ErrNotFound)
}

func closes(t *testing.T, s store.Store) {
	ch := s.Watch(t.Context(), "/w/", 1)
	want(t, s.Close(), nil)
	for {
		select {
		case b, ok := <-ch:
			if !ok || b.Err != nil {
				return
			}
		case <-time.After(patience):
			t.Fatal("the watch goes on after Close")
		}
	}
}

func endTogether(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all []<-chan store.Batch
	for i := range 60 {
		all = append(all, s.Watch(ctx, fmt.Sprintf("/w%d/", i), 1))
	}
	put(t, s, "/w0/a", "1")
	events(t, all[0], 1)
	cancel()
	deadline := time.After(patience)
	for i, ch := range all {
		for open := true; open; {
			select {
			case _, open = <-ch:
			case <-deadline:
				t.Fatalf("watch %d goes on", i)
			}
		}
	}
}
