package kinds

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"orrery/apiserver/cel"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateValidatingPolicy checks a policy, and that its expressions compile.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidatingAdmissionPolicySpec.
// Left out: an update may not keep what this server cannot compile.
func validateValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	var c checks
	spec, compiler := &p.Spec, cel.NewCompiler(p.Spec.ParamKind != nil, len(p.Spec.Variables) > 0)
	requiredPtr(&c, spec.FailurePolicy, specPath.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)
	if spec.ParamKind != nil {
		c.paramKind(spec.ParamKind, specPath.Child("paramKind"))
	}
	if at := specPath.Child("matchConstraints"); spec.MatchConstraints == nil {
		c.add(field.Required(at, ""))
	} else {
		c.matchResources(spec.MatchConstraints, at)
		if len(spec.MatchConstraints.ResourceRules) == 0 {
			c.add(field.Required(at.Child("resourceRules"), ""))
		}
	}
	c.matchConditions(spec.MatchConditions, spec.ParamKind != nil, specPath.Child("matchConditions"))
	for i := range spec.Variables {
		c.policyVariable(compiler, &spec.Variables[i], specPath.Child("variables").Index(i))
	}
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		const either = "validations or auditAnnotations must contain at least one item"
		c.add(field.Required(specPath.Child("validations"), either), field.Required(specPath.Child("auditAnnotations"), either))
	}
	for i := range spec.Validations {
		c.policyValidation(compiler, &spec.Validations[i], specPath.Child("validations").Index(i))
	}
	c.auditAnnotations(compiler, p.Name, spec.AuditAnnotations, specPath.Child("auditAnnotations"))
	return c.errs
}

// requiredPtr is optionPtr for a value that may not be left out.
func requiredPtr[T ~string](c *checks, value *T, at *field.Path, allowed ...T) {
	if value == nil {
		c.add(field.Required(at, ""))
	}
	optionPtr(c, value, at, allowed...)
}

// expression refuses a text that does not compile.
func (c *checks) expression(text string, p *cel.Program, at *field.Path) {
	switch {
	case p.Internal:
		c.add(field.InternalError(at, p.Err))
	case p.Err != nil:
		c.add(field.Invalid(at, text, p.Err.Error()))
	}
}

// matchConditions checks what webhooks and policies have alike.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateMatchConditions.
func (c *checks) matchConditions(list []admissionv1.MatchCondition, params bool, at *field.Path) {
	const most = 64
	if len(list) > most {
		c.add(field.TooMany(at, len(list), most))
	}
	compiler := cel.NewCompiler(params, false)
	for i, m := range list {
		at := at.Index(i)
		if text := strings.TrimSpace(m.Expression); c.required(text, at.Child("expression"), "") {
			c.expression(text, compiler.Compile(text, true, cel.Bool), at.Child("expression"))
		}
		if c.required(m.Name, at.Child("name"), "") {
			c.texts(m.Name, at.Child("name"), utilvalidation.IsQualifiedName(m.Name))
		}
		if m.Name != "" && slices.ContainsFunc(list[:i], func(o admissionv1.MatchCondition) bool { return o.Name == m.Name }) {
			c.add(field.Duplicate(at.Child("name"), m.Name))
		}
	}
}

var (
	celIdentifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")
	celReserved   = s("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while")
)

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateVariable.
func (c *checks) policyVariable(compiler *cel.Compiler, v *admissionv1.Variable, at *field.Path) {
	if c.required(strings.TrimSpace(v.Name), at.Child("name"), "name is not specified") && (!celIdentifier.MatchString(v.Name) || slices.Contains(celReserved, v.Name)) {
		c.add(field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if c.required(strings.TrimSpace(v.Expression), at.Child("expression"), "expression is not specified") {
		c.expression(v.Expression, compiler.Variable(v.Name, v.Expression), at.Child("expression"))
	}
}

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidation.
func (c *checks) policyValidation(compiler *cel.Compiler, v *admissionv1.Validation, at *field.Path) {
	if c.required(strings.TrimSpace(v.Expression), at.Child("expression"), "expression is not specified") {
		c.expression(v.Expression, compiler.Compile(v.Expression, true, cel.Bool), at.Child("expression"))
	}
	if c.notBlank(v.MessageExpression, at.Child("messageExpression")) {
		c.expression(v.MessageExpression, compiler.Compile(v.MessageExpression, false, cel.String), at.Child("messageExpression"))
	}
	if c.notBlank(v.Message, at.Child("message")) && strings.ContainsAny(strings.TrimSpace(v.Message), "\n\r") {
		c.add(field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	optionPtr(c, v.Reason, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)
}

// notBlank refuses a text of spaces; it reports whether there is a text.
func (c *checks) notBlank(text string, at *field.Path) bool {
	blank := strings.TrimSpace(text) == ""
	if blank && text != "" {
		c.add(field.Invalid(at, text, "must be non-empty if specified"))
	}
	return !blank
}

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateAuditAnnotation.
func (c *checks) auditAnnotations(compiler *cel.Compiler, policy string, list []admissionv1.AuditAnnotation, at *field.Path) {
	const most, longest = 20, 5 * 1024
	if len(list) > most {
		c.add(field.Invalid(at, list, fmt.Sprintf("must not have more than %d auditAnnotations", most)))
	}
	for i, a := range list {
		at := at.Index(i)
		if policy == "" {
			c.add(field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			c.texts(policy+"/"+a.Key, at.Child("key"), utilvalidation.IsQualifiedName(policy+"/"+a.Key))
		}
		switch text, at := strings.TrimSpace(a.ValueExpression), at.Child("valueExpression"); {
		case text == "":
			c.add(field.Required(at, "valueExpression is not specified"))
		case len(text) > longest:
			c.add(field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", longest)))
		default:
			c.expression(a.ValueExpression, compiler.Compile(text, true, cel.StringOrNull), at)
		}
		if slices.ContainsFunc(list[:i], func(o admissionv1.AuditAnnotation) bool { return o.Key == a.Key }) {
			c.add(field.Duplicate(at.Child("key"), a.Key))
		}
	}
}

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateParamKind.
func (c *checks) paramKind(k *admissionv1.ParamKind, at *field.Path) {
	version := at.Child("apiVersion")
	if c.required(k.APIVersion, version, "") {
		c.paramVersion(k.APIVersion, version)
	}
	if c.required(k.Kind, at.Child("kind"), "") {
		if bad := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(bad) > 0 {
			c.add(field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(bad, ",")))
		}
	}
}

func (c *checks) paramVersion(apiVersion string, at *field.Path) {
	if strings.Count(apiVersion, "/") > 1 {
		c.add(field.Invalid(at, apiVersion, "unexpected GroupVersion string: "+apiVersion))
		return
	}
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group, version = "", apiVersion
	}
	if group != "" {
		if bad := utilvalidation.IsDNS1123Subdomain(group); len(bad) > 0 {
			c.add(field.Invalid(at, group, strings.Join(bad, ",")))
		}
	}
	if version == "" {
		c.add(field.Invalid(at, apiVersion, "version must be specified"))
	} else if bad := utilvalidation.IsDNS1035Label(version); len(bad) > 0 {
		c.add(field.Invalid(at, version, strings.Join(bad, ",")))
	}
}

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateMatchResources.
func (c *checks) matchResources(m *admissionv1.MatchResources, at *field.Path) {
	requiredPtr(c, m.MatchPolicy, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)
	for _, s := range []struct {
		selector *metav1.LabelSelector
		name     string
	}{{m.NamespaceSelector, "namespaceSelector"}, {m.ObjectSelector, "objectSelector"}} {
		if s.selector == nil {
			c.add(field.Required(at.Child(s.name), ""))
		}
		c.selector(s.selector, at.Child(s.name))
	}
	for i := range m.ResourceRules {
		c.namedRule(&m.ResourceRules[i], at.Child("resourceRules").Index(i))
	}
	for i := range m.ExcludeResourceRules {
		c.namedRule(&m.ExcludeResourceRules[i], at.Child("excludeResourceRules").Index(i))
	}
}

func (c *checks) namedRule(r *admissionv1.NamedRuleWithOperations, at *field.Path) {
	for i, name := range r.ResourceNames {
		at := at.Child("resourceNames").Index(i)
		c.texts(name, at, content.IsPathSegmentName(name))
		if slices.Contains(r.ResourceNames[:i], name) {
			c.add(field.Duplicate(at, name))
		}
	}
	c.admissionRule(&r.RuleWithOperations, at)
}

// validateValidatingPolicyBinding checks where and with which parameters a policy holds.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidatingAdmissionPolicyBindingSpec.
func validateValidatingPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	var c checks
	if c.required(b.Spec.PolicyName, specPath.Child("policyName"), "") {
		c.name(b.Spec.PolicyName, specPath.Child("policyName"), subdomain)
	}
	if b.Spec.ParamRef != nil {
		c.paramRef(b.Spec.ParamRef, specPath.Child("paramRef"))
	}
	if b.Spec.MatchResources != nil {
		c.matchResources(b.Spec.MatchResources, specPath.Child("matchResources"))
	}
	at, actions := specPath.Child("validationActions"), b.Spec.ValidationActions
	for i, action := range actions {
		listed(&c, action, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)
		if slices.Contains(actions[:i], action) {
			c.add(field.Duplicate(at.Index(i), action))
		}
	}
	if slices.Contains(actions, admissionv1.Deny) && slices.Contains(actions, admissionv1.Warn) {
		c.add(field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(actions) == 0 {
		c.add(field.Required(at, "at least one validation action is required"))
	}
	return c.errs
}

// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateParamRef.
func (c *checks) paramRef(r *admissionv1.ParamRef, at *field.Path) {
	const exclusive = "name and selector are mutually exclusive"
	c.name(r.Name, at.Child("name"), content.IsPathSegmentName)
	if r.Name != "" && r.Selector != nil {
		c.add(field.Forbidden(at.Child("name"), exclusive))
	}
	c.selector(r.Selector, at.Child("selector"))
	switch {
	case r.Name != "" && r.Selector != nil:
		c.add(field.Forbidden(at.Child("selector"), exclusive))
	case r.Name == "" && r.Selector == nil:
		c.add(field.Required(at, "one of name or selector must be specified"))
	}
	if action := r.ParameterNotFoundAction; action == nil || *action == "" {
		c.add(field.Required(at.Child("parameterNotFoundAction"), ""))
	} else {
		listed(c, *action, at.Child("parameterNotFoundAction"), admissionv1.DenyAction, admissionv1.AllowAction)
	}
}

func preparePolicyStatus(_ context.Context, p, old *admissionv1.ValidatingAdmissionPolicy) {
	p.Spec = old.Spec
	metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
}

// validatePolicyStatus checks what a controller says of a policy.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidatingAdmissionPolicyStatus.
// Left out: that a fieldRef is a JSON path.
func validatePolicyStatus(p, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	var c checks
	if t := p.Status.TypeChecking; t != nil {
		for i, w := range t.ExpressionWarnings {
			at := statusPath.Child("typeChecking", "expressionWarnings").Index(i)
			c.required(w.Warning, at.Child("warning"), "")
			c.required(strings.TrimSpace(w.FieldRef), at.Child("fieldRef"), "")
		}
	}
	c.addAll(metavalidation.ValidateConditions(p.Status.Conditions, statusPath.Child("conditions")))
	return c.errs
}

// warnStatic tells of a name that is for policies and webhooks that files configure.
//
// Upstream: pkg/apis/admissionregistration/validation/static_suffix.go, WarningsForStaticSuffix.
func warnStatic[T any](obj, _ *T) []string {
	const suffix = ".static.k8s.io"
	if m, ok := any(obj).(metav1.Object); !ok || !strings.HasSuffix(m.GetName(), suffix) {
		return nil
	}
	return s(fmt.Sprintf("metadata.name: names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", suffix))
}
