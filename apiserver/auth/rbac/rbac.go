package rbac

import (
	"context"
	"fmt"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/objects"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

var (
	roles               = schema.GroupResource{Group: rbacv1.GroupName, Resource: "roles"}
	roleBindings        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}
	clusterRoles        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	clusterRoleBindings = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}
)

// Authorizer allows what roles grant. It reads them through the server's own
// caches at every request, so that a new role is effective at once.
//
// Upstream: plugin/pkg/auth/authorizer/rbac/rbac.go, RBACAuthorizer.
type Authorizer struct{ Objects objects.Reader }

// Authorize implements auth.Authorizer. It never denies: what no rule allows is left to the next authorizer.
func (r *Authorizer) Authorize(ctx context.Context, a auth.Attributes) (auth.Decision, string, error) {
	var because *grant
	err := r.visit(ctx, a.User, a.Namespace, func(g *grant, rule *rbacv1.PolicyRule) bool {
		if RuleAllows(rule, &a) {
			because = g
		}
		return because == nil
	})
	if because != nil {
		return auth.Allow, "RBAC: allowed by " + because.String(), nil
	}
	reason := ""
	if err != nil {
		reason = fmt.Sprintf("RBAC: %v", err)
	}
	return auth.NoOpinion, reason, nil
}

// RulesFor returns every rule that user has in namespace (and cluster-wide). The
// error tells of bindings whose role is missing; the rules are good all the same.
func (r *Authorizer) RulesFor(ctx context.Context, user *auth.UserInfo, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	err := r.visit(ctx, user, namespace, func(_ *grant, rule *rbacv1.PolicyRule) bool {
		rules = append(rules, *rule)
		return true
	})
	return rules, err
}

// grant is why a rule holds for a user: a binding, its role, and which of its subjects the user is.
type grant struct {
	kind, name, namespace string
	role                  rbacv1.RoleRef
	subject               *rbacv1.Subject
}

// String says so in upstream's words; access reviews and the audit log show it.
func (g *grant) String() string {
	name := g.name
	if g.namespace != "" {
		name += "/" + g.namespace
	}
	subject := fmt.Sprintf("%s %q", g.subject.Kind, g.subject.Name)
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		subject = fmt.Sprintf("%s %q", g.subject.Kind, g.subject.Name+"/"+g.subject.Namespace)
	}
	return fmt.Sprintf("%s %q of %s %q to %s", g.kind, name, g.role.Kind, g.role.Name, subject)
}

// visit calls f with every rule of user until f returns false. A binding to a role
// that does not exist is passed over, and reported at the end.
//
// Upstream: pkg/registry/rbac/validation/rule.go, DefaultRuleResolver.VisitRulesFor.
func (r *Authorizer) visit(ctx context.Context, user *auth.UserInfo, namespace string, f func(*grant, *rbacv1.PolicyRule) bool) error {
	list, err := r.Objects.List(ctx, clusterRoleBindings, "", nil)
	if err != nil {
		return err
	}
	var missing []error
	for _, obj := range list {
		binding := obj.(*rbacv1.ClusterRoleBinding)
		subject := subjectFor(binding.Subjects, user, "")
		if subject == nil {
			continue
		}
		more, err := r.visitRole(ctx, &grant{"ClusterRoleBinding", binding.Name, "", binding.RoleRef, subject}, f)
		if !more {
			return nil
		}
		missing = append(missing, err)
	}
	if namespace == "" {
		return utilerrors.NewAggregate(missing)
	}
	if list, err = r.Objects.List(ctx, roleBindings, namespace, nil); err != nil {
		return err
	}
	for _, obj := range list {
		binding := obj.(*rbacv1.RoleBinding)
		subject := subjectFor(binding.Subjects, user, namespace)
		if subject == nil {
			continue
		}
		more, err := r.visitRole(ctx, &grant{"RoleBinding", binding.Name, namespace, binding.RoleRef, subject}, f)
		if !more {
			return nil
		}
		missing = append(missing, err)
	}
	return utilerrors.NewAggregate(missing)
}

// visitRole calls f with the rules of one role; more is false when f has had enough.
func (r *Authorizer) visitRole(ctx context.Context, g *grant, f func(*grant, *rbacv1.PolicyRule) bool) (more bool, err error) {
	rules, err := r.rulesOf(ctx, g.role, g.namespace)
	if apierrors.IsNotFound(err) {
		// Upstream's caches name the resource in the singular here.
		err = apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: strings.ToLower(g.role.Kind)}, g.role.Name)
	}
	if err != nil {
		return true, err
	}
	for i := range rules {
		if !f(g, &rules[i]) {
			return false, nil
		}
	}
	return true, nil
}

// rulesOf looks up the rules that a roleRef in namespace means.
func (r *Authorizer) rulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	var obj runtime.Object
	var err error
	switch ref.Kind {
	case "Role":
		obj, err = r.Objects.Get(ctx, roles, namespace, ref.Name)
	case "ClusterRole":
		obj, err = r.Objects.Get(ctx, clusterRoles, "", ref.Name)
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	if err != nil {
		return nil, err
	}
	switch role := obj.(type) {
	case *rbacv1.Role:
		return role.Rules, nil
	case *rbacv1.ClusterRole:
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unexpected type %T of a role", obj)
}
