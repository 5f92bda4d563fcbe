package crd

import (
	"context"
	"slices"

	"orrery/apiserver/kinds"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// wire gives the row of CustomResourceDefinition its strategy.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition/strategy.go and etcd.go.
func wire(k *kinds.Kind) {
	as := func(obj runtime.Object) *definition { return obj.(*definition) }
	k.Default = func(obj runtime.Object) { apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(as(obj)) }
	k.PrepareForCreate = func(_ context.Context, obj runtime.Object) { noteStored(as(obj)) }
	k.PrepareForUpdate = func(_ context.Context, obj, _ runtime.Object) { noteStored(as(obj)) }
	// Not in Validate: CEL rules are compiled, and that wants a context.
	k.Begin = func(ctx context.Context, obj, old runtime.Object, _ bool) (func(bool), error) {
		if as(obj).DeletionTimestamp != nil {
			return nil, nil // whatever it is, it may go
		}
		var before *definition
		if old != nil {
			before = as(old)
		}
		if errs := validate(ctx, as(obj), before); len(errs) > 0 {
			return nil, apierrors.NewInvalid(k.GK(), as(obj).Name, errs)
		}
		return nil, nil
	}
	if status := k.Sub("status"); status != nil {
		status.ValidateUpdate = func(obj, old runtime.Object) field.ErrorList { return validateStatus(as(obj), as(old)) }
	}
	// A definition stays until its objects are gone, and says so.
	k.Held = func(obj runtime.Object) bool {
		return obj.(*definition).DeletionTimestamp == nil || cleansUp(as(obj))
	}
	k.MarkDeleted = func(obj runtime.Object) {
		crd := as(obj)
		if !cleansUp(crd) {
			crd.Finalizers = append(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
		}
		apihelpers.SetCRDCondition(crd, condition(apiextensionsv1.Terminating, apiextensionsv1.ConditionTrue, "InstanceDeletionPending",
			"CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"))
	}
}

func cleansUp(crd *definition) bool {
	return slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
}

// noteStored remembers every version that objects have been stored in.
func noteStored(crd *definition) {
	i := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Storage })
	if i < 0 || slices.Contains(crd.Status.StoredVersions, crd.Spec.Versions[i].Name) {
		return
	}
	crd.Status.StoredVersions = append(slices.Clone(crd.Status.StoredVersions), crd.Spec.Versions[i].Name)
}

func condition(kind apiextensionsv1.CustomResourceDefinitionConditionType, status apiextensionsv1.ConditionStatus, reason, message string) apiextensionsv1.CustomResourceDefinitionCondition {
	return apiextensionsv1.CustomResourceDefinitionCondition{Type: kind, Status: status, Reason: reason, Message: message}
}
