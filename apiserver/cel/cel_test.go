package cel_test

import (
	"context"
	"testing"

	"orrery/apiserver/auth"
	"orrery/apiserver/cel"

	celgo "github.com/google/cel-go/cel"
)

var object = map[string]any{"metadata": map[string]any{"name": "x", "labels": map[string]any{"a": "b"}}, "spec": map[string]any{"replicas": int64(3), "cpu": "500m", "ratio": 0.5}}

func input() cel.Input {
	return cel.Input{Object: object, Request: map[string]any{"operation": "CREATE", "userInfo": map[string]any{"username": "alice"}}}
}

func TestExpressions(t *testing.T) {
	for text, want := range map[string]string{
		"object.spec.replicas <= 5 && object.spec.replicas + 1 == 4":           "true",
		"object.spec.replicas < 3.5":                                           "true",
		"has(object.spec.paused)":                                              "false",
		"object.spec.?paused.orValue(true)":                                    "true",
		"object.spec.paused":                                                   "expression 'object.spec.paused' resulted in error: no such key: paused",
		"oldObject == null && namespaceObject == null":                         "true",
		"object.metadata.labels.all(k, v, k != v)":                             "true",
		"request.userInfo.username + request.operation":                        "aliceCREATE",
		"params == null":                                                       "compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params == null\n | ^",
		"request.nope":                                                         "compilation error: compilation failed: ERROR: <input>:1:8: undefined field 'nope'\n | request.nope\n | .......^",
		"[1, 2, 2].isSorted() && ![2, 1].isSorted()":                           "true",
		"[3, 1, 2].sum() * 100 + [3, 1, 2].min() * 10 + [3, 1].max()":          "613",
		"[duration('1m'), duration('1s')].sum() == duration('61s')":            "true",
		"['a', 'b', 'b'].indexOf('b') * 10 + ['a', 'b', 'b'].lastIndexOf('b')": "12",
		"[0].filter(i, false).max()":                                           "expression '[0].filter(i, false).max()' resulted in error: max called on empty list",
		"'abc 123 45'.find('[0-9]+') + '123 abc 456'.findAll('[0-9]+', 1)[0] + 'a1b2'.findAll('[0-9]')[1]": "1231232",
		"'x'.find('[')": "compilation error: program instantiation failed: error parsing regexp: missing closing ]: `[`",
		"quantity(object.spec.cpu).isLessThan(quantity('1')) && quantity('50k').add(20).sub(quantity('20')) == quantity('50k')": "true",
		"isQuantity('Three') || !quantity('50k').isInteger()":                                                                   "false",
		"sets.contains([1, 2], [2]) && 'a,b'.split(',')[1].upperAscii() == 'B'":                                                 "true",
		"lists.range(3).reverse()[0] == 2":                                                                                      "true",
		"authorizer.group('apps').resource('deployments').namespace('default').check('create').allowed()":                       "true",
		"authorizer.path('/healthz').check('get').allowed()":                                                                    "false",
		"authorizer.requestResource.check('delete').reason()":                                                                   "alice may not delete pods",
		"authorizer.serviceAccount('default', 'robot').group('').resource('pods').check('get').reason()":                        "system:serviceaccount:default:robot may not get pods",
		"authorizer.path(' ').check('get').allowed()":                                                                           "expression 'authorizer.path(' ').check('get').allowed()' resulted in error: path must not be empty",
		"type(authorizer) == type(1)":                                                                                           "false",
	} {
		c := cel.NewCompiler(false, false)
		in := input()
		in.Authorizer, in.Asks = creator{}, auth.Attributes{User: &auth.UserInfo{Name: "alice"}, IsResource: true, Resource: "pods"}
		value, err := c.Evaluate(t.Context(), in, cel.Budget).Run(c.Compile(text, true, nil))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			s := value.ConvertToType(celgo.StringType)
			got, _ = s.Value().(string)
		}
		if got != want {
			t.Errorf("%s\n\tis   %s\n\twant %s", text, got, want)
		}
	}
}

// creator lets everybody create, and nothing else.
type creator struct{}

func (creator) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.Verb == "create" {
		return auth.Allow, "", nil
	}
	return auth.NoOpinion, a.User.Name + " may not " + a.Verb + " " + a.Resource, nil
}

func TestExpressionsMustBeOfATypeKnownBefore(t *testing.T) {
	for _, c := range []struct {
		text, want string
		to         []*celgo.Type
	}{
		{"object.spec.paused", "must evaluate to bool but got dyn", cel.Bool},
		{"1", "must evaluate to string but got int", cel.String},
		{"true", "must evaluate to one of [string null_type] but got bool", cel.StringOrNull},
		{"authorizer", "compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')\n | authorizer\n | ^", cel.String},
	} {
		if p := cel.NewCompiler(false, false).Compile(c.text, false, c.to); p.Err == nil || p.Err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.text, p.Err, c.want)
		}
	}
}

func TestVariables(t *testing.T) {
	c := cel.NewCompiler(false, true)
	c.Variable("n", "object.spec.replicas * 2")
	c.Variable("twice", "variables.n * 2")
	c.Variable("bad", "object.nope")
	for text, want := range map[string]any{
		"variables.twice + variables.n": int64(18),
		"has(variables.n)":              true,
		"variables.bad == 1 || true":    true,
		"variables.bad == 1":            `expression 'variables.bad == 1' resulted in error: composited variable "bad" fails to evaluate: no such key: nope`,
		"variables.unknown":             "compilation error: compilation failed: ERROR: <input>:1:10: undefined field 'unknown'\n | variables.unknown\n | .........^",
	} {
		value, err := c.Evaluate(t.Context(), input(), cel.Budget).Run(c.Compile(text, true, nil))
		switch {
		case err != nil && err.Error() != want, err == nil && value.Value() != want:
			t.Errorf("%s: %v, %v, want %v", text, value, err, want)
		}
	}
}

// Nothing that a policy can say keeps the server busy, or fills its memory.
func TestCostIsLimited(t *testing.T) {
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = 'a'
	}
	in := cel.Input{Object: map[string]any{"s": string(big)}}
	const perCall = "operation cancelled: actual cost limit exceeded"
	for text, want := range map[string]string{
		"lists.range(100).all(a, lists.range(100).all(b, lists.range(100).all(c, a + b + c >= 0)))": perCall,
		"lists.range(1000000000).size() > 0":                           perCall,
		"object.s.replace('a', object.s).size() > 0":                   perCall,
		"object.s.replace('', object.s).size() > 0":                    perCall,
		"lists.range(1000).map(i, object.s).join().size() > 0":         perCall,
		"lists.range(1000).map(i, '').join(object.s).size() > 0":       perCall,
		"'%s'.format([lists.range(1000).map(i, object.s)]).size() > 0": perCall,
	} {
		c := cel.NewCompiler(false, false)
		p := c.Compile(text, false, nil)
		_, err := c.Evaluate(t.Context(), in, cel.Budget).Run(p)
		if err == nil || err.Error() != "expression '"+text+"' resulted in error: "+want {
			t.Errorf("%s: %v", text, err)
		}
	}
	c := cel.NewCompiler(false, true)
	c.Variable("v", "lists.range(3000).all(i, i >= 0)")
	e := c.Evaluate(t.Context(), in, 5_000)
	if _, err := e.Run(c.Compile("variables.v", false, nil)); err == nil || err.Error() != "validation failed due to running out of cost budget, no further validation rules will be run" {
		t.Errorf("a variable that the budget does not pay for: %v", err)
	}
}
