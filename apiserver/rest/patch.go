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

	"orrery/apiserver/warning"

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
		if !isUnstructured(q.kind.New()) {
			break
		}
		return nil, errPatchMedia
	default:
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
		after, err := p.onJSON(before)
		if err != nil {
			return nil, err
		}
		obj, err := q.decode(ctx, after, mediaJSON, p.options.FieldValidation)
		if err == nil {
			return obj, nil
		}
		_, why, said := strings.Cut(err.Error(), " cannot be handled as a "+q.kind.Kind+": ")
		if !said {
			return nil, err
		}
		return nil, badPatch(string(after), why)
	}
	return nil, errPatchMedia
}

// badPatch refuses a patch that makes something of an object that its type has no room for.
func badPatch(result, why string) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), result, why)})
}

func (p *patch) onJSON(before []byte) ([]byte, error) {
	if p.kind == types.MergePatchType {
		var body map[string]any
		if err := json.Unmarshal(p.body, &body); err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		after, err := jsonpatch.MergePatch(before, p.body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return after, nil
	}
	var operations []map[string]any
	if err := json.Unmarshal(p.body, &operations); err != nil {
		// The text names the type that upstream unmarshals into.
		return nil, apierrors.NewBadRequest("error decoding patch: " + strings.Replace(err.Error(), "[]map[string]interface {}", "[]handlers.jsonPatchOp", 1))
	}
	if len(operations) > maxPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
	}
	decoded, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after, err := decoded.Apply(before)
	if err != nil {
		return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after, nil
}

// strategic merges with the patch strategies in the Go type's struct tags.
func (p *patch) strategic(ctx context.Context, q *request, live runtime.Object) (runtime.Object, error) {
	var body map[string]any
	if err := json.Unmarshal(p.body, &body); err != nil {
		return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, normalize(body).(map[string]any), q.kind.New())
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return nil, apierrors.NewBadRequest(err.Error())
	case err != nil:
		return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	obj := q.kind.New()
	validation := p.options.FieldValidation
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, obj, validation != metav1.FieldValidationIgnore)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		if validation == metav1.FieldValidationStrict {
			return nil, badPatch(fmt.Sprint(body), strict.Error())
		}
		for _, e := range strict.Errors() {
			warning.Add(ctx, e.Error())
		}
		err = nil
	}
	if err != nil {
		return nil, badPatch(fmt.Sprint(body), err.Error())
	}
	obj.GetObjectKind().SetGroupVersionKind(q.kind.GVK())
	return obj, nil
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
	if p.options.FieldValidation != metav1.FieldValidationIgnore {
		if err := strictYAML(ctx, p, intent); err != nil {
			return nil, err
		}
	}
	if len(intent.GetManagedFields()) > 0 {
		return nil, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	if gvk := intent.GroupVersionKind(); gvk != q.kind.GVK() {
		if gvk.Kind == "" {
			return nil, apierrors.NewBadRequest("Object 'Kind' is missing")
		}
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Incorrect version specified in apply patch. Specified patch version: %s, expected: %s", gvk.GroupVersion(), q.kind.GV()))
	}
	// A copy, because what is missing is filled in, and errors are about what was sent.
	if err := q.fits(intent.DeepCopy(), true); err != nil {
		return nil, err
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

// strictYAML finds keys that stand twice in an applied body.
func strictYAML(ctx context.Context, p *patch, intent *unstructured.Unstructured) error {
	var again map[string]any
	err := yaml.UnmarshalStrict(p.body, &again)
	switch {
	case err == nil:
		return nil
	case p.options.FieldValidation == metav1.FieldValidationStrict:
		gvk := intent.GroupVersionKind()
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: strict decoding error: %v", gvk.Kind, gvk.Version, gvk.Kind, err))
	}
	warning.Add(ctx, err.Error())
	return nil
}
