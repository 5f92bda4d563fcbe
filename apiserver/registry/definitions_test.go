package registry

import (
	"testing"

	"orrery/apiserver/kinds"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What upstream's server stores for a definition with one version: its schema stands above the versions.
const storedDefinition = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"things.example.org"},"spec":{"group":"example.org","version":"v1","names":{"plural":"things","singular":"thing","kind":"Thing","listKind":"ThingList"},"scope":"Namespaced","validation":{"openAPIV3Schema":{"type":"object","properties":{"size":{"type":"integer"}}}},"subresources":{"status":{}},"versions":[{"name":"v1","served":true,"storage":true}],"additionalPrinterColumns":[{"name":"Size","type":"integer","JSONPath":".size"}],"conversion":{"strategy":"None"},"preserveUnknownFields":false},"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":["v1"]}}
`

func TestDefinitionsThatUpstreamStored(t *testing.T) {
	k := kinds.NewTable().ByKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	obj, err := Decode(k, []byte(storedDefinition), 7)
	if err != nil {
		t.Fatal(err)
	}
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	v := crd.Spec.Versions[0]
	if v.Schema == nil || v.Schema.OpenAPIV3Schema.Properties["size"].Type != "integer" || v.Subresources.Status == nil || v.AdditionalPrinterColumns[0].JSONPath != ".size" || crd.ResourceVersion != "7" {
		t.Errorf("read as %+v", crd.Spec)
	}
}
