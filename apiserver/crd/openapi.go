package crd

import (
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// objectMeta is where OpenAPI documents describe metadata.
const objectMeta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// openAPI is a version's schema as OpenAPI documents show it: with the fields that every object has.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder/builder.go, buildKubeNative.
func openAPI(s *structural.Structural, gvk schema.GroupVersionKind) *spec.Schema {
	out := s.ToKubeOpenAPI()
	addObjectFields(out)
	embedded(out)
	out.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind},
	})
	return out
}

func addObjectFields(s *spec.Schema) {
	docs := metav1.TypeMeta{}.SwaggerDoc()
	s.SetProperty("metadata", *spec.RefSchema(objectMeta).WithDescription("Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"))
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(docs["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(docs["kind"]))
}

// embedded adds the same fields to objects inside the object.
func embedded(s *spec.Schema) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		embedded(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		embedded(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		embedded(s.AdditionalProperties.Schema)
	}
	if is, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); ok && is {
		addObjectFields(s)
	}
}
