package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	// eventQueueLength is how many events may wait for one writer; more are dropped.
	eventQueueLength = 1000
	// eventTries and eventRetry: an unreachable server gets an event again every
	// 10 s, twelve times.
	eventTries = 12
	eventRetry = 10 * time.Second
	// similarEvents is how many different messages about one object and reason
	// are written within similarWindow before they become one.
	similarEvents = 10
	similarWindow = 10 * time.Minute
	// eventBurst events about one object may be written at once, then one every
	// eventRefill.
	eventBurst  = 25
	eventRefill = 5 * time.Minute
)

// Recorder writes Events: what happened to an object, for people to read. Equal
// events become one with a count, many similar ones become "(combined from
// similar events)", and a flood about one object is dropped.
//
// Upstream: k8s.io/client-go/tools/record, EventBroadcaster and EventCorrelator.
// Left out: the events.k8s.io/v1 form; the server shows one store as both.
type Recorder struct {
	c         *Client
	component string
	host      string
	seed      maphash.Seed // of who writes what
	writers   []*eventWriter
}

// eventWriter correlates and writes the events about some of the objects. All but
// queue belongs to its goroutine.
type eventWriter struct {
	*Recorder
	queue   chan *corev1.Event
	seen    map[string]*corev1.Event // by aggregate key and message
	similar map[string]*similar      // by aggregate key
	spam    map[string]*bucket       // by source and object
}

type similar struct {
	messages map[string]bool
	last     time.Time
}

type bucket struct {
	tokens float64
	last   time.Time
}

// NewRecorder makes a Recorder for a component on a host ("" for components that
// are no node's). Nothing is written before Run.
func NewRecorder(c *Client, component, host string) *Recorder {
	return (&Recorder{c: c, component: component, host: host, seed: maphash.MakeSeed()}).Parallel(1)
}

// Parallel has n events written at a time, those about one object one after the
// other: for components that tell of thousands of objects. It is for before Run.
func (r *Recorder) Parallel(n int) *Recorder {
	r.writers = nil
	for range n {
		r.writers = append(r.writers, &eventWriter{Recorder: r, queue: make(chan *corev1.Event, eventQueueLength),
			seen: map[string]*corev1.Event{}, similar: map[string]*similar{}, spam: map[string]*bucket{}})
	}
	return r
}

// Event notes that something happened to obj, an API object or an
// *corev1.ObjectReference. eventType is corev1.EventTypeNormal or Warning. It
// never blocks.
func (r *Recorder) Event(obj runtime.Object, eventType, reason, message string) {
	ref, err := Reference(obj)
	if err != nil {
		slog.Error("event about something that is no API object", "component", r.component, "err", err)
		return
	}
	now := metav1.Now()
	ns := ref.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns,
			Name:      fmt.Sprintf("%s.%x", ref.Name, nameTime(now.Time)),
		},
		InvolvedObject: *ref, Reason: reason, Message: message, Type: eventType,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		ReportingController: r.component, ReportingInstance: r.host,
	}
	w := r.writers[maphash.String(r.seed, ref.Namespace+"/"+ref.Name)%uint64(len(r.writers))]
	select {
	case w.queue <- ev:
	default:
		slog.Warn("event dropped, too many wait", "component", r.component, "reason", reason)
	}
}

// lastNameTime is in the name of the newest event of this process.
var lastNameTime atomic.Int64

// nameTime is now in nanoseconds, or a little later: two events about one object at
// one moment, by whatever recorder, must not have the same name.
func nameTime(now time.Time) int64 {
	for {
		last := lastNameTime.Load()
		next := max(now.UnixNano(), last+1)
		if lastNameTime.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Eventf is Event with a format.
func (r *Recorder) Eventf(obj runtime.Object, eventType, reason, format string, args ...any) {
	r.Event(obj, eventType, reason, fmt.Sprintf(format, args...))
}

// Reference is the reference to an object that Events carry; a reference is
// returned as it is.
//
// Upstream: k8s.io/client-go/tools/reference, GetReference.
func Reference(obj runtime.Object) (*corev1.ObjectReference, error) {
	if ref, ok := obj.(*corev1.ObjectReference); ok {
		return ref, nil
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	gvks, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, err
	}
	return &corev1.ObjectReference{
		Kind: gvks[0].Kind, APIVersion: gvks[0].GroupVersion().String(),
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
	}, nil
}

// Run writes events until the context ends.
func (r *Recorder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, w := range r.writers {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	return nil
}

func (w *eventWriter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-w.queue:
			if w.admit(ev) {
				w.write(ctx, ev)
			}
		}
	}
}

// admit lets a burst of events about one object pass and drops a flood.
func (w *eventWriter) admit(ev *corev1.Event) bool {
	o := ev.InvolvedObject
	key := fmt.Sprintln(o.Kind, o.Namespace, o.Name, o.UID, o.APIVersion)
	now := ev.LastTimestamp.Time
	b := w.spam[key]
	if b == nil {
		forgetSome(w.spam)
		b = &bucket{tokens: eventBurst, last: now}
		w.spam[key] = b
	}
	b.tokens = min(eventBurst, b.tokens+now.Sub(b.last).Seconds()/eventRefill.Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// write creates an event, or counts up the one that it repeats.
func (w *eventWriter) write(ctx context.Context, ev *corev1.Event) {
	o := ev.InvolvedObject
	group := fmt.Sprintln(o.Kind, o.Namespace, o.Name, o.UID, o.FieldPath, ev.Type, ev.Reason)
	key := group + ev.Message
	if w.isFlood(group, ev) {
		key = group + "combined"
		ev.Message = "(combined from similar events): " + ev.Message
	}
	if before := w.seen[key]; before != nil {
		ev.Name, ev.ResourceVersion = before.Name, before.ResourceVersion
		ev.FirstTimestamp, ev.Count = before.FirstTimestamp, before.Count+1
	} else {
		forgetSome(w.seen)
	}
	for range eventTries {
		written, err := w.send(ctx, ev)
		if err == nil {
			w.seen[key] = written
			return
		}
		if _, refused := errors.AsType[*apierrors.StatusError](err); refused {
			slog.Debug("event refused", "component", w.component, "reason", ev.Reason, "err", err)
			return // trying again would not help: a namespace that ends, a bad object
		}
		if !Sleep(ctx, eventRetry) {
			return
		}
	}
}

// isFlood notes one more message about group and says whether there are so many
// different ones that they shall be combined.
func (w *eventWriter) isFlood(group string, ev *corev1.Event) bool {
	s := w.similar[group]
	now := ev.LastTimestamp.Time
	if s == nil || now.Sub(s.last) > similarWindow {
		forgetSome(w.similar)
		s = &similar{messages: map[string]bool{}}
		w.similar[group] = s
	}
	s.last = now
	s.messages[ev.Message] = true
	return len(s.messages) >= similarEvents
}

func (r *Recorder) send(ctx context.Context, ev *corev1.Event) (*corev1.Event, error) {
	events := For[*corev1.Event](r.c)
	if ev.Count > 1 {
		patch, err := json.Marshal(map[string]any{
			"count": ev.Count, "lastTimestamp": ev.LastTimestamp, "message": ev.Message,
		})
		if err != nil {
			return nil, err
		}
		written, err := events.Patch(ctx, ev.Namespace, ev.Name, types.StrategicMergePatchType, patch)
		if !apierrors.IsNotFound(err) {
			return written, err
		}
		ev.Count, ev.ResourceVersion = 1, "" // it expired: begin again
	}
	return events.Create(ctx, ev)
}

// forgetSome bounds a memory at 4096 entries, as upstream's caches are.
func forgetSome[V any](m map[string]V) {
	for key := range m {
		if len(m) < 4096 {
			return
		}
		delete(m, key)
	}
}
