package registry

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
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
