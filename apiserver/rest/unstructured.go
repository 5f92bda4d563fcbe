package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Custom resources have no Go type: they are read as maps.

func isUnstructured(obj runtime.Object) bool {
	_, ok := obj.(*unstructured.Unstructured)
	return ok
}

func decodeUnstructured(_ context.Context, body []byte, contentType string, want schema.GroupVersionKind, into runtime.Object) (runtime.Object, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil || media == mediaProto {
		return nil, errUnsupportedMedia
	}
	sent := body
	if media == mediaYAML {
		if body, err = yaml.YAMLToJSON(body); err != nil {
			return nil, decodeError(err, nil, want, sent)
		}
	}
	u := into.(*unstructured.Unstructured)
	content := map[string]any{}
	if _, err := serializer.DefaultMetaFactory.Interpret(body); err != nil {
		return nil, decodeError(err, nil, want, sent)
	}
	if err := json.Unmarshal(body, &content); err != nil {
		return nil, decodeError(err, nil, want, sent)
	}
	u.Object = normalize(content).(map[string]any)
	switch got := u.GroupVersionKind(); {
	case got.Kind == "":
		return nil, decodeError(runtime.NewMissingKindErr(string(sent)), nil, want, sent)
	case got.GroupVersion() == want.GroupVersion() && got.Kind != want.Kind:
		return nil, apierrors.NewInvalid(got.GroupKind(), u.GetName(), field.ErrorList{field.Invalid(field.NewPath("kind"), got.Kind, "must be "+want.Kind)})
	case got != want:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	return u, nil
}

// duplicates finds keys that stand twice in a body.
func duplicates(body []byte, contentType string) []error {
	if media, _, err := mime.ParseMediaType(contentType); err == nil && media == mediaYAML {
		var again map[string]any
		if err := yaml.UnmarshalStrict(body, &again); err != nil {
			return []error{err}
		}
		return nil
	}
	var again map[string]any
	strict, err := kjson.UnmarshalStrict(body, &again)
	if err != nil {
		return nil // said when it was read
	}
	return strict
}

// normalize turns whole numbers into int64, as the wire types' deep copies expect.
func normalize(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = normalize(v[k])
		}
	case []any:
		for i := range v {
			v[i] = normalize(v[i])
		}
	case float64:
		if i := int64(v); float64(i) == v {
			return i
		}
	}
	return v
}
