package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
)

// maxBody is the largest request that is read, in bytes.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/config.go, MaxRequestBodyBytes.
const maxBody = 3 * 1024 * 1024

var (
	jsonCodec   = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{})
	jsonStrict  = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Strict: true})
	yamlCodec   = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true})
	yamlStrict  = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	errTooLarge = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
)

func statusError(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return body, nil
}

// codecFor finds the reader of a Content-Type; none means JSON.
func codecFor(contentType string, strict bool) (runtime.Decoder, error) {
	media := mediaJSON
	if contentType != "" {
		m, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return nil, errUnsupportedMedia
		}
		media = m
	}
	switch {
	case media == mediaJSON && strict:
		return jsonStrict, nil
	case media == mediaJSON:
		return jsonCodec, nil
	case media == mediaYAML && strict:
		return yamlStrict, nil
	case media == mediaYAML:
		return yamlCodec, nil
	case media == mediaProto:
		return protoCodec, nil
	}
	return nil, errUnsupportedMedia
}

// decodeInto reads a body into an object of the version of the path. What the
// type does not know is an error, a warning or nothing, as validation
// (Strict, Warn, Ignore; empty means Warn) says.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/create.go and rest.go, transformDecodeError.
func decodeInto(ctx context.Context, body []byte, contentType, validation string, want schema.GroupVersionKind, into runtime.Object) (runtime.Object, error) {
	codec, err := codecFor(contentType, validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, err
	}
	if isUnstructured(into) {
		return decodeUnstructured(ctx, body, contentType, want, into)
	}
	obj, gvk, err := codec.Decode(body, &want, into)
	if strict, ok := runtime.AsStrictDecodingError(err); ok && obj != nil {
		if validation == metav1.FieldValidationStrict {
			return nil, decodeError(strict, gvk, want, body)
		}
		warn(ctx, strict.Errors())
		err = nil
	}
	if err != nil {
		return nil, decodeError(err, gvk, want, body)
	}
	if reflect.TypeOf(obj) != reflect.TypeOf(into) && gvk.Kind != want.Kind {
		return nil, decodeError(fmt.Errorf("converting (%s) to (%s.%s): unknown conversion",
			strings.TrimPrefix(reflect.TypeOf(obj).String(), "*"), internalName(want.Group), want.Kind), gvk, want, body)
	}
	if gvk != nil && gvk.GroupVersion() != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", gvk.GroupVersion(), want.GroupVersion()))
	}
	return obj, nil
}

// decode reads the object in a request's body. What a custom resource's schema
// does not know is treated like what a Go type does not have.
func (q *request) decode(ctx context.Context, body []byte, contentType, validation string) (runtime.Object, error) {
	obj, err := decodeInto(ctx, body, contentType, validation, q.kind.GVK(), q.kind.New())
	if err != nil || q.kind.Custom == nil {
		return obj, err
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	var problems []error
	if again := duplicates(body, contentType); validation != metav1.FieldValidationIgnore {
		problems = again
	}
	gvk := q.kind.GVK()
	unknown, err := q.kind.Custom.Prune(u)
	if err != nil {
		return nil, decodeError(err, &gvk, gvk, body)
	}
	for _, path := range unknown {
		problems = append(problems, fmt.Errorf("unknown field %q", path))
	}
	switch {
	case len(problems) == 0 || validation == metav1.FieldValidationIgnore:
		return u, nil
	case validation == metav1.FieldValidationStrict:
		return nil, decodeError(runtime.NewStrictDecodingError(problems), &gvk, gvk, body)
	}
	warn(ctx, problems)
	return u, nil
}

// warn tells the client what was overlooked in its body. Of YAML one error tells it all, a line each.
func warn(ctx context.Context, problems []error) {
	for _, e := range problems {
		_, lines, ok := strings.Cut(e.Error(), "yaml: unmarshal errors:\n")
		if !ok {
			lines = e.Error()
		}
		for line := range strings.SplitSeq(lines, "\n") {
			warning.Add(ctx, strings.TrimSpace(line))
		}
	}
}

// undecodable is the refusal of a body, and why it could not be read.
type undecodable struct {
	*apierrors.StatusError
	cause error
}

func decodeError(err error, gvk *schema.GroupVersionKind, want schema.GroupVersionKind, body []byte) error {
	if gvk != nil && gvk.Kind != "" {
		return &undecodable{apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, want.Kind, err)), err}
	}
	const most = 30
	form, summary, rest := "%s", body[:min(len(body), most)], ""
	switch {
	case len(body) == 0:
		summary = []byte("<empty>")
	case body[0] != '{':
		form = "%x"
	}
	if len(body) > most {
		rest = " ..."
	}
	return &undecodable{apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v ("+form+"%s)", want.Kind, err, summary, rest)), err}
}

// internalName is what upstream calls the package of a group's internal types;
// it shows in the text of a kind mismatch.
func internalName(group string) string {
	if group == "" {
		return "core"
	}
	name, _, _ := strings.Cut(group, ".")
	return name
}
