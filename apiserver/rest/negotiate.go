package rest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"mime"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	mediaJSON  = "application/json"
	mediaYAML  = "application/yaml"
	mediaProto = "application/vnd.kubernetes.protobuf"

	asTable       = "Table"
	asPartial     = "PartialObjectMetadata"
	asPartialList = "PartialObjectMetadataList"
)

// form is how a client wants its answer.
type form struct {
	mediaType string
	// as is empty, or what objects are to be turned into.
	as string
	// version of meta.k8s.io for as: v1 or v1beta1.
	version string
	pretty  bool
}

// Clause is one of the forms in which a client takes an answer.
type Clause struct {
	MediaType string
	Params    map[string]string
	quality   float64
}

// Accepted are the forms in a request's Accept header, the best first; a client that says nothing takes any.
//
// Upstream: github.com/munnerz/goautoneg, ParseAccept.
func Accepted(r *http.Request) (all []Clause) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if accept == "" {
		accept = "*/*"
	}
	for _, text := range strings.Split(accept, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		c := Clause{media, params, 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.quality = q
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b Clause) int { return cmp.Compare(b.quality, a.quality) })
	return all
}

// negotiate picks the first form that we can make.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/negotiation/negotiate.go.
func negotiate(r *http.Request) (form, error) {
	known := false
	for _, c := range Accepted(r) {
		f, params := form{as: c.Params["as"], version: c.Params["v"]}, c.Params
		switch c.MediaType {
		case mediaJSON, "*/*", "application/*":
			f.mediaType = mediaJSON
			f.pretty = wantsPretty(r)
		case mediaYAML:
			f.mediaType = mediaYAML
		case mediaProto:
			f.mediaType = mediaProto
		default:
			continue
		}
		known = true
		if f.known(params["g"]) {
			return f, nil
		}
	}
	if !known {
		return form{}, ErrNotRepresentable
	}
	return form{}, ErrNotAcceptable
}

// known reports whether the transformation that is asked for exists.
func (f form) known(group string) bool {
	switch f.as {
	case "":
		return true
	case asTable:
		return group == metav1.GroupName && (f.version == "v1" || f.version == "v1beta1") && f.mediaType != mediaProto
	case asPartial, asPartialList:
		return group == metav1.GroupName && (f.version == "v1" || f.version == "v1beta1")
	}
	return false
}

func notAcceptable(text string) error {
	return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, text)
}

// internalType is what upstream calls the type of an object in such texts.
func internalType(obj runtime.Object) string {
	t := reflect.TypeOf(obj).Elem()
	pkg := t.PkgPath()
	if strings.HasPrefix(path.Base(pkg), "v1") || strings.HasPrefix(path.Base(pkg), "v2") {
		pkg = path.Dir(pkg) // the package of all versions of the group
	}
	return "*" + path.Base(pkg) + "." + t.Name()
}

// ErrNotAcceptable is for forms that a known media type cannot have.
var ErrNotAcceptable = notAcceptable("only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf")

const notRepresentable = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf"

// ErrNotRepresentable is for media types that no answer has (what can be watched has more of them): upstream's router
// says this, its handlers the other.
var (
	ErrNotRepresentable     = byRouter(notRepresentable)
	errListNotRepresentable = byRouter(notRepresentable + ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch")
)

func byRouter(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotAcceptable,
		Reason: metav1.StatusReasonNotAcceptable, Message: text, Details: &metav1.StatusDetails{}}}
}

var errUnsupportedMedia = statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
	"the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")

// wantsPretty: people at a terminal or browser get indented JSON.
func wantsPretty(r *http.Request) bool {
	if p := r.URL.Query().Get("pretty"); p != "" {
		b, err := strconv.ParseBool(p)
		return b || err != nil
	}
	ua := r.UserAgent()
	return strings.HasPrefix(ua, "curl") || strings.HasPrefix(ua, "Wget") || strings.HasPrefix(ua, "Mozilla/5.0")
}

var protoCodec = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// encode makes the bytes of an object whose TypeMeta is set.
func (f form) encode(obj runtime.Object) ([]byte, error) {
	switch f.mediaType {
	case mediaProto:
		if b, ok, err := f.protobuf(obj); ok {
			return b, err
		}
		return json.Marshal(obj)
	case mediaYAML:
		return yaml.Marshal(obj)
	}
	if f.pretty { // for people, and without an end of line, as upstream
		return json.MarshalIndent(obj, "", "  ")
	}
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(obj)
	return b.Bytes(), err
}

// protobuf encodes if the object has a protobuf form; custom resources have none.
func (f form) protobuf(obj runtime.Object) ([]byte, bool, error) {
	if _, ok := obj.(runtime.ProtobufMarshaller); !ok {
		if _, ok := obj.(interface{ Marshal() ([]byte, error) }); !ok {
			return nil, false, nil
		}
	}
	var b bytes.Buffer
	err := protoCodec.Encode(obj, &b)
	return b.Bytes(), true, err
}

// write sends an object; its TypeMeta must be set.
func write(w http.ResponseWriter, r *http.Request, f form, code int, obj runtime.Object) {
	body, err := f.encode(obj)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerHeaders(w, r, f)
	send(w, r, code, body)
}

func answerHeaders(w http.ResponseWriter, r *http.Request, f form) {
	sendWarnings(w, r)
	h := w.Header()
	h.Set("Content-Type", f.mediaType)
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
}

func sendWarnings(w http.ResponseWriter, r *http.Request) {
	for _, text := range warning.Texts(r.Context()) {
		w.Header().Add("Warning", "299 - "+strconv.Quote(text))
	}
}
