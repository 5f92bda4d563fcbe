package cel

import (
	"context"
	"strings"

	"orrery/apiserver/auth"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

var (
	authorizerType    = celgo.ObjectType("kubernetes.authorization.Authorizer")
	pathCheckType     = celgo.ObjectType("kubernetes.authorization.PathCheck")
	groupCheckType    = celgo.ObjectType("kubernetes.authorization.GroupCheck")
	resourceCheckType = celgo.ObjectType("kubernetes.authorization.ResourceCheck")
	decisionType      = celgo.ObjectType("kubernetes.authorization.Decision")
)

// check is a question to the authorizer that an expression puts together step by step, and in the end its answer.
type check struct {
	opaque
	ctx        context.Context
	authorizer auth.Authorizer
	asks       auth.Attributes

	allowed bool
	reason  string
	err     error
}

func newCheck(ctx context.Context, authorizer auth.Authorizer, asks auth.Attributes, of *celgo.Type) ref.Val {
	return &check{opaque: opaque{of}, ctx: ctx, authorizer: authorizer, asks: asks}
}

// Equal implements ref.Val.
func (c *check) Equal(other ref.Val) ref.Val { return types.Bool(ref.Val(c) == other) }

// Value implements ref.Val.
func (c *check) Value() any { return types.NoSuchOverloadErr() }

// answer asks.
func (c *check) answer(verb string) ref.Val {
	asks := c.asks
	asks.Verb = verb
	if asks.IsResource {
		asks.APIVersion = "*"
	}
	decision, reason, err := c.authorizer.Authorize(c.ctx, asks)
	return &check{opaque: opaque{decisionType}, allowed: decision == auth.Allow, reason: reason, err: err}
}

// authorizerFunctions lead from the name authorizer to a decision: authorizer.group('apps').resource('deployments').namespace('default').check('create').allowed().
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/library/authz.go.
func authorizerFunctions() []celgo.EnvOption {
	// step makes a function that adds a text to the question.
	step := func(name, id string, from, to *celgo.Type, set func(a *auth.Attributes, text string)) celgo.EnvOption {
		return celgo.Function(name, celgo.MemberOverload(id, []*celgo.Type{from, celgo.StringType}, to, celgo.BinaryBinding(func(v, s ref.Val) ref.Val {
			c, text := v.(*check), string(s.(types.String))
			if (name == "path" || name == "resource") && strings.TrimSpace(text) == "" {
				return types.NewErr("%s must not be empty", name)
			}
			asks := c.asks
			set(&asks, text)
			return newCheck(c.ctx, c.authorizer, asks, to)
		})))
	}
	ask := func(id string, from *celgo.Type) celgo.FunctionOpt {
		return celgo.MemberOverload(id, []*celgo.Type{from, celgo.StringType}, decisionType,
			celgo.BinaryBinding(func(v, verb ref.Val) ref.Val { return v.(*check).answer(string(verb.(types.String))) }))
	}
	tell := func(name, id string, to *celgo.Type, say func(c *check) ref.Val) celgo.EnvOption {
		return celgo.Function(name, celgo.MemberOverload(id, []*celgo.Type{decisionType}, to, celgo.UnaryBinding(func(v ref.Val) ref.Val { return say(v.(*check)) })))
	}
	return []celgo.EnvOption{
		step("path", "authorizer_path", authorizerType, pathCheckType, func(a *auth.Attributes, s string) { a.Path = s }),
		step("group", "authorizer_group", authorizerType, groupCheckType, func(a *auth.Attributes, s string) { a.IsResource, a.APIGroup = true, s }),
		step("resource", "groupcheck_resource", groupCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Resource = s }),
		step("subresource", "resourcecheck_subresource", resourceCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Subresource = s }),
		step("namespace", "resourcecheck_namespace", resourceCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Namespace = s }),
		step("name", "resourcecheck_name", resourceCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Name = s }),
		step("fieldSelector", "authorizer_fieldselector", resourceCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Fields, _ = fields.ParseSelector(s) }),
		step("labelSelector", "authorizer_labelselector", resourceCheckType, resourceCheckType, func(a *auth.Attributes, s string) { a.Labels, _ = labels.Parse(s) }),
		celgo.Function("serviceAccount", celgo.MemberOverload("authorizer_serviceaccount", []*celgo.Type{authorizerType, celgo.StringType, celgo.StringType}, authorizerType,
			celgo.FunctionBinding(asServiceAccount))),
		celgo.Function("check", ask("pathcheck_check", pathCheckType), ask("resourcecheck_check", resourceCheckType)),
		tell("allowed", "decision_allowed", celgo.BoolType, func(c *check) ref.Val { return types.Bool(c.allowed) }),
		tell("reason", "decision_reason", celgo.StringType, func(c *check) ref.Val { return types.String(c.reason) }),
		tell("errored", "decision_errored", celgo.BoolType, func(c *check) ref.Val { return types.Bool(c.err != nil) }),
		tell("error", "decision_error", celgo.StringType, func(c *check) ref.Val {
			if c.err == nil {
				return types.String("")
			}
			return types.String(c.err.Error())
		}),
	}
}

// asServiceAccount asks for a service account instead of the user.
func asServiceAccount(args ...ref.Val) ref.Val {
	c, namespace, name := args[0].(*check), string(args[1].(types.String)), string(args[2].(types.String))
	if len(validation.ValidateServiceAccountName(name, false)) > 0 {
		return types.NewErr("Invalid service account name")
	}
	if len(validation.ValidateNamespaceName(namespace, false)) > 0 {
		return types.NewErr("Invalid service account namespace")
	}
	asks := c.asks
	asks.User = auth.ServiceAccountUser(namespace, name, "")
	return newCheck(c.ctx, c.authorizer, asks, authorizerType)
}
