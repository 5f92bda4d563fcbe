package kinds

import (
	"math/rand/v2"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// scramble fills a value with something, or leaves parts of it empty: what clients send that have not read the documentation.
func scramble(r *rand.Rand, v reflect.Value, depth int) {
	if !v.CanSet() || depth > 12 || r.IntN(4) == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		scramble(r, v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			scramble(r, v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			scramble(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		scramble(r, key, depth+1)
		scramble(r, value, depth+1)
		v.SetMapIndex(key, value)
	case reflect.String:
		words := []string{"a", "Pod", "None", "10.96.0.1", "-", "a/b", "50%", "RollingUpdate", "NodePort", "kubernetes.io/x"}
		v.SetString(words[r.IntN(len(words))])
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(5) - 1))
	case reflect.Bool:
		v.SetBool(true)
	}
}

func TestNoObjectMakesTheHooksPanicAndDefaultsAreStable(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		for _, k := range NewTable().All() {
			if k.Hub != nil || k.Virtual() || k.New() == nil {
				continue
			}
			obj, old := k.New(), k.New()
			scramble(r, reflect.ValueOf(obj).Elem(), 0)
			scramble(r, reflect.ValueOf(old).Elem(), 0)
			exercise(t, k, obj, old)
		}
	}
}

func exercise(t *testing.T, k *Kind, obj, old runtime.Object) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Fatalf("%s: panic: %v\n%+v", k.Kind, p, obj)
		}
	}()
	if k.Default != nil {
		k.Default(obj)
		k.Default(old)
	}
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(t.Context(), obj.DeepCopyObject())
	}
	if k.PrepareForUpdate != nil {
		k.PrepareForUpdate(t.Context(), obj, old)
	}
	if k.Default != nil {
		k.Default(obj)
		again := obj.DeepCopyObject()
		k.Default(again)
		if !reflect.DeepEqual(obj, again) {
			t.Fatalf("%s: defaults of defaults differ", k.Kind)
		}
	}
	if k.Validate != nil {
		k.Validate(obj)
	}
	if k.ValidateUpdate != nil {
		k.ValidateUpdate(obj, old)
	}
	if k.Cells != nil {
		if cells, _ := k.Cells(obj); len(cells) != len(k.Columns) {
			t.Fatalf("%s: %d cells for %d columns", k.Kind, len(cells), len(k.Columns))
		}
	}
	for _, read := range k.FieldLabels {
		read(obj)
	}
	if k.GracePeriod != nil {
		k.GracePeriod(obj, &metav1.DeleteOptions{})
	}
	for _, s := range k.Subresources {
		changed := obj.DeepCopyObject()
		if s.PrepareForUpdate != nil {
			s.PrepareForUpdate(t.Context(), changed, old)
		}
		if s.ValidateUpdate != nil {
			s.ValidateUpdate(changed, old)
		}
	}
}
