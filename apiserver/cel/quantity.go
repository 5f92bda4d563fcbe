package cel

import (
	"errors"
	"fmt"
	"reflect"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/api/resource"
)

var quantityType = celgo.ObjectType("kubernetes.Quantity")

// opaque is what the values of types of ours have in common: expressions can do nothing with them but what functions of theirs do.
type opaque struct{ of *types.Type }

// ConvertToNative implements ref.Val.
func (o opaque) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("type conversion error from '%s' to '%v'", o.of, to)
}

// ConvertToType implements ref.Val.
func (o opaque) ConvertToType(to ref.Type) ref.Val {
	if to == types.TypeType {
		return o.of
	}
	return types.NewErr("type conversion error from '%s' to '%s'", o.of, to)
}

// Type implements ref.Val.
func (o opaque) Type() ref.Type { return o.of }

// quantity is the value of a resource.Quantity.
type quantity struct {
	opaque
	resource.Quantity
}

func newQuantity(q resource.Quantity) ref.Val { return quantity{opaque{quantityType}, q} }

// Equal implements ref.Val.
func (q quantity) Equal(other ref.Val) ref.Val {
	o, ok := other.(quantity)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Bool(q.Cmp(o.Quantity) == 0)
}

// Value implements ref.Val.
func (q quantity) Value() any { return q.Quantity }

// quantityFunctions make quantities, calculate with them and compare them. That arguments are of the declared types is checked before.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/quantity.go.
func quantityFunctions() []celgo.EnvOption {
	text, q := []*celgo.Type{celgo.StringType}, []*celgo.Type{quantityType}
	one := func(do func(q resource.Quantity) ref.Val) celgo.OverloadOpt {
		return celgo.UnaryBinding(func(v ref.Val) ref.Val { return do(v.(quantity).Quantity) })
	}
	two := func(id string, with, to *celgo.Type, do func(q, other resource.Quantity) ref.Val) celgo.FunctionOpt {
		return celgo.MemberOverload(id, []*celgo.Type{quantityType, with}, to, celgo.BinaryBinding(func(v, other ref.Val) ref.Val {
			o, ok := other.(quantity)
			if !ok {
				o.Quantity = *resource.NewQuantity(int64(other.(types.Int)), resource.DecimalExponent)
			}
			return do(v.(quantity).Quantity, o.Quantity)
		}))
	}
	add := func(q, other resource.Quantity) ref.Val { q.Add(other); return newQuantity(q) }
	sub := func(q, other resource.Quantity) ref.Val { q.Sub(other); return newQuantity(q) }
	return []celgo.EnvOption{
		celgo.Function("quantity", celgo.Overload("string_to_quantity", text, quantityType, celgo.UnaryBinding(func(s ref.Val) ref.Val {
			q, err := resource.ParseQuantity(string(s.(types.String)))
			if err != nil {
				return types.WrapErr(err)
			}
			return newQuantity(q)
		}))),
		celgo.Function("isQuantity", celgo.Overload("is_quantity_string", text, celgo.BoolType, celgo.UnaryBinding(func(s ref.Val) ref.Val {
			_, err := resource.ParseQuantity(string(s.(types.String)))
			return types.Bool(err == nil)
		}))),
		celgo.Function("sign", celgo.Overload("quantity_sign", q, celgo.IntType, one(func(q resource.Quantity) ref.Val { return types.Int(q.Sign()) }))),
		celgo.Function("isInteger", celgo.MemberOverload("quantity_is_integer", q, celgo.BoolType, one(func(q resource.Quantity) ref.Val {
			_, ok := q.AsInt64()
			return types.Bool(ok)
		}))),
		celgo.Function("asInteger", celgo.MemberOverload("quantity_get_int", q, celgo.IntType, one(func(q resource.Quantity) ref.Val {
			n, ok := q.AsInt64()
			if !ok {
				return types.WrapErr(errors.New("cannot convert value to integer"))
			}
			return types.Int(n)
		}))),
		celgo.Function("asApproximateFloat", celgo.MemberOverload("quantity_get_float", q, celgo.DoubleType,
			one(func(q resource.Quantity) ref.Val { return types.Double(q.AsApproximateFloat64()) }))),
		celgo.Function("isGreaterThan", two("quantity_is_greater_than", quantityType, celgo.BoolType, func(q, o resource.Quantity) ref.Val { return types.Bool(q.Cmp(o) > 0) })),
		celgo.Function("isLessThan", two("quantity_is_less_than", quantityType, celgo.BoolType, func(q, o resource.Quantity) ref.Val { return types.Bool(q.Cmp(o) < 0) })),
		celgo.Function("compareTo", two("quantity_compare_to", quantityType, celgo.IntType, func(q, o resource.Quantity) ref.Val { return types.Int(q.Cmp(o)) })),
		celgo.Function("add", two("quantity_add", quantityType, quantityType, add), two("quantity_add_int", celgo.IntType, quantityType, add)),
		celgo.Function("sub", two("quantity_sub", quantityType, quantityType, sub), two("quantity_sub_int", celgo.IntType, quantityType, sub)),
	}
}
