package rest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"

	"orrery/apiserver/registry"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// An object that is listed or watched is encoded once in each form that clients
// ask for, and the bytes are kept beside it in the cache. A watch puts them
// behind the type of the event; a list is its head and then the bytes of one
// object after the other, without the kind and apiVersion that they begin with.

// protoMagic begins everything in protobuf.
var protoMagic = []byte("k8s\x00")

// sharedForm tells which encodings of an object are the same.
type sharedForm struct {
	mediaType, as, version string
	gv                     schema.GroupVersion
}

// shared is an object in the form that the client asked for: as itself or as
// its metadata.
func (q *request) shared(s *registry.Shared) ([]byte, error) {
	return s.Once(sharedForm{q.form.mediaType, q.form.as, q.form.version, q.kind.GV()}, func(hub runtime.Object) ([]byte, error) {
		var obj runtime.Object
		var err error
		if q.form.as == asPartial {
			obj, err = partial(hub, q.form.version)
		} else {
			obj, err = q.out(hub)
		}
		if err != nil {
			return nil, err
		}
		return q.form.encodeShort(obj)
	})
}

// encodeShort is encode for machines: JSON without indentation and end of line, or protobuf.
func (f form) encodeShort(obj runtime.Object) ([]byte, error) {
	if f.mediaType == mediaProto {
		if b, ok, err := f.protobuf(obj); ok {
			return bytes.Clone(b), err // as long as it lives, without room to grow
		}
	}
	return json.Marshal(obj)
}

// quick reports that a list can be put together from the encodings of its objects.
func (q *request) quick() bool {
	_, generated := q.kind.New().(interface{ Marshal() ([]byte, error) }) // as all but custom resources are
	return generated && (q.form.mediaType == mediaProto || q.form.mediaType == mediaJSON && !q.form.pretty)
}

// sendList answers with a list of objects as they are.
func (q *request) sendList(w http.ResponseWriter, r *http.Request, p page) {
	pieces, err := q.listPieces(p)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	answerHeaders(w, r, q.form)
	send(w, r, http.StatusOK, pieces...)
}

func (q *request) listPieces(p page) ([][]byte, error) {
	items := make([][]byte, len(p.items))
	for i, it := range p.items {
		var err error
		if items[i], err = q.shared(it); err != nil {
			return nil, err
		}
	}
	gvk := q.kind.GVK()
	if q.form.mediaType == mediaProto {
		return protoList(gvk, p, items)
	}
	return jsonList(gvk, p, items)
}

func jsonList(gvk schema.GroupVersionKind, p page, items [][]byte) ([][]byte, error) {
	m, err := json.Marshal(&p.meta)
	if err != nil {
		return nil, err
	}
	typed := func(kind string) string {
		return `{"kind":"` + kind + `","apiVersion":"` + gvk.GroupVersion().String() + `",`
	}
	pieces := make([][]byte, 0, 2+2*len(items))
	pieces = append(pieces, []byte(typed(gvk.Kind+"List")+`"metadata":`+string(m)+`,"items":[`))
	begin, next, prefix := []byte("{"), []byte(",{"), []byte(typed(gvk.Kind))
	for i, b := range items {
		rest, ok := bytes.CutPrefix(b, prefix)
		if !ok {
			return nil, errors.New("an encoded object does not begin with its kind")
		}
		pieces = append(pieces, begin, rest)
		if i == 0 {
			begin = next
		}
	}
	return append(pieces, []byte("]}\n")), nil
}

// Wire tags of the messages that make a list; the numbers of the fields are part of the API.
const (
	tagTypeMeta        = 1<<3 | 2 // in runtime.Unknown
	tagRaw             = 2<<3 | 2
	tagContentEncoding = 3<<3 | 2
	tagContentType     = 4<<3 | 2
	tagListMeta        = 1<<3 | 2 // in every kind of list
	tagItem            = 2<<3 | 2
)

// protoList is a runtime.Unknown around a list, whose items are the messages
// inside the items' own envelopes.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf, Serializer.Encode.
func protoList(gvk schema.GroupVersionKind, p page, items [][]byte) ([][]byte, error) {
	gvk.Kind += "List"
	version, kind := gvk.ToAPIVersionAndKind()
	tm, err := (&runtime.TypeMeta{APIVersion: version, Kind: kind}).Marshal()
	if err != nil {
		return nil, err
	}
	m, err := p.meta.Marshal()
	if err != nil {
		return nil, err
	}
	body := part(nil, tagListMeta, m)
	size := len(body)
	pieces := make([][]byte, 2, 3+2*len(items))
	for _, b := range items {
		raw, err := message(b)
		if err != nil {
			return nil, err
		}
		head := binary.AppendUvarint([]byte{tagItem}, uint64(len(raw)))
		pieces = append(pieces, head, raw)
		size += len(head) + len(raw)
	}
	pieces[0] = part(append([]byte(nil), protoMagic...), tagTypeMeta, tm)
	pieces[0] = binary.AppendUvarint(append(pieces[0], tagRaw), uint64(size))
	pieces[1] = body
	return append(pieces, []byte{tagContentEncoding, 0, tagContentType, 0}), nil
}

func part(to []byte, tag byte, value []byte) []byte {
	return append(binary.AppendUvarint(append(to, tag), uint64(len(value))), value...)
}

// message takes an object's own message out of its envelope.
func message(b []byte) ([]byte, error) {
	b = bytes.TrimPrefix(b, protoMagic)
	for len(b) > 0 {
		n, width := binary.Uvarint(b[1:])
		if width <= 0 || n > uint64(len(b)-1-width) {
			break
		}
		value := b[1+width : 1+width+int(n)]
		if b[0] == tagRaw {
			return value, nil
		}
		b = b[1+width+int(n):]
	}
	return nil, errors.New("an encoded object has no message inside")
}
