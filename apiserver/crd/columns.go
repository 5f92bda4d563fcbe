package crd

import (
	"encoding/json"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// age is the column of a definition that names none.
var age = apiextensionsv1.CustomResourceColumnDefinition{Name: "Age", Type: "date", Description: metaDocs["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"}

// table makes the columns that kubectl prints from additionalPrinterColumns.
//
// Upstream: staging/src/k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor/tableconvertor.go, New.
func table(defs []apiextensionsv1.CustomResourceColumnDefinition) ([]metav1.TableColumnDefinition, func(runtime.Object) ([]any, []metav1.TableRowCondition)) {
	if len(defs) == 0 {
		defs = []apiextensionsv1.CustomResourceColumnDefinition{age}
	}
	columns := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metaDocs["name"]}}
	paths := make([]path, len(defs))
	for i, d := range defs {
		text := d.Description
		if text == "" {
			text = fmt.Sprintf("Custom resource definition column (in JSONPath format): %s", d.JSONPath)
		}
		columns = append(columns, metav1.TableColumnDefinition{Name: d.Name, Type: d.Type, Format: d.Format, Description: text, Priority: d.Priority})
		if p, err := parsePath(d.JSONPath); err == nil {
			paths[i] = p
		}
	}
	return columns, func(obj runtime.Object) ([]any, []metav1.TableRowCondition) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return nil, nil
		}
		cells := []any{u.GetName()}
		for i, p := range paths {
			cells = append(cells, cell(defs[i].Type, p.find(u.Object)))
		}
		return cells, nil
	}
}

// cell shows the first value that a column's path has found, or nothing.
func cell(kind string, found []any) any {
	if len(found) == 0 || found[0] == nil {
		return nil
	}
	switch v := found[0].(type) {
	case string:
		switch kind {
		case "string":
			return v
		case "date":
			return since(v)
		}
	case int64:
		switch kind {
		case "integer":
			return v
		case "number":
			return float64(v)
		case "string":
			return fmt.Sprint(v)
		}
	case float64:
		switch kind {
		case "integer":
			return int64(v)
		case "number":
			return v
		case "string":
			return fmt.Sprint(v)
		}
	case bool:
		switch kind {
		case "boolean":
			return v
		case "string":
			return fmt.Sprint(v)
		}
	default:
		if kind == "string" {
			text, err := json.Marshal(v)
			if err == nil {
				return string(text)
			}
		}
	}
	return nil
}

// since is how long ago a time was, as people say it.
func since(text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "<invalid>"
	}
	return duration.HumanDuration(time.Since(t))
}
