package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"orrery/apiserver/cel"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// compiled is a policy whose expressions are compiled.
type compiled struct {
	spec        *admissionv1.ValidatingAdmissionPolicySpec
	compiler    *cel.Compiler
	conditions  *Conditions
	validations []*cel.Program
	messages    []*cel.Program // nil where a validation has no messageExpression
	annotations []*cel.Program
}

// compile compiles a policy. What does not compile fails when it is evaluated.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/plugin.go, compilePolicy.
func compile(spec *admissionv1.ValidatingAdmissionPolicySpec) *compiled {
	params := spec.ParamKind != nil
	c := &compiled{spec: spec, compiler: cel.NewCompiler(params, true), conditions: NewConditions(spec.MatchConditions, params, spec.FailurePolicy)}
	for _, v := range spec.Variables {
		c.compiler.Variable(v.Name, v.Expression)
	}
	for _, v := range spec.Validations {
		c.validations = append(c.validations, c.compiler.Compile(v.Expression, true, cel.Bool))
		var message *cel.Program
		if v.MessageExpression != "" {
			message = c.compiler.Compile(v.MessageExpression, false, cel.String)
		}
		c.messages = append(c.messages, message)
	}
	for _, a := range spec.AuditAnnotations {
		c.annotations = append(c.annotations, c.compiler.Compile(a.ValueExpression, true, cel.StringOrNull))
	}
	return c
}

// denial says which validation does not hold.
type denial struct {
	index   int
	message string
	reason  metav1.StatusReason
}

// note is an audit annotation.
type note struct{ key, value string }

// result is what a policy says about a write with one parameter.
type result struct {
	denials []denial
	notes   []note
	broken  []denial // annotations that could not be computed: they deny whatever the binding's actions are
}

// evaluate asks a policy.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/validator.go, validator.Validate.
func (c *compiled) evaluate(ctx context.Context, in cel.Input) (r result) {
	ok, err := c.conditions.Match(ctx, in)
	if err != nil {
		r.denials = c.failed(0, err)
	}
	if !ok {
		return r
	}
	evaluation := c.compiler.Evaluate(ctx, in, cel.Budget)
	values, errs, err := runAll(evaluation, c.validations)
	if err != nil {
		r.denials = c.failed(0, err)
		return r
	}
	in.Authorizer = nil // messages and annotations must not depend on who looks
	messages, _, messageErr := runAll(c.compiler.Evaluate(ctx, in, evaluation.Left()), c.messages)
	for i := range c.validations {
		switch {
		case errs[i] != nil:
			r.denials = append(r.denials, c.failed(i, errs[i])...)
		case messageErr != nil:
			r.denials = append(r.denials, c.failed(i, fmt.Errorf("failed messageExpression: %w", messageErr))...)
		case values[i] != types.True:
			r.denials = append(r.denials, deny(i, &c.spec.Validations[i], messages[i]))
		}
	}
	c.annotate(c.compiler.Evaluate(ctx, in, cel.Budget), &r)
	return r
}

// runAll evaluates programs, or returns the error that ends it.
func runAll(e *cel.Evaluation, programs []*cel.Program) (values []ref.Val, errs []error, stopped error) {
	values, errs = make([]ref.Val, len(programs)), make([]error, len(programs))
	for i, p := range programs {
		if p == nil {
			continue
		}
		values[i], errs[i] = e.Run(p)
		if stop := cel.StopError(""); errors.As(errs[i], &stop) {
			return nil, nil, errs[i]
		}
	}
	return values, errs, nil
}

// failed is what an error means: nothing when the policy ignores failures.
func (c *compiled) failed(index int, err error) []denial {
	if ignores(c.spec.FailurePolicy) {
		return nil
	}
	return []denial{{index: index, message: err.Error()}}
}

// maxMessage is the longest message that an expression may make.
const maxMessage = 5 * 1024

// deny words the denial: by messageExpression, else by message, else by the expression itself.
func deny(index int, v *admissionv1.Validation, computed ref.Val) denial {
	d := denial{index: index}
	if v.Reason != nil {
		d.reason = *v.Reason
	}
	if computed != nil {
		text, _ := computed.Value().(string)
		if text = strings.TrimSpace(text); len(text) <= maxMessage && !strings.Contains(text, "\n") {
			d.message = text
		}
	}
	if d.message == "" {
		d.message = strings.TrimSpace(v.Message)
	}
	if d.message == "" {
		d.message = "failed expression: " + strings.TrimSpace(v.Expression)
	}
	return d
}

// annotate computes the audit annotations.
func (c *compiled) annotate(e *cel.Evaluation, r *result) {
	values, errs, err := runAll(e, c.annotations)
	if err != nil {
		r.denials, r.notes = c.failed(0, err), nil // upstream forgets what else it has found
		return
	}
	for i, a := range c.spec.AuditAnnotations {
		if errs[i] != nil {
			r.broken = append(r.broken, c.failed(i, errs[i])...)
			continue
		}
		if text, ok := values[i].Value().(string); ok && strings.TrimSpace(text) != "" {
			r.notes = append(r.notes, note{a.Key, strings.TrimSpace(text)})
		}
	}
}
