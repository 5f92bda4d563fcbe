package crd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type definition = apiextensionsv1.CustomResourceDefinition

// validate checks a definition.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go, ValidateCustomResourceDefinition.
// Left out: limits on the cost of CEL rules.
func validate(ctx context.Context, crd *definition) field.ErrorList {
	var errs field.ErrorList
	if crd.Name != crd.Spec.Names.Plural+"."+crd.Spec.Group {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), crd.Name, `must be spec.names.plural+"."+spec.group`))
	}
	at := field.NewPath("spec")
	switch group := crd.Spec.Group; {
	case group == "":
		errs = append(errs, field.Required(at.Child("group"), ""))
	case len(utilvalidation.IsDNS1123Subdomain(group)) > 0:
		errs = append(errs, field.Invalid(at.Child("group"), group, strings.Join(utilvalidation.IsDNS1123Subdomain(group), ",")))
	case !strings.Contains(group, "."):
		errs = append(errs, field.Invalid(at.Child("group"), group, "should be a domain with at least one dot"))
	}
	scopes := []apiextensionsv1.ResourceScope{apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped}
	if scope := crd.Spec.Scope; scope == "" {
		errs = append(errs, field.Required(at.Child("scope"), ""))
	} else if !slices.Contains(scopes, scope) {
		errs = append(errs, field.NotSupported(at.Child("scope"), scope, scopes))
	}
	errs = append(errs, validateVersions(ctx, crd, at.Child("versions"))...)
	errs = append(errs, validateNames(&crd.Spec.Names, at.Child("names"))...)
	if crd.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(at.Child("preserveUnknownFields"), true, "must be false"))
	}
	errs = append(errs, validateStored(crd)...)
	errs = append(errs, validateConversion(crd.Spec.Conversion, at.Child("conversion"))...)
	return append(errs, validateApproval(crd)...)
}

func validateVersions(ctx context.Context, crd *definition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range crd.Spec.Versions {
		if v := &crd.Spec.Versions[i]; v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			errs = append(errs, field.Required(at.Index(i).Child("schema", "openAPIV3Schema"), "schemas are required"))
		}
	}
	seen, stored := map[string]bool{}, 0
	for i := range crd.Spec.Versions {
		v, at := &crd.Spec.Versions[i], at.Index(i)
		if v.Storage {
			stored++
		}
		seen[v.Name] = true
		if bad := utilvalidation.IsDNS1035Label(v.Name); len(bad) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(bad, ",")))
		}
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			errs = append(errs, validateSchema(ctx, v, at.Child("schema", "openAPIV3Schema"))...)
		}
		if v.Subresources != nil && v.Subresources.Scale != nil {
			errs = append(errs, validateScalePaths(v.Subresources.Scale, at.Child("subresources"))...)
		}
		for j, c := range v.AdditionalPrinterColumns {
			errs = append(errs, validateColumn(c, at.Child("additionalPrinterColumns").Index(j))...)
		}
	}
	if len(seen) < len(crd.Spec.Versions) {
		errs = append(errs, field.Invalid(at, crd.Spec.Versions, "must contain unique version names"))
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(at, crd.Spec.Versions, "must have exactly one version marked as storage version"))
	}
	return errs
}

// validateSchema checks that a schema is structural, that its defaults fit it, and that its rules compile.
func validateSchema(ctx context.Context, v *apiextensionsv1.CustomResourceDefinitionVersion, at *field.Path) field.ErrorList {
	props, err := internalSchema(v)
	if err != nil {
		return field.ErrorList{field.Invalid(at, "", err.Error())}
	}
	s, err := schema.NewStructural(props)
	if err != nil {
		return field.ErrorList{field.Invalid(at, "", err.Error())}
	}
	if errs := schema.ValidateStructural(at, s); len(errs) > 0 {
		return errs
	}
	errs, err := defaulting.ValidateDefaults(ctx, at, s, true, true)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, "", err.Error())}
	case len(errs) > 0:
		return errs
	}
	if errs = compile(ctx, s, true, at); len(errs) > 0 {
		return errs
	}
	if _, err := newRules(v); err != nil {
		return field.ErrorList{field.Invalid(at, "", fmt.Sprintf("error building validator: %v", err))}
	}
	return nil
}

// compile finds the CEL rules that do not compile. A validator says so when it
// is asked about a value, so it is asked about an empty one.
func compile(ctx context.Context, s *schema.Structural, root bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.XValidations) > 0 {
		alone := *s
		if !root && s.Type == "object" {
			root = s.XEmbeddedResource
		}
		empty := map[string]any{"object": map[string]any{}, "array": []any{}, "string": "", "integer": int64(0), "number": 0.0, "boolean": false}[s.Type]
		for i, rule := range s.XValidations {
			alone.XValidations = s.XValidations[i : i+1]
			found, _ := cel.NewValidator(&alone, root, costPerCall).Validate(ctx, at, &alone, empty, empty, costPerObject)
			for _, e := range found {
				if text, ok := strings.CutPrefix(e.Detail, "rule compile error: "); ok {
					errs = append(errs, field.Invalid(at.Child("x-kubernetes-validations").Index(i).Child("rule"), rule.Rule, text))
				}
			}
		}
	}
	for name, p := range s.Properties {
		errs = append(errs, compile(ctx, &p, false, at.Child("properties").Key(name))...)
	}
	if s.Items != nil {
		errs = append(errs, compile(ctx, s.Items, false, at.Child("items"))...)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		errs = append(errs, compile(ctx, s.AdditionalProperties.Structural, false, at.Child("additionalProperties"))...)
	}
	return errs
}

func validateNames(n *apiextensionsv1.CustomResourceDefinitionNames, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	label := func(at *field.Path, value, before string) {
		if bad := utilvalidation.IsDNS1035Label(strings.ToLower(value)); before != "" && len(bad) > 0 {
			errs = append(errs, field.Invalid(at, value, before+strings.Join(bad, ",")))
		} else if bad := utilvalidation.IsDNS1035Label(value); before == "" && len(bad) > 0 {
			errs = append(errs, field.Invalid(at, value, strings.Join(bad, ",")))
		}
	}
	const mixed = "may have mixed case, but should otherwise match: "
	for _, name := range []struct{ field, value, before string }{
		{"plural", n.Plural, ""}, {"singular", n.Singular, ""}, {"kind", n.Kind, mixed}, {"listKind", n.ListKind, mixed},
	} {
		if name.value == "" {
			errs = append(errs, field.Required(at.Child(name.field), ""))
			continue
		}
		label(at.Child(name.field), name.value, name.before)
	}
	for i, s := range n.ShortNames {
		label(at.Child("shortNames").Index(i), s, "")
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(at.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, c := range n.Categories {
		label(at.Child("categories").Index(i), c, "")
	}
	return errs
}

func validateScalePaths(s *apiextensionsv1.CustomResourceSubresourceScale, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(at *field.Path, value, where string, prefixes ...string) {
		under := func(prefix string) bool { return strings.HasPrefix(value, prefix) }
		switch {
		case value == "":
			errs = append(errs, field.Required(at, ""))
		case value[0] != '.':
			errs = append(errs, field.Invalid(at, value, "must be a simple json path starting with ."))
		case !slices.ContainsFunc(prefixes, under):
			errs = append(errs, field.Invalid(at, value, "should be a json path under "+where))
		}
	}
	check(at.Child("scale.specReplicasPath"), s.SpecReplicasPath, ".spec", ".spec.")
	check(at.Child("scale.statusReplicasPath"), s.StatusReplicasPath, ".status", ".status.")
	if p := s.LabelSelectorPath; p != nil && *p != "" {
		check(at.Child("scale.labelSelectorPath"), *p, "either .spec or .status", ".spec.", ".status.")
	}
	return errs
}

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

func validateColumn(c apiextensionsv1.CustomResourceColumnDefinition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	oneOf := "must be one of " + strings.Join(columnTypes, ",")
	if c.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), oneOf))
	} else if !slices.Contains(columnTypes, c.Type) {
		errs = append(errs, field.Invalid(at.Child("type"), c.Type, oneOf))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.Invalid(at.Child("format"), c.Format, "must be one of "+strings.Join(columnFormats, ",")))
	}
	if c.JSONPath == "" {
		errs = append(errs, field.Required(at.Child("JSONPath"), ""))
	} else if c.JSONPath[0] != '.' {
		errs = append(errs, field.Invalid(at.Child("JSONPath"), c.JSONPath, "must be a simple json path starting with ."))
	}
	return errs
}

// validateStored: a version of which objects may lie in the store cannot go.
func validateStored(crd *definition) field.ErrorList {
	var errs field.ErrorList
	at, stored := field.NewPath("status", "storedVersions"), crd.Status.StoredVersions
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(stored, v.Name) {
			errs = append(errs, field.Invalid(at, stored, "must have the storage version "+v.Name))
		}
	}
	for i, name := range stored {
		if !slices.ContainsFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == name }) {
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf("missing from spec.versions; %[1]s was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in %[1]s and removes %[1]s from status.storedVersions", name)))
		}
	}
	return errs
}

// validateApproval: groups of the community want to be asked first.
func validateApproval(crd *definition) field.ErrorList {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	at := field.NewPath("metadata", "annotations").Key(apiextensionsv1.KubeAPIApprovedAnnotation)
	switch state, reason := apihelpers.GetAPIApprovalState(crd.Annotations); state {
	case apihelpers.APIApproved, apihelpers.APIApprovalBypassed:
		return nil
	case apihelpers.APIApprovalMissing:
		return field.ErrorList{field.Required(at, reason)}
	default:
		return field.ErrorList{field.Invalid(at, crd.Annotations[apiextensionsv1.KubeAPIApprovedAnnotation], reason)}
	}
}

func validateUpdate(crd, old *definition) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if apihelpers.IsCRDConditionTrue(old, apiextensionsv1.Established) {
		errs = append(errs, apivalidation.ValidateImmutableField(crd.Spec.Scope, old.Spec.Scope, at.Child("scope"))...)
		errs = append(errs, apivalidation.ValidateImmutableField(crd.Spec.Names.Kind, old.Spec.Names.Kind, at.Child("names", "kind"))...)
	}
	errs = append(errs, apivalidation.ValidateImmutableField(crd.Spec.Group, old.Spec.Group, at.Child("group"))...)
	return append(errs, apivalidation.ValidateImmutableField(crd.Spec.Names.Plural, old.Spec.Names.Plural, at.Child("names", "plural"))...)
}
