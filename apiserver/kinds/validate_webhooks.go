package kinds

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateValidatingWebhooks(w *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	var c checks
	for i := range w.Webhooks {
		at := field.NewPath("webhooks").Index(i)
		c.webhook(&w.Webhooks[i], at)
		c.client(&w.Webhooks[i], at)
		if slices.ContainsFunc(w.Webhooks[:i], func(h admissionv1.ValidatingWebhook) bool { return h.Name == w.Webhooks[i].Name }) {
			c.add(field.Duplicate(at.Child("name"), w.Webhooks[i].Name))
		}
	}
	return c.errs
}

func validateMutatingWebhooks(w *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	var c checks
	for i := range w.Webhooks {
		m, at := &w.Webhooks[i], field.NewPath("webhooks").Index(i)
		as := &admissionv1.ValidatingWebhook{Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules,
			FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy, NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector,
			SideEffects: m.SideEffects, TimeoutSeconds: m.TimeoutSeconds, AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions}
		c.webhook(as, at)
		optionPtr(&c, m.ReinvocationPolicy, at.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		c.client(as, at)
		if slices.ContainsFunc(w.Webhooks[:i], func(h admissionv1.MutatingWebhook) bool { return h.Name == m.Name }) {
			c.add(field.Duplicate(at.Child("name"), m.Name))
		}
	}
	return c.errs
}

// webhook checks when a webhook of either sort is called.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidatingWebhook.
func (c *checks) webhook(w *admissionv1.ValidatingWebhook, at *field.Path) {
	c.addAll(utilvalidation.IsFullyQualifiedName(at.Child("name"), w.Name))
	for i, r := range w.Rules {
		c.admissionRule(&r, at.Child("rules").Index(i))
	}
	optionPtr(c, w.FailurePolicy, at.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)
	optionPtr(c, w.MatchPolicy, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)
	if w.SideEffects == nil {
		c.add(field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	}
	optionPtr(c, w.SideEffects, at.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)
	if t := w.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		c.add(field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	c.selector(w.NamespaceSelector, at.Child("namespaceSelector"))
	c.selector(w.ObjectSelector, at.Child("objectSelector"))
}

// admissionRule checks which requests a webhook or policy names.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateRuleWithOperations.
func (c *checks) admissionRule(r *admissionv1.RuleWithOperations, at *field.Path) {
	someOrAll(c, r.Operations, at.Child("operations"), "operations")
	for j, o := range r.Operations {
		optionPtr(c, &o, at.Child("operations").Index(j), admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)
	}
	someOrAll(c, r.APIGroups, at.Child("apiGroups"), "API groups")
	someOrAll(c, r.APIVersions, at.Child("apiVersions"), "API versions")
	for j, v := range r.APIVersions {
		c.required(v, at.Child("apiVersions").Index(j), "")
	}
	c.ruleResources(r.Resources, at.Child("resources"))
	optionPtr(c, r.Scope, at.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)
}

// optionPtr is optionOf for a value that may be left out, but not be empty.
func optionPtr[T ~string](c *checks, value *T, at *field.Path, allowed ...T) {
	if value != nil && !slices.Contains(allowed, *value) {
		c.add(field.NotSupported(at, *value, allowed))
	}
}

// someOrAll refuses an empty list, and "*" beside others.
func someOrAll[T ~string](c *checks, list []T, at *field.Path, what string) {
	switch {
	case len(list) == 0:
		c.add(field.Required(at, ""))
	case len(list) > 1 && slices.Contains(list, "*"):
		c.add(field.Invalid(at, list, "if '*' is present, must not specify other "+what))
	}
}

// ruleResources refuses a resource that another of the list, which comes before it, has already.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateResources.
func (c *checks) ruleResources(list []string, at *field.Path) {
	if len(list) == 0 {
		c.add(field.Required(at, ""))
	}
	plain := false // upstream asks the last one without a subresource
	for i, r := range list {
		if !c.required(r, at.Index(i), "") {
			continue
		}
		resource, sub, ok := strings.Cut(r, "/")
		if !ok {
			plain = r != "*"
			continue
		}
		for _, all := range []string{resource + "/*", "*/" + sub} {
			if slices.Contains(list[:i], all) {
				c.add(field.Invalid(at.Index(i), r, fmt.Sprintf("if '%s' is present, must not specify %s", all, r)))
			}
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		c.add(field.Invalid(at, list, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(list, "*") {
		c.add(field.Invalid(at, list, "if '*' is present, must not specify other resources without subresources"))
	}
}

// client checks where a webhook is, when it is called, and what it understands.
func (c *checks) client(w *admissionv1.ValidatingWebhook, at *field.Path) {
	switch cc, at := w.ClientConfig, at.Child("clientConfig"); {
	case (cc.URL == nil) == (cc.Service == nil):
		c.add(field.Required(at, "exactly one of url or service is required"))
	case cc.URL != nil:
		c.webhookURL(*cc.URL, at.Child("url"))
	default:
		c.webhookService(cc.Service, at.Child("service"))
	}
	c.matchConditions(w.MatchConditions, false, at.Child("matchConditions"))
	at, versions := at.Child("admissionReviewVersions"), w.AdmissionReviewVersions
	if len(versions) == 0 {
		c.add(field.Required(at, "must specify one of v1, v1beta1"))
		return
	}
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			c.add(field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		c.texts(v, at.Index(i), utilvalidation.IsDNS1035Label(v))
	}
	if !slices.Contains(versions, "v1") { // v1beta1 alone is not spoken here
		c.add(field.Invalid(at, versions, "must include at least one of v1, v1beta1"))
	}
}

// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/validation.go, ValidateWebhookURL.
func (c *checks) webhookURL(text string, at *field.Path) {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		c.add(field.Required(at, "url must be a valid URL: "+err.Error()+form))
		return
	}
	refuse := func(bad bool, value, detail string) {
		if bad {
			c.add(field.Invalid(at, value, detail))
		}
	}
	refuse(u.Scheme != "https", u.Scheme, "'https' is the only allowed URL scheme"+form)
	refuse(u.Host == "", u.Host, "host must be specified"+form)
	user := ""
	if u.User != nil {
		user = u.User.String()
	}
	refuse(u.User != nil, user, "user information is not permitted in the URL")
	refuse(u.Fragment != "", u.Fragment, "fragments are not permitted in the URL")
	refuse(u.RawQuery != "", u.RawQuery, "query parameters are not permitted in the URL")
}

// webhookService checks the address of a webhook in the cluster. Upstream takes name and namespace for each other here.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/validation.go, ValidateWebhookService.
func (c *checks) webhookService(s *admissionv1.ServiceReference, at *field.Path) {
	c.required(s.Namespace, at.Child("name"), "")
	c.required(s.Name, at.Child("namespace"), "")
	if s.Port != nil {
		if bad := utilvalidation.IsValidPortNum(int(*s.Port)); len(bad) > 0 {
			c.add(field.Invalid(at.Child("port"), *s.Port, "port is not valid: "+strings.Join(bad, ", ")))
		}
	}
	if s.Path == nil || *s.Path == "" || *s.Path == "/" {
		return
	}
	path, refuse := *s.Path, func(detail string) { c.add(field.Invalid(at.Child("path"), *s.Path, detail)) }
	if path == "//" {
		refuse("segment[0] may not be empty")
		return
	}
	if path[0] != '/' {
		refuse("must start with a '/'")
	}
	for i, step := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if step == "" {
			refuse(fmt.Sprintf("segment[%d] may not be empty", i))
			continue
		}
		for _, text := range utilvalidation.IsDNS1123Subdomain(step) {
			refuse(fmt.Sprintf("segment[%d]: %s", i, text))
		}
	}
}
