package reliability

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orrery/test/peers"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

var (
	writes   = flag.Int("writes", 3000, "how many writes watchers are to see")
	restarts = flag.Int("restarts", 3, "how often the API server is killed meanwhile")
)

const (
	writers       = 8
	keysPerWriter = 16
	watchers      = 4
	// writtenWithin bounds the whole.
	writtenWithin = 15 * time.Minute
)

func TestAWatchDeliversEveryWriteOnceAndInOrder(t *testing.T) {
	sources := random(t)
	c := peers.New(t)
	server := c.StartAPIServer(peers.Ours)
	cl := newClient(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), writtenWithin)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(*writes))
	w := make([]*writer, writers)
	var writing, watching sync.WaitGroup
	for i := range w {
		w[i] = &writer{client: cl, id: i, written: map[string][]step{}}
		writing.Go(func() { w[i].work(ctx, sources(i), &left) })
	}
	r := make([]*follower, watchers)
	for i := range r {
		r[i] = &follower{client: cl, until: make(chan int64, 1)}
		watching.Go(func() { r[i].follow(ctx, sources(writers+i)) })
	}
	for i := range *restarts {
		// At equal distances in the work, so that each server has some of it.
		goal := int64(*writes) - int64(*writes*(i+1)/(*restarts+1))
		c.Wait("writes before the next kill", func(context.Context) error {
			if n := left.Load(); n > goal {
				return fmt.Errorf("%d writes are left, kill %d is due at %d", n, i, goal)
			}
			return nil
		})
		server.Kill()
		server = c.StartAPIServer(peers.Ours)
	}
	writing.Wait()
	// One more write, known to everybody as the last.
	written := map[string][]step{}
	for _, one := range w {
		for key, steps := range one.written {
			written[key] = steps
		}
	}
	code, last := cl.create("zz-last", "last")
	if code != http.StatusCreated {
		t.Fatalf("the last write: %d", code)
	}
	written["zz-last"] = []step{{watch.Added, "last", revisionOf(last)}}
	for _, one := range r {
		one.until <- revisionOf(last)
	}
	watching.Wait()
	events := 0
	for i, one := range r {
		events += one.events
		t.Logf("watcher %d: %d events, taken up again %d times, listed %d times", i, one.events, one.resumed, one.lists)
		if fault := inconsistency(one.log, written); fault != "" {
			t.Errorf("watcher %d: %s", i, fault)
		}
		if one.resumed <= one.lists || one.lists > 1+*restarts {
			t.Errorf("watcher %d resumed %d times and listed %d times in %d restarts: a watch can be taken up again as long as its server lives", i, one.resumed, one.lists, *restarts)
		}
	}
	t.Logf("%d writes, %d events", *writes, events)
}

// writer is the only one to write its keys, so that it knows their history.
type writer struct {
	client  *client
	id      int
	written map[string][]step
}

func (w *writer) work(ctx context.Context, choice *rand.Rand, left *atomic.Int64) {
	for n := 0; ctx.Err() == nil && left.Add(-1) >= 0; n++ {
		key := fmt.Sprintf("key-%d-%d", w.id, choice.IntN(keysPerWriter))
		var now step
		if steps := w.written[key]; len(steps) > 0 {
			now = steps[len(steps)-1]
		}
		value := fmt.Sprintf("%d-%d", w.id, n)
		var next step
		switch {
		case now.kind == "" || now.kind == watch.Deleted:
			next = w.settle(ctx, key, step{watch.Added, value, 0}, func() (int, *corev1.ConfigMap) { return w.client.create(key, value) })
		case choice.IntN(4) == 0:
			next = w.settle(ctx, key, step{watch.Deleted, now.value, 0}, func() (int, *corev1.ConfigMap) { return w.client.remove(key, now.revision), nil })
		default:
			next = w.settle(ctx, key, step{watch.Modified, value, 0}, func() (int, *corev1.ConfigMap) { return w.client.swap(key, value, now.revision) })
		}
		if next.kind != "" {
			w.written[key] = append(w.written[key], next)
		}
	}
}

// settle writes until it is known that the write has happened: when there was
// no answer, it reads what became of it.
func (w *writer) settle(ctx context.Context, key string, next step, write func() (int, *corev1.ConfigMap)) step {
	for ctx.Err() == nil {
		if code, obj := write(); code == http.StatusOK || code == http.StatusCreated {
			if obj != nil {
				next.revision = revisionOf(obj)
			}
			return next
		}
		pause(ctx)
		code, obj := w.client.read(key)
		switch {
		case code == http.StatusNotFound && next.kind == watch.Deleted:
			return next
		case code == http.StatusOK && next.kind != watch.Deleted && obj.Data[valueKey] == next.value:
			next.revision = revisionOf(obj)
			return next
		}
	}
	return step{}
}

// follower is a watcher that hangs up now and then, and goes on where it was.
type follower struct {
	client *client
	until  chan int64 // the revision to stop at, once it is known

	log            []entry
	revision       int64 // the last that it knows of
	stopAt         int64
	events         int
	resumed, lists int
}

func (f *follower) follow(ctx context.Context, choice *rand.Rand) {
	relist := true
	for ctx.Err() == nil && !f.done() {
		if relist {
			if f.list(ctx) {
				relist = false
			} else {
				pause(ctx)
			}
			continue
		}
		before := f.events
		relist = f.watch(ctx, 1+choice.IntN(500))
		if f.events > before {
			f.resumed++
		} else {
			pause(ctx)
		}
	}
}

func (f *follower) done() bool {
	select {
	case f.stopAt = <-f.until:
	default:
	}
	return f.stopAt > 0 && f.revision >= f.stopAt
}

func (f *follower) get(ctx context.Context, query string) (*http.Response, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.client.url+query, nil)
	if err != nil {
		return nil, cancel
	}
	answer, err := f.client.http.Do(r)
	if err != nil {
		return nil, cancel
	}
	return answer, func() { cancel(); answer.Body.Close() }
}

func (f *follower) list(ctx context.Context) bool {
	answer, end := f.get(ctx, "")
	defer end()
	var l corev1.ConfigMapList
	if answer == nil || answer.StatusCode != http.StatusOK || json.NewDecoder(answer.Body).Decode(&l) != nil {
		return false
	}
	listed := map[string]step{}
	for _, m := range l.Items {
		listed[m.Name] = step{value: m.Data[valueKey], revision: revisionOf(&m)}
	}
	var rv int64
	if _, err := fmt.Sscan(l.ResourceVersion, &rv); err != nil {
		return false
	}
	f.log = append(f.log, entry{step: step{revision: rv}, listed: listed})
	f.revision, f.lists = rv, f.lists+1
	return true
}

// watch takes some events from where the follower is. It says whether it must list again.
func (f *follower) watch(ctx context.Context, most int) (relist bool) {
	// The time is short so that the end of all writes is noticed.
	answer, end := f.get(ctx, fmt.Sprintf("?watch=1&allowWatchBookmarks=true&timeoutSeconds=2&resourceVersion=%d", f.revision))
	defer end()
	if answer == nil || answer.StatusCode != http.StatusOK {
		return false
	}
	in := json.NewDecoder(answer.Body)
	for range most {
		var e struct {
			Type   watch.EventType
			Object json.RawMessage
		}
		var status metav1.Status
		var m corev1.ConfigMap
		switch {
		case in.Decode(&e) != nil:
			return false
		case e.Type == watch.Error:
			return json.Unmarshal(e.Object, &status) == nil && status.Code == http.StatusGone
		case json.Unmarshal(e.Object, &m) != nil:
			return false
		case m.Name == "kube-root-ca.crt":
			continue // not ours
		}
		f.revision = revisionOf(&m)
		f.log = append(f.log, entry{step: step{e.Type, m.Data[valueKey], f.revision}, key: m.Name})
		if e.Type != watch.Bookmark {
			f.events++
		}
	}
	return false
}
