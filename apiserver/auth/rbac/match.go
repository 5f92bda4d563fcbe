package rbac

import (
	"slices"
	"strings"

	"orrery/apiserver/auth"

	rbacv1 "k8s.io/api/rbac/v1"
)

// RuleAllows reports whether one rule covers a request.
//
// Upstream: plugin/pkg/auth/authorizer/rbac/rbac.go, RuleAllows; pkg/apis/rbac/v1/evaluation_helpers.go.
func RuleAllows(rule *rbacv1.PolicyRule, a *auth.Attributes) bool {
	if !hasOrAll(rule.Verbs, a.Verb) {
		return false
	}
	if !a.IsResource {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return pathMatches(pattern, a.Path) })
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	return hasOrAll(rule.APIGroups, a.APIGroup) &&
		slices.ContainsFunc(rule.Resources, func(r string) bool { return resourceMatches(r, resource, a.Subresource) }) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

// resourceMatches knows "*", "pods", "pods/log" and "*/scale". A rule for "pods" does not cover "pods/log".
func resourceMatches(pattern, resource, subresource string) bool {
	return pattern == rbacv1.ResourceAll || pattern == resource ||
		(subresource != "" && pattern == "*/"+subresource)
}

// pathMatches knows "/healthz" and, with a star only at the end, "/healthz/*".
func pathMatches(pattern, path string) bool {
	if pattern == rbacv1.NonResourceAll || pattern == path {
		return true
	}
	prefix, isPrefix := strings.CutSuffix(pattern, "*")
	return isPrefix && strings.HasPrefix(path, prefix)
}

// hasOrAll reports whether values has value or the star.
func hasOrAll(values []string, value string) bool {
	return slices.Contains(values, "*") || slices.Contains(values, value)
}

// subjectIs reports whether a binding's subject means user. namespace is the binding's.
//
// Upstream: pkg/registry/rbac/validation/rule.go, appliesToUser.
func subjectIs(subject *rbacv1.Subject, user *auth.UserInfo, namespace string) bool {
	switch subject.Kind {
	case rbacv1.UserKind:
		return user.Name == subject.Name
	case rbacv1.GroupKind:
		return slices.Contains(user.Groups, subject.Name)
	case rbacv1.ServiceAccountKind:
		if subject.Namespace != "" {
			namespace = subject.Namespace
		}
		ns, name, ok := auth.SplitServiceAccount(user.Name)
		return ok && namespace != "" && ns == namespace && name == subject.Name
	}
	return false
}

// subjectFor returns the first of the subjects that means user, or nil.
func subjectFor(subjects []rbacv1.Subject, user *auth.UserInfo, namespace string) *rbacv1.Subject {
	for i := range subjects {
		if subjectIs(&subjects[i], user, namespace) {
			return &subjects[i]
		}
	}
	return nil
}
