package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"orrery/apiserver/kinds"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// modelsOf are the schema names of a kind and of its list.
func modelsOf(k *kinds.Kind) (model, list string) {
	if k.Custom != nil {
		return customModel(k, k.Kind), customModel(k, k.Custom.ListKind)
	}
	if k.NewList != nil {
		list = modelName(k.NewList())
	}
	return modelName(k.New()), list
}

// customModel names the schema of a custom resource: com.example.v1.Widget.
func customModel(k *kinds.Kind, kind string) string {
	parts := strings.Split(k.Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, k.Version, kind), ".")
}

// withCustom adds the schemas of custom resources to all others.
func withCustom(all map[string]json.RawMessage, rows []*kinds.Kind) (map[string]json.RawMessage, error) {
	cloned := false
	for _, k := range rows {
		if k.Custom == nil {
			continue
		}
		if !cloned {
			all, cloned = maps.Clone(all), true
		}
		model, list := modelsOf(k)
		for name, schema := range map[string]*spec.Schema{model: k.Custom.Schema, list: listSchema(k, model)} {
			data, err := json.Marshal(schema)
			if err != nil {
				return nil, fmt.Errorf("schema of %s: %w", k.GVK(), err)
			}
			all[name] = data
		}
	}
	return all, nil
}

// listSchema describes the list of a custom resource.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder/builder.go, buildListSchema.
func listSchema(k *kinds.Kind, model string) *spec.Schema {
	s := new(spec.Schema).Typed("object", "").WithDescription(k.Custom.ListKind+" is a list of "+k.Kind).WithRequired("items").
		SetProperty("items", *spec.ArrayProperty(spec.RefSchema("#/components/schemas/" + model)).WithDescription("List of " + k.Resource + ".")).
		SetProperty("metadata", *spec.RefSchema("#/components/schemas/" + metaPrefix + "ListMeta")).
		SetProperty("apiVersion", *spec.StringProperty()).SetProperty("kind", *spec.StringProperty())
	s.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": k.Group, "version": k.Version, "kind": k.Custom.ListKind},
	})
	return s
}

// Types describes the fields of a kind for server-side apply. It is nil for
// the kinds that client-go describes.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go, buildOpenAPIModelsForApply.
func Types(k *kinds.Kind) (managedfields.TypeConverter, error) {
	model, _ := modelsOf(k)
	if strings.HasPrefix(model, "io.k8s.api.") && k.Custom == nil || model == "" {
		return nil, nil
	}
	all, err := schemas()
	if err != nil {
		return nil, err
	}
	if all, err = withCustom(all, []*kinds.Kind{k}); err != nil {
		return nil, err
	}
	models := map[string]*spec.Schema{}
	for name, data := range reachable([]byte(`"#/components/schemas/`+model+`"`), all) {
		s := &spec.Schema{}
		if err := json.Unmarshal(data, s); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		models[name] = s
	}
	return managedfields.NewTypeConverter(models, false)
}
