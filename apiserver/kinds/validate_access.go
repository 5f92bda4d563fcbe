package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
			if _, err := metav1.LabelSelectorAsSelector(&a.ClusterRoleSelectors[i]); err != nil {
				c.add(field.Invalid(at.Index(i), nil, "invalid label selector."))
			}
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

// Upstream: pkg/apis/certificates/validation/validation.go, validateCertificateSigningRequest.
// Left out: what is there already may stay as it is, wrong or not.
func validateCSR(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var c checks
	if err := parseRequest(csr.Spec.Request); err != nil {
		c.add(field.Invalid(specPath.Child("request"), csr.Spec.Request, err.Error()))
	}
	at := specPath.Child("usages")
	if len(csr.Spec.Usages) == 0 {
		c.add(field.Required(at, ""))
	}
	for i, u := range csr.Spec.Usages {
		optionPtr(&c, &u, at.Index(i), keyUsages...)
	}
	for i, u := range csr.Spec.Usages {
		if slices.Contains(csr.Spec.Usages[:i], u) {
			c.add(field.Duplicate(at.Index(i), u))
		}
	}
	c.signerName(csr.Spec.SignerName, specPath.Child("signerName"))
	if e := csr.Spec.ExpirationSeconds; e != nil && *e < 600 {
		c.add(field.Invalid(specPath.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	c.csrConditions(csr.Status.Conditions, field.NewPath("status", "conditions"))
	if err := parseCertificates(csr.Status.Certificate); err != nil {
		c.add(field.Invalid(certificatePath, "<certificate data>", err.Error()))
	}
	return c.errs
}

// keyUsages in the order of the alphabet.
var keyUsages = []certificatesv1.KeyUsage{certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
	certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
	certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping}

// parseRequest reads a request and checks that who made it has its key.
func parseRequest(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature()
}

// parseCertificates reads what a signer has made, when there is something.
func parseCertificates(data []byte) error {
	for rest := data; len(data) > 0; {
		block, after := pem.Decode(rest)
		switch {
		case block == nil && len(rest) == len(data):
			return errors.New("must contain at least one CERTIFICATE PEM block")
		case block == nil:
			return nil
		case block.Type != "CERTIFICATE":
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		case len(block.Headers) > 0:
			return errors.New("no PEM block headers are permitted")
		}
		switch found, err := x509.ParseCertificates(block.Bytes); {
		case err != nil:
			return err
		case len(found) == 0:
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		rest = after
	}
	return nil
}

// Upstream: pkg/apis/core/validation/names.go, ValidateSignerName.
func (c *checks) signerName(name string, at *field.Path) {
	if name == "kubernetes.io/legacy-unknown" {
		c.add(field.Invalid(at, name, "the legacy signerName is not allowed via this API version"))
		return
	}
	if !c.required(name, at, "") {
		return
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		c.add(field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
		return
	}
	c.firstBadLabel(domain, at, utilvalidation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		c.add(field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	c.firstBadLabel(path, at, utilvalidation.IsDNS1123Subdomain)
}

// firstBadLabel tells what is wrong with the first of the labels of name that a rule refuses.
func (c *checks) firstBadLabel(name string, at *field.Path, rule func(string) []string) {
	for _, label := range strings.Split(name, ".") {
		if bad := rule(label); len(bad) > 0 {
			for _, text := range bad {
				c.add(field.Invalid(at, name, fmt.Sprintf("validating label %q: %s", label, text)))
			}
			return
		}
	}
}

var (
	conditionsPath  = field.NewPath("status", "conditions")
	certificatePath = field.NewPath("status", "certificate")
)

// csrConditions checks the conditions one by one; none may come twice, and Approved and Denied not both.
func (c *checks) csrConditions(conditions []certificatesv1.CertificateSigningRequestCondition, at *field.Path) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, cond := range conditions {
		at := at.Index(i)
		c.required(string(cond.Type), at.Child("type"), "")
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if cond.Type == certificatesv1.CertificateApproved || cond.Type == certificatesv1.CertificateDenied || cond.Type == certificatesv1.CertificateFailed {
			allowed = allowed[1:2]
		}
		oneOf(c, cond.Status, at.Child("status"), allowed...)
		if cond.Type == certificatesv1.CertificateApproved && seen[certificatesv1.CertificateDenied] || cond.Type == certificatesv1.CertificateDenied && seen[certificatesv1.CertificateApproved] {
			c.add(field.Invalid(conditionsPath, cond.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[cond.Type] {
			c.add(field.Duplicate(at.Child("type"), cond.Type))
		}
		seen[cond.Type] = true
	}
}

// validateCSRApproval: only here may Approved and Denied be added.
func validateCSRApproval(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return validateCSRChange(csr, old, true)
}

func validateCSRStatus(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return validateCSRChange(csr, old, false)
}

// Upstream: pkg/apis/certificates/validation/validation.go, validateCertificateSigningRequestUpdate.
func validateCSRChange(csr, old *certificatesv1.CertificateSigningRequest, mayApprove bool) field.ErrorList {
	c := checks{errs: validateCSR(csr)}
	count := func(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) (n int) {
		for _, cond := range csr.Status.Conditions {
			if cond.Type == t {
				n++
			}
		}
		return n
	}
	decisions := []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}
	for _, t := range append(decisions, certificatesv1.CertificateFailed) {
		if count(csr, t) < count(old, t) {
			c.add(field.Forbidden(conditionsPath, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	for _, t := range decisions {
		if !mayApprove && count(csr, t) > count(old, t) {
			c.add(field.Forbidden(conditionsPath, fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	if len(old.Status.Certificate) > 0 && !equal(csr.Status.Certificate, old.Status.Certificate) {
		c.add(field.Forbidden(certificatePath, "updates may not modify existing certificate content"))
	}
	return c.errs
}

// Upstream: pkg/apis/coordination/validation/validation.go, ValidateLeaseSpec.
func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var c checks
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		c.add(field.Invalid(specPath.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	c.notNegativePtr(l.Spec.LeaseTransitions, specPath.Child("leaseTransitions"))
	return c.errs
}

// systemClasses are the priority classes that every cluster has, and their exact values.
//
// Upstream: pkg/apis/scheduling/v1/helpers.go, SystemPriorityClasses.
var systemClasses = map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}

func validatePriorityClass(k *schedulingv1.PriorityClass) field.ErrorList {
	const highest, reserved = 1000000000, "priority class names with 'system-' prefix are reserved for system use only. error: "
	var c checks
	at := field.NewPath("metadata", "name")
	switch value, ok := systemClasses[k.Name]; {
	case !ok && strings.HasPrefix(k.Name, "system-"):
		c.add(field.Forbidden(at, reserved+k.Name+" is not a known system priority class"))
	case ok && value != k.Value:
		c.add(field.Forbidden(at, fmt.Sprintf("%svalue of %s PriorityClass must be %d", reserved, k.Name, value)))
	case ok && k.GlobalDefault:
		c.add(field.Forbidden(at, fmt.Sprintf("%sglobalDefault of %s PriorityClass must be false", reserved, k.Name)))
	case !ok && k.Value > highest:
		c.add(field.Forbidden(field.NewPath("value"), "maximum allowed value of a user defined priority is 1000000000"))
	}
	optionPtr(&c, k.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	return c.errs
}

func validatePriorityClassUpdate(k, old *schedulingv1.PriorityClass) field.ErrorList {
	var c checks
	if k.Value != old.Value {
		c.add(field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	c.same(k.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))
	return c.errs
}

// Upstream: pkg/apis/node/validation/validation.go, ValidateRuntimeClass.
func validateRuntimeClass(k *nodev1.RuntimeClass) field.ErrorList {
	var c checks
	if at := field.NewPath("handler"); c.required(k.Handler, at, "") {
		c.name(k.Handler, at, utilvalidation.IsDNS1123Label)
	}
	if k.Overhead != nil {
		c.resources(&corev1.ResourceRequirements{Limits: k.Overhead.PodFixed}, field.NewPath("overhead"), c.containerResource)
	}
	if s, at := k.Scheduling, field.NewPath("scheduling"); s != nil {
		c.labels(s.NodeSelector, at.Child("nodeSelector"))
		c.tolerations(s.Tolerations, at.Child("tolerations"))
		for i, t := range s.Tolerations {
			same := func(o corev1.Toleration) bool {
				return o.Key == t.Key && o.Operator == t.Operator && o.Value == t.Value && o.Effect == t.Effect
			}
			if slices.ContainsFunc(s.Tolerations[:i], same) {
				c.add(field.Duplicate(at.Child("tolerations").Index(i), t))
			}
		}
	}
	return c.errs
}

func validateRuntimeClassUpdate(k, old *nodev1.RuntimeClass) field.ErrorList {
	var c checks
	c.same(k.Handler, old.Handler, field.NewPath("handler"))
	return c.errs
}
