package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxPatchOperations bounds a JSON patch.
const maxPatchOperations = 10000

// patch is one PATCH request, read and checked.
type patch struct {
	kind    types.PatchType
	body    []byte
	options metav1.PatchOptions
	manager string
	dryRun  bool
}

// Patch changes an object, or the part of it that a subresource shows.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/patch.go, PatchResource.
func (h *Handlers) Patch(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "patch")
	if err == nil && q.res == nil {
		err = notAllowed()
	}
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h.patch(w, r, q)
}

func (h *Handlers) patch(w http.ResponseWriter, r *http.Request, q *request) {
	p, err := readPatch(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	wo := h.writeOptions(q, &p.options, p.dryRun)
	wo.AnyVersion = true // the patch is made on top of what is stored, version and all
	wo.CreateMissing = p.kind == types.ApplyPatchType && q.Subresource == ""
	obj, created, err := q.res.Update(r.Context(), q.Namespace, q.Name, func(ctx context.Context, cur runtime.Object) (runtime.Object, error) {
		return h.patched(ctx, q, p, cur)
	}, wo)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	h.answer(w, r, q, code, obj)
}

func readPatch(r *http.Request, q *request) (*patch, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	p := &patch{kind: types.PatchType(media)}
	switch p.kind {
	case types.JSONPatchType, types.MergePatchType, types.ApplyPatchType:
	case types.StrategicMergePatchType:
		if isUnstructured(q.kind.New()) {
			return nil, errCustomPatchMedia
		}
	default:
		if isUnstructured(q.kind.New()) {
			return nil, errCustomPatchMedia
		}
		return nil, errPatchMedia
	}
	p.options, err = query(r, func(v *url.Values, o *metav1.PatchOptions, _ any) error {
		return metav1.Convert_url_Values_To_v1_PatchOptions(v, o, nil)
	})
	if err != nil {
		return nil, err
	}
	if err := check("PatchOptions", validation.ValidatePatchOptions(&p.options, p.kind)); err != nil {
		return nil, err
	}
	p.manager, p.dryRun = managerName(r, p.options.FieldManager), len(p.options.DryRun) > 0
	p.body, err = readBody(r)
	return p, err
}

var errPatchMedia = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
	Message: "415: Unsupported Media Type", Details: &metav1.StatusDetails{},
}}

var errCustomPatchMedia = statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
	"the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")

// patched makes the new state of an object; cur is nil when apply is to create it.
func (h *Handlers) patched(ctx context.Context, q *request, p *patch, cur runtime.Object) (runtime.Object, error) {
	if p.kind == types.ApplyPatchType {
		return h.applied(ctx, q, p, cur)
	}
	live, err := q.out(cur.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	obj, err := p.on(ctx, q, live)
	if err != nil {
		return nil, err
	}
	if err := q.fits(obj, true); err != nil {
		return nil, err
	}
	if obj, err = h.defaulted(q, obj); err != nil {
		return nil, err
	}
	unpin(obj, cur)
	return h.admitUpdate(ctx, q, cur, obj, p.manager, &p.options, p.dryRun)
}

// unpin takes away a resourceVersion that the patch has not changed: when
// somebody else writes first, the patch is made again on top of that. One that
// the client asked for is then no longer the current one, and is refused.
func unpin(obj, cur runtime.Object) {
	m, err := meta.Accessor(obj)
	if err == nil && m.GetResourceVersion() == versionOf(cur) {
		m.SetResourceVersion("")
	}
}

// on applies the patch to the live object, which may be changed.
func (p *patch) on(ctx context.Context, q *request, live runtime.Object) (runtime.Object, error) {
	switch p.kind {
	case types.StrategicMergePatchType:
		return p.strategic(ctx, q, live)
	case types.JSONPatchType, types.MergePatchType:
		before, err := json.Marshal(live)
		if err != nil {
			return nil, err
		}
		after, again, err := p.onJSON(before)
		if err != nil {
			return nil, err
		}
		obj, err := q.decode(ctx, after, mediaJSON, p.options.FieldValidation)
		var bad *undecodable
		switch strict := p.options.FieldValidation == metav1.FieldValidationStrict; {
		case errors.As(err, &bad):
			if more, ok := runtime.AsStrictDecodingError(bad.cause); ok {
				bad.cause = runtime.NewStrictDecodingError(append(again, more.Errors()...))
			}
			return nil, badPatch(string(after), bad.cause)
		case err == nil && strict && len(again) > 0:
			return nil, badPatch(string(after), runtime.NewStrictDecodingError(again))
		}
		warn(ctx, again)
		return obj, err
	}
	return nil, errPatchMedia
}

// read parses the patch, and finds what stands twice in it or is not known, unless nobody wants to hear of that.
func (p *patch) read(into any) (strict []error, err error) {
	strict, err = kjson.UnmarshalStrict(p.body, into)
	if p.options.FieldValidation == metav1.FieldValidationIgnore {
		strict = nil
	}
	return strict, err
}

// jsonPatchOp is one operation of a JSON patch.
type jsonPatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

func (p *patch) onJSON(before []byte) (after []byte, strict []error, err error) {
	if p.kind == types.MergePatchType {
		strict, err := p.read(&map[string]any{})
		if err != nil {
			return nil, nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		after, err := jsonpatch.MergePatch(before, p.body)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		return after, strict, nil
	}
	var operations []jsonPatchOp
	if strict, err = p.read(&operations); err != nil {
		// The text names the type that upstream unmarshals into.
		return nil, nil, apierrors.NewBadRequest("error decoding patch: " + strings.Replace(err.Error(), "rest.jsonPatchOp", "handlers.jsonPatchOp", 1))
	}
	for i, e := range strict {
		strict[i] = fmt.Errorf("json patch %w", e)
	}
	if len(operations) > maxPatchOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
	}
	decoded, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if after, err = decoded.Apply(before); err != nil {
		return nil, nil, unprocessable(err)
	}
	return after, strict, nil
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// strategic merges with the patch strategies in the Go type's struct tags.
func (p *patch) strategic(ctx context.Context, q *request, live runtime.Object) (runtime.Object, error) {
	var body map[string]any
	again, err := p.read(&body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, body, q.kind.New())
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return nil, apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists), errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys):
		return nil, unprocessable(err)
	case err != nil:
		return nil, err // a 500, as upstream
	}
	obj := q.kind.New()
	validation := p.options.FieldValidation
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, obj, validation != metav1.FieldValidationIgnore)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		again, err = append(again, strict.Errors()...), nil
	}
	switch {
	case err != nil:
		return nil, badPatch(fmt.Sprintf("%+v", body), err)
	case len(again) > 0 && validation == metav1.FieldValidationStrict:
		return nil, badPatch(fmt.Sprintf("%+v", body), runtime.NewStrictDecodingError(again))
	}
	warn(ctx, again)
	obj.GetObjectKind().SetGroupVersionKind(q.kind.GVK())
	return obj, nil
}

// badPatch refuses a patch that makes something of which no object can be made.
func badPatch(value string, why error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, why.Error())})
}

// applied is server-side apply: the body says what its manager wants of the
// object, and managedFields who wants the rest.
//
// Upstream: patch.go, applyPatcher.
func (h *Handlers) applied(ctx context.Context, q *request, p *patch, cur runtime.Object) (runtime.Object, error) {
	intent := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(p.body, &intent.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	normalize(intent.Object)
	if again := yaml.UnmarshalStrict(p.body, &map[string]any{}); again != nil {
		switch p.options.FieldValidation {
		case metav1.FieldValidationStrict:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", again))
		case metav1.FieldValidationIgnore:
		default:
			warn(ctx, []error{again})
		}
	}
	live := q.kind.New()
	live.GetObjectKind().SetGroupVersionKind(q.kind.GVK())
	var err error
	if cur != nil {
		if live, err = q.out(cur.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	fm, err := h.managers.of(q.kind, q.Subresource)
	if err != nil {
		return nil, err
	}
	obj, err := fm.Apply(live, intent, p.options.FieldManager, p.options.Force != nil && *p.options.Force)
	if err != nil {
		return nil, err
	}
	if reflect.TypeOf(obj) != reflect.TypeOf(live) {
		return nil, apierrors.NewInternalError(fmt.Errorf("apply made a %T of a %T", obj, live))
	}
	if uid := intent.GetUID(); cur == nil && uid != "" {
		return nil, apierrors.NewConflict(q.kind.GR(), q.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if err := q.fits(obj, true); err != nil {
		return nil, err
	}
	if cur == nil {
		return h.admitCreate(ctx, q, obj, "-", &metav1.CreateOptions{DryRun: p.options.DryRun, FieldManager: p.options.FieldManager}, p.dryRun)
	}
	if obj, err = h.defaulted(q, obj); err != nil {
		return nil, err
	}
	unpin(obj, cur)
	return h.admitUpdate(ctx, q, cur, obj, "-", &p.options, p.dryRun)
}
