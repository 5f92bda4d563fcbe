package cel

import (
	"context"
	"fmt"
	"math"

	"orrery/apiserver/auth"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// Input is what expressions see. What is nil is null.
type Input struct {
	Object, OldObject, Params, Request, Namespace any
	// Authorizer is asked about the user and what the request is about; nil hides the name from expressions.
	Authorizer auth.Authorizer
	Asks       auth.Attributes
}

// StopError ends an evaluation: what comes after it cannot be paid for.
type StopError string

// Error implements error.
func (e StopError) Error() string { return string(e) }

const outOfBudget StopError = "validation failed due to running out of cost budget, no further validation rules will be run"

// Evaluation evaluates programs of one compiler on the same input.
type Evaluation struct {
	ctx       context.Context
	in        Input
	variables *variables
	budget    int64
	spent     int64 // by variables of the program that runs
}

// Evaluate begins an evaluation that may cost as much as budget.
func (c *Compiler) Evaluate(ctx context.Context, in Input, budget int64) *Evaluation {
	e := &Evaluation{ctx: ctx, in: in, budget: budget}
	e.variables = &variables{Mapper: nothing, evaluation: e, programs: c.programs, values: map[string]ref.Val{}}
	return e
}

// Left is what is left of the budget.
func (e *Evaluation) Left() int64 { return e.budget }

// Run evaluates a program. The error is a StopError when the evaluation is at its end.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/activation.go, evaluationActivation.Evaluate.
func (e *Evaluation) Run(p *Program) (ref.Val, error) {
	if p.Err != nil {
		return nil, fmt.Errorf("compilation error: %w", p.Err)
	}
	value, cost, err := e.run(p)
	if cost < 0 {
		return nil, StopError(fmt.Sprintf("runtime cost could not be calculated for expression: %v, no further expression will be run", p.Text))
	}
	cost, e.spent = min(cost, math.MaxInt64-e.spent)+e.spent, 0
	if cost > e.budget {
		return nil, outOfBudget
	}
	e.budget -= cost
	if err != nil {
		return nil, fmt.Errorf("expression '%v' resulted in error: %w", p.Text, err)
	}
	return value, nil
}

// run also tells what it cost; less than nothing when that is not known.
func (e *Evaluation) run(p *Program) (ref.Val, int64, error) {
	value, details, err := p.program.ContextEval(e.ctx, e)
	if details == nil || details.ActualCost() == nil {
		return value, -1, err
	}
	return value, int64(min(*details.ActualCost(), math.MaxInt64)), err
}

// ResolveName implements interpreter.Activation.
func (e *Evaluation) ResolveName(name string) (any, bool) {
	switch name {
	case "object":
		return e.in.Object, true
	case "oldObject":
		return e.in.OldObject, true
	case "params":
		return e.in.Params, true
	case "request":
		return e.in.Request, true
	case "namespaceObject":
		return e.in.Namespace, true
	case "variables":
		return e.variables, true
	case "authorizer":
		return newCheck(e.ctx, e.in.Authorizer, auth.Attributes{User: e.in.Asks.User}, authorizerType), e.in.Authorizer != nil
	case "authorizer.requestResource":
		return newCheck(e.ctx, e.in.Authorizer, e.in.Asks, resourceCheckType), e.in.Authorizer != nil
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (e *Evaluation) Parent() interpreter.Activation { return nil }

// nothing is an empty map: variables are asked for by name only.
var nothing, _ = types.DefaultTypeAdapter.NativeToValue(map[string]any{}).(traits.Mapper)

// variables is the value of the name "variables". Each is computed once, and only when it is asked for.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/composition.go, variableAccessor.Callback.
type variables struct {
	traits.Mapper
	evaluation *Evaluation
	programs   map[string]*Program
	values     map[string]ref.Val
}

// Find implements traits.Mapper.
func (v *variables) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.Value().(string)
	p := v.programs[name]
	if !ok || p == nil {
		return nil, false
	}
	if v.values[name] == nil {
		v.values[name] = v.compute(name, p)
	}
	return v.values[name], true
}

func (v *variables) compute(name string, p *Program) ref.Val {
	if p.Err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", name, p.Err)
	}
	value, cost, err := v.evaluation.run(p)
	if cost < 0 {
		return types.NewErr("unable to get evaluation details of variable %q", name)
	}
	v.evaluation.spent += min(cost, math.MaxInt64-v.evaluation.spent)
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", name, err)
	}
	return value
}

// Get implements traits.Indexer.
func (v *variables) Get(key ref.Val) ref.Val {
	if value, ok := v.Find(key); ok {
		return value
	}
	return types.ValOrErr(key, "no such key: %v", key)
}
