package openapi

import (
	"encoding/json"
	"slices"
	"strings"
)

// buildV2 makes the one document of OpenAPI v2 (Swagger) out of the v3 documents.
//
// Upstream: k8s.io/kube-openapi/pkg/handler/handler.go, OpenAPIService; default_pruning.go, PruneDefaults.
func (h *Handler) buildV2() ([]byte, error) {
	paths, definitions := map[string]any{}, map[string]any{}
	for _, key := range sortedKeys(h.rows) {
		doc, err := h.locked(key, func() ([]byte, error) { return h.buildV3(key) })
		if err != nil {
			return nil, err
		}
		var v3 struct {
			Paths      map[string]map[string]any `json:"paths"`
			Components struct {
				Schemas map[string]any `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(doc.json, &v3); err != nil {
			return nil, err
		}
		for name, schema := range v3.Components.Schemas {
			definitions[name] = schemaV2(schema)
		}
		for path, item := range v3.Paths {
			paths[path] = pathV2(item)
		}
	}
	return json.Marshal(map[string]any{
		"swagger": "2.0", "info": h.info(), "paths": paths, "definitions": definitions,
		"securityDefinitions": map[string]any{"BearerToken": bearerToken},
		"security":            []any{map[string]any{"BearerToken": []string{}}},
	})
}

// schemaV2 rewrites a schema: references without siblings in allOf, no defaults, no oneOf.
func schemaV2(schema any) any {
	in, ok := schema.(map[string]any)
	if !ok {
		return schema
	}
	out := map[string]any{}
	for key, value := range in {
		switch key {
		case "default", "oneOf", "anyOf", "not", "nullable":
		case "$ref":
			out[key] = refV2(value)
		case "allOf":
			if parts, ok := value.([]any); ok && len(parts) == 1 {
				out["$ref"] = refV2(parts[0].(map[string]any)["$ref"])
			}
		case "items", "additionalProperties":
			out[key] = schemaV2(value)
		case "properties":
			properties := map[string]any{}
			for name, property := range value.(map[string]any) {
				properties[name] = schemaV2(property)
			}
			out[key] = properties
		default:
			out[key] = value
		}
	}
	return out
}

func refV2(ref any) string {
	text, _ := ref.(string)
	return strings.Replace(text, "#/components/schemas/", "#/definitions/", 1)
}

// pathV2 rewrites the operations of one path.
func pathV2(item map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range item {
		if key == "parameters" {
			out[key] = parametersV2(value.([]any))
			continue
		}
		out[key] = operationV2(value.(map[string]any))
	}
	return out
}

// operationV2 turns the request body into a parameter, and contents into produces and consumes.
func operationV2(op map[string]any) map[string]any {
	out := map[string]any{"schemes": []string{"https"}, "consumes": []string{"*/*"}}
	parameters := []any{}
	for key, value := range op {
		switch key {
		case "parameters":
			parameters = append(parameters, parametersV2(value.([]any))...)
		case "requestBody":
			body := value.(map[string]any)
			content := body["content"].(map[string]any)
			consumes := sortedKeys(content)
			out["consumes"] = consumes
			param := map[string]any{"name": "body", "in": "body", "schema": schemaV2(content[consumes[0]].(map[string]any)["schema"])}
			if body["required"] == true {
				param["required"] = true
			}
			parameters = append(parameters, param)
		case "responses":
			out[key] = responsesV2(value.(map[string]any), out)
		default:
			out[key] = value
		}
	}
	if len(parameters) > 0 {
		slices.SortStableFunc(parameters, func(a, b any) int {
			return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
		})
		out["parameters"] = parameters
	}
	return out
}

// responsesV2 rewrites the responses, and notes in op which media types they have.
func responsesV2(in, op map[string]any) map[string]any {
	out := map[string]any{}
	for code, value := range in {
		response := value.(map[string]any)
		converted := map[string]any{"description": response["description"]}
		if content, ok := response["content"].(map[string]any); ok {
			produces := sortedKeys(content)
			op["produces"] = produces
			converted["schema"] = schemaV2(content[produces[0]].(map[string]any)["schema"])
		}
		out[code] = converted
	}
	return out
}

// parametersV2 puts a parameter's schema into the parameter itself.
func parametersV2(in []any) []any {
	var out []any
	for _, p := range in {
		param := map[string]any{}
		for key, value := range p.(map[string]any) {
			if key != "schema" {
				param[key] = value
				continue
			}
			for k, v := range value.(map[string]any) {
				param[k] = v
			}
		}
		out = append(out, param)
	}
	return out
}
