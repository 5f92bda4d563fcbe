package registry

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestAnObjectIsEncodedOnceInEachForm(t *testing.T) {
	s := &Shared{Object: &corev1.ConfigMap{}}
	calls := map[string]int{}
	for range 2 {
		for _, form := range []string{"json", "protobuf"} {
			b, err := s.Once(form, func(runtime.Object) ([]byte, error) { calls[form]++; return []byte(form), nil })
			if err != nil || string(b) != form {
				t.Errorf("%s: %q, %v", form, b, err)
			}
		}
	}
	if calls["json"] != 1 || calls["protobuf"] != 1 {
		t.Errorf("encoded %v times, not once each", calls)
	}
	failed := errors.New("no")
	for range 2 {
		if _, err := s.Once("bad", func(runtime.Object) ([]byte, error) { calls["bad"]++; return nil, failed }); !errors.Is(err, failed) {
			t.Errorf("an error is %v", err)
		}
	}
	if calls["bad"] != 2 {
		t.Error("an error was remembered")
	}
}

func TestObjectsShareManagedFieldsThatAreTheSame(t *testing.T) {
	object := func(fields string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}, {}}}}
	}
	c := &cache{}
	a, b, other := object(`{"f:data":{}}`), object(`{"f:data":{}}`), object(`{"f:other":{}}`)
	for _, obj := range []*corev1.ConfigMap{a, b, other} {
		c.fold(obj)
	}
	raw := func(m *corev1.ConfigMap) []byte { return m.ManagedFields[0].FieldsV1.Raw }
	if &raw(a)[0] != &raw(b)[0] {
		t.Error("the same fields are there twice")
	}
	if string(raw(a)) != `{"f:data":{}}` || string(raw(other)) != `{"f:other":{}}` {
		t.Errorf("fields became %s and %s", raw(a), raw(other))
	}
}
