package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"orrery/apiserver/kinds"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// newInvalid is the refusal of an object in which something is wrong.
func newInvalid(k *kinds.Kind, name string, errs field.ErrorList) error {
	for _, e := range errs {
		e.BadValue = shown(e.BadValue)
	}
	return apierrors.NewInvalid(k.GK(), name, errs)
}

// shown is a value as the messages of upstream show it: its server validates types of its own, whose fields have Go's names and are all
// written, the empty ones too. Values of other packages, such as label selectors and quantities, are the same types in both.
//
// Left out: where upstream's own type has other fields than the published one, as that of pods.
func shown(value any) any {
	if t := structOf(reflect.TypeOf(value)); t != nil && strings.HasPrefix(t.PkgPath(), "k8s.io/api/") {
		return goValue{reflect.ValueOf(value)}
	}
	return value
}

// structOf is the type of struct that a value is, or points to, or is a list of; nil for all else.
func structOf(t reflect.Type) reflect.Type {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// goValue is written as JSON with Go's names.
type goValue struct{ v reflect.Value }

func (g goValue) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	err := writeGo(&out, g.v)
	return out.Bytes(), err
}

// writeGo writes what is of published types by their fields, and leaves everything else to encoding/json.
func writeGo(out *bytes.Buffer, v reflect.Value) error {
	_, own := v.Interface().(json.Marshaler)
	switch t := structOf(v.Type()); {
	case own, t == nil && v.Kind() != reflect.Map, t != nil && !strings.HasPrefix(t.PkgPath(), "k8s.io/api/"):
		text, err := json.Marshal(v.Interface())
		out.Write(text)
		return err
	case v.Kind() != reflect.Struct && v.IsNil():
		out.WriteString("null")
	case v.Kind() == reflect.Pointer:
		return writeGo(out, v.Elem())
	case v.Kind() == reflect.Slice:
		return writeItems(out, "[]", v.Len(), func(i int) error { return writeGo(out, v.Index(i)) })
	case v.Kind() == reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		return writeItems(out, "{}", len(keys), func(i int) error {
			fmt.Fprintf(out, "%q:", keys[i].String())
			return writeGo(out, v.MapIndex(keys[i]))
		})
	default:
		fields := reflect.VisibleFields(v.Type()) // those of embedded structs stand among the others
		fields = slices.DeleteFunc(fields, func(f reflect.StructField) bool { return f.Anonymous })
		return writeItems(out, "{}", len(fields), func(i int) error {
			fmt.Fprintf(out, "%q:", fields[i].Name)
			return writeGo(out, v.FieldByIndex(fields[i].Index))
		})
	}
	return nil
}

// writeItems writes n items with commas between them; around are the two brackets.
func writeItems(out *bytes.Buffer, around string, n int, item func(int) error) error {
	out.WriteByte(around[0])
	for i := range n {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := item(i); err != nil {
			return err
		}
	}
	out.WriteByte(around[1])
	return nil
}
