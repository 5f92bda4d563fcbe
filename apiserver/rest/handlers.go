package rest

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is what the handlers need.
type Config struct {
	Table     *kinds.Table
	Registry  *registry.Registry
	Admission admission.Chain
	Hooks     Hooks
	Log       *slog.Logger
	// Types describes kinds that client-go's apply configurations do not know, for
	// server-side apply. It returns nil for those that they know.
	Types func(k *kinds.Kind) (managedfields.TypeConverter, error)
	// WatchEvents counts the events that watches of a kind are sent.
	WatchEvents func(k *kinds.Kind) interface{ Inc() }
	// BookmarkPeriod is how often a quiet watch is told how far it is.
	BookmarkPeriod time.Duration
	// MinRequestTimeout is the least time a watch lives when the client says nothing (it is up to twice that).
	MinRequestTimeout time.Duration
}

// Handlers serve every resource of the table. Make them with New.
type Handlers struct {
	Config
	managers *managers
}

// layout is the row whose columns show objects: versions of a built-in kind share theirs.
func (q *request) layout() *kinds.Kind {
	if q.kind.Custom != nil {
		return q.kind
	}
	return q.kind.Stored()
}

// New returns handlers.
func New(c Config) *Handlers {
	return &Handlers{Config: c, managers: newManagers(c.Table, c.Types)}
}

// request is what every handler begins with.
type request struct {
	*auth.Attributes
	kind *kinds.Kind
	res  *registry.Resource
	form form
}

// begin finds the row of the request's resource and the form of its answer. verb is
// what the main resource must have; empty for subresources.
func (h *Handlers) begin(r *http.Request, verb string) (*request, error) {
	a := auth.AttributesFrom(r.Context())
	if a == nil {
		a = ParseRequest(r)
	}
	k := h.Table.Lookup(a.APIGroup, a.APIVersion, a.Resource)
	switch {
	case k == nil && !h.Table.HasVersion(schema.GroupVersion{Group: a.APIGroup, Version: a.APIVersion}):
		return nil, errNoVersion
	case k == nil:
		return nil, notFound()
	}
	if verb != "" && a.Subresource != "" { // such as /namespaces/default/status/x
		return nil, notFound()
	}
	q := &request{Attributes: a, kind: k}
	namespaced := a.Namespace != "" && !(k.Resource == "namespaces" && k.Group == "")
	switch {
	case namespaced && !k.Namespaced, k.Namespaced && !namespaced && a.Name != "":
		return nil, notFound()
	case verb != "" && !k.HasVerb(verb), verb == "create" && k.Namespaced && !namespaced && !k.Virtual(),
		verb == "deletecollection" && k.Namespaced && !namespaced:
		return nil, notAllowed()
	}
	if !k.Namespaced {
		q.Attributes = clone(a)
		q.Namespace = ""
	}
	f, err := negotiate(r)
	switch {
	case err == ErrNotRepresentable && k.Custom != nil: // upstream's router knows nothing of them
		err = ErrNotAcceptable
	case err == ErrNotRepresentable && verb == "list":
		err = errListNotRepresentable
	}
	if err != nil {
		return nil, err
	}
	if k.Custom != nil {
		if f.as == "" && f.mediaType == mediaProto {
			f.mediaType = mediaJSON // custom resources have no protobuf form
		}
	}
	warning.Add(r.Context(), k.Deprecated)
	q.form = f
	if !k.Virtual() {
		q.res = h.Registry.For(k)
	}
	return q, nil
}

func clone(a *auth.Attributes) *auth.Attributes {
	c := *a
	return &c
}

// out brings an object of the hub version to the version of the path.
func (q *request) out(obj runtime.Object) (runtime.Object, error) {
	v, err := q.kind.Convert(obj)
	if err == nil && q.kind.Hub != nil {
		v.GetObjectKind().SetGroupVersionKind(q.kind.GVK())
	}
	return v, err
}

// answer sends one object in the form that the client asked for.
func (h *Handlers) answer(w http.ResponseWriter, r *http.Request, q *request, code int, hub runtime.Object) {
	var out runtime.Object
	var err error
	switch q.form.as {
	case "":
		out, err = q.out(hub)
	case asTable:
		out, err = h.table(r, q, []runtime.Object{hub}, metav1.ListMeta{ResourceVersion: versionOf(hub)}, true)
	case asPartial:
		out, err = partial(hub, q.form.version)
	default:
		err = notAcceptable("you requested PartialObjectMetadataList, but the requested object is not a list (" + internalType(hub) + ")")
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	write(w, r, q.form, code, out)
}

// Get answers with one object.
func (h *Handlers) Get(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "get")
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.get(w, r, q)
}

func (h *Handlers) get(w http.ResponseWriter, r *http.Request, q *request) {
	var obj runtime.Object
	var err error
	if rv := r.URL.Query().Get("resourceVersion"); q.res == nil {
		obj, err = h.computedOne(r, q)
	} else if rv == "" {
		obj, err = q.res.Get(r.Context(), q.Namespace, q.Name)
	} else if n, perr := parseRevision(rv); perr != nil {
		err = perr // a 500, as upstream
	} else {
		obj, err = q.res.CachedAt(r.Context(), q.Namespace, q.Name, n)
	}
	if err != nil {
		WriteError(w, r, named(err, q))
		return
	}
	h.answer(w, r, q, http.StatusOK, obj)
}

// named puts the object's name into a NotFound that came without.
func named(err error, q *request) error {
	if apierrors.IsNotFound(err) && q.Name != "" && q.res != nil {
		return apierrors.NewNotFound(q.kind.GR(), q.Name)
	}
	return err
}

// check makes a 422 of the errors in a request's options.
func check(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// query parses a URL's query into options with one of metav1's generated funcs.
func query[T any](r *http.Request, parse func(*url.Values, *T, any) error) (T, error) {
	var o T
	v := r.URL.Query()
	if err := parse(&v, &o, nil); err != nil {
		return o, apierrors.NewBadRequest(err.Error())
	}
	return o, nil
}

// attributes are what admission is told about a write.
func (q *request) attributes(ctx context.Context, op admission.Operation, options runtime.Object, dryRun bool) *admission.Attributes {
	return &admission.Attributes{
		Operation: op, Kind: q.kind.Stored(), Subresource: q.Subresource, Namespace: q.Namespace, Name: q.Name,
		Options: options, DryRun: dryRun, User: auth.UserFrom(ctx),
	}
}
