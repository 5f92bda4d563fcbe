package rest

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"unicode"

	"orrery/apiserver/kinds"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// managers remembers who set which field: it writes metadata.managedFields on
// every write, and computes the result of server-side apply.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/util/managedfields.
type managers struct {
	table *kinds.Table

	mu    sync.Mutex
	byKey map[managerKey]*managedfields.FieldManager
	other func(*kinds.Kind) (managedfields.TypeConverter, error)
}

// builtIn knows the lists and maps of the built-in kinds. Parsing their schema
// takes a while: not before somebody writes, and once for all servers of a process.
var builtIn = sync.OnceValue(func() managedfields.TypeConverter {
	return applyconfigurations.NewTypeConverter(scheme.Scheme)
})

type managerKey struct {
	kind        *kinds.Kind
	subresource string
}

func newManagers(table *kinds.Table, other func(*kinds.Kind) (managedfields.TypeConverter, error)) *managers {
	return &managers{table: table, other: other, byKey: map[managerKey]*managedfields.FieldManager{}}
}

// of returns the manager for writes to a kind through one of its endpoints.
func (m *managers) of(k *kinds.Kind, subresource string) (*managedfields.FieldManager, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := managerKey{k, subresource}
	if fm, ok := m.byKey[key]; ok {
		return fm, nil
	}
	make := managedfields.NewDefaultFieldManager
	if isUnstructured(k.New()) {
		make = managedfields.NewDefaultCRDFieldManager
	}
	types, err := m.typesOf(k)
	if err != nil {
		return nil, err
	}
	c := convertor{m.table}
	fm, err := make(folding{types}, c, c, c, k.GVK(), k.GV(), subresource, m.reset(k, subresource))
	if err == nil {
		m.byKey[key] = fm
	}
	return fm, err
}

// typesOf knows the lists and maps of a kind.
func (m *managers) typesOf(k *kinds.Kind) (managedfields.TypeConverter, error) {
	if m.other != nil {
		if types, err := m.other(k); types != nil || err != nil {
			return types, err
		}
	}
	if isUnstructured(k.New()) {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	return builtIn(), nil
}

// reset lists the fields that an endpoint does not write, and that nobody can
// come to own through it.
func (m *managers) reset(k *kinds.Kind, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	hub := k.Stored()
	paths := hub.Reset
	if sub := hub.Sub(subresource); sub != nil {
		if paths = sub.Reset; paths == nil && sub.View {
			paths = [][]string{{"spec"}}
		}
	} else if paths == nil && hub.Sub("status") != nil && !hub.KeepStatusOnCreate {
		paths = [][]string{{"status"}}
	}
	set := fieldpath.NewSet()
	for _, p := range paths {
		parts := make([]any, len(p))
		for i := range p {
			parts[i] = p[i]
		}
		set.Insert(fieldpath.MakePathOrDie(parts...))
	}
	if set.Empty() {
		return nil
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(k.GV().String()): fieldpath.NewExcludeSetFilter(set)}
}

// update notes the difference between live and obj as manager's. Both are of
// the version of k. obj is changed and returned.
func (m *managers) update(k *kinds.Kind, subresource string, live, obj runtime.Object, manager string) (runtime.Object, error) {
	fm, err := m.of(k, subresource)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	return fm.UpdateNoErrors(live, obj, manager), nil
}

// managerName is the client's fieldManager, or what its User-Agent begins with.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/create.go, managerOrUserAgent.
func managerName(r *http.Request, manager string) string {
	if manager != "" {
		return manager
	}
	name, _, _ := strings.Cut(r.UserAgent(), " ")
	name, _, _ = strings.Cut(name, "/")
	name = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, name)
	return name[:min(len(name), 128)]
}

// folding has values become objects late. For each manager of an object the field
// manager has the whole of it made into one, mostly to see that its version is
// the wanted one already.
type folding struct{ managedfields.TypeConverter }

// TypedToObject implements managedfields.TypeConverter.
func (t folding) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	f := &folded{unfold: func() (runtime.Object, error) { return t.TypeConverter.TypedToObject(value) }}
	v := value.AsValue()
	if !v.IsMap() {
		return f.unfold()
	}
	for name, to := range map[string]*string{"apiVersion": &f.APIVersion, "kind": &f.Kind} {
		if s, ok := v.AsMap().Get(name); ok && s.IsString() {
			*to = s.AsString()
		}
	}
	return f, nil
}

// folded is an object of which only apiVersion and kind can be seen.
type folded struct {
	metav1.TypeMeta
	unfold func() (runtime.Object, error)
}

// DeepCopyObject implements runtime.Object; nothing changes what is folded.
func (f *folded) DeepCopyObject() runtime.Object { return f }

// convertor lets the field manager see one object in each version that is
// served, with the kind's defaults.
type convertor struct{ table *kinds.Table }

// ConvertToVersion implements runtime.ObjectConvertor. The result may share memory with in.
func (c convertor) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if f, ok := in.(*folded); ok {
		var err error
		if in, err = f.unfold(); err != nil {
			return nil, err
		}
	}
	gvk := in.GetObjectKind().GroupVersionKind()
	row := c.table.ByKind(gvk)
	if row == nil {
		return scheme.Scheme.ConvertToVersion(in, target)
	}
	if u, ok := in.(*unstructured.Unstructured); ok && !isUnstructured(row.New()) {
		in = row.New()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, in); err != nil {
			return nil, err
		}
		in.GetObjectKind().SetGroupVersionKind(gvk)
	}
	if to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk}); ok && to == gvk {
		return in, nil
	}
	for _, other := range c.table.All() {
		if other.Stored() != row.Stored() {
			continue
		}
		if _, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{other.GVK()}); ok {
			hub, err := row.Unconvert(in)
			if err != nil {
				return nil, err
			}
			out, err := other.Convert(hub)
			if err == nil {
				out.GetObjectKind().SetGroupVersionKind(other.GVK())
			}
			return out, err
		}
	}
	return nil, runtime.NewNotRegisteredErrForTarget("table of kinds", reflect.TypeOf(in), target)
}

// Convert implements runtime.ObjectConvertor; nobody asks for it.
func (convertor) Convert(in, out, _ any) error {
	return fmt.Errorf("cannot convert %T to %T in place", in, out)
}

// ConvertFieldLabel implements runtime.ObjectConvertor; nobody asks for it.
func (convertor) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter.
func (c convertor) Default(obj runtime.Object) {
	k := c.table.ByKind(obj.GetObjectKind().GroupVersionKind())
	if k != nil && k.Hub == nil && k.Default != nil {
		k.Default(obj)
	}
}

// New implements runtime.ObjectCreater.
func (c convertor) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if k := c.table.ByKind(gvk); k != nil {
		obj := k.New()
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		return obj, nil
	}
	return scheme.Scheme.New(gvk)
}
