package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// wire gives a row its funcs; it is called once for every row of a new table.
func wire(k *Kind) {
	if k.Hub != nil {
		k.Columns, k.Cells, k.FieldLabels = k.Hub.Columns, k.Hub.Cells, k.Hub.FieldLabels // two views of one thing
	}
	if set, ok := rules[k.Group+"/"+k.Kind]; ok && k.Hub == nil {
		set(k)
		dropDisabled(k)
	}
}

// rule is what is particular to one kind, in terms of its Go type. All of it may be left empty; see Strategy for what each is for.
type rule[T any] struct {
	Default  func(*T)
	Create   func(context.Context, *T)
	Update   func(_ context.Context, obj, old *T)
	Validate func(*T) field.ErrorList
	Change   func(obj, old *T) field.ErrorList
	Warn     func(obj, old *T) []string // old is nil when it is new
	Counted  bool                       // the status has numbers that are checked
	Name     func(name string, prefix bool) []string
	Fields   map[string]func(*T) string
	Columns  string
	Cells    func(*T) []any
	More     func(*Kind)
}

// set makes a rule out of typed funcs into one that fills in a row. A row of another Go type (the other version of a kind) is left alone.
func set[T any](r rule[T]) func(*Kind) {
	return func(k *Kind) {
		if _, ok := any(k.New()).(*T); !ok {
			return
		}
		k.ValidateName = r.Name
		if r.Default != nil {
			k.Default = func(o runtime.Object) { r.Default(as[T](o)) }
		}
		if r.Create != nil {
			k.PrepareForCreate = func(ctx context.Context, o runtime.Object) { r.Create(ctx, as[T](o)) }
		}
		if r.Update != nil {
			k.PrepareForUpdate = func(ctx context.Context, o, old runtime.Object) { r.Update(ctx, as[T](o), as[T](old)) }
		}
		if r.Validate != nil {
			k.Validate = func(o runtime.Object) field.ErrorList { return r.Validate(as[T](o)) }
		}
		if r.Change != nil {
			k.ValidateUpdate = func(o, old runtime.Object) field.ErrorList { return r.Change(as[T](o), as[T](old)) }
		}
		if r.Warn != nil {
			k.Warnings = func(_ context.Context, o, old runtime.Object) []string {
				if old == nil {
					return r.Warn(as[T](o), nil)
				}
				return r.Warn(as[T](o), as[T](old))
			}
		}
		if r.Counted {
			k.Sub("status").ValidateUpdate = validateCounts
		}
		if r.Fields != nil {
			k.FieldLabels = map[string]func(runtime.Object) string{}
			for label, value := range r.Fields {
				k.FieldLabels[label] = func(o runtime.Object) string { return value(as[T](o)) }
			}
		}
		if r.Cells != nil {
			k.Columns = columns(r.Columns)
			k.Cells = func(o runtime.Object) ([]any, []metav1.TableRowCondition) {
				if pod, ok := o.(*corev1.Pod); ok {
					return r.Cells(as[T](o)), podRowConditions(pod)
				}
				return r.Cells(as[T](o)), nil
			}
		}
		if r.More != nil {
			r.More(k)
		}
	}
}

// as tells the Go type of an object; the table guarantees that it is the right one.
func as[T any](o runtime.Object) *T { return any(o).(*T) }

// prepareSub says how a subresource of the row is prepared, and which fields cannot come to be owned through it; see Subresource.
func prepareSub[T any](k *Kind, name string, prepare func(_ context.Context, obj, old *T), validate func(obj, old *T) field.ErrorList, reset ...[]string) {
	s := k.Sub(name)
	if s == nil {
		return
	}
	s.Reset = reset
	if prepare != nil {
		s.PrepareForUpdate = func(ctx context.Context, o, old runtime.Object) { prepare(ctx, as[T](o), as[T](old)) }
	}
	if validate != nil {
		s.ValidateUpdate = func(o, old runtime.Object) field.ErrorList { return validate(as[T](o), as[T](old)) }
	}
}
