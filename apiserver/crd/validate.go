package crd

import (
	"context"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type definition = apiextensionsv1.CustomResourceDefinition

// validate checks a definition, and against the old one when there is one. The
// rules are the library's: names, versions, conversion, and that every schema is
// structural, that its defaults fit it, and that its CEL rules compile and are cheap.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go, ValidateCustomResourceDefinition.
func validate(ctx context.Context, crd, old *definition) field.ErrorList {
	now, err := internal(crd)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if old == nil {
		return validation.ValidateCustomResourceDefinition(ctx, now)
	}
	before, err := internal(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateCustomResourceDefinitionUpdate(ctx, now, before)
}

// validateStatus checks what a write of the status alone may change.
func validateStatus(crd, old *definition) field.ErrorList {
	now, err := internal(crd)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	before, err := internal(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateUpdateCustomResourceDefinitionStatus(now, before)
}

// internal brings a definition to the form that the library works on.
func internal(crd *definition) (*apiextensions.CustomResourceDefinition, error) {
	out := &apiextensions.CustomResourceDefinition{}
	return out, apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd.DeepCopy(), out, nil)
}
