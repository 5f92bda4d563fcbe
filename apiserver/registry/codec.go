package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"orrery/apiserver/kinds"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

var proto = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// Upstream stores definitions of custom resources as v1beta1, where schemas and
// columns may stand elsewhere. Ours are v1, which it reads as well.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go, Config.New.
var (
	beta        = []byte(`"apiVersion":"apiextensions.k8s.io/v1beta1"`)
	definitions = sync.OnceValue(func() *runtime.Scheme {
		s := runtime.NewScheme()
		install.Install(s)
		return s
	})
)

func decodeBeta(value []byte, into runtime.Object) error {
	internal, _, err := serializer.NewCodecFactory(definitions()).UniversalDecoder().Decode(value, nil, nil)
	if err != nil {
		return err
	}
	return definitions().Convert(internal, into, nil)
}

// Encode makes the value that the store keeps: the protobuf envelope "k8s\0"
// for built-in kinds, JSON for custom resources. The resourceVersion is not
// part of it: the store's revision is. obj is not changed.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf, Serializer.
func Encode(k *kinds.Kind, obj runtime.Object) ([]byte, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	if m.GetResourceVersion() != "" || m.GetSelfLink() != "" {
		obj = obj.DeepCopyObject()
		if m, err = meta.Accessor(obj); err != nil {
			return nil, err
		}
		m.SetResourceVersion("")
		m.SetSelfLink("")
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return json.Marshal(u.Object)
	}
	if k.JSON {
		return json.Marshal(obj)
	}
	var b bytes.Buffer
	if err := proto.Encode(obj, &b); err != nil {
		return nil, fmt.Errorf("encoding %s %s/%s: %w", k.Kind, m.GetNamespace(), m.GetName(), err)
	}
	return b.Bytes(), nil
}

// unconverted is the error of a stored object that nobody could bring to the
// version of today. It may go by: a webhook comes back.
type unconverted struct{ error }

func (e *unconverted) Unwrap() error { return e.error }

// Decode is the way back; revision becomes the object's resourceVersion. The
// kind's defaults are filled in, since a value may be older than a default.
func Decode(k *kinds.Kind, value []byte, revision int64) (runtime.Object, error) {
	obj := k.New()
	var err error
	switch {
	case k.JSON && bytes.Contains(value, beta):
		err = decodeBeta(value, obj)
	case bytes.HasPrefix(value, []byte("{")):
		err = json.Unmarshal(value, obj)
	default:
		_, _, err = proto.Decode(value, nil, obj)
	}
	if err != nil {
		return nil, fmt.Errorf("decoding a stored %s: %w", k.Kind, err)
	}
	if k.Custom != nil && k.Custom.FromStored != nil && obj.GetObjectKind().GroupVersionKind() != k.GVK() {
		if obj, err = k.Custom.FromStored(obj); err != nil {
			return nil, &unconverted{err}
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.FormatInt(revision, 10))
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}
