package admission

import (
	"context"
	"slices"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Matcher finds out which writes a webhook or policy wants to know of.
type Matcher struct {
	// Objects reads the namespaces that selectors look at.
	Objects objects.Reader
	Table   *kinds.Table
}

// Exempt: a webhook or policy must not be able to keep itself from being removed.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules/rules.go, IsExemptAdmissionConfigurationResource.
func (a *Attributes) Exempt() bool { return a.Kind.Group == admissionv1.GroupName }

// IsNamespace reports a write of a namespace, or of a subresource of one.
func (a *Attributes) IsNamespace() bool { return a.Kind.Group == "" && a.Kind.Kind == "Namespace" }

// Requested is the row of the version that the client has named.
func (m Matcher) Requested(ctx context.Context, a *Attributes) *kinds.Kind {
	if r := auth.AttributesFrom(ctx); r != nil {
		if row := m.Table.Lookup(r.APIGroup, r.APIVersion, r.Resource); row != nil && row.Stored() == a.Kind {
			return row
		}
	}
	return a.Kind
}

// Row finds the version of the kind that the rules name: the client's, or when that is not
// among them and the policy is Equivalent another one; nil when there is none.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/generic/webhook.go, Webhook.ShouldCallHook.
func (m Matcher) Row(ctx context.Context, a *Attributes, policy *admissionv1.MatchPolicyType, named func(*kinds.Kind) bool) *kinds.Kind {
	asked := m.Requested(ctx, a)
	if named(asked) {
		return asked
	}
	if policy != nil && *policy != admissionv1.Equivalent {
		return nil
	}
	for _, row := range m.Table.All() {
		if row != asked && row.Stored() == a.Kind && named(row) {
			return row
		}
	}
	return nil
}

// RuleNames reports whether a rule names a write in the version of row.
func RuleNames(r *admissionv1.RuleWithOperations, a *Attributes, row *kinds.Kind) bool {
	return ofScope(r.Scope, a) && oneOf(r.APIGroups, row.Group) && oneOf(r.APIVersions, row.Version) &&
		oneOf(r.Operations, admissionv1.OperationType(a.Operation)) &&
		slices.ContainsFunc(r.Resources, func(pattern string) bool {
			resource, sub, _ := strings.Cut(pattern, "/")
			return (resource == "*" || resource == row.Resource) && (sub == "*" || sub == a.Subresource)
		})
}

func oneOf[T ~string](list []T, value T) bool {
	return slices.Contains(list, "*") || slices.Contains(list, value)
}

func ofScope(scope *admissionv1.ScopeType, a *Attributes) bool {
	switch {
	case scope == nil || *scope == admissionv1.AllScopes:
		return true
	case *scope == admissionv1.NamespacedScope:
		return a.Namespace != "" && !a.IsNamespace()
	}
	return a.Namespace == "" || a.IsNamespace()
}

// Selects asks the labels of the object, and those of its namespace.
func (m Matcher) Selects(ctx context.Context, namespace, object *metav1.LabelSelector, a *Attributes) (bool, error) {
	if ok, err := selects(object, a.Object, a.Old); !ok || err != nil {
		return false, err
	}
	return m.selectsNamespace(ctx, namespace, a)
}

// selects reports whether a selector takes one of the states of an object.
func selects(s *metav1.LabelSelector, states ...runtime.Object) (bool, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if selector.Empty() {
		return true, nil
	}
	for _, obj := range states {
		if obj == nil {
			continue
		}
		if m, err := meta.Accessor(obj); err == nil && selector.Matches(labels.Set(m.GetLabels())) {
			return true, nil
		}
	}
	return false, nil
}

// selectsNamespace asks the labels of the object's namespace; objects of the cluster are always taken.
func (m Matcher) selectsNamespace(ctx context.Context, s *metav1.LabelSelector, a *Attributes) (bool, error) {
	name := a.Namespace
	if a.IsNamespace() {
		if a.Object != nil && a.Subresource == "" {
			return selects(s, a.Object)
		}
		name = a.Name
	}
	if name == "" || s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return true, nil
	}
	ns, err := m.Objects.Get(ctx, schema.GroupResource{Resource: "namespaces"}, "", name)
	if err != nil {
		return false, err
	}
	return selects(s, ns)
}
