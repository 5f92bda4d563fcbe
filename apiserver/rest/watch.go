package rest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"orrery/apiserver/registry"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
)

// frames is where a watch writes: a chunked response, or a WebSocket.
type frames interface {
	// frame sends one encoded event; flush makes sure that the client gets it.
	frame(b []byte) error
	flush() error
	close()
}

// Watch streams the changes of what List would answer with.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/watch.go, serveWatchHandler.
func (h *Handlers) Watch(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "watch")
	if err == nil && q.res == nil {
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if err := h.watch(w, r, q); err != nil {
		WriteError(w, r, err)
	}
}

// watch answers; an error means that nothing has been sent yet.
func (h *Handlers) watch(w http.ResponseWriter, r *http.Request, q *request) error {
	o, err := listOptions(r, q, true)
	if err != nil {
		return err
	}
	match, name, err := selector(q.kind, o)
	if err != nil {
		return err
	}
	wo := registry.WatchOptions{Namespace: q.Namespace, Name: name, Match: match}
	if by := q.kind.Stored().WatchedBy; by != "" && o.FieldSelector != nil {
		wo.Part, _ = o.FieldSelector.RequiresExactMatch(by)
	}
	if err := watchFrom(o, &wo); err != nil {
		return err
	}
	s := &stream{h: h, q: q, r: r, options: o, sent: h.WatchEvents(q.kind)}
	if q.form.as == asPartialList {
		return ErrNotAcceptable
	}
	// What it waits for before its first event, such as a store that is away, is of its time too.
	ctx, cancel := context.WithTimeout(r.Context(), h.watchTime(o))
	defer cancel()
	s.watcher, s.initial, err = q.res.Watch(ctx, wo)
	switch {
	case ctx.Err() != nil:
		err = &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Message: ctx.Err().Error(),
			Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError}}
	case err != nil && !apierrors.IsResourceExpired(err):
		return err
	}
	s.failed = err
	out, err := s.open(w)
	if err != nil {
		return err
	}
	defer out.close()
	s.run(ctx, out)
	return nil
}

// watchFrom works out where the watch begins.
func watchFrom(o *internalversion.ListOptions, wo *registry.WatchOptions) error {
	rev := int64(0)
	if o.ResourceVersion != "" {
		var err error
		if rev, err = parseRevision(o.ResourceVersion); err != nil {
			return err
		}
	}
	initial := rev == 0
	if o.SendInitialEvents != nil {
		initial = *o.SendInitialEvents
	}
	wo.After, wo.Initial = rev, initial
	if initial && o.ResourceVersion == "" {
		wo.After = -1
	}
	return nil
}

// watchTime is how long the watch may last.
func (h *Handlers) watchTime(o *internalversion.ListOptions) time.Duration {
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		return time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return h.MinRequestTimeout + rand.N(h.MinRequestTimeout)
}

// stream is one running watch.
type stream struct {
	h       *Handlers
	q       *request
	r       *http.Request
	options *internalversion.ListOptions
	watcher *registry.Watcher
	initial []*registry.Event
	sent    interface{ Inc() }
	// failed is why there is no watcher: the only event that is sent.
	failed error
	// headed: the first Table has been sent, with the column definitions.
	headed bool
	// buffer is used for every frame: many streams send the same objects.
	buffer []byte
}

func (s *stream) open(w http.ResponseWriter) (frames, error) {
	if isWebSocket(s.r) {
		return upgrade(w, s.r)
	}
	f, ok := w.(http.Flusher)
	if !ok {
		return nil, fmt.Errorf("cannot stream over %T", w)
	}
	sendWarnings(w, s.r)
	h := w.Header()
	h.Set("Content-Type", s.q.form.mediaType)
	if s.q.form.mediaType == mediaProto {
		h.Set("Content-Type", mediaProto+";stream=watch")
	}
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	f.Flush()
	return &chunks{w, f}, nil
}

// chunks writes frames into a chunked response.
type chunks struct {
	w http.ResponseWriter
	f http.Flusher
}

func (c *chunks) frame(b []byte) error { _, err := c.w.Write(b); return err }
func (c *chunks) flush() error         { c.f.Flush(); return nil }
func (c *chunks) close()               {} // returning from the handler ends the response

// run sends until the client goes, the time is up, or the watcher ends.
func (s *stream) run(ctx context.Context, out frames) {
	if s.failed != nil {
		s.fail(out, s.failed)
		return
	}
	for _, e := range s.initial {
		if s.send(out, e) != nil {
			return
		}
	}
	if len(s.initial) > 0 && out.flush() != nil {
		return
	}
	s.initial = nil
	if o := s.options; o.SendInitialEvents != nil && *o.SendInitialEvents && o.AllowWatchBookmarks {
		if s.bookmark(out, true) != nil {
			return
		}
	}
	bookmarks := time.NewTicker(s.h.BookmarkPeriod)
	defer bookmarks.Stop()
	due := false // a bookmark, once what has come by now is sent
	for {
		events, wake, err := s.watcher.Take()
		if err != nil {
			return // the client finds the end of the stream and watches again
		}
		for _, e := range events {
			if s.send(out, e) != nil {
				return
			}
		}
		if len(events) > 0 && out.flush() != nil {
			return
		}
		if due && s.bookmark(out, false) != nil {
			return
		}
		due = false
		select {
		case <-wake:
		case <-bookmarks.C:
			if due = s.options.AllowWatchBookmarks; due {
				_ = s.watcher.Progress(ctx) // so that the next one is as new as the store can say; an old one is better than none
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *stream) bookmark(out frames, endOfInitial bool) error {
	obj := s.q.kind.Stored().New()
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetResourceVersion(strconv.FormatInt(s.watcher.Revision(), 10))
	if endOfInitial {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	obj.GetObjectKind().SetGroupVersionKind(s.q.kind.Stored().GVK())
	b, err := s.encode(apiwatch.Bookmark, obj)
	if err != nil {
		return err
	}
	if err := out.frame(b); err != nil {
		return err
	}
	return out.flush()
}

func (s *stream) fail(out frames, err error) {
	st := ToStatus(err)
	b, err := s.q.form.event(apiwatch.Error, st)
	if err == nil && out.frame(b) == nil {
		_ = out.flush()
	}
}

// send writes one event.
func (s *stream) send(out frames, e *registry.Event) error {
	s.sent.Inc()
	if s.q.form.as == asTable { // depends on the stream: only its first Table has columns
		b, err := s.encode(e.Type, e.Object)
		if err != nil {
			return err
		}
		return out.frame(b)
	}
	b, err := s.q.shared(e.Shared)
	if err != nil {
		return err
	}
	s.buffer = frame(s.buffer[:0], e.Type, b)
	return out.frame(s.buffer)
}

// encode makes the frame of an event whose object is of the hub version.
func (s *stream) encode(typ apiwatch.EventType, hub runtime.Object) ([]byte, error) {
	var obj runtime.Object
	var err error
	switch s.q.form.as {
	case asTable:
		var rows []runtime.Object
		if typ != apiwatch.Bookmark {
			rows = []runtime.Object{hub}
		}
		var t *metav1.Table
		t, err = s.h.table(s.r, s.q, rows, metav1.ListMeta{ResourceVersion: versionOf(hub)}, !s.headed)
		if err == nil && typ == apiwatch.Bookmark {
			t, err = s.bookmarkTable(t, hub)
		}
		s.headed = true
		obj = t
	case asPartial:
		obj, err = partial(hub, s.q.form.version)
	default:
		obj, err = s.q.out(hub)
	}
	if err != nil {
		return nil, err
	}
	return s.q.form.event(typ, obj)
}

// bookmarkTable puts a bookmark into a Table with one row without cells, which
// is where clients look for its annotations.
func (s *stream) bookmarkTable(t *metav1.Table, hub runtime.Object) (*metav1.Table, error) {
	p, err := partial(hub, s.q.form.version)
	if err != nil {
		return nil, err
	}
	row, err := s.q.row(hub, metav1.IncludeNone)
	row.Object.Object = p
	t.Rows = []metav1.TableRow{row}
	return t, err
}

// event makes the frame of an object that is not shared.
func (f form) event(typ apiwatch.EventType, obj runtime.Object) ([]byte, error) {
	b, err := f.encodeShort(obj)
	return frame(nil, typ, b), err
}

// frame appends an event with an encoded object: JSON is one object a line,
// protobuf is a WatchEvent behind its length in four bytes.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/util/framer/framer.go.
func frame(to []byte, typ apiwatch.EventType, object []byte) []byte {
	if !bytes.HasPrefix(object, protoMagic) {
		to = append(append(append(to, `{"type":"`...), typ...), `","object":`...)
		return append(append(to, object...), "}\n"...)
	}
	e := metav1.WatchEvent{Type: string(typ), Object: runtime.RawExtension{Raw: object}}
	n := e.Size()
	to = binary.BigEndian.AppendUint32(to, uint32(n))
	to = slices.Grow(to, n)[:len(to)+n]
	_, _ = e.MarshalToSizedBuffer(to[len(to)-n:]) // fails for want of room only
	return to
}
