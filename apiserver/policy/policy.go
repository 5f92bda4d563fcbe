package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"orrery/apiserver/admission"
	"orrery/apiserver/audit"
	"orrery/apiserver/auth"
	"orrery/apiserver/cel"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/warning"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Config is what the plugin works with.
type Config struct {
	// Objects reads policies, bindings, parameters, and the namespaces that selectors look at.
	Objects objects.Reader
	Table   *kinds.Table
	// Authorizer is what expressions know as authorizer.
	Authorizer auth.Authorizer
}

type plugin struct {
	admission.Base
	Config
	cache Cache[*compiled]
}

// New returns the plugin ValidatingAdmissionPolicy.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/plugin.go, Plugin.
func New(c Config) admission.Plugin { return &plugin{Config: c} }

func (*plugin) Name() string { return "ValidatingAdmissionPolicy" }

// Validate implements admission.Plugin.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/dispatcher.go, dispatcher.Dispatch.
func (p *plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	switch {
	case a.Exempt():
		return p.authorize(ctx, a)
	case excluded(a.Kind.GR()):
		return nil
	}
	bindings, err := list[*admissionv1.ValidatingAdmissionPolicyBinding](ctx, p.Objects, "validatingadmissionpolicybindings")
	if err != nil || len(bindings) == 0 {
		return err
	}
	policies, err := list[*admissionv1.ValidatingAdmissionPolicy](ctx, p.Objects, "validatingadmissionpolicies")
	if err != nil {
		return err
	}
	w := &write{plugin: p, Attributes: a}
	for _, policy := range policies {
		var own []*admissionv1.ValidatingAdmissionPolicyBinding
		for _, b := range bindings {
			if b.Spec.PolicyName == policy.Name {
				own = append(own, b)
			}
		}
		if len(own) == 0 {
			continue
		}
		if err := w.judge(ctx, policy, own); err != nil {
			return err
		}
	}
	return w.refusal
}

// excluded are the questions about users: a policy about them could lock everybody out.
//
// Upstream: pkg/kubeapiserver/admission/exclusion/resources.go, Excluded.
func excluded(gr schema.GroupResource) bool {
	return slices.Contains([]string{"selfsubjectreviews.authentication.k8s.io", "tokenreviews.authentication.k8s.io",
		"localsubjectaccessreviews.authorization.k8s.io", "selfsubjectaccessreviews.authorization.k8s.io",
		"selfsubjectrulesreviews.authorization.k8s.io", "subjectaccessreviews.authorization.k8s.io"}, gr.String())
}

func list[T any](ctx context.Context, r objects.Reader, resource string) ([]T, error) {
	all, err := r.List(ctx, schema.GroupResource{Group: admissionv1.GroupName, Resource: resource}, "", nil)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	var typed []T
	for _, obj := range all {
		if t, ok := any(obj).(T); ok {
			typed = append(typed, t)
		}
	}
	return typed, nil
}

// write is one write on its way past the policies.
type write struct {
	*plugin
	*admission.Attributes
	refusal error // in the words of the first that denies
	audited bool
}

// judge asks one policy for all of its bindings. The error is one of the server, not a refusal.
func (w *write) judge(ctx context.Context, policy *admissionv1.ValidatingAdmissionPolicy, bindings []*admissionv1.ValidatingAdmissionPolicyBinding) error {
	row, err := w.matches(ctx, policy.Spec.MatchConstraints)
	if err == nil && row == nil {
		return nil
	}
	var kind *kinds.Kind
	if err == nil {
		kind, err = w.paramKind(policy.Spec.ParamKind)
	}
	if err != nil {
		w.misconfigured(policy, "", err)
		return nil
	}
	c := w.cache.Of(policy, func() *compiled { return compile(&policy.Spec) })
	var in *cel.Input // made for the first binding that matches
	notes := map[string][]string{}
	for _, b := range bindings {
		params, err := w.bound(ctx, b, kind)
		if err == nil && len(params) > 0 && in == nil {
			in, err = w.input(ctx, row)
		}
		if err != nil {
			w.misconfigured(policy, b.Name, err)
			continue
		}
		for _, param := range params {
			with := *in
			with.Params = param
			w.act(ctx, policy, b, c.evaluate(ctx, with), notes)
		}
	}
	for key, values := range notes {
		audit.Annotate(ctx, policy.Name+"/"+key, strings.Join(values, ", "))
	}
	return nil
}

// matches finds the version in which a policy wants to see the write; nil when it does not.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/matching/matching.go, Matcher.Matches.
func (w *write) matches(ctx context.Context, r *admissionv1.MatchResources) (*kinds.Kind, error) {
	if r == nil {
		return nil, errors.New("policy contained no match constraints, a required field")
	}
	m := w.matcher()
	selected, err := m.Selects(ctx, r.NamespaceSelector, r.ObjectSelector, w.Attributes)
	if !selected && err == nil {
		return nil, nil
	}
	named := func(rules []admissionv1.NamedRuleWithOperations) func(*kinds.Kind) bool {
		return func(row *kinds.Kind) bool {
			return slices.ContainsFunc(rules, func(r admissionv1.NamedRuleWithOperations) bool {
				return admission.RuleNames(&r.RuleWithOperations, w.Attributes, row) && (len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, w.Name()))
			})
		}
	}
	if m.Row(ctx, w.Attributes, r.MatchPolicy, named(r.ExcludeResourceRules)) != nil {
		return nil, nil
	}
	row := m.Requested(ctx, w.Attributes)
	if len(r.ResourceRules) > 0 {
		row = m.Row(ctx, w.Attributes, r.MatchPolicy, named(r.ResourceRules))
	}
	if row == nil {
		return nil, nil // whatever was wrong with the selectors
	}
	return row, err
}

func (p *plugin) matcher() admission.Matcher {
	return admission.Matcher{Objects: p.Objects, Table: p.Table}
}

// Name of the object: both embedded structs have one.
func (w *write) Name() string { return w.Attributes.Name }

// bound are the parameters of a binding; none when it does not match.
func (w *write) bound(ctx context.Context, b *admissionv1.ValidatingAdmissionPolicyBinding, kind *kinds.Kind) ([]any, error) {
	if b.Spec.MatchResources != nil {
		if row, err := w.matches(ctx, b.Spec.MatchResources); row == nil || err != nil {
			return nil, err
		}
	}
	return w.params(ctx, kind, b.Spec.ParamRef, w.Attributes)
}

// input is what the policy's expressions see.
func (w *write) input(ctx context.Context, row *kinds.Kind) (*cel.Input, error) {
	in, err := Input(ctx, w.matcher(), w.Attributes, row, w.Authorizer)
	if err != nil {
		return nil, fmt.Errorf("failed to convert object version: %w", err)
	}
	if w.Namespace == "" || w.IsNamespace() {
		return &in, nil
	}
	ns, err := w.Objects.Get(ctx, schema.GroupResource{Resource: "namespaces"}, "", w.Namespace)
	if err != nil {
		return nil, err
	}
	in.Namespace, err = fields(ns)
	return &in, err
}

// misconfigured denies a write because of a policy or binding that cannot be asked.
func (w *write) misconfigured(policy *admissionv1.ValidatingAdmissionPolicy, binding string, err error) {
	what := "policy"
	if binding != "" {
		what = "binding"
	}
	if !ignores(policy.Spec.FailurePolicy) {
		w.deny(policy.Name, binding, denial{message: fmt.Sprintf("failed to configure %s: %v", what, err)})
	}
}

// act does what the binding says is to be done.
func (w *write) act(ctx context.Context, policy *admissionv1.ValidatingAdmissionPolicy, b *admissionv1.ValidatingAdmissionPolicyBinding, r result, notes map[string][]string) {
	for _, d := range r.denials {
		for _, action := range b.Spec.ValidationActions {
			switch action {
			case admissionv1.Deny:
				w.deny(policy.Name, b.Name, d)
			case admissionv1.Warn:
				warning.Add(ctx, fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", policy.Name, b.Name, d.message))
			case admissionv1.Audit:
				w.audit(ctx, b, d)
			}
		}
	}
	for _, d := range r.broken {
		w.deny(policy.Name, b.Name, d)
	}
	for _, n := range r.notes {
		value := n.value[:min(len(n.value), maxAnnotation)]
		if !slices.Contains(notes[n.key], value) {
			notes[n.key] = append(notes[n.key], value)
		}
	}
}

// maxAnnotation is the longest value of an audit annotation.
const maxAnnotation = 10 * 1024

// audit notes a denial in the audit log, the first of a request.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/dispatcher.go, publishValidationFailureAnnotation.
func (w *write) audit(ctx context.Context, b *admissionv1.ValidatingAdmissionPolicyBinding, d denial) {
	type failure struct {
		Message           string                         `json:"message"`
		Policy            string                         `json:"policy"`
		Binding           string                         `json:"binding"`
		ExpressionIndex   int                            `json:"expressionIndex"`
		ValidationActions []admissionv1.ValidationAction `json:"validationActions"`
	}
	value, err := json.Marshal([]failure{{d.message, b.Spec.PolicyName, b.Name, d.index, b.Spec.ValidationActions}})
	if err == nil && !w.audited {
		audit.Annotate(ctx, "validation.policy.admission.k8s.io/validation_failure", string(value))
	}
	w.audited = true
}

// deny refuses the write, unless it is refused already.
func (w *write) deny(policy, binding string, d denial) {
	if w.refusal != nil {
		return
	}
	by := fmt.Sprintf("ValidatingAdmissionPolicy '%s'", policy)
	if binding != "" {
		by += fmt.Sprintf(" with binding '%s'", binding)
	}
	message := by + " denied request: " + d.message
	err := admission.Forbidden(w.Attributes, errors.New(message))
	err.ErrStatus.Reason, err.ErrStatus.Code = metav1.StatusReasonInvalid, http.StatusUnprocessableEntity
	if code, ok := codes[d.reason]; ok {
		err.ErrStatus.Reason, err.ErrStatus.Code = d.reason, code
	}
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	w.refusal = err
}

// codes of the reasons that a validation may give.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/validating/policy_decision.go, reasonToCode.
var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonForbidden:             http.StatusForbidden,
	metav1.StatusReasonUnauthorized:          http.StatusUnauthorized,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge,
}
