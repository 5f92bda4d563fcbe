package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"orrery/apiserver/admission"
	"orrery/apiserver/audit"
	"orrery/apiserver/backend"
	"orrery/apiserver/kinds"
	"orrery/apiserver/warning"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
)

var reviewGVK = reviewv1.SchemeGroupVersion.WithKind("AdmissionReview")

// callError is a webhook that could not be asked; its failurePolicy decides what that means.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/error.go, ErrCallingWebhook.
type callError struct {
	name string
	err  error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.name, e.err)
}
func (e *callError) Unwrap() error { return e.err }

// ask calls one webhook about a write in the version of row. The error is the
// webhook's refusal, or a *callError.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/validating/dispatcher.go, callHook.
func (p *plugin) ask(ctx context.Context, h *hook, a *admission.Attributes, row *kinds.Kind, mutating bool) (*reviewv1.AdmissionResponse, error) {
	if a.DryRun && h.SideEffects != nil && *h.SideEffects != admissionv1.SideEffectClassNone && *h.SideEffects != admissionv1.SideEffectClassNoneOnDryRun {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.Name))
	}
	review, err := p.review(ctx, a, row)
	if err != nil {
		return nil, &callError{h.Name, fmt.Errorf("could not create admission objects: %w", err)}
	}
	timeout := 10 * time.Second
	if h.TimeoutSeconds != nil {
		timeout = time.Duration(*h.TimeoutSeconds) * time.Second
	}
	answer := &reviewv1.AdmissionReview{}
	if err := p.Pool.Call(ctx, hookOf(h.ClientConfig), timeout, "kube-apiserver-admission", review, answer); err != nil {
		return nil, &callError{h.Name, fmt.Errorf("failed to call webhook: %w", err)}
	}
	if err := verify(answer, review.Request.UID, mutating); err != nil {
		return nil, &callError{h.Name, fmt.Errorf("received invalid webhook response: %w", err)}
	}
	r := answer.Response
	for key, value := range r.AuditAnnotations {
		audit.Annotate(ctx, h.Name+"/"+key, value)
	}
	for _, text := range r.Warnings {
		warning.Add(ctx, text)
	}
	if !r.Allowed {
		return nil, denied(h.Name, r.Result)
	}
	return r, nil
}

// failed decides what the failure of a call means for the write.
func (p *plugin) failed(ctx context.Context, h *hook, err error) error {
	var call *callError
	if !errors.As(err, &call) {
		return err
	}
	if h.FailurePolicy == nil || *h.FailurePolicy != admissionv1.Ignore {
		return apierrors.NewInternalError(err)
	}
	p.Log.Warn("webhook failed, going on without it", "webhook", h.Name, "err", err)
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	return nil
}

// review describes the write.
func (p *plugin) review(ctx context.Context, a *admission.Attributes, row *kinds.Kind) (*reviewv1.AdmissionReview, error) {
	r := p.matcher().Request(ctx, a, row)
	r.UID = uuid.NewUUID()
	var err error
	if r.Object.Raw, err = encode(a.Object, a, row); err != nil {
		return nil, err
	}
	if r.OldObject.Raw, err = encode(a.Old, a, row); err != nil {
		return nil, err
	}
	review := &reviewv1.AdmissionReview{Request: r}
	review.SetGroupVersionKind(reviewGVK)
	return review, nil
}

// encode writes an object in the version of row.
func encode(obj runtime.Object, a *admission.Attributes, row *kinds.Kind) ([]byte, error) {
	obj, err := a.In(row, obj)
	if obj == nil || err != nil {
		return nil, err
	}
	return json.Marshal(obj)
}

// hookOf is where a webhook is.
func hookOf(c admissionv1.WebhookClientConfig) backend.Hook {
	h := backend.Hook{URL: c.URL, CABundle: c.CABundle}
	if s := c.Service; s != nil {
		h.Namespace, h.Name, h.Port, h.Path = s.Namespace, s.Name, s.Port, s.Path
	}
	return h
}

// verify checks the form of an answer.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/request/admissionreview.go, VerifyAdmissionResponse.
func verify(answer *reviewv1.AdmissionReview, uid any, mutating bool) error {
	r := answer.Response
	switch {
	case r == nil:
		return errors.New("webhook response was absent")
	case any(r.UID) != uid:
		return fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case answer.GroupVersionKind() != reviewGVK:
		return fmt.Errorf("expected webhook response of %v, got %v", reviewGVK.String(), answer.GroupVersionKind().String())
	case !mutating && len(r.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && r.PatchType != nil:
		return errors.New("validating webhook may not return response.patchType")
	case len(r.Patch) > 0 && r.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(r.Patch) == 0 && r.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case r.PatchType != nil && *r.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	return nil
}

// denied is the refusal that the client sees.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/errors/statuserror.go, ToStatusErr.
func denied(name string, result *metav1.Status) error {
	if result == nil {
		result = &metav1.Status{}
	}
	result.Code = max(result.Code, http.StatusBadRequest)
	if result.Status == "" || result.Status == metav1.StatusSuccess {
		result.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case result.Message != "":
		result.Message = by + ": " + result.Message
	case result.Reason != "":
		result.Message = by + ": " + string(result.Reason)
	default:
		result.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: *result}
}
