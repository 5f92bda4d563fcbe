package crd

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What CEL rules may cost, in CEL's own units: one call, and all of one object.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/apis/cel/config.go.
const (
	costPerCall   = 1_000_000
	costPerObject = 10_000_000
)

// rules is what the schema of one version makes of objects.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/strategy.go, customResourceStrategy.
type rules struct {
	structural *schema.Structural
	values     validation.SchemaValidator
	status     validation.SchemaValidator // of the status alone; takes everything when the schema says nothing of it
	cel        *cel.Validator             // nil without rules
	scale      *apiextensionsv1.CustomResourceSubresourceScale
}

// internalSchema brings a schema to the form that the library works on.
func internalSchema(v *apiextensionsv1.CustomResourceDefinitionVersion) (*apiextensions.JSONSchemaProps, error) {
	out := &apiextensions.JSONSchemaProps{}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, fmt.Errorf("version %s has no schema", v.Name)
	}
	return out, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, out, nil)
}

func newRules(v *apiextensionsv1.CustomResourceDefinitionVersion) (*rules, error) {
	props, err := internalSchema(v)
	if err != nil {
		return nil, err
	}
	r := &rules{}
	if v.Subresources != nil {
		r.scale = v.Subresources.Scale
	}
	if r.structural, err = schema.NewStructural(props); err != nil {
		return nil, err
	}
	if r.values, _, err = validation.NewSchemaValidator(props); err != nil {
		return nil, err
	}
	ofStatus := props.Properties["status"]
	if r.status, _, err = validation.NewSchemaValidator(&ofStatus); err != nil {
		return nil, err
	}
	r.cel = cel.NewValidator(r.structural, true, costPerCall)
	return r, nil
}

// prune brings what a client has sent into the schema's form, and tells what did not fit.
//
// Upstream: pkg/apiserver/customresource_handler.go, unstructuredSchemaCoercer.apply.
func (r *rules) prune(u *unstructured.Unstructured) ([]string, error) {
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, err
	}
	apiVersion, kind := u.GetAPIVersion(), u.GetKind()
	unknown = append(unknown, pruning.PruneWithOptions(u.Object, r.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, r.structural)
	coerceErr, more := objectmeta.CoerceWithOptions(nil, u.Object, r.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
	if coerceErr != nil {
		return nil, coerceErr
	}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	if found {
		err = objectmeta.SetObjectMeta(u.Object, meta)
	}
	return append(unknown, more...), err
}

// fill takes away what the schema does not know and fills in its defaults. It
// runs on reads, too: what is stored may be older than the schema.
func (r *rules) fill(u *unstructured.Unstructured) {
	pruning.Prune(u.Object, r.structural, true)
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, r.structural)
	defaulting.Default(u.Object, r.structural)
}

// validate checks a new object, or with old a changed one.
func (r *rules) validate(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	errs := validation.ValidateCustomResource(nil, u.Object, r.values)
	errs = append(errs, r.validateScale(u, true)...)
	return append(errs, r.validateParts(ctx, u, old, errs)...)
}

// validateStatus checks an object of which only the status has changed.
func (r *rules) validateStatus(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	if status, ok := u.Object["status"]; ok {
		errs = validation.ValidateCustomResource(field.NewPath("status"), status, r.status)
	}
	errs = append(errs, r.validateScale(u, false)...)
	return append(errs, r.validateParts(ctx, u, old, errs)...)
}

// validateParts checks what is not a matter of single values: embedded objects, lists, and CEL rules. found is what is wrong already.
func (r *rules) validateParts(ctx context.Context, u, old *unstructured.Unstructured, found field.ErrorList) field.ErrorList {
	errs := objectmeta.Validate(nil, u.Object, r.structural, false)
	if old == nil || len(listtype.ValidateListSetsAndMaps(nil, r.structural, old.Object)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)...)
	}
	if r.cel == nil {
		return errs
	}
	if u.GetName() == "" || slices.ContainsFunc(errs, blocksRules) || slices.ContainsFunc(found, blocksRules) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var before any
	if old != nil {
		before = old.Object
	}
	broken, _ := r.cel.Validate(ctx, nil, r.structural, u.Object, before, costPerObject)
	return append(errs, broken...)
}

// blocksRules: such an object is not of the types that the rules were compiled for.
func blocksRules(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// validateScale checks the numbers that the scale subresource shows.
//
// Upstream: pkg/registry/customresource/validator.go, ValidateScaleSpec and ValidateScaleStatus.
func (r *rules) validateScale(u *unstructured.Unstructured, spec bool) field.ErrorList {
	if r.scale == nil {
		return nil
	}
	var errs field.ErrorList
	paths := []string{r.scale.SpecReplicasPath, r.scale.StatusReplicasPath}
	if !spec {
		paths = paths[1:]
	}
	for _, path := range paths {
		n, _, err := unstructured.NestedInt64(u.Object, steps(path)...)
		switch at := field.NewPath(path); {
		case err != nil:
			errs = append(errs, field.Invalid(at, n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(at, n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if path := r.scale.LabelSelectorPath; path != nil {
		if s, _, err := unstructured.NestedString(u.Object, steps(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), s, err.Error()))
		}
	}
	return errs
}

// steps takes a path of the simple form ".spec.replicas" apart.
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }
