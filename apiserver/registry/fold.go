package registry

import (
	"bytes"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
)

// fold lets obj share the memory of like wherever the two say the same: pods of
// one owner differ in names and addresses, two states of one object in a few
// fields. It is often most of an object. Neither may be changed afterwards.
func fold(obj, like runtime.Object) {
	if v, w := reflect.ValueOf(obj), reflect.ValueOf(like); like != nil && v.Type() == w.Type() {
		foldValue(v.Elem(), w.Elem())
	}
}

// foldValue reports that v and w, which are of one type, are equal. v can be
// set, and what it refers to becomes what w refers to.
func foldValue(v, w reflect.Value) (same bool) {
	switch v.Kind() {
	case reflect.String:
		same = v.String() == w.String()
	case reflect.Pointer:
		if v.IsNil() || w.IsNil() {
			return v.IsNil() && w.IsNil()
		}
		same = foldValue(v.Elem(), w.Elem())
	case reflect.Slice:
		same = foldSlice(v, w)
	case reflect.Map:
		same = foldMap(v, w)
	case reflect.Interface:
		if v.IsNil() || w.IsNil() || v.Elem().Type() != w.Elem().Type() {
			return v.IsNil() && w.IsNil()
		}
		inside := copyOf(v.Elem())
		same = foldValue(inside, w.Elem())
		v.Set(inside)
	case reflect.Struct:
		return foldStruct(v, w)
	default:
		return v.Equal(w)
	}
	if same {
		v.Set(w)
	}
	return same
}

func foldStruct(v, w reflect.Value) bool {
	same := true
	for i := range v.NumField() {
		if f := v.Field(i); f.CanSet() {
			same = foldValue(f, w.Field(i)) && same
			continue
		}
		// A time or a quantity, whose fields are its own business.
		if same = reflect.DeepEqual(v.Interface(), w.Interface()); same {
			v.Set(w)
		}
		return same
	}
	return same
}

func foldSlice(v, w reflect.Value) bool {
	if v.IsNil() || w.IsNil() {
		return v.IsNil() && w.IsNil()
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(v.Bytes(), w.Bytes())
	}
	same := v.Len() == w.Len()
	for i := range min(v.Len(), w.Len()) {
		same = foldValue(v.Index(i), w.Index(i)) && same
	}
	return same
}

func foldMap(v, w reflect.Value) bool {
	if reflect.DeepEqual(v.Interface(), w.Interface()) {
		return true
	}
	if v.Type().Elem().Kind() != reflect.Interface { // small, as labels are
		return false
	}
	for _, key := range v.MapKeys() {
		if theirs := w.MapIndex(key); theirs.IsValid() {
			value := copyOf(v.MapIndex(key))
			foldValue(value, theirs)
			v.SetMapIndex(key, value)
		}
	}
	return false
}

// copyOf is a copy that can be set; a map's value and an interface's cannot.
func copyOf(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}
