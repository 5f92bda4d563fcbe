package rest

import (
	"net/http"
	"slices"
	"strings"

	"orrery/apiserver/admission"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// Subresource serves everything below an object: views of the object itself
// (status and the like), a few that change it in a way of their own (scale,
// binding, eviction), and what the hooks bring (token, log, exec, proxy).
func (h *Handlers) Subresource(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "")
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if q.Name == "" { // a collection, by a method that it does not have
		WriteError(w, r, notAllowed())
		return
	}
	sub := q.kind.Sub(q.Subresource)
	if sub == nil {
		err = notFound()
		if q.kind.Custom != nil {
			err = apierrors.NewNotFound(q.kind.GR(), q.Name)
		}
		WriteError(w, r, err)
		return
	}
	key := q.kind.GR().String() + "/" + sub.Name
	switch connecter, creates := h.Hooks.Connect[key], h.Hooks.Create[key]; {
	case connecter != nil && (r.Method == http.MethodHead || !slices.Contains(sub.Verbs, verb(r, q.Name, false))) && sub.Name != "proxy":
		WriteError(w, r, notAllowed())
	case connecter != nil:
		h.connect(w, r, q, connecter)
	case creates != nil && q.Verb == "create":
		h.compute(w, r, q, key, newBody(sub.Kind), sub.Kind)
	case sub.Name == "scale":
		h.scale(w, r, q)
	case key == "pods/binding":
		h.bind(w, r, q)
	case key == "pods/eviction":
		h.evict(w, r, q)
	case sub.View:
		h.view(w, r, q, sub.Verbs)
	default:
		WriteError(w, r, notAllowed())
	}
}

// view serves the whole object, of which a write changes only a part.
func (h *Handlers) view(w http.ResponseWriter, r *http.Request, q *request, verbs []string) {
	for _, v := range verbs {
		if v != q.Verb {
			continue
		}
		switch v {
		case "get":
			h.get(w, r, q)
		case "update":
			h.update(w, r, q)
		case "patch":
			h.patch(w, r, q)
		}
		return
	}
	WriteError(w, r, q.notAllowed())
}

func newBody(gvk schema.GroupVersionKind) runtime.Object {
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil
	}
	return obj
}

// compute answers the POST of something that is not stored.
func (h *Handlers) compute(w http.ResponseWriter, r *http.Request, q *request, key string, into runtime.Object, gvk schema.GroupVersionKind) {
	create := h.Hooks.Create[key]
	if key == "bindings" {
		h.bind(w, r, q)
		return
	}
	if create == nil || into == nil {
		WriteError(w, r, notAllowed())
		return
	}
	body, err := readBody(r)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	obj, err := decodeInto(r.Context(), body, r.Header.Get("Content-Type"), r.URL.Query().Get("fieldValidation"), gvk, into)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	a := q.attributes(r.Context(), admission.Create, nil, false)
	a.Object = obj
	if err := h.Admission.Admit(r.Context(), a); err != nil {
		WriteError(w, r, err)
		return
	}
	if err := h.Admission.Validate(r.Context(), a); err != nil {
		WriteError(w, r, err)
		return
	}
	out, err := create(r.Context(), q.Attributes, obj)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	f := q.form
	if f.as != "" {
		f.as = ""
	}
	write(w, r, f, http.StatusCreated, out)
}

// connect hands a stream to its handler, when admission has nothing against it.
func (h *Handlers) connect(w http.ResponseWriter, r *http.Request, q *request, c Connecter) {
	if q.Subresource != "log" {
		if r.URL.Query().Has("dryRun") {
			WriteError(w, r, badRequest("dryRun is not supported")) // what is behind it would do it
			return
		}
		a := q.attributes(r.Context(), admission.Connect, nil, false)
		if err := h.Admission.Validate(r.Context(), a); err != nil {
			WriteError(w, r, err)
			return
		}
	}
	_, path, _ := strings.Cut(r.URL.Path, "/"+q.Name+"/"+q.Subresource)
	c(w, r, q.kind, q.Attributes, strings.TrimPrefix(path, "/"))
}

func badRequest(text string) error { return apierrors.NewBadRequest(text) }
