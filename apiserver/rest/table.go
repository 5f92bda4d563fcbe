package rest

import (
	"net/http"
	"net/url"
	"time"

	"orrery/apiserver/kinds"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// plainColumns are for kinds that say nothing about theirs.
var plainColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

func metaGVK(version, kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: kind}
}

// table turns objects into what kubectl prints.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/response.go, asTable.
func (h *Handlers) table(r *http.Request, q *request, objects []runtime.Object, m metav1.ListMeta, header bool) (*metav1.Table, error) {
	o, err := query(r, func(v *url.Values, o *metav1.TableOptions, _ any) error {
		return metav1.Convert_url_Values_To_v1_TableOptions(v, o, nil)
	})
	if err != nil {
		return nil, err
	}
	if errs := validation.ValidateTableOptions(&o); len(errs) > 0 {
		return nil, apierrors.NewBadRequest("Unable to convert to Table as requested: " + errs[0].Error())
	}
	t := &metav1.Table{ListMeta: m, Rows: make([]metav1.TableRow, 0, len(objects))}
	t.SetGroupVersionKind(metaGVK(q.form.version, "Table"))
	if header {
		t.ColumnDefinitions = columns(q.layout())
	}
	for _, obj := range objects {
		row, err := q.row(obj, o.IncludeObject)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

func columns(k *kinds.Kind) []metav1.TableColumnDefinition {
	if k.Cells == nil {
		return plainColumns
	}
	return k.Columns
}

func (q *request) row(obj runtime.Object, include metav1.IncludeObjectPolicy) (metav1.TableRow, error) {
	var row metav1.TableRow
	if cells := q.layout().Cells; cells != nil {
		row.Cells, row.Conditions = cells(obj)
	} else {
		m, err := meta.Accessor(obj)
		if err != nil {
			return row, err
		}
		row.Cells = []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	var err error
	switch include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		row.Object.Object, err = q.out(obj)
	default:
		row.Object.Object, err = partial(obj, q.form.version)
	}
	return row, err
}

// partial is the metadata of an object by itself.
func partial(obj runtime.Object, version string) (*metav1.PartialObjectMetadata, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	p := meta.AsPartialObjectMetadata(m)
	p.SetGroupVersionKind(metaGVK(version, asPartial))
	return p, nil
}

func partialList(p page, version string) (runtime.Object, error) {
	list := &metav1.PartialObjectMetadataList{ListMeta: p.meta, Items: make([]metav1.PartialObjectMetadata, 0, len(p.items))}
	list.SetGroupVersionKind(metaGVK(version, asPartialList))
	for _, obj := range p.objects() {
		item, err := partial(obj, version)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, *item)
	}
	return list, nil
}

func versionOf(obj runtime.Object) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return m.GetResourceVersion()
}
