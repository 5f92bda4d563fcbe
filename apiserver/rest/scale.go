package rest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"orrery/apiserver/kinds"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// replicas is where a kind keeps what a Scale shows.
func replicas(obj runtime.Object) (want **int32, have int32, selector string, err error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector), nil
	case *appsv1.ReplicaSet:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector), nil
	case *appsv1.StatefulSet:
		return &o.Spec.Replicas, o.Status.Replicas, metav1.FormatLabelSelector(o.Spec.Selector), nil
	case *corev1.ReplicationController:
		return &o.Spec.Replicas, o.Status.Replicas, labels.Set(o.Spec.Selector).String(), nil
	}
	return nil, 0, "", fmt.Errorf("%T has no scale", obj)
}

// scaleOf shows an object as a Scale.
//
// Upstream: pkg/registry/apps/deployment/storage/storage.go, scaleFromDeployment;
// staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/etcd.go, scaleFromCustomResource.
func (q *request) scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	if c := q.kind.Custom; c != nil {
		return customScale(c.Scale, obj)
	}
	want, have, selector, err := replicas(obj)
	if err != nil {
		return nil, err
	}
	s, err := newScale(obj)
	if err != nil {
		return nil, err
	}
	s.Status = autoscalingv1.ScaleStatus{Replicas: have, Selector: selector}
	if *want != nil {
		s.Spec.Replicas = **want
	}
	return s, nil
}

// setReplicas writes the wanted number into an object.
func (q *request) setReplicas(obj runtime.Object, n int32) error {
	if c := q.kind.Custom; c != nil {
		return unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(n), c.Scale.Replicas...)
	}
	want, _, _, err := replicas(obj)
	if err != nil {
		return err
	}
	*want = &n
	return nil
}

// customScale finds the numbers where the definition says they are. A scale with an error is one that can be written, but not read.
func customScale(p *kinds.ScalePaths, obj runtime.Object) (*autoscalingv1.Scale, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || p == nil {
		return nil, fmt.Errorf("%T has no scale", obj)
	}
	want, found, err := unstructured.NestedInt64(u.Object, p.Replicas...)
	if err != nil {
		return nil, err
	}
	have, _, err := unstructured.NestedInt64(u.Object, p.StatusReplicas...)
	if err != nil {
		return nil, err
	}
	selector := ""
	if p.Selector != nil {
		if selector, _, err = unstructured.NestedString(u.Object, p.Selector...); err != nil {
			return nil, err
		}
	}
	s, err := newScale(obj)
	if err != nil {
		return nil, err
	}
	s.Spec.Replicas, s.Status = int32(want), autoscalingv1.ScaleStatus{Replicas: int32(have), Selector: selector}
	if !found {
		err = apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", "."+strings.Join(p.Replicas, ".")))
	}
	return s, err
}

// newScale has the metadata of an object.
func newScale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	s := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(),
			ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp()}}
	s.SetGroupVersionKind(scaleGVK)
	return s, nil
}

// scale reads or sets the number of replicas, whatever the kind.
func (h *Handlers) scale(w http.ResponseWriter, r *http.Request, q *request) {
	var obj runtime.Object
	var err error
	switch q.Verb {
	case "get":
		obj, err = q.res.Get(r.Context(), q.Namespace, q.Name)
	case "update", "patch":
		obj, err = h.rescale(r, q)
	default:
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	s, err := q.scaleOf(obj)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	f := q.form
	if f.as == asTable {
		h.answerScale(w, r, q, s)
		return
	}
	f.as = ""
	write(w, r, f, http.StatusOK, s)
}

func (h *Handlers) answerScale(w http.ResponseWriter, r *http.Request, q *request, s *autoscalingv1.Scale) {
	k := &kinds.Kind{Strategy: kinds.Strategy{Columns: scaleColumns, Cells: func(obj runtime.Object) ([]any, []metav1.TableRowCondition) {
		s := obj.(*autoscalingv1.Scale)
		return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), s.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")}, nil
	}}}
	as := *q
	as.kind = k
	t, err := h.table(r, &as, []runtime.Object{s}, metav1.ListMeta{ResourceVersion: s.ResourceVersion}, true)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	write(w, r, q.form, http.StatusOK, t)
}

var scaleColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name"}, {Name: "Desired", Type: "integer"},
	{Name: "Available", Type: "integer"}, {Name: "Age", Type: "string"},
}

// rescale writes spec.replicas of a Scale that was sent, or that a patch makes of the current one.
func (h *Handlers) rescale(r *http.Request, q *request) (runtime.Object, error) {
	var p *patch
	var sent *autoscalingv1.Scale
	manager := managerName(r, r.URL.Query().Get("fieldManager"))
	dryRun := r.URL.Query().Get("dryRun") == metav1.DryRunAll
	asScale := *q
	asScale.kind = &kinds.Kind{Namespaced: q.kind.Namespaced, Group: scaleGVK.Group, Version: scaleGVK.Version, Kind: scaleGVK.Kind, New: func() runtime.Object { return &autoscalingv1.Scale{} }}
	var err error
	if q.Verb == "patch" {
		if p, err = readPatch(r, &asScale); err != nil {
			return nil, err
		}
		if p.kind == types.ApplyPatchType {
			return nil, errPatchMedia
		}
	} else if sent, err = readScale(r); err != nil {
		return nil, err
	} else if err = asScale.fits(sent, true); err != nil {
		return nil, err
	}
	wo := h.writeOptions(q, &metav1.UpdateOptions{FieldManager: manager}, dryRun)
	wo.AnyVersion = true
	wo.Subresource = nil // it is the spec that changes, by the kind's own rules
	obj, _, err := q.res.Update(r.Context(), q.Namespace, q.Name, func(ctx context.Context, cur runtime.Object) (runtime.Object, error) {
		before, err := q.scaleOf(cur)
		if before == nil {
			return nil, err
		}
		after := sent
		if p != nil {
			patched, err := p.on(ctx, &asScale, before.DeepCopy())
			if err != nil {
				return nil, err
			}
			after = patched.(*autoscalingv1.Scale)
		}
		return h.withReplicas(ctx, q, cur, before, after, manager, dryRun)
	}, wo)
	return obj, err
}

func readScale(r *http.Request) (*autoscalingv1.Scale, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	obj, err := decodeInto(r.Context(), body, r.Header.Get("Content-Type"), r.URL.Query().Get("fieldValidation"), scaleGVK, &autoscalingv1.Scale{})
	if err != nil {
		return nil, err
	}
	return obj.(*autoscalingv1.Scale), nil
}

func (h *Handlers) withReplicas(ctx context.Context, q *request, cur runtime.Object, before, after *autoscalingv1.Scale, manager string, dryRun bool) (runtime.Object, error) {
	if after.Spec.Replicas < 0 && q.kind.Custom == nil { // a custom resource has a schema for that
		return nil, apierrors.NewInvalid(scaleGVK.GroupKind(), q.Name, field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), after.Spec.Replicas, "must be greater than or equal to 0")})
	}
	next := cur.DeepCopyObject()
	if err := q.setReplicas(next, after.Spec.Replicas); err != nil {
		return nil, err
	}
	m, err := meta.Accessor(next)
	if err != nil {
		return nil, err
	}
	m.SetUID(after.UID)
	m.SetResourceVersion("")
	if after.ResourceVersion != before.ResourceVersion {
		m.SetResourceVersion(after.ResourceVersion)
	}
	a := *q
	return h.admitUpdate(ctx, &a, cur, next, manager, &metav1.UpdateOptions{FieldManager: manager}, dryRun)
}
