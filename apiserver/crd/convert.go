package crd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"orrery/apiserver/backend"
	"orrery/apiserver/kinds"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// conversionTimeout is how long a webhook may take for one object.
const conversionTimeout = 30 * time.Second

// reviewVersions are the forms of a ConversionReview that can be sent; they differ in the version alone.
var reviewVersions = []string{"v1", "v1beta1"}

// converter brings an object to another version of its kind. What it returns is the caller's own.
type converter func(in *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error)

// rename is strategy None: all versions have the same fields.
func rename(in *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error) {
	out := in.DeepCopy()
	out.SetAPIVersion(to.String())
	return out, nil
}

// byWebhook is strategy Webhook: the definition's owner knows. It asks until ctx ends.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go, webhookConverter.
// Left out: one question for all objects of a list; each is asked about by itself.
func byWebhook(ctx context.Context, pool *backend.Pool, w *apiextensionsv1.WebhookConversion) converter {
	hook := backend.Hook{URL: w.ClientConfig.URL, CABundle: w.ClientConfig.CABundle}
	if s := w.ClientConfig.Service; s != nil {
		hook.Namespace, hook.Name, hook.Port, hook.Path = s.Namespace, s.Name, s.Port, s.Path
	}
	return func(in *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error) {
		if in.GetAPIVersion() == to.String() {
			return in.DeepCopy(), nil
		}
		i := slices.IndexFunc(w.ConversionReviewVersions, func(v string) bool { return slices.Contains(reviewVersions, v) })
		if i < 0 {
			return nil, errors.New("no supported conversion review versions")
		}
		gvk := schema.GroupVersionKind{Group: apiextensionsv1.GroupName, Version: w.ConversionReviewVersions[i], Kind: "ConversionReview"}
		question := &apiextensionsv1.ConversionReview{Request: &apiextensionsv1.ConversionRequest{
			UID: uuid.NewUUID(), DesiredAPIVersion: to.String(), Objects: []runtime.RawExtension{{Object: in}}}}
		question.SetGroupVersionKind(gvk)
		answer := &apiextensionsv1.ConversionReview{}
		err := pool.Call(ctx, hook, conversionTimeout, "kube-apiserver", question, answer)
		if err == nil {
			err = checkReview(answer, question)
		}
		if err != nil { // not wrapped: the webhook's status is not the answer to the client
			return nil, fmt.Errorf("conversion webhook for %v failed: %v", in.GroupVersionKind(), err)
		}
		if n := len(answer.Response.ConvertedObjects); n != 1 {
			return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected 1", in.GroupVersionKind(), n)
		}
		out := &unstructured.Unstructured{}
		if err := out.UnmarshalJSON(answer.Response.ConvertedObjects[0].Raw); err != nil {
			return nil, err
		}
		if err := checkConverted(in, out, to); err != nil {
			return nil, fmt.Errorf("conversion webhook for %v returned invalid %w", in.GroupVersionKind(), err)
		}
		return out, nil
	}
}

// checkReview tells what is wrong with an answer; one of v1beta1 need not repeat what it answers.
func checkReview(answer, question *apiextensionsv1.ConversionReview) error {
	r, gvk := answer.Response, question.GroupVersionKind()
	switch {
	case gvk.Version == "v1" && answer.GroupVersionKind() != gvk:
		return fmt.Errorf("expected webhook response of %v, got %v", gvk.String(), answer.GroupVersionKind().String())
	case r == nil:
		return errors.New("no response provided")
	case gvk.Version == "v1" && r.UID != question.Request.UID:
		return fmt.Errorf("expected response.uid=%q, got %q", question.Request.UID, r.UID)
	case r.Result.Status == metav1.StatusSuccess:
		return nil
	case r.Result.Message != "":
		return errors.New(r.Result.Message)
	}
	return fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
}

// checkConverted tells what is wrong with a converted object. Of its metadata
// only labels and annotations are the webhook's; the rest is put back.
func checkConverted(in, out *unstructured.Unstructured, to schema.GroupVersion) error {
	if got := out.GroupVersionKind(); got.GroupVersion() != to {
		return fmt.Errorf("object at index 0: invalid groupVersion (expected %v, received %v)", to, got.GroupVersion())
	} else if want := in.GetKind(); got.Kind != want {
		return fmt.Errorf("object at index 0: invalid kind (expected %v, received %v)", want, got.Kind)
	}
	for _, same := range []struct{ what, before, after string }{
		{"name", in.GetName(), out.GetName()}, {"namespace", in.GetNamespace(), out.GetNamespace()}, {"UID", string(in.GetUID()), string(out.GetUID())},
	} {
		if same.before != same.after {
			return fmt.Errorf("object: must have the same %s: %v != %v", same.what, same.before, same.after)
		}
	}
	meta, ok := out.Object["metadata"].(map[string]any)
	if !ok {
		return fmt.Errorf("metadata: invalid metadata of type %T in converted object", out.Object["metadata"])
	}
	labels, _, err := unstructured.NestedStringMap(meta, "labels")
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	annotations, _, err := unstructured.NestedStringMap(meta, "annotations")
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	errs := metav1validation.ValidateLabels(labels, field.NewPath("metadata", "labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(annotations, field.NewPath("metadata", "annotations"))...)
	if len(errs) > 0 {
		return fmt.Errorf("metadata: %w", errs.ToAggregate())
	}
	out.Object["metadata"] = runtime.DeepCopyJSONValue(in.Object["metadata"])
	out.SetLabels(labels)
	out.SetAnnotations(annotations)
	return nil
}

// converterOf is a definition's way from version to version.
//
// Upstream: pkg/apiserver/conversion/converter.go, CRConverterFactory.NewConverter.
func converterOf(ctx context.Context, pool *backend.Pool, c *apiextensionsv1.CustomResourceConversion) converter {
	if c != nil && c.Strategy == apiextensionsv1.WebhookConverter && c.Webhook != nil && c.Webhook.ClientConfig != nil {
		return byWebhook(ctx, pool, c.Webhook)
	}
	return rename
}

// join makes row a view of hub, which is stored.
func join(row, hub *kinds.Kind, convert converter) {
	row.Hub = hub
	row.ToHub = via(convert, hub.GV(), nil)
	row.FromHub = via(convert, row.GV(), row.Default)
}

func via(convert converter, to schema.GroupVersion, fill func(runtime.Object)) func(runtime.Object) (runtime.Object, error) {
	return func(in runtime.Object) (runtime.Object, error) {
		u, ok := in.(*unstructured.Unstructured)
		if !ok {
			return nil, fmt.Errorf("%T is no custom resource", in)
		}
		out, err := convert(u, to)
		if err != nil {
			return nil, err
		}
		if fill != nil {
			fill(out)
		}
		return out, nil
	}
}
