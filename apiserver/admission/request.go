package admission

import (
	"context"

	"orrery/apiserver/kinds"

	reviewv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Request describes a write in the version of row, but for the objects.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/condition.go, CreateAdmissionRequest.
func (m Matcher) Request(ctx context.Context, a *Attributes, row *kinds.Kind) *reviewv1.AdmissionRequest {
	asked, dryRun := m.Requested(ctx, a), a.DryRun
	r := &reviewv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(a.kindIn(row)), Resource: metav1.GroupVersionResource(row.GVR()), SubResource: a.Subresource,
		RequestSubResource: a.Subresource, Name: a.Name, Namespace: a.Namespace, Operation: reviewv1.Operation(a.Operation), DryRun: &dryRun,
		Options: runtime.RawExtension{Object: a.options()},
	}
	requestKind, requestResource := metav1.GroupVersionKind(a.kindIn(asked)), metav1.GroupVersionResource(asked.GVR())
	r.RequestKind, r.RequestResource = &requestKind, &requestResource
	if a.IsNamespace() {
		r.Namespace = a.Name
	}
	if u := a.User; u != nil {
		r.UserInfo = authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
		for key, values := range u.Extra {
			if r.UserInfo.Extra == nil {
				r.UserInfo.Extra = map[string]authenticationv1.ExtraValue{}
			}
			r.UserInfo.Extra[key] = values
		}
	}
	return r
}

// kindIn is the kind of the body: of the resource, or of the subresource where it has one of its own.
func (a *Attributes) kindIn(row *kinds.Kind) schema.GroupVersionKind {
	if sub := row.Sub(a.Subresource); sub != nil && sub.Kind.Kind != "" && !row.IsOne(a.Object) {
		return sub.Kind
	}
	return row.GVK()
}

// In is a copy of an object of the write, in the version of row; what is not of the resource's kind stays as it is.
func (a *Attributes) In(row *kinds.Kind, obj runtime.Object) (runtime.Object, error) {
	if obj == nil {
		return nil, nil
	}
	obj = obj.DeepCopyObject()
	if a.Kind.IsOne(obj) {
		var err error
		if obj, err = row.Convert(obj); err != nil {
			return nil, err
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(a.kindIn(row))
	return obj, nil
}

// options are those of the write, with their kind.
func (a *Attributes) options() runtime.Object {
	o := a.Options
	if o == nil {
		return nil
	}
	if p, ok := o.(*metav1.PatchOptions); ok { // admission sees an update
		o = &metav1.UpdateOptions{DryRun: p.DryRun, FieldManager: p.FieldManager, FieldValidation: p.FieldValidation}
	}
	o = o.DeepCopyObject()
	kind := ""
	switch o.(type) {
	case *metav1.CreateOptions:
		kind = "CreateOptions"
	case *metav1.UpdateOptions:
		kind = "UpdateOptions"
	case *metav1.DeleteOptions:
		kind = "DeleteOptions"
	}
	o.GetObjectKind().SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind(kind))
	return o
}
