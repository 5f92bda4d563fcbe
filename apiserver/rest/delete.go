package rest

import (
	"context"
	"errors"
	"net/http"

	"orrery/apiserver/admission"
	"orrery/apiserver/registry"
	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// deleteOptions reads the options from the body, or from the query when there is none.
func (q *request) deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(body) > 0 {
		codec, err := codecFor(r.Header.Get("Content-Type"), false)
		if err != nil {
			return nil, err
		}
		gvk := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"} // registered in every group
		obj, got, err := codec.Decode(body, &gvk, o)
		if runtime.IsNotRegisteredError(err) && got.Kind == gvk.Kind {
			obj, err = o, yaml.Unmarshal(body, o) // in whatever group's name
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		var ok bool
		if o, ok = obj.(*metav1.DeleteOptions); !ok {
			return nil, errors.New("decoded object cannot be converted to DeleteOptions")
		}
	} else {
		v := r.URL.Query()
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&v, o, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	o.IgnoreStoreReadErrorWithClusterBreakingPotential = nil // a feature that is off
	if o.PropagationPolicy == nil && o.OrphanDependents == nil {
		warning.Add(r.Context(), q.kind.Stored().OrphanWarning)
	}
	return o, check("DeleteOptions", validation.ValidateDeleteOptions(o))
}

// Delete removes one object, or begins its removal.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/delete.go, DeleteResource.
func (h *Handlers) Delete(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "delete")
	if err == nil && q.res == nil {
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	o, err := q.deleteOptions(r)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	obj, deleted, err := h.delete(r.Context(), q, q.Namespace, q.Name, o)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	code := http.StatusOK
	if !deleted && o.OrphanDependents != nil && !*o.OrphanDependents {
		code = http.StatusAccepted
	}
	if deleted && !q.kind.Stored().ReturnsDeleted {
		h.answerDeleted(w, r, q, obj)
		return
	}
	h.answer(w, r, q, code, obj)
}

// delete runs admission and the registry's Delete for one object.
func (h *Handlers) delete(ctx context.Context, q *request, namespace, name string, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	one := *q
	one.Attributes = clone(q.Attributes)
	one.Namespace, one.Name, one.Subresource = namespace, name, ""
	dryRun := len(o.DryRun) > 0
	a := one.attributes(ctx, admission.Delete, o, dryRun)
	if err := h.Admission.Admit(ctx, a); err != nil {
		return nil, false, err
	}
	return q.res.Delete(ctx, namespace, name, o, h.writeOptions(&one, o, dryRun))
}

func (h *Handlers) answerDeleted(w http.ResponseWriter, r *http.Request, q *request, obj runtime.Object) {
	s := &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{Name: q.Name, Group: q.kind.Group, Kind: q.kind.Resource}}
	if m, err := meta.Accessor(obj); err == nil {
		s.Details.UID = m.GetUID()
	}
	s.SetGroupVersionKind(statusGVK)
	f := q.form
	f.as = ""
	write(w, r, f, http.StatusOK, s)
}

// DeleteCollection removes all objects that the selectors let through, and
// answers with the list of them.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/delete.go, DeleteCollection.
func (h *Handlers) DeleteCollection(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "deletecollection")
	if err == nil && q.res == nil {
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	p, err := h.deleteAll(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.answerList(w, r, q, p)
}

func (h *Handlers) deleteAll(r *http.Request, q *request) (page, error) {
	lo, err := listOptions(r, q, false)
	if err != nil {
		return page{}, err
	}
	o, err := q.deleteOptions(r)
	if err != nil {
		return page{}, err
	}
	p, err := h.listWith(r, q, lo)
	if err != nil {
		return page{}, err
	}
	gone := page{meta: metav1.ListMeta{ResourceVersion: p.meta.ResourceVersion}}
	for _, obj := range p.objects() {
		m, err := meta.Accessor(obj)
		if err != nil {
			return page{}, err
		}
		out, _, err := h.delete(r.Context(), q, m.GetNamespace(), m.GetName(), o.DeepCopy())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return page{}, err
		}
		gone.items = append(gone.items, &registry.Shared{Object: out})
	}
	return gone, nil
}
