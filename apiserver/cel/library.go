package cel

import (
	"regexp"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// listFunctions are isSorted, sum, min, max, indexOf and lastIndexOf of lists.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/lists.go.
func listFunctions() []celgo.EnvOption {
	comparable := []*celgo.Type{celgo.IntType, celgo.UintType, celgo.DoubleType, celgo.BoolType, celgo.DurationType, celgo.TimestampType, celgo.StringType, celgo.BytesType}
	var sorted, smallest, largest, sums []celgo.FunctionOpt
	for _, t := range comparable {
		of, name := []*celgo.Type{celgo.ListType(t)}, typeName(t)
		sorted = append(sorted, celgo.MemberOverload("list_"+name+"_is_sorted_bool", of, celgo.BoolType, celgo.UnaryBinding(isSorted)))
		smallest = append(smallest, celgo.MemberOverload("list_"+name+"_min_"+name, of, t, celgo.UnaryBinding(best("min", types.IntNegOne))))
		largest = append(largest, celgo.MemberOverload("list_"+name+"_max_"+name, of, t, celgo.UnaryBinding(best("max", types.IntOne))))
	}
	for _, s := range []struct {
		of   *celgo.Type
		zero ref.Val
	}{{celgo.IntType, types.Int(0)}, {celgo.UintType, types.Uint(0)}, {celgo.DoubleType, types.Double(0)}, {celgo.DurationType, types.Duration{}}} {
		name := typeName(s.of)
		sums = append(sums, celgo.MemberOverload("list_"+name+"_sum_"+name, []*celgo.Type{celgo.ListType(s.of)}, s.of,
			celgo.UnaryBinding(func(list ref.Val) ref.Val { return sum(list, s.zero) })))
	}
	any := celgo.TypeParamType("A")
	index := func(id string, last bool) celgo.FunctionOpt {
		return celgo.MemberOverload(id, []*celgo.Type{celgo.ListType(any), any}, celgo.IntType,
			celgo.BinaryBinding(func(list, item ref.Val) ref.Val { return indexOf(list, item, last) }))
	}
	return []celgo.EnvOption{celgo.Function("isSorted", sorted...), celgo.Function("sum", sums...), celgo.Function("min", smallest...), celgo.Function("max", largest...),
		celgo.Function("indexOf", index("list_a_index_of_int", false)), celgo.Function("lastIndexOf", index("list_a_last_index_of_int", true))}
}

func typeName(t *celgo.Type) string {
	switch t {
	case celgo.DurationType:
		return "duration"
	case celgo.TimestampType:
		return "timestamp"
	}
	return t.String()
}

// each walks through a list until do returns a value.
func each(list ref.Val, do func(item ref.Val) ref.Val) ref.Val {
	l, ok := list.(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(list)
	}
	for it := l.Iterator(); it.HasNext() == types.True; {
		if v := do(it.Next()); v != nil {
			return v
		}
	}
	return nil
}

// compare is how a stands to b, or an error.
func compare(a, b ref.Val) ref.Val {
	c, ok := a.(traits.Comparer)
	if !ok {
		return types.MaybeNoSuchOverloadErr(a)
	}
	return c.Compare(b)
}

func isSorted(list ref.Val) ref.Val {
	var last ref.Val
	unsorted := each(list, func(item ref.Val) ref.Val {
		before := last
		last = item
		if before == nil {
			return nil
		}
		switch order := compare(before, item); {
		case types.IsUnknownOrError(order):
			return order
		case order == types.IntOne:
			return types.False
		}
		return nil
	})
	if unsorted != nil {
		return unsorted
	}
	return types.True
}

// best finds the first item that stands to all others as order says.
func best(name string, order ref.Val) func(ref.Val) ref.Val {
	return func(list ref.Val) ref.Val {
		var found ref.Val
		err := each(list, func(item ref.Val) ref.Val {
			if found == nil {
				found = item
				return nil
			}
			switch c := compare(item, found); {
			case types.IsUnknownOrError(c):
				return c
			case c == order:
				found = item
			}
			return nil
		})
		switch {
		case err != nil:
			return err
		case found == nil:
			return types.NewErr("%s called on empty list", name)
		}
		return found
	}
}

func sum(list, zero ref.Val) ref.Val {
	total := zero
	err := each(list, func(item ref.Val) ref.Val {
		a, ok := total.(traits.Adder)
		if !ok {
			return types.MaybeNoSuchOverloadErr(total)
		}
		if total = a.Add(item); types.IsUnknownOrError(total) {
			return total
		}
		return nil
	})
	if err != nil {
		return err
	}
	return total
}

func indexOf(list, item ref.Val, last bool) ref.Val {
	at, i := types.Int(-1), types.Int(-1)
	err := each(list, func(other ref.Val) ref.Val {
		i++
		if (last || at < 0) && other.Equal(item) == types.True {
			at = i
		}
		return nil
	})
	if err != nil {
		return err
	}
	return at
}

// regexFunctions are find and findAll of strings.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/regex.go.
func regexFunctions() []celgo.EnvOption {
	text, texts := celgo.StringType, celgo.ListType(celgo.StringType)
	return []celgo.EnvOption{
		celgo.Function("find", celgo.MemberOverload("string_find_string", []*celgo.Type{text, text}, text, celgo.BinaryBinding(func(s, pattern ref.Val) ref.Val {
			re, err := regexp.Compile(string(pattern.(types.String)))
			if err != nil {
				return types.NewErr("Illegal regex: %v", err.Error())
			}
			return types.String(re.FindString(string(s.(types.String))))
		}))),
		celgo.Function("findAll",
			celgo.MemberOverload("string_find_all_string", []*celgo.Type{text, text}, texts,
				celgo.BinaryBinding(func(s, pattern ref.Val) ref.Val { return findAll(s, pattern, types.Int(-1)) })),
			celgo.MemberOverload("string_find_all_string_int", []*celgo.Type{text, text, celgo.IntType}, texts, celgo.FunctionBinding(findAll))),
	}
}

// findAll is given a string, a pattern and how many. That they are of these types is checked before.
func findAll(args ...ref.Val) ref.Val {
	re, err := regexp.Compile(string(args[1].(types.String)))
	if err != nil {
		return types.NewErr("Illegal regex: %v", err.Error())
	}
	return types.NewStringList(types.DefaultTypeAdapter, re.FindAllString(string(args[0].(types.String)), int(args[2].(types.Int))))
}

// regexOf makes a pattern that is a literal and wrong keep an expression from compiling.
func regexOf(function string) *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{Function: function, RegexIndex: 1, Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
		_, err := regexp.Compile(pattern)
		return call, err
	}}
}
