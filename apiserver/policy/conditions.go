package policy

import (
	"context"
	"errors"
	"maps"
	"sync"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"
	"orrery/apiserver/cel"
	"orrery/apiserver/kinds"

	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apitypes "k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Conditions are the matchConditions of a webhook or policy.
type Conditions struct {
	compiler *cel.Compiler
	programs []*cel.Program
	ignore   bool
}

// NewConditions compiles conditions; params says whether they know the parameter.
func NewConditions(list []admissionv1.MatchCondition, params bool, failure *admissionv1.FailurePolicyType) *Conditions {
	c := &Conditions{compiler: cel.NewCompiler(params, false), ignore: ignores(failure)}
	for _, m := range list {
		c.programs = append(c.programs, c.compiler.Compile(m.Expression, true, cel.Bool))
	}
	return c
}

func ignores(failure *admissionv1.FailurePolicyType) bool {
	return failure != nil && *failure == admissionv1.Ignore
}

// Match reports whether all conditions hold. One that is false outweighs others that fail.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions/matcher.go, matcher.Match.
func (c *Conditions) Match(ctx context.Context, in cel.Input) (bool, error) {
	var failed []error
	in.Namespace = nil
	if request, ok := in.Request.(map[string]any); ok { // whose kind is in the version that is matched, and its resource is not
		request = maps.Clone(request)
		request["resource"], in.Request = request["requestResource"], request
	}
	evaluation := c.compiler.Evaluate(ctx, in, cel.ConditionsBudget)
	for _, p := range c.programs {
		value, err := evaluation.Run(p)
		var stop cel.StopError
		switch {
		case errors.As(err, &stop):
			return c.failed(err)
		case err != nil:
			failed = append(failed, err)
		case value == types.False:
			return false, nil
		}
	}
	if len(failed) > 0 {
		return c.failed(utilerrors.NewAggregate(failed))
	}
	return true, nil
}

func (c *Conditions) failed(err error) (bool, error) {
	if c.ignore {
		err = nil
	}
	return false, err
}

// Input is what expressions see of a write, in the version of row.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/activation.go, newActivation.
func Input(ctx context.Context, m admission.Matcher, a *admission.Attributes, row *kinds.Kind, authorizer auth.Authorizer) (in cel.Input, err error) {
	if in.Object, err = inVersion(a, row, a.Object); err != nil {
		return in, err
	}
	if in.OldObject, err = inVersion(a, row, a.Old); err != nil {
		return in, err
	}
	request := m.Request(ctx, a, row)
	if in.Request, err = fields(request); err != nil {
		return in, err
	}
	in.Authorizer = authorizer
	in.Asks = auth.Attributes{User: a.User, IsResource: true, APIGroup: request.RequestResource.Group, Resource: request.RequestResource.Resource,
		Subresource: a.Subresource, Namespace: request.Namespace, Name: a.Name}
	return in, nil
}

func inVersion(a *admission.Attributes, row *kinds.Kind, obj runtime.Object) (any, error) {
	obj, err := a.In(row, obj)
	if obj == nil || err != nil {
		return nil, err
	}
	return fields(obj)
}

// fields are an object as expressions see it.
func fields(obj any) (any, error) { return runtime.DefaultUnstructuredConverter.ToUnstructured(obj) }

// Cache keeps what was compiled from objects until their generation changes. The zero value is empty.
type Cache[T any] struct {
	mu  sync.Mutex
	has map[apitypes.UID]entry[T]
}

type entry[T any] struct {
	generation int64
	made       T
}

// full is when a cache forgets everything, as it does not hear of deletions.
const full = 1000

// Of returns what was compiled from an object, or compiles it.
func (c *Cache[T]) Of(obj metav1.Object, compile func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.has[obj.GetUID()]
	if ok && e.generation == obj.GetGeneration() {
		return e.made
	}
	if c.has == nil || len(c.has) >= full {
		c.has = map[apitypes.UID]entry[T]{}
	}
	e = entry[T]{obj.GetGeneration(), compile()}
	c.has[obj.GetUID()] = e
	return e.made
}
