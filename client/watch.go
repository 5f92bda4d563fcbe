package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// Event is one change of a watched collection. Type is watch.Added, Modified,
// Deleted or Bookmark; the object of a bookmark carries only its
// resourceVersion (and, at the end of a watch-list, its annotation).
type Event[T Object] struct {
	Type   watch.EventType
	Object T
}

// Watch iterates over the changes of a collection from opts.ResourceVersion on.
// The stream ends without an error when the server ends it, and with one
// (yielded once, last) when it breaks: one that wraps io.ErrUnexpectedEOF for a
// cut connection, a StatusError for an ERROR event, such as 410 Gone for a version
// that is too old. Breaking out of the loop closes the stream.
func (r *Resource[T]) Watch(ctx context.Context, namespace string, opts metav1.ListOptions) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		var zero Event[T]
		opts.Watch = true
		// Ending the context also ends a read that waits for the next frame.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := r.c.do(ctx, request{method: http.MethodGet, path: r.path(namespace, ""), query: listQuery(opts), accept: streamAccept(r.accept)})
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		frames, err := decoder(resp)
		if err != nil {
			yield(zero, err)
			return
		}
		for {
			ev, err := nextEvent(frames, r.newT)
			if err == io.EOF {
				return
			}
			if !yield(ev, err) || err != nil {
				return
			}
		}
	}
}

// streamAccept asks for protobuf frames where r.accept asks for protobuf.
func streamAccept(accept string) string {
	if accept == mediaProtobuf+","+mediaJSON {
		return mediaProtobuf + ";stream=watch," + mediaJSON
	}
	return accept
}

// decoder reads watch frames in the encoding that the response says it has.
func decoder(resp *http.Response) (streaming.Decoder, error) {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("watch: content type %q: %w", resp.Header.Get("Content-Type"), err)
	}
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	if !ok || info.StreamSerializer == nil {
		return nil, fmt.Errorf("watch: no stream of content type %q", media)
	}
	return streaming.NewDecoder(info.StreamSerializer.Framer.NewFrameReader(resp.Body), info.StreamSerializer.Serializer), nil
}

func nextEvent[T Object](frames streaming.Decoder, newT func() T) (ev Event[T], err error) {
	var frame metav1.WatchEvent
	switch _, _, err := frames.Decode(nil, &frame); {
	case err == nil:
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return ev, err
	default: // the transport has many words for it
		return ev, fmt.Errorf("watch: %w: %w", io.ErrUnexpectedEOF, err)
	}
	if frame.Type == string(watch.Error) {
		var status metav1.Status
		if err := decodeInto(frame.Object.Raw, &status); err != nil {
			return ev, fmt.Errorf("watch: error event: %w", err)
		}
		return ev, &apierrors.StatusError{ErrStatus: status}
	}
	ev.Type, ev.Object = watch.EventType(frame.Type), newT()
	if err := decodeInto(frame.Object.Raw, ev.Object); err != nil {
		return ev, fmt.Errorf("watch: %w", err)
	}
	return ev, nil
}
