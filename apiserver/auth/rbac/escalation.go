package rbac

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Escalation keeps users from giving away what they do not have: by a role with
// more rules than they hold, or by a binding to such a role. The verbs "escalate" on
// roles and "bind" on the bound role lift the ban.
//
// It is the last of the admission plugins that may change an object, because it must see
// the final one; upstream wraps the storage of the four resources instead. Both ask before
// the object is validated.
//
// Upstream: pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased/storage.go, Storage.
type Escalation struct {
	admission.Base
	Rules *Authorizer
	// Authorizer is the whole chain, asked for the verbs escalate and bind.
	Authorizer auth.Authorizer
}

// Name of the plugin; upstream has none.
func (*Escalation) Name() string { return "RBACEscalation" }

// Admit implements admission.Plugin.
func (e *Escalation) Admit(ctx context.Context, a *admission.Attributes) error {
	if a.Kind.Group != rbacv1.GroupName || a.Object == nil || a.User == nil || slices.Contains(a.User.Groups, auth.GroupMasters) {
		return nil
	}
	var err error
	switch obj := a.Object.(type) {
	case *rbacv1.Role:
		err = e.checkRole(ctx, a, obj.Rules, rulesIn(a.Old), nil, nil)
	case *rbacv1.ClusterRole:
		err = e.checkRole(ctx, a, obj.Rules, rulesIn(a.Old), obj.AggregationRule, aggregationIn(a.Old))
	case *rbacv1.RoleBinding:
		if old, ok := a.Old.(*rbacv1.RoleBinding); ok && reflect.DeepEqual(old.RoleRef, obj.RoleRef) && reflect.DeepEqual(old.Subjects, obj.Subjects) {
			return nil
		}
		err = e.checkBinding(ctx, a, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if old, ok := a.Old.(*rbacv1.ClusterRoleBinding); ok && reflect.DeepEqual(old.RoleRef, obj.RoleRef) && reflect.DeepEqual(old.Subjects, obj.Subjects) {
			return nil
		}
		err = e.checkBinding(ctx, a, obj.RoleRef)
	}
	if _, denied := err.(notHeld); !denied {
		return err
	}
	return apierrors.NewForbidden(a.Kind.GR(), a.Name, err)
}

// checkRole allows rules that were there before, that the user holds, or that the user may grant by the verb escalate.
func (e *Escalation) checkRole(ctx context.Context, a *admission.Attributes, rules, oldRules []rbacv1.PolicyRule, aggregation, oldAggregation *rbacv1.AggregationRule) error {
	if a.Old != nil && reflect.DeepEqual(rules, oldRules) && reflect.DeepEqual(aggregation, oldAggregation) {
		return nil
	}
	if e.may(ctx, a.User, "escalate", a.Kind.GR(), a.Namespace, a.Name) {
		return nil
	}
	if aggregation != nil && !reflect.DeepEqual(aggregation, oldAggregation) {
		all := []rbacv1.PolicyRule{
			{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}},
			{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}},
		}
		if e.confirm(ctx, a.User, "", all) != nil {
			return notHeld("must have cluster-admin privileges to use the aggregationRule")
		}
	}
	return e.confirm(ctx, a.User, a.Namespace, rules)
}

// checkBinding allows a binding to a role that the user may bind, or whose rules the user holds.
func (e *Escalation) checkBinding(ctx context.Context, a *admission.Attributes, ref rbacv1.RoleRef) error {
	resource := clusterRoles
	namespace := ""
	if ref.Kind == "Role" {
		resource, namespace = roles, a.Namespace
	}
	if e.may(ctx, a.User, "bind", resource, a.Namespace, ref.Name) {
		return nil
	}
	switch {
	case ref.Kind == "Role" && a.Namespace == "":
		return apierrors.NewBadRequest("Namespace parameter required.")
	case ref.Name == "":
		return apierrors.NewBadRequest("Name parameter required.")
	}
	rules, err := e.Rules.rulesOf(ctx, ref, namespace)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(a.Kind.GR(), ref.Name) // upstream takes the resource from the request
	}
	if err != nil {
		return err
	}
	return e.confirm(ctx, a.User, a.Namespace, rules)
}

// may asks the authorizer for one of the verbs that lift the ban.
func (e *Escalation) may(ctx context.Context, user *auth.UserInfo, verb string, resource schema.GroupResource, namespace, name string) bool {
	decision, _, _ := e.Authorizer.Authorize(ctx, auth.Attributes{
		User: user, Verb: verb, IsResource: true, APIGroup: resource.Group, APIVersion: "*",
		Resource: resource.Resource, Namespace: namespace, Name: name,
	})
	return decision == auth.Allow
}

// confirm returns an error that lists the rules that user does not hold in namespace.
//
// Upstream: pkg/registry/rbac/validation/rule.go, ConfirmNoEscalation.
func (e *Escalation) confirm(ctx context.Context, user *auth.UserInfo, namespace string, rules []rbacv1.PolicyRule) error {
	held, resolveErr := e.Rules.RulesFor(ctx, user, namespace)
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	lines := map[string]bool{}
	for _, rule := range compact(missing) {
		lines[describe(&rule)] = true
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		user.Name, user.Groups, strings.Join(slices.Sorted(maps.Keys(lines)), "\n"))
	if resolveErr != nil {
		text += fmt.Sprintf("; resolution errors: %v", resolveErr)
	}
	return notHeld(text)
}

// notHeld tells what a user wants to give away without having it.
type notHeld string

// Error implements error.
func (n notHeld) Error() string { return string(n) }

// compact joins rules that differ only in their verbs, which makes the error readable.
//
// Upstream: pkg/registry/rbac/validation/policy_compact.go, CompactRules.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, rule := range rules {
		simple := len(rule.APIGroups) == 1 && len(rule.Resources) == 1 && len(rule.NonResourceURLs) == 0 && len(rule.ResourceNames) <= 1
		i := slices.IndexFunc(out, func(o rbacv1.PolicyRule) bool {
			return simple && slices.Equal(o.APIGroups, rule.APIGroups) && slices.Equal(o.Resources, rule.Resources) &&
				slices.Equal(o.ResourceNames, rule.ResourceNames) && len(o.NonResourceURLs) == 0
		})
		if i < 0 {
			out = append(out, *rule.DeepCopy())
			continue
		}
		out[i].Verbs = append(out[i].Verbs, rule.Verbs...)
	}
	return out
}

// describe writes a rule as upstream writes it in errors.
//
// Upstream: pkg/apis/rbac/v1/helpers.go, CompactString.
func describe(rule *rbacv1.PolicyRule) string {
	var parts []string
	for _, part := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"NonResourceURLs", rule.NonResourceURLs},
		{"ResourceNames", rule.ResourceNames}, {"Verbs", rule.Verbs},
	} {
		if len(part.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", part.name, part.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func rulesIn(obj runtime.Object) []rbacv1.PolicyRule {
	switch role := obj.(type) {
	case *rbacv1.Role:
		return role.Rules
	case *rbacv1.ClusterRole:
		return role.Rules
	}
	return nil
}

func aggregationIn(obj runtime.Object) *rbacv1.AggregationRule {
	if role, ok := obj.(*rbacv1.ClusterRole); ok {
		return role.AggregationRule
	}
	return nil
}
