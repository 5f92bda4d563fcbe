package kinds

import (
	"context"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// disabled are the fields of features that are off by default. What a client says in them is dropped, unless the object has them already.
//
// Upstream: pkg/features/kube_features.go for which are off, dropDisabledFields in pkg/api/<resource>/util.go and in the strategies.
var disabled = map[reflect.Type][]string{
	reflect.TypeFor[corev1.Lifecycle]():                        {"StopSignal"},
	reflect.TypeFor[corev1.PodSpec]():                          {"SchedulingGroup"},
	reflect.TypeFor[corev1.VolumeProjection]():                 {"ClusterTrustBundle", "PodCertificate"},
	reflect.TypeFor[appsv1.RollingUpdateStatefulSetStrategy](): {"MaxUnavailable"},
	reflect.TypeFor[coordinationv1.LeaseSpec]():                {"Strategy", "PreferredHolder"},
	reflect.TypeFor[storagev1.CSIDriverSpec]():                 {"PreventPodSchedulingIfMissing"},
}

// dropDisabled makes a row drop these fields before its own preparations.
func dropDisabled(k *Kind) {
	way := wayToDisabled(reflect.TypeOf(k.New()))
	if way == nil {
		return
	}
	create, update := k.PrepareForCreate, k.PrepareForUpdate
	k.PrepareForCreate = func(ctx context.Context, obj runtime.Object) {
		way.follow(reflect.ValueOf(obj), reflect.Value.SetZero)
		if create != nil {
			create(ctx, obj)
		}
	}
	k.PrepareForUpdate = func(ctx context.Context, obj, old runtime.Object) {
		used := false
		way.follow(reflect.ValueOf(old), func(f reflect.Value) { used = used || !f.IsZero() })
		if !used {
			way.follow(reflect.ValueOf(obj), reflect.Value.SetZero)
		}
		if update != nil {
			update(ctx, obj, old)
		}
	}
}

// way leads from a type to the disabled fields in it: by the fields of a struct, through pointers and into the elements of lists. It ends in empty ways.
type way map[int]way

// wayToDisabled is nil for a type without disabled fields.
func wayToDisabled(t reflect.Type) way {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return wayToDisabled(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var w way
	add := func(i int, on way) {
		if w == nil {
			w = way{}
		}
		w[i] = on
	}
	for _, name := range disabled[t] {
		f, _ := t.FieldByName(name)
		add(f.Index[0], way{})
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && w[i] == nil {
			if on := wayToDisabled(f.Type); on != nil {
				add(i, on)
			}
		}
	}
	return w
}

// follow does something with each of the fields that an object has. A pointer to a struct that is left empty by that is nil.
func (w way) follow(v reflect.Value, do func(field reflect.Value)) {
	switch {
	case len(w) == 0:
		do(v)
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return
		}
		empty := v.Elem().IsZero()
		w.follow(v.Elem(), do)
		if !empty && v.Elem().IsZero() && v.CanSet() {
			v.SetZero()
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			w.follow(v.Index(i), do)
		}
	default:
		for i, on := range w {
			on.follow(v.Field(i), do)
		}
	}
}
