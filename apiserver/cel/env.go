package cel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
)

// What evaluation may cost.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/apis/cel/config.go.
const (
	perCallLimit   = 1_000_000
	checkFrequency = 100
	// Budget is for the validations of a policy with one binding and one parameter.
	Budget = 10_000_000
	// ConditionsBudget is for the matchConditions of a webhook or policy.
	ConditionsBudget = 2_500_000
)

// What an expression may evaluate to.
var (
	Bool         = []*celgo.Type{celgo.BoolType}
	String       = []*celgo.Type{celgo.StringType}
	StringOrNull = []*celgo.Type{celgo.StringType, celgo.NullType}
)

// names are the variables that not every expression has.
type names struct{ params, authorizer bool }

// environments are made once: with each set of names one.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/compile.go, mustBuildEnvs.
var environments = sync.OnceValues(func() (map[names]*celgo.Env, error) {
	base, err := celgo.NewEnv(baseOptions()...)
	if err != nil {
		return nil, err
	}
	envs := map[names]*celgo.Env{}
	for _, n := range []names{{false, false}, {false, true}, {true, false}, {true, true}} {
		options := []celgo.EnvOption{
			celgo.CustomTypeProvider(&structs{base.CELTypeProvider(), requestTypes}),
			celgo.Variable("object", celgo.DynType), celgo.Variable("oldObject", celgo.DynType),
			celgo.Variable("namespaceObject", celgo.ObjectType("kubernetes.Namespace")),
			celgo.Variable("request", celgo.ObjectType("kubernetes.AdmissionRequest")),
		}
		if n.params {
			options = append(options, celgo.Variable("params", celgo.DynType))
		}
		if n.authorizer {
			options = append(options, celgo.Variable("authorizer", authorizerType), celgo.Variable("authorizer.requestResource", resourceCheckType))
		}
		if envs[n], err = base.Extend(options...); err != nil {
			return nil, err
		}
	}
	return envs, nil
})

// baseOptions are the language: upstream's of 1.36 but for the libraries that are left out.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/cel/environment/base.go, baseOpts.
func baseOptions() []celgo.EnvOption {
	options := []celgo.EnvOption{
		celgo.HomogeneousAggregateLiterals(),
		celgo.EagerlyValidateDeclarations(true),
		celgo.DefaultUTCTimeZone(true),
		celgo.CrossTypeNumericComparisons(true),
		celgo.OptionalTypes(),
		celgo.CostEstimatorOptions(checker.PresenceTestHasCost(false)),
		celgo.ASTValidators(celgo.ValidateDurationLiterals(), celgo.ValidateTimestampLiterals(), celgo.ValidateRegexLiterals(), celgo.ValidateHomogeneousAggregateLiterals()),
		ext.Strings(ext.StringsVersion(2)),
		ext.Sets(),
		ext.TwoVarComprehensions(),
		ext.Lists(ext.ListsVersion(3)),
	}
	return slices.Concat(options, listFunctions(), regexFunctions(), quantityFunctions(), authorizerFunctions())
}

// Compiler compiles the expressions of one object. Variables that it has compiled are known to the expressions after them.
type Compiler struct {
	params   bool
	composed map[string]*celgo.Type // the types of variables.x; nil when there are none
	programs map[string]*Program
	envs     map[names]*celgo.Env
}

// NewCompiler makes a compiler; params says whether there is a name "params", composed whether there is "variables".
func NewCompiler(params, composed bool) *Compiler {
	c := &Compiler{params: params, programs: map[string]*Program{}, envs: map[names]*celgo.Env{}}
	if composed {
		c.composed = map[string]*celgo.Type{}
	}
	return c
}

// env is the shared environment, or for variables one of the compiler's own.
func (c *Compiler) env(n names) (*celgo.Env, error) {
	if env := c.envs[n]; env != nil {
		return env, nil
	}
	shared, err := environments()
	if err != nil {
		return nil, err
	}
	env := shared[n]
	if c.composed != nil {
		known := structs{env.CELTypeProvider(), map[string]map[string]*celgo.Type{variablesName: c.composed}}
		if env, err = env.Extend(celgo.CustomTypeProvider(&known), celgo.Variable("variables", celgo.ObjectType(variablesName))); err != nil {
			return nil, err
		}
	}
	c.envs[n] = env
	return env, nil
}

// Program is a compiled expression.
type Program struct {
	Text string
	// Err says why the text does not compile. Internal: upstream takes that for an error of its own.
	Err      error
	Internal bool
	program  celgo.Program
	output   *celgo.Type
}

// Compile compiles an expression that must evaluate to one of some types, or to anything when none are named.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/compile.go, compiler.CompileCELExpression.
func (c *Compiler) Compile(text string, authorizer bool, to []*celgo.Type) *Program {
	p := &Program{Text: text}
	env, err := c.env(names{c.params, authorizer})
	if err != nil {
		p.Err, p.Internal = fmt.Errorf("unexpected error loading CEL environment: %w", err), true
		return p
	}
	ast, issues := env.Compile(text)
	if issues != nil {
		p.Err = errors.New("compilation failed: " + issues.String())
		return p
	}
	if p.Err = mustBe(ast.OutputType(), to); p.Err != nil {
		return p
	}
	p.output = ast.OutputType()
	p.program, err = env.Program(ast, celgo.InterruptCheckFrequency(checkFrequency), celgo.EvalOptions(celgo.OptOptimize, celgo.OptTrackCost),
		celgo.CostLimit(perCallLimit), celgo.CostTrackerOptions(interpreter.PresenceTestHasCost(false)), celgo.CostTracking(costs{}),
		celgo.OptimizeRegex(regexOf("find"), regexOf("findAll")), celgo.CustomDecorator(guard(env.Functions())))
	if err != nil {
		p.Err, p.Internal = fmt.Errorf("program instantiation failed: %w", err), true
	}
	return p
}

func mustBe(got *celgo.Type, to []*celgo.Type) error {
	switch {
	case len(to) == 0 || slices.ContainsFunc(to, got.IsExactType):
		return nil
	case len(to) == 1:
		return fmt.Errorf("must evaluate to %v but got %v", to[0], got)
	}
	return fmt.Errorf("must evaluate to one of %v but got %v", to, got)
}

// Variable compiles an expression that others know as variables.name.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/composition.go, CompositedCompiler.CompileAndStoreVariable.
func (c *Compiler) Variable(name, text string) *Program {
	p := c.Compile(text, true, nil)
	c.programs[name], c.composed[name] = p, celgo.DynType
	if p.output != nil && plain(p.output) {
		c.composed[name] = p.output
	}
	return p
}

// plain types keep their name in a variable; the others are checked when it is evaluated.
func plain(t *celgo.Type) bool {
	switch t.Kind() {
	case types.StructKind, types.OpaqueKind, types.TypeKind, types.TypeParamKind:
		return false
	}
	return !slices.ContainsFunc(t.Parameters(), func(p *celgo.Type) bool { return !plain(p) })
}

const variablesName = "kubernetes.variables"

// structs adds types with fields to those that CEL has. Their values are maps.
type structs struct {
	types.Provider
	known map[string]map[string]*celgo.Type
}

// FindStructType implements types.Provider.
func (s *structs) FindStructType(name string) (*types.Type, bool) {
	if _, ok := s.known[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return s.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (s *structs) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := s.known[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return s.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (s *structs) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if fields, ok := s.known[name]; ok {
		t, ok := fields[field]
		return &types.FieldType{Type: t}, ok
	}
	return s.Provider.FindStructFieldType(name, field)
}

// requestTypes are the fields of request and namespaceObject.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/cel/compile.go, BuildRequestType and BuildNamespaceType.
var requestTypes = func() map[string]map[string]*celgo.Type {
	text, moment, object := celgo.StringType, celgo.TimestampType, celgo.ObjectType
	texts, labels := celgo.ListType(text), celgo.MapType(text, text)
	kind, resource := object("kubernetes.GroupVersionKind"), object("kubernetes.GroupVersionResource")
	return map[string]map[string]*celgo.Type{
		"kubernetes.GroupVersionKind":     {"group": text, "version": text, "kind": text},
		"kubernetes.GroupVersionResource": {"group": text, "version": text, "resource": text},
		"kubernetes.UserInfo":             {"username": text, "uid": text, "groups": texts, "extra": celgo.MapType(text, texts)},
		"kubernetes.AdmissionRequest": {"kind": kind, "resource": resource, "subResource": text, "requestKind": kind, "requestResource": resource, "requestSubResource": text,
			"name": text, "namespace": text, "operation": text, "userInfo": object("kubernetes.UserInfo"), "dryRun": celgo.BoolType, "options": celgo.DynType},
		"kubernetes.Namespace":          {"metadata": object("kubernetes.NamespaceMetadata"), "spec": object("kubernetes.NamespaceSpec"), "status": object("kubernetes.NamespaceStatus")},
		"kubernetes.NamespaceSpec":      {"finalizers": texts},
		"kubernetes.NamespaceStatus":    {"conditions": celgo.ListType(object("kubernetes.NamespaceCondition")), "phase": text},
		"kubernetes.NamespaceCondition": {"status": text, "type": text, "lastTransitionTime": moment, "message": text, "reason": text},
		"kubernetes.NamespaceMetadata": {"name": text, "generateName": text, "namespace": text, "labels": labels, "annotations": labels, "UID": text, "creationTimestamp": moment,
			"deletionGracePeriodSeconds": celgo.IntType, "deletionTimestamp": moment, "generation": celgo.IntType, "resourceVersion": text, "finalizers": texts},
	}
}()
