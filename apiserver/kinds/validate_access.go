package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateRole(r *rbacv1.Role) field.ErrorList {
	var c checks
	c.policyRules(r.Rules, true)
	return c.errs
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	var c checks
	c.policyRules(r.Rules, false)
	if a := r.AggregationRule; a != nil {
		at := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			c.add(field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
		}
		for i := range a.ClusterRoleSelectors {
			c.selector(&a.ClusterRoleSelectors[i], at.Index(i))
		}
	}
	return c.errs
}

// Upstream: pkg/apis/rbac/validation/validation.go, ValidatePolicyRule.
func (c *checks) policyRules(rules []rbacv1.PolicyRule, namespaced bool) {
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			c.add(field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				c.add(field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				c.add(field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			c.add(field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			c.add(field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
}

func validateRoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, false, "ClusterRole")
}

// Upstream: pkg/apis/rbac/validation/validation.go, ValidateRoleBinding and ValidateRoleBindingSubject.
func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, kinds ...string) field.ErrorList {
	var c checks
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		c.add(field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if !slices.Contains(kinds, ref.Kind) {
		c.add(field.NotSupported(at.Child("kind"), ref.Kind, kinds))
	}
	if c.required(ref.Name, at.Child("name"), "") {
		c.texts(ref.Name, at.Child("name"), path.ValidatePathSegmentName(ref.Name, false))
	}
	for i, s := range subjects {
		at := field.NewPath("subjects").Index(i)
		c.required(s.Name, at.Child("name"), "")
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			c.name(s.Name, at.Child("name"), subdomain)
			if s.APIGroup != "" {
				c.add(field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
			}
			if !namespaced { // in a RoleBinding the namespace is its own
				c.required(s.Namespace, at.Child("namespace"), "")
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			if s.APIGroup != rbacv1.GroupName {
				c.add(field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
			}
		default:
			c.add(field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return c.errs
}

func validateRoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	return sameRole(b.RoleRef, old.RoleRef)
}

func validateClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	return sameRole(b.RoleRef, old.RoleRef)
}

// sameRole: who may change subjects of a binding could else give away any role.
func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
}

// Upstream: pkg/apis/certificates/validation/validation.go, ValidateCertificateSigningRequestCreate.
func validateCSR(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var c checks
	if block, _ := pem.Decode(csr.Spec.Request); block == nil || block.Type != "CERTIFICATE REQUEST" {
		c.add(field.Invalid(specPath.Child("request"), csr.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if _, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		c.add(field.Invalid(specPath.Child("request"), csr.Spec.Request, fmt.Sprint(err)))
	}
	if len(csr.Spec.Usages) == 0 {
		c.add(field.Required(specPath.Child("usages"), ""))
	}
	if c.required(csr.Spec.SignerName, specPath.Child("signerName"), "") {
		domain, name, ok := strings.Cut(csr.Spec.SignerName, "/")
		switch {
		case !ok || strings.Contains(name, "/"):
			c.add(field.Invalid(specPath.Child("signerName"), csr.Spec.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
		default:
			c.texts(csr.Spec.SignerName, specPath.Child("signerName"), utilvalidation.IsDNS1123Subdomain(domain))
		}
	}
	if e := csr.Spec.ExpirationSeconds; e != nil && *e < 600 {
		c.add(field.Invalid(specPath.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return c.errs
}

var conditionsPath = field.NewPath("status", "conditions")

func hasCondition(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == t {
			return true
		}
	}
	return false
}

// csrConditions checks the conditions one by one; none may be both, and none that was there may go.
func (c *checks) csrConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	for i, cond := range csr.Status.Conditions {
		at := conditionsPath.Index(i)
		c.required(string(cond.Type), at.Child("type"), "")
		switch cond.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if cond.Status != corev1.ConditionTrue {
				c.add(field.NotSupported(at.Child("status"), cond.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
			}
		}
	}
	if hasCondition(csr, certificatesv1.CertificateApproved) && hasCondition(csr, certificatesv1.CertificateDenied) {
		c.add(field.Invalid(conditionsPath, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, cond := range old.Status.Conditions {
		if !hasCondition(csr, cond.Type) {
			c.add(field.Forbidden(conditionsPath, fmt.Sprintf("updates may not remove a condition of type %q", cond.Type)))
		}
	}
}

// validateCSRApproval: only here may Approved and Denied be added.
func validateCSRApproval(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var c checks
	c.csrConditions(csr, old)
	return c.errs
}

// Upstream: pkg/apis/certificates/validation/validation.go, ValidateCertificateSigningRequestStatusUpdate.
func validateCSRStatus(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var c checks
	c.csrConditions(csr, old)
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		if hasCondition(csr, t) && !hasCondition(old, t) {
			c.add(field.Forbidden(conditionsPath, fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	if len(old.Status.Certificate) > 0 && !equal(csr.Status.Certificate, old.Status.Certificate) {
		c.add(field.Forbidden(field.NewPath("status", "certificate"), "updates may not modify certificate content"))
	}
	return c.errs
}
