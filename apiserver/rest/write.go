package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"orrery/apiserver/admission"
	"orrery/apiserver/registry"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
)

// Create stores the object in the body.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/create.go, createHandler.
func (h *Handlers) Create(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "create")
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if q.res == nil {
		h.compute(w, r, q, q.kind.GR().String(), q.kind.New(), q.kind.GVK())
		return
	}
	obj, err := h.create(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.answer(w, r, q, http.StatusCreated, obj)
}

func (h *Handlers) create(r *http.Request, q *request) (runtime.Object, error) {
	o, err := query(r, func(v *url.Values, o *metav1.CreateOptions, _ any) error {
		return metav1.Convert_url_Values_To_v1_CreateOptions(v, o, nil)
	})
	if err != nil {
		return nil, err
	}
	if err := check("CreateOptions", validation.ValidateCreateOptions(&o)); err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	obj, err := q.decode(ctx, body, r.Header.Get("Content-Type"), o.FieldValidation)
	if err != nil {
		return nil, err
	}
	if err := q.fits(obj, false); err != nil {
		return nil, err
	}
	hub, err := h.admitCreate(ctx, q, obj, managerName(r, o.FieldManager), &o, len(o.DryRun) > 0)
	if err != nil {
		return nil, err
	}
	return q.res.Create(ctx, q.Namespace, hub, h.writeOptions(q, &o, len(o.DryRun) > 0))
}

// admitCreate brings a decoded object to what the registry is given: in the hub
// version, with defaults, managedFields, and what admission adds.
func (h *Handlers) admitCreate(ctx context.Context, q *request, obj runtime.Object, manager string, options runtime.Object, dryRun bool) (runtime.Object, error) {
	obj, err := h.defaulted(q, obj)
	if err != nil {
		return nil, err
	}
	if manager != "-" { // server-side apply has done this already
		empty := q.kind.New()
		empty.GetObjectKind().SetGroupVersionKind(q.kind.GVK())
		if obj, err = h.managers.update(q.kind, q.Subresource, empty, obj, manager); err != nil {
			return nil, err
		}
	}
	hub, err := q.kind.Unconvert(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	m, err := meta.Accessor(hub)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if q.kind.Namespaced {
		m.SetNamespace(q.Namespace)
	}
	a := q.attributes(ctx, admission.Create, options, dryRun)
	a.Object, a.Name = hub, m.GetName()
	if err := h.Admission.Admit(ctx, a); err != nil {
		return nil, err
	}
	return a.Object, nil
}

// defaulted fills in the kind's defaults, in the version of the path.
func (h *Handlers) defaulted(q *request, obj runtime.Object) (runtime.Object, error) {
	hub, err := q.kind.Unconvert(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	q.res.Default(hub)
	return q.kind.Convert(hub)
}

// writeOptions lets validating admission have the last word on a write.
func (h *Handlers) writeOptions(q *request, options runtime.Object, dryRun bool) registry.WriteOptions {
	o := registry.WriteOptions{DryRun: dryRun, Version: q.kind}
	if q.Subresource != "" {
		o.Subresource = q.kind.Stored().Sub(q.Subresource)
	}
	o.Validate = func(ctx context.Context, obj, old runtime.Object) error {
		op := admission.Update
		switch {
		case old == nil:
			op = admission.Create
		case obj == nil:
			op = admission.Delete
		}
		a := q.attributes(ctx, op, options, dryRun)
		a.Object, a.Old = obj, old
		if m, err := meta.Accessor(obj); obj != nil && err == nil {
			a.Name = m.GetName()
		}
		return h.Admission.Validate(ctx, a)
	}
	return o
}

// fits checks that the body's namespace and name are those of the path.
func (q *request) fits(obj runtime.Object, withName bool) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	switch ns := m.GetNamespace(); {
	case q.kind.Namespaced && ns == "":
		m.SetNamespace(q.Namespace)
	case !q.kind.Namespaced && ns != "":
		m.SetNamespace("")
	case q.kind.Namespaced && ns != q.Namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if !withName {
		return nil
	}
	switch name := m.GetName(); {
	case name == "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", q.Name))
	case name != q.Name:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, q.Name))
	}
	return nil
}

// Update replaces an object, or the part of it that a subresource shows, by the body.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/update.go, UpdateResource.
func (h *Handlers) Update(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "update")
	if err == nil && q.res == nil {
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.update(w, r, q)
}

func (h *Handlers) update(w http.ResponseWriter, r *http.Request, q *request) {
	obj, created, err := h.replace(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	h.answer(w, r, q, code, obj)
}

func (h *Handlers) replace(r *http.Request, q *request) (runtime.Object, bool, error) {
	o, err := query(r, func(v *url.Values, o *metav1.UpdateOptions, _ any) error {
		return metav1.Convert_url_Values_To_v1_UpdateOptions(v, o, nil)
	})
	if err != nil {
		return nil, false, err
	}
	if err := check("UpdateOptions", validation.ValidateUpdateOptions(&o)); err != nil {
		return nil, false, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, false, err
	}
	sent, err := q.decode(r.Context(), body, r.Header.Get("Content-Type"), o.FieldValidation)
	if err != nil {
		return nil, false, err
	}
	if err := q.fits(sent, true); err != nil {
		return nil, false, err
	}
	if sent, err = h.defaulted(q, sent); err != nil {
		return nil, false, err
	}
	manager, dryRun := managerName(r, o.FieldManager), len(o.DryRun) > 0
	change := func(ctx context.Context, cur runtime.Object) (runtime.Object, error) {
		obj := sent.DeepCopyObject()
		if cur == nil {
			return h.admitCreate(ctx, q, obj, manager, &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager}, dryRun)
		}
		return h.admitUpdate(ctx, q, cur, obj, manager, &o, dryRun)
	}
	wo := h.writeOptions(q, &o, dryRun)
	wo.CreateMissing = q.kind.Stored().AllowCreateOnUpdate && q.Subresource == ""
	return q.res.Update(r.Context(), q.Namespace, q.Name, change, wo)
}

// admitUpdate brings a new state (of the path's version) on top of the current
// one (of the hub's) to what the registry is given.
func (h *Handlers) admitUpdate(ctx context.Context, q *request, cur, obj runtime.Object, manager string, options runtime.Object, dryRun bool) (runtime.Object, error) {
	if manager != "-" {
		live, err := q.out(cur.DeepCopyObject())
		if err != nil {
			return nil, err
		}
		if obj, err = h.managers.update(q.kind, q.Subresource, live, obj, manager); err != nil {
			return nil, err
		}
	}
	hub, err := q.kind.Unconvert(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	a := q.attributes(ctx, admission.Update, options, dryRun)
	a.Object, a.Old = hub, cur
	if err := h.Admission.Admit(ctx, a); err != nil {
		return nil, err
	}
	return a.Object, nil
}
