package kinds

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	More:     func(k *Kind) { prepareSub(k, "status", nil, validateAPIServiceStatus) },
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

// validateAPIServiceStatus checks what the one who asks the service says of it.
func validateAPIServiceStatus(a, _ *apiregistrationv1.APIService) field.ErrorList {
	var c checks
	for i, cond := range a.Status.Conditions {
		if all := []apiregistrationv1.ConditionStatus{apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown}; !slices.Contains(all, cond.Status) {
			c.add(field.NotSupported(conditionsPath.Index(i).Child("status"), cond.Status, all))
		}
	}
	return c.errs
}
