package openapi

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

//go:embed schemas.json.gz
var packed []byte

// metaPrefix starts the schema names of metav1.
const metaPrefix = "io.k8s.apimachinery.pkg.apis.meta.v1."

// reference finds the names of other schemas in a schema.
var reference = regexp.MustCompile(`"#/components/schemas/([^"]+)"`)

// schemas returns all generated schemas, by name.
var schemas = sync.OnceValues(func() (map[string]json.RawMessage, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpacking OpenAPI schemas: %w", err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unpacking OpenAPI schemas: %w", err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("reading OpenAPI schemas: %w", err)
	}
	return all, nil
})

// reachable returns the schemas that doc refers to, and those that they refer to.
func reachable(doc []byte, all map[string]json.RawMessage) map[string]json.RawMessage {
	found := map[string]json.RawMessage{}
	var follow func(data []byte)
	follow = func(data []byte) {
		for _, m := range reference.FindAllSubmatch(data, -1) {
			name := string(m[1])
			if schema, ok := all[name]; ok && found[name] == nil {
				found[name] = schema
				follow(schema)
			}
		}
	}
	follow(doc)
	return found
}

// modelName is the schema's name of a Go type, or "" when it has none.
func modelName(obj runtime.Object) string {
	if named, ok := obj.(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return ""
}

// schemaNameFor guesses the schema's name of a kind that another group lends to a subresource (Scale, Eviction).
func schemaNameFor(group, version, kind string) string {
	if group == "" {
		group = "core"
	}
	short, _, _ := strings.Cut(group, ".")
	return "io.k8s.api." + short + "." + version + "." + kind
}

// ref is a schema that refers to another one.
func ref(name string) map[string]any {
	return map[string]any{"$ref": "#/components/schemas/" + name}
}

// parametersOf turns the fields of an options type into query parameters, in order of name.
func parametersOf(all map[string]json.RawMessage, names ...string) []any {
	seen := map[string]bool{"kind": true, "apiVersion": true, "preconditions": true}
	var params []any
	for _, name := range names {
		var schema struct {
			Properties map[string]struct {
				Description string `json:"description"`
				Type        string `json:"type"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(all[name], &schema); err != nil {
			continue // an options type without a schema has no parameters
		}
		for _, field := range sortedKeys(schema.Properties) {
			property := schema.Properties[field]
			if seen[field] || (property.Type == "" && field != "path") {
				continue
			}
			seen[field] = true
			// Lists are given by repeating the parameter.
			if property.Type == "array" {
				property.Type = "string"
			}
			params = append(params, parameter(field, "query", property.Description, property.Type))
		}
	}
	return params
}

// parameter is one parameter; those of the path are required.
func parameter(name, in, description, kind string) map[string]any {
	p := map[string]any{"name": name, "in": in, "description": description, "schema": map[string]any{"type": kind, "uniqueItems": true}}
	if in == "path" {
		p["required"] = true
	}
	return p
}
