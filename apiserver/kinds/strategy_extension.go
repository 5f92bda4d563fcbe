package kinds

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// The kinds by which users extend the API: APIServices and webhook
// configurations. CustomResourceDefinitions have a package of their own.

// Upstream: staging/src/k8s.io/kube-aggregator/pkg/registry/apiservice.
var apiServiceRule = rule[apiregistrationv1.APIService]{
	Default: func(a *apiregistrationv1.APIService) {
		if a.Spec.Service != nil {
			fillPtr(&a.Spec.Service.Port, 443)
		}
	},
	Create: func(_ context.Context, a *apiregistrationv1.APIService) {
		if a.Spec.Service == nil {
			a.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue,
				LastTransitionTime: metav1.Now(), Reason: "Local", Message: "Local APIServices are always available"}}
		}
	},
	Validate: validateAPIService,
	Name: func(name string, _ bool) []string {
		if strings.ContainsAny(name, "/%") {
			return []string{"may not contain '/' or '%'"}
		}
		return nil
	},
	Columns: "Name, Service, Available, Age",
	Cells: func(a *apiregistrationv1.APIService) []any {
		service, available := "Local", "Unknown"
		if s := a.Spec.Service; s != nil {
			service = s.Namespace + "/" + s.Name
		}
		for _, c := range a.Status.Conditions {
			if c.Type != apiregistrationv1.Available {
				continue
			}
			available = string(c.Status)
			if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
				available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
			}
		}
		return []any{a.Name, service, available, age(a.CreationTimestamp)}
	},
}

// Upstream: staging/src/k8s.io/kube-aggregator/pkg/apis/apiregistration/validation/validation.go, ValidateAPIService.
func validateAPIService(a *apiregistrationv1.APIService) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	invalid := func(at *field.Path, value any, text string) { errs = append(errs, field.Invalid(at, value, text)) }
	if name := a.Spec.Version + "." + a.Spec.Group; a.Name != name {
		invalid(field.NewPath("metadata", "name"), a.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", name))
	}
	if a.Spec.Group == "" && a.Spec.Version != "v1" {
		errs = append(errs, field.Required(spec.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if a.Spec.Group != "" {
		for _, text := range validation.IsDNS1123Subdomain(a.Spec.Group) {
			invalid(spec.Child("group"), a.Spec.Group, text)
		}
	}
	for _, text := range validation.IsDNS1035Label(a.Spec.Version) {
		invalid(spec.Child("version"), a.Spec.Version, text)
	}
	if p := a.Spec.GroupPriorityMinimum; p <= 0 || p > 20000 {
		invalid(spec.Child("groupPriorityMinimum"), p, "must be positive and less than 20000")
	}
	if p := a.Spec.VersionPriority; p <= 0 || p > 1000 {
		invalid(spec.Child("versionPriority"), p, "must be positive and less than 1000")
	}
	s := a.Spec.Service
	if s == nil {
		if len(a.Spec.CABundle) > 0 {
			invalid(spec.Child("caBundle"), fmt.Sprintf("%d bytes", len(a.Spec.CABundle)), "local APIServices may not have a caBundle")
		}
		if a.Spec.InsecureSkipTLSVerify {
			invalid(spec.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify")
		}
		return errs
	}
	if s.Namespace == "" {
		errs = append(errs, field.Required(spec.Child("service", "namespace"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(spec.Child("service", "name"), ""))
	}
	if s.Port != nil {
		if bad := validation.IsValidPortNum(int(*s.Port)); bad != nil {
			invalid(spec.Child("service", "port"), *s.Port, "port is not valid: "+strings.Join(bad, ", "))
		}
	}
	if a.Spec.InsecureSkipTLSVerify && len(a.Spec.CABundle) > 0 {
		invalid(spec.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present")
	}
	return errs
}

func validateValidatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range c.Webhooks {
		errs = append(errs, validateWebhook(&c.Webhooks[i], names, field.NewPath("webhooks").Index(i))...)
	}
	return errs
}

func validateMutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range c.Webhooks {
		m, at := &c.Webhooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(&admissionv1.ValidatingWebhook{Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules,
			FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy, NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector,
			SideEffects: m.SideEffects, TimeoutSeconds: m.TimeoutSeconds, AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions}, names, at)...)
		if p := m.ReinvocationPolicy; p != nil && *p != admissionv1.NeverReinvocationPolicy && *p != admissionv1.IfNeededReinvocationPolicy {
			errs = append(errs, field.NotSupported(at.Child("reinvocationPolicy"), *p, []string{"IfNeeded", "Never"}))
		}
	}
	return errs
}

// validateWebhook checks one webhook of either sort.
//
// Upstream: pkg/apis/admissionregistration/validation/validation.go, validateValidatingWebhook.
// Left out: matchConditions, which are refused.
func validateWebhook(w *admissionv1.ValidatingWebhook, names map[string]bool, at *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), w.Name)
	if names[w.Name] {
		errs = append(errs, field.Duplicate(at.Child("name"), w.Name))
	}
	names[w.Name] = true
	errs = append(errs, reviewVersions(w.AdmissionReviewVersions, at.Child("admissionReviewVersions"))...)
	for i, r := range w.Rules {
		for name, list := range map[string]int{"apiGroups": len(r.APIGroups), "apiVersions": len(r.APIVersions), "resources": len(r.Resources), "operations": len(r.Operations)} {
			if list == 0 {
				errs = append(errs, field.Required(at.Child("rules").Index(i).Child(name), ""))
			}
		}
	}
	if p := w.FailurePolicy; p != nil && *p != admissionv1.Fail && *p != admissionv1.Ignore {
		errs = append(errs, field.NotSupported(at.Child("failurePolicy"), *p, []string{"Fail", "Ignore"}))
	}
	if p := w.MatchPolicy; p != nil && *p != admissionv1.Exact && *p != admissionv1.Equivalent {
		errs = append(errs, field.NotSupported(at.Child("matchPolicy"), *p, []string{"Equivalent", "Exact"}))
	}
	switch s := w.SideEffects; {
	case s == nil:
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	case *s != admissionv1.SideEffectClassNone && *s != admissionv1.SideEffectClassNoneOnDryRun:
		errs = append(errs, field.NotSupported(at.Child("sideEffects"), *s, []string{"None", "NoneOnDryRun"}))
	}
	if t := w.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	options := metav1validation.LabelSelectorValidationOptions{}
	errs = append(errs, metav1validation.ValidateLabelSelector(w.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	errs = append(errs, metav1validation.ValidateLabelSelector(w.ObjectSelector, options, at.Child("objectSelector"))...)
	switch c, at := w.ClientConfig, at.Child("clientConfig"); {
	case (c.URL == nil) == (c.Service == nil):
		errs = append(errs, field.Required(at, "exactly one of url or service is required"))
	case c.URL != nil && !strings.HasPrefix(*c.URL, "https://"):
		errs = append(errs, field.Invalid(at.Child("url"), *c.URL, "'https' is the only allowed URL scheme; desired format: https://host[/path]"))
	case c.Service != nil && c.Service.Name == "":
		errs = append(errs, field.Required(at.Child("service", "name"), "service name is required"))
	case c.Service != nil && c.Service.Namespace == "":
		errs = append(errs, field.Required(at.Child("service", "namespace"), "service namespace is required"))
	}
	if len(w.MatchConditions) > 0 {
		errs = append(errs, field.Forbidden(at.Child("matchConditions"), "this server does not evaluate match conditions"))
	}
	return errs
}

func reviewVersions(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of v1, v1beta1")}
	}
	if !slices.Contains(versions, "v1") {
		return field.ErrorList{field.Invalid(at, versions, "must include at least one of v1, v1beta1")}
	}
	return nil
}
