package cel

import (
	"fmt"
	"math"

	"github.com/google/cel-go/common/decls"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// costs tells what a call has cost; what it does not know costs what CEL says.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/cost.go, CostEstimator.CallCost.
type costs struct{}

const (
	perCharacter = 0.1  // of a string that is walked through
	perPattern   = 0.25 // of a regular expression's text
)

// CallCost implements interpreter.ActualCostEstimator.
func (costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	walk := func(times float64, v ref.Val) *uint64 {
		return new(uint64(math.Ceil(times * perCharacter * sizeOf(v))))
	}
	switch function {
	case "check":
		return new(uint64(350_000)) // two questions to the authorizer are all that an expression may ask
	case "isSorted", "sum", "max", "min", "indexOf", "lastIndexOf":
		return new(volume(args[0], perCallLimit))
	case "lowerAscii", "upperAscii", "substring", "trim", "quantity", "isQuantity":
		return walk(1, args[0])
	case "replace", "split":
		return walk(2, args[0])
	case "join":
		return walk(2, result)
	case "find", "findAll":
		return new(uint64(math.Ceil((1+sizeOf(args[0]))*perCharacter) * math.Ceil(sizeOf(args[1])*perPattern)))
	case "path", "group", "serviceAccount", "resource", "subresource", "namespace", "name", "allowed", "reason", "error", "errored",
		"sign", "asInteger", "isInteger", "asApproximateFloat", "isGreaterThan", "isLessThan", "compareTo", "add", "sub":
		return new(uint64(1))
	}
	return nil
}

func sizeOf(v ref.Val) float64 {
	if s, ok := v.(traits.Sizer); ok {
		if n, ok := s.Size().(types.Int); ok {
			return float64(n)
		}
	}
	return 1
}

// volume is what it costs to walk through a value; it stops to count above limit.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/cost.go, traversalCost.
func volume(v ref.Val, limit uint64) (n uint64) {
	switch v := v.(type) {
	case types.String:
		return uint64(float64(len(v)) * perCharacter)
	case types.Bytes:
		return uint64(float64(len(v)) * perCharacter)
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && n <= limit; {
			n += volume(it.Next(), limit)
		}
		return n
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && n <= limit; {
			key := it.Next()
			n += volume(key, limit) + volume(v.Get(key), limit)
		}
		return n
	}
	return 1
}

// wouldBe tells how large the result of a call can become, for functions whose result is not of the size of what they are given.
var wouldBe = map[string]func(args []ref.Val) float64{
	"lists.range": func(args []ref.Val) float64 {
		n, _ := args[0].(types.Int)
		return float64(n)
	},
	"replace": func(args []ref.Val) float64 {
		return sizeOf(args[0]) * perCharacter * (1 + sizeOf(args[2])/max(1, sizeOf(args[1])))
	},
	"join": func(args []ref.Val) float64 {
		size := float64(volume(args[0], perCallLimit))
		if len(args) > 1 {
			size += sizeOf(args[0]) * sizeOf(args[1]) * perCharacter
		}
		return size
	},
	"format": func(args []ref.Val) float64 { return float64(volume(args[1], perCallLimit)) },
}

// guard refuses such calls before they are made when the limit would not pay for the result: cost is else counted when the memory is gone.
func guard(env map[string]*decls.FunctionDecl) interpreter.InterpretableDecorator {
	return func(i interpreter.Interpretable) (interpreter.Interpretable, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok || wouldBe[call.Function()] == nil {
			return i, nil
		}
		do, err := implementation(env[call.Function()], call.OverloadID())
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			if wouldBe[call.Function()](args) > perCallLimit {
				return types.NewErr("operation cancelled: actual cost limit exceeded")
			}
			return do(args...)
		}), nil
	}
}

// implementation finds what a call of a function runs.
func implementation(of *decls.FunctionDecl, overload string) (functions.FunctionOp, error) {
	bindings, err := of.Bindings()
	if err != nil {
		return nil, err
	}
	var found *functions.Overload
	for _, b := range bindings {
		if b.Operator == overload || found == nil && b.Operator == of.Name() {
			found = b
		}
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("%s is not bound", of.Name())
	case found.Unary != nil:
		return func(args ...ref.Val) ref.Val { return found.Unary(args[0]) }, nil
	case found.Binary != nil:
		return func(args ...ref.Val) ref.Val { return found.Binary(args[0], args[1]) }, nil
	}
	return found.Function, nil
}
