package crd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"orrery/apiserver/kinds"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
)

// verbs of custom resources, in the order in which upstream lists them.
var verbs = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}

// rowsOf makes the rows of a definition: one for each version that is served,
// the best first. hub is the row of the stored version; it is not among them
// when that version is not served. ctx is what CEL rules run with.
func rowsOf(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, convert converter) (rows []*kinds.Kind, hub *kinds.Kind, err error) {
	versions := slices.Clone(crd.Spec.Versions)
	slices.SortFunc(versions, func(a, b apiextensionsv1.CustomResourceDefinitionVersion) int {
		return version.CompareKubeAwareVersionStrings(b.Name, a.Name)
	})
	for i := range versions {
		row, err := rowOf(ctx, crd, &versions[i])
		if err != nil {
			return nil, nil, fmt.Errorf("version %s: %w", versions[i].Name, err)
		}
		if versions[i].Storage {
			hub = row
		}
		if versions[i].Served {
			rows = append(rows, row)
		}
	}
	if hub != nil && len(versions) > 1 {
		hub.Custom.FromStored = via(convert, hub.GV(), nil)
	}
	for _, row := range rows {
		if row != hub {
			join(row, hub, convert)
		}
	}
	return rows, hub, nil
}

// rowOf makes the row of one version.
func rowOf(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) (*kinds.Kind, error) {
	r, err := newRules(v)
	if err != nil {
		return nil, err
	}
	names := crd.Status.AcceptedNames
	k := &kinds.Kind{
		Group: crd.Spec.Group, Version: v.Name, Kind: names.Kind, Resource: crd.Spec.Names.Plural, Singular: names.Singular,
		ShortNames: names.ShortNames, Categories: names.Categories, Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		Verbs: verbs, Prefix: crd.Spec.Group + "/" + crd.Spec.Names.Plural,
	}
	gvk := k.GVK()
	k.New = func() runtime.Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}
	k.NewList = func() runtime.Object { return &unstructured.UnstructuredList{} }
	k.Custom = &kinds.Custom{ListKind: names.ListKind, Schema: openAPI(r.structural, gvk), Prune: r.prune}
	k.Strategy = kinds.Strategy{
		Generation: true, RequireResourceVersion: true, UpdateAlone: true,
		Default: func(obj runtime.Object) { r.fill(obj.(*unstructured.Unstructured)) },
		Validate: func(obj runtime.Object) field.ErrorList {
			return r.validate(ctx, obj.(*unstructured.Unstructured), nil)
		},
		ValidateUpdate: func(obj, old runtime.Object) field.ErrorList {
			return r.validate(ctx, obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
		},
	}
	k.Columns, k.Cells = table(v.AdditionalPrinterColumns)
	addSubresources(k, v.Subresources, func(obj, old runtime.Object) field.ErrorList {
		return r.validateStatus(ctx, obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
	})
	addFieldLabels(k, v.SelectableFields)
	if v.Deprecated {
		text := fmt.Sprintf("%s %s is deprecated", k.GV(), k.Kind)
		if v.DeprecationWarning != nil {
			text = *v.DeprecationWarning
		}
		k.Deprecated = text
	}
	return k, nil
}

func addSubresources(k *kinds.Kind, s *apiextensionsv1.CustomResourceSubresources, validateStatus func(obj, old runtime.Object) field.ErrorList) {
	if s == nil {
		return
	}
	view := []string{"get", "patch", "update"}
	if s.Status != nil {
		k.Subresources = append(k.Subresources, kinds.Subresource{Name: "status", Verbs: view, View: true, ValidateUpdate: validateStatus})
	}
	if s.Scale != nil {
		k.Subresources = append(k.Subresources, kinds.Subresource{Name: "scale", Verbs: view,
			Kind: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}})
		k.Custom.Scale = &kinds.ScalePaths{Replicas: steps(s.Scale.SpecReplicasPath), StatusReplicas: steps(s.Scale.StatusReplicasPath)}
		if p := s.Scale.LabelSelectorPath; p != nil && *p != "" {
			k.Custom.Scale.Selector = steps(*p)
		}
	}
}

// addFieldLabels makes the selectableFields known to field selectors.
func addFieldLabels(k *kinds.Kind, fields []apiextensionsv1.SelectableField) {
	k.FieldLabels = map[string]func(runtime.Object) string{}
	for _, f := range fields {
		path := steps(f.JSONPath)
		k.FieldLabels[strings.Join(path, ".")] = func(obj runtime.Object) string {
			v, found, err := unstructured.NestedFieldNoCopy(obj.(*unstructured.Unstructured).Object, path...)
			if err != nil || !found {
				return ""
			}
			return fmt.Sprint(v)
		}
	}
}

var metaDocs = metav1.ObjectMeta{}.SwaggerDoc()

// compareRows orders rows by group, version (the best first) and resource.
func compareRows(a, b *kinds.Kind) int {
	return cmp.Or(strings.Compare(a.Group, b.Group), version.CompareKubeAwareVersionStrings(b.Version, a.Version), strings.Compare(a.Resource, b.Resource))
}
