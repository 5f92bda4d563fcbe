package reliability

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orrery/test/peers"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
)

var kills = flag.Int("kills", 10, "how often the API server is killed")

const (
	clients = 8
	// objects are written at a time; after killsPerObjects others take their place,
	// so that no history grows beyond what can be searched.
	objects         = 8
	killsPerObjects = 4
)

func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	sources := random(t)
	c := peers.New(t)
	server := c.StartAPIServer(peers.Ours)
	h := &historian{client: newClient(t, c), began: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range clients {
		wg.Go(func() { h.work(ctx, i, sources(i)) })
	}
	chance := sources(clients)
	for i := range *kills {
		before := h.acknowledged.Load()
		timer := time.NewTimer(time.Duration(20+chance.IntN(300)) * time.Millisecond)
		<-timer.C
		c.Wait("clients get answers", func(context.Context) error {
			if h.acknowledged.Load() == before {
				return fmt.Errorf("no write was acknowledged since start %d", i)
			}
			return nil
		})
		server.Kill()
		h.epoch.Store(int64((i + 1) / killsPerObjects))
		server = c.StartAPIServer(peers.Ours)
	}
	cancel()
	wg.Wait()
	h.readAll(t)
	t.Logf("%d kills, %d operations, %d writes acknowledged, %d operations without an answer", *kills, len(h.history), h.acknowledged.Load(), h.unanswered)
	if h.unanswered == 0 && *kills > 0 {
		t.Error("no request was hit by a kill: the test has tested nothing")
	}
	if two := outOfOrder(h.history); two != "" {
		t.Errorf("revisions do not follow the order of writes:\n%s", two)
	}
	explain(t, h.history)
}

// historian runs clients and writes down what they do.
type historian struct {
	client       *client
	began        time.Time
	epoch        atomic.Int64 // which objects are written
	acknowledged atomic.Int64
	values       atomic.Int64

	mu         sync.Mutex
	history    []porcupine.Operation
	unanswered int
}

func (h *historian) now() int64 { return int64(time.Since(h.began)) }

// work is one client. It remembers what it saw last of each object, and so it is
// sometimes wrong.
func (h *historian) work(ctx context.Context, id int, choice *rand.Rand) {
	last := map[string]reply{}
	for ctx.Err() == nil {
		name := fmt.Sprintf("object-%d-%d", h.epoch.Load(), choice.IntN(objects))
		c := call{object: name, verb: read}
		seen, known := last[name]
		switch n := choice.IntN(10); {
		case n < 3:
		case !known:
			c.verb, c.value = create, h.value()
		default:
			c.verb, c.expects, c.revision = swap, seen.value, seen.revision
			if n == 9 {
				c.verb = remove
			} else {
				c.value = h.value()
			}
		}
		r := h.perform(id, c)
		switch {
		case r.fate == done && c.verb == remove, r.fate == absent:
			delete(last, name)
		case r.fate == done && c.verb == read:
			last[name] = r
		case r.fate == done:
			last[name] = reply{done, c.value, r.revision}
		case r.fate == exists, r.fate == conflict:
			if r = h.perform(id, call{object: name, verb: read}); r.fate == done {
				last[name] = r
			} else {
				delete(last, name)
			}
		default:
			pause(ctx)
		}
	}
}

func (h *historian) value() string { return fmt.Sprint("value-", h.values.Add(1)) }

// perform does one call and writes it down.
func (h *historian) perform(id int, c call) reply {
	began := h.now()
	r := h.client.perform(c)
	op := porcupine.Operation{ClientId: id, Input: c, Call: began, Output: r, Return: h.now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case r.fate == nothing, r.fate == unknown && c.verb == read:
		return r // tells nothing
	case r.fate == unknown:
		op.Return = math.MaxInt64
		h.unanswered++
	case r.fate == done && c.verb != read:
		h.acknowledged.Add(1)
	}
	h.history = append(h.history, op)
	return r
}

func (cl *client) perform(c call) reply {
	var code int
	var obj *corev1.ConfigMap
	switch c.verb {
	case read:
		code, obj = cl.read(c.object)
	case create:
		code, obj = cl.create(c.object, c.value)
	case swap:
		code, obj = cl.swap(c.object, c.value, c.revision)
	case remove:
		code = cl.remove(c.object, c.revision)
	}
	var r reply
	if obj != nil && obj.ResourceVersion != "" {
		r.revision, r.value = revisionOf(obj), obj.Data[valueKey]
	}
	switch code {
	case http.StatusOK, http.StatusCreated:
		r.fate = done
	case notSent:
		r.fate = nothing
	case http.StatusNotFound:
		r.fate = absent
	case http.StatusConflict:
		if r.fate = conflict; c.verb == create {
			r.fate = exists
		}
	default:
		r.fate = unknown
	}
	return r
}

// readAll ends every history with a read: what was acknowledged must be there.
func (h *historian) readAll(t *testing.T) {
	t.Helper()
	for epoch := range h.epoch.Load() + 1 {
		for i := range objects {
			if r := h.perform(clients, call{verb: read, object: fmt.Sprintf("object-%d-%d", epoch, i)}); r.fate == unknown || r.fate == nothing {
				t.Fatal("the last read got no answer")
			}
		}
	}
}
