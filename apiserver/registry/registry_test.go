package registry

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orrery/apiserver/kinds"
	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

var configMaps = schema.GroupResource{Resource: "configmaps"}

func newRegistry(t *testing.T) (*Registry, *memory.Store, *Resource) {
	t.Helper()
	st := memory.New()
	table := kinds.NewTable()
	r := New(table, st, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = st.Close() })
	t.Cleanup(r.Close)
	return r, st, r.For(table.Stored(configMaps))
}

func cm(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"v": value}}, Data: map[string]string{"v": value}}
}

func mustCreate(t *testing.T, res *Resource, name, value string) *corev1.ConfigMap {
	t.Helper()
	obj, err := res.Create(t.Context(), "default", cm(name, value), WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.ConfigMap)
}

// set writes a value over whatever is there.
func set(t testing.TB, res *Resource, name, value string) *corev1.ConfigMap {
	t.Helper()
	obj, _, err := res.Update(context.Background(), "default", name, func(_ context.Context, obj runtime.Object) (runtime.Object, error) {
		c := obj.(*corev1.ConfigMap)
		c.Labels["v"], c.Data["v"], c.ResourceVersion = value, value, ""
		return c, nil
	}, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.ConfigMap)
}

func rev(t *testing.T, obj metav1.Object) int64 {
	t.Helper()
	n, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatWasWrittenIsReadAtOnce(t *testing.T) {
	r, _, res := newRegistry(t)
	for i := range 50 {
		name := fmt.Sprintf("c%d", i)
		if _, err := r.Create(t.Context(), configMaps, cm(name, "1")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), configMaps, "default", name); err != nil {
			t.Fatalf("after creating %s: %v", name, err)
		}
	}
	l, err := res.List(t.Context(), ListOptions{Revision: -1})
	if err != nil || len(l.Items) != 50 {
		t.Errorf("listed %d, %v", len(l.Items), err)
	}
}

// Protobuf does not tell an empty list from none; an answer that did would be another object than a reader finds.
func TestAWriteAnswersWithWhatAReaderFinds(t *testing.T) {
	r, _, _ := newRegistry(t)
	roles := r.For(r.table.Stored(schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: "roles"}))
	role := func(name string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{}}
	}
	for _, dryRun := range []bool{true, false} {
		obj, err := roles.Create(t.Context(), "default", role("r"), WriteOptions{DryRun: dryRun})
		if err != nil {
			t.Fatal(err)
		}
		if made := obj.(*rbacv1.Role); made.Rules != nil || (made.ResourceVersion == "") != dryRun {
			t.Errorf("dry run %v: made %+v", dryRun, made)
		}
	}
	for _, dryRun := range []bool{true, false} {
		obj, _, err := roles.Update(t.Context(), "default", "r", func(_ context.Context, old runtime.Object) (runtime.Object, error) {
			next := old.DeepCopyObject().(*rbacv1.Role)
			next.Labels, next.Rules = map[string]string{"a": "b"}, []rbacv1.PolicyRule{}
			return next, nil
		}, WriteOptions{DryRun: dryRun})
		if err != nil {
			t.Fatal(err)
		}
		if now := obj.(*rbacv1.Role); now.Rules != nil || now.Labels["a"] != "b" || now.ResourceVersion == "" {
			t.Errorf("dry run %v: changed to %+v", dryRun, now)
		}
	}
}

func TestAWriteThatChangesNothingIsNotWritten(t *testing.T) {
	_, st, res := newRegistry(t)
	was := mustCreate(t, res, "a", "1")
	now := set(t, res, "a", "1")
	if was.ResourceVersion != now.ResourceVersion {
		t.Errorf("resourceVersion went from %s to %s", was.ResourceVersion, now.ResourceVersion)
	}
	if at, _ := st.Revision(t.Context()); at != rev(t, was) {
		t.Errorf("the store is at %d, the object at %s", at, was.ResourceVersion)
	}
}

func TestConcurrentUpdatesAreAllKept(t *testing.T) {
	_, _, res := newRegistry(t)
	mustCreate(t, res, "a", "0")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, _, err := res.Update(t.Context(), "default", "a", func(_ context.Context, obj runtime.Object) (runtime.Object, error) {
				c := obj.(*corev1.ConfigMap)
				n, _ := strconv.Atoi(c.Data["v"])
				c.Data["v"], c.ResourceVersion = strconv.Itoa(n+1), ""
				return c, nil
			}, WriteOptions{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	obj, err := res.Get(t.Context(), "default", "a")
	if err != nil || obj.(*corev1.ConfigMap).Data["v"] != "10" {
		t.Errorf("after ten increments: %v, %v", obj, err)
	}
}

func TestAStaleResourceVersionIsAConflict(t *testing.T) {
	_, _, res := newRegistry(t)
	old := mustCreate(t, res, "a", "1")
	set(t, res, "a", "2")
	_, _, err := res.Update(t.Context(), "default", "a", func(context.Context, runtime.Object) (runtime.Object, error) {
		return old.DeepCopy(), nil
	}, WriteOptions{})
	if !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestFinalizersHoldADeletedObject(t *testing.T) {
	_, _, res := newRegistry(t)
	obj := cm("a", "1")
	obj.Finalizers = []string{"example.com/hold"}
	if _, err := res.Create(t.Context(), "default", obj, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	out, deleted, err := res.Delete(t.Context(), "default", "a", nil, WriteOptions{})
	if err != nil || deleted || out.(*corev1.ConfigMap).DeletionTimestamp == nil {
		t.Fatalf("deleted=%v, %v, %v", deleted, out, err)
	}
	_, _, err = res.Update(t.Context(), "default", "a", func(_ context.Context, obj runtime.Object) (runtime.Object, error) {
		obj.(*corev1.ConfigMap).Finalizers = nil
		return obj, nil
	}, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := res.Get(t.Context(), "default", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("after the last finalizer went: %v, want NotFound", err)
	}
}

func TestASelectorTurnsChangesIntoComingsAndGoings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, res := newRegistry(t)
		first := mustCreate(t, res, "a", "no")
		w, _, err := res.Watch(t.Context(), WatchOptions{After: rev(t, first), Match: func(obj runtime.Object) bool {
			return obj.(*corev1.ConfigMap).Labels["v"] != "no"
		}})
		if err != nil {
			t.Fatal(err)
		}
		set(t, res, "a", "yes")
		set(t, res, "a", "still")
		gone := set(t, res, "a", "no")
		synctest.Wait()
		events, _, err := w.Take()
		if err != nil || len(events) != 3 {
			t.Fatalf("took %d events, %v", len(events), err)
		}
		for i, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
			if events[i].Type != want {
				t.Errorf("event %d is %s, want %s", i, events[i].Type, want)
			}
		}
		last := events[2].Object.(*corev1.ConfigMap)
		if last.Data["v"] != "still" || last.ResourceVersion != gone.ResourceVersion {
			t.Errorf("the farewell has %q at %s, want the old content at the new revision %s", last.Data["v"], last.ResourceVersion, gone.ResourceVersion)
		}
	})
}

func TestAWatcherThatDoesNotReadIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, res := newRegistry(t)
		at := rev(t, mustCreate(t, res, "a", "0"))
		slow, _, err := res.Watch(t.Context(), WatchOptions{After: at})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 * ringSize {
			set(t, res, "a", strconv.Itoa(i+1))
		}
		synctest.Wait()
		if _, _, err := slow.Take(); err != ErrSlow {
			t.Errorf("got %v, want ErrSlow", err)
		}
		if _, _, err := res.Watch(t.Context(), WatchOptions{After: at}); !apierrors.IsResourceExpired(err) {
			t.Errorf("a watch from before the ring: %v, want Expired", err)
		}
	})
}

// broken is a store whose watches can be cut.
type broken struct {
	store.Store
	cut chan struct{}
}

func (b broken) Watch(ctx context.Context, prefix string, after int64) <-chan store.Batch {
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in := b.Store.Watch(ctx, prefix, after)
		for {
			batch := store.Batch{Err: store.ErrCompacted}
			select {
			case batch = <-in:
			case <-b.cut:
			case <-ctx.Done():
				return
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func TestACacheListsAgainWhenItsWatchBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := broken{memory.New(), make(chan struct{})}
		table := kinds.NewTable()
		r := New(table, st, slog.New(slog.DiscardHandler))
		defer r.Close()
		res := r.For(table.Stored(configMaps))
		at := rev(t, mustCreate(t, res, "a", "1"))
		w, _, err := res.Watch(t.Context(), WatchOptions{After: at, Initial: true})
		if err != nil {
			t.Fatal(err)
		}
		st.cut <- struct{}{}
		mustCreate(t, res, "b", "1") // written while nobody watches
		time.Sleep(time.Second)
		if _, _, err := w.Take(); err != ErrSlow {
			t.Errorf("a watcher across the gap: %v, want ErrSlow", err)
		}
		if _, err := r.Get(t.Context(), configMaps, "default", "b"); err != nil {
			t.Errorf("what was written during the gap: %v", err)
		}
		mustCreate(t, res, "c", "1")
		if _, err := r.Get(t.Context(), configMaps, "default", "c"); err != nil {
			t.Errorf("what was written after it: %v", err)
		}
	})
}

func TestAReadOfTheFutureGivesUpAfterThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, res := newRegistry(t)
		begin := time.Now()
		_, err := res.List(t.Context(), ListOptions{Revision: 1000})
		if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(begin); waited != freshFor {
			t.Errorf("waited %s, want %s", waited, freshFor)
		}
	})
}

// TestWatchersSeeEveryChangeOnceAndInOrder: several writers, and watchers that
// come at any time and resume where they were cut off.
func TestWatchersSeeEveryChangeOnceAndInOrder(t *testing.T) {
	_, _, res := newRegistry(t)
	const writers, writes, watchers = 4, 500, 8
	if err := res.cache(t.Context()).wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	start := rev(t, mustCreate(t, res, "w0", "0"))
	for i := 1; i < writers; i++ {
		mustCreate(t, res, fmt.Sprintf("w%d", i), "0")
	}
	end := start + writers - 1 + writers*writes
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for n := range writes {
				set(t, res, fmt.Sprintf("w%d", i), strconv.Itoa(n+1))
			}
		})
	}
	for range watchers {
		all.Go(func() {
			at, cut := start, 0
			for at < end {
				w, _, err := res.Watch(t.Context(), WatchOptions{After: at})
				if err != nil {
					t.Error(err)
					return
				}
				for cut++; at < end && cut%50 != 0; cut++ {
					events, wake, err := w.Take()
					if err != nil {
						t.Error(err)
						return
					}
					for _, e := range events {
						if e.Revision != at+1 {
							t.Errorf("revision %d after %d", e.Revision, at)
							return
						}
						at = e.Revision
					}
					if at < end {
						<-wake
					}
				}
			}
		})
	}
	all.Wait()
}

func TestPagesOfAListAreOfOneRevision(t *testing.T) {
	_, _, res := newRegistry(t)
	for i := range 10 {
		mustCreate(t, res, fmt.Sprintf("c%d", i), "1")
	}
	first, err := res.List(t.Context(), ListOptions{Namespace: "default", Limit: 4, Revision: -1})
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, res, "c45", "later")
	names, next := "", first.Next
	for next != "" {
		page, err := res.List(t.Context(), ListOptions{Namespace: "default", Limit: 4, Revision: first.Revision, Exact: true, StartAfter: next})
		if err != nil {
			t.Fatal(err)
		}
		for _, obj := range page.Objects() {
			names += obj.(*corev1.ConfigMap).Name + " "
		}
		next = page.Next
	}
	if len(first.Items) != 4 || *first.Remaining != 6 || names != "c4 c5 c6 c7 c8 c9 " {
		t.Errorf("first page %d+%d, then %s", len(first.Items), *first.Remaining, names)
	}
}

// A watcher of one object sleeps through the changes of others, and is told of so many now and then that it does not
// fall behind the ring.
func TestAWatcherOfOneObjectSleepsThroughTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, res := newRegistry(t)
		mustCreate(t, res, "a", "0")
		at := rev(t, mustCreate(t, res, "b", "0"))
		w, _, err := res.Watch(t.Context(), WatchOptions{Namespace: "default", Name: "a", After: at})
		if err != nil {
			t.Fatal(err)
		}
		wakes, seen := 0, 0
		go func() {
			for seen < 2 {
				events, wake, err := w.Take()
				if err != nil {
					t.Error(err)
					return
				}
				seen += len(events)
				select {
				case <-wake:
					wakes++
				case <-t.Context().Done():
					return
				}
			}
		}()
		synctest.Wait()
		for i := range 10 {
			set(t, res, "b", strconv.Itoa(i+1))
		}
		synctest.Wait()
		if wakes != 0 {
			t.Errorf("woken %d times by changes of another object", wakes)
		}
		set(t, res, "a", "1")
		synctest.Wait()
		if wakes != 1 || seen != 1 {
			t.Errorf("after its own change: woken %d times, %d events seen", wakes, seen)
		}
		for i := range 2 * ringSize {
			set(t, res, "b", strconv.Itoa(i))
			synctest.Wait()
		}
		if wakes > 10 {
			t.Errorf("woken %d times by %d changes of another object", wakes, 2*ringSize)
		}
		set(t, res, "a", "2")
		synctest.Wait()
		if seen != 2 {
			t.Errorf("%d events seen, want both", seen)
		}
	})
}

// A watcher of the pods of one node sleeps through those of others, and sees its own come and go.
func TestAWatcherOfOneNodesPodsSleepsThroughTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _ := newRegistry(t)
		pods := r.For(kinds.NewTable().Stored(schema.GroupResource{Resource: "pods"}))
		on := func(name, node string) {
			t.Helper()
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
			pods.Kind.Default(pod)
			if _, err := pods.Create(t.Context(), "default", pod, WriteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		on("first", "n1")
		w, initial, err := pods.Watch(t.Context(), WatchOptions{Part: "n1", Initial: true, After: -1,
			Match: func(obj runtime.Object) bool { return obj.(*corev1.Pod).Spec.NodeName == "n1" }})
		if err != nil || len(initial) != 1 {
			t.Fatalf("begins with %d pods, %v", len(initial), err)
		}
		_, wake, _ := w.Take()
		rung := func() bool {
			synctest.Wait()
			select {
			case <-wake:
				return true
			default:
				return false
			}
		}
		on("a", "n2")
		on("b", "")
		if rung() {
			t.Error("woken by pods that are not of its node")
		}
		on("c", "n1")
		if !rung() {
			t.Error("not woken by a pod of its node")
		}
		events, _, err := w.Take()
		if err != nil || len(events) != 1 || events[0].Object.(*corev1.Pod).Name != "c" {
			t.Errorf("took %d events, %v", len(events), err)
		}
	})
}
