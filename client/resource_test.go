package client

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestMetadataIsReadFromBothEncodings(t *testing.T) {
	obj := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", ResourceVersion: "7"}}
	message, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: obj.APIVersion, Kind: obj.Kind}, Raw: message}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	inJSON, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"protobuf": append([]byte("k8s\x00"), envelope...), "JSON": inJSON} {
		got := &metav1.PartialObjectMetadata{}
		if err := decodeInto(raw, got); err != nil || got.Kind != obj.Kind || got.Name != "web" || got.ResourceVersion != "7" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
