package registry

import (
	"context"
	"reflect"
	"slices"

	"orrery/apiserver/kinds"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What follows treats any object as three parts: metadata, status, and the
// rest, which is its desired state. Go types are taken apart by reflection,
// custom resources by the keys of their map.

const (
	typeMeta   = "TypeMeta"
	objectMeta = "ObjectMeta"
	statusPart = "Status"
)

// parts calls do with pointers to the same field of both objects (which are of one Go type).
func parts(a, b runtime.Object, do func(name string, a, b reflect.Value)) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range va.NumField() {
		do(va.Type().Field(i).Name, va.Field(i), vb.Field(i))
	}
}

// clearStatus empties the status, if the kind has one.
func clearStatus(obj runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		delete(u.Object, "status")
		return
	}
	if f := reflect.ValueOf(obj).Elem().FieldByName(statusPart); f.IsValid() {
		f.SetZero()
	}
}

// keepStatus puts old's status into obj.
func keepStatus(obj, old runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		o := old.(*unstructured.Unstructured)
		if s, ok := o.Object["status"]; ok {
			u.Object["status"] = runtime.DeepCopyJSONValue(s)
		} else {
			delete(u.Object, "status")
		}
		return
	}
	parts(obj, old, func(name string, a, b reflect.Value) {
		if name == statusPart {
			a.Set(b)
		}
	})
}

// keepDesired puts old's desired state into obj, so that only status and metadata are new; of a custom resource only the status.
func keepDesired(obj, old runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		o := old.DeepCopyObject().(*unstructured.Unstructured)
		o.SetManagedFields(u.GetManagedFields())
		if v, ok := u.Object["status"]; ok {
			o.Object["status"] = v
		} else {
			delete(o.Object, "status")
		}
		u.Object = o.Object
		return
	}
	parts(obj, old, func(name string, a, b reflect.Value) {
		if name != typeMeta && name != objectMeta && name != statusPart {
			a.Set(b)
		}
	})
}

// sameDesired compares the desired states.
func sameDesired(obj, old runtime.Object) bool {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		o := old.(*unstructured.Unstructured)
		strip := func(m map[string]any) map[string]any {
			out := map[string]any{}
			for k, v := range m {
				if k != "metadata" && k != "status" {
					out[k] = v
				}
			}
			return out
		}
		return apiequality.Semantic.DeepEqual(strip(u.Object), strip(o.Object))
	}
	same := true
	parts(obj, old, func(name string, a, b reflect.Value) {
		if name != typeMeta && name != objectMeta && name != statusPart {
			same = same && apiequality.Semantic.DeepEqual(a.Interface(), b.Interface())
		}
	})
	return same
}

func prepareForCreate(k *kinds.Kind, obj runtime.Object, m metav1.Object) {
	if k.Sub("status") != nil && !k.KeepStatusOnCreate {
		clearStatus(obj)
	}
	if k.Generation {
		m.SetGeneration(1)
	}
}

func prepareForUpdate(ctx context.Context, k *kinds.Kind, sub *kinds.Subresource, obj, old runtime.Object, m metav1.Object) {
	switch {
	case sub == nil:
		if k.Sub("status") != nil {
			keepStatus(obj, old)
		}
		if k.PrepareForUpdate != nil {
			k.PrepareForUpdate(ctx, obj, old)
		}
	case sub.PrepareForUpdate != nil:
		sub.PrepareForUpdate(ctx, obj, old)
	default:
		keepDesired(obj, old)
	}
	om, err := meta.Accessor(old)
	if err == nil && k.Generation && (sub == nil || sub.View) && m.GetGeneration() == om.GetGeneration() && !sameDesired(obj, old) {
		m.SetGeneration(om.GetGeneration() + 1)
	}
}

// anyFinalizer are the groups whose kinds, as custom ones, may have finalizers without a domain: a CustomResourceDefinition has one.
var anyFinalizer = []string{"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "coordination.k8s.io", "node.k8s.io", "policy"}

func validateMeta(k *kinds.Kind, m metav1.Object) field.ErrorList {
	name := k.ValidateName
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(m, k.Namespaced, name, field.NewPath("metadata"))
	for i, f := range m.GetFinalizers() {
		if k.Custom == nil && !slices.Contains(anyFinalizer, k.Group) {
			errs = append(errs, kinds.ValidateFinalizer(f, field.NewPath("metadata", "finalizers").Index(i))...)
		}
	}
	return errs
}

func validateMetaUpdate(k *kinds.Kind, m, old metav1.Object) field.ErrorList {
	return append(validateMeta(k, m), validation.ValidateObjectMetaAccessorUpdate(m, old, field.NewPath("metadata"))...)
}

// sameButTimes reports that an update changes nothing but the times in
// managedFields: it is not worth a write.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager, NewManagedFieldsUpdater
// and endpoints/handlers/fieldmanager/equality.go, IgnoreManagedFieldsTimestampsTransformer.
func sameButTimes(k *kinds.Kind, obj, old runtime.Object) bool {
	m, err1 := meta.Accessor(obj)
	om, err2 := meta.Accessor(old)
	if err1 != nil || err2 != nil || len(m.GetManagedFields()) != len(om.GetManagedFields()) {
		return false
	}
	fields, timed := m.GetManagedFields(), false
	without := make([]metav1.ManagedFieldsEntry, len(fields))
	for i, f := range fields {
		o := om.GetManagedFields()[i]
		timed = timed || !f.Time.Equal(o.Time)
		f.Time = o.Time
		without[i] = f
	}
	if !timed {
		return false
	}
	m.SetManagedFields(without)
	defer m.SetManagedFields(fields)
	a, err1 := Encode(k, obj)
	b, err2 := Encode(k, old)
	return err1 == nil && err2 == nil && string(a) == string(b)
}
