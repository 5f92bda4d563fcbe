package webhook

import (
	"context"
	"slices"
	"strings"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// hook is one webhook of a configuration. Mutating ones have one field more.
type hook struct {
	admissionv1.ValidatingWebhook
	again bool // reinvocationPolicy IfNeeded
	id    string
}

// exempt: a webhook must not be able to keep itself from being removed.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules/rules.go, IsExemptAdmissionConfigurationResource.
func exempt(a *admission.Attributes) bool {
	return a.Kind.Group == admissionv1.GroupName
}

// match finds out whether a webhook wants to know of a write, and in which
// version of the kind. nil when it does not.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/generic/webhook.go, Webhook.ShouldCallHook.
func (p *plugin) match(ctx context.Context, h *hook, a *admission.Attributes) (*kinds.Kind, error) {
	asked := p.requested(ctx, a)
	row := asked
	if !rulesMatch(h.Rules, a, asked) {
		row = nil
		if h.MatchPolicy == nil || *h.MatchPolicy == admissionv1.Equivalent {
			row = p.equivalent(h.Rules, a, asked)
		}
	}
	if row == nil {
		return nil, nil
	}
	if ok, err := selects(h.ObjectSelector, a.Object, a.Old); !ok || err != nil {
		return nil, err
	}
	if ok, err := p.selectsNamespace(ctx, h.NamespaceSelector, a); !ok || err != nil {
		return nil, err
	}
	return row, nil
}

// requested is the row of the version that the client has named.
func (p *plugin) requested(ctx context.Context, a *admission.Attributes) *kinds.Kind {
	if r := auth.AttributesFrom(ctx); r != nil {
		if row := p.Table.Lookup(r.APIGroup, r.APIVersion, r.Resource); row != nil && row.Stored() == a.Kind {
			return row
		}
	}
	return a.Kind
}

// equivalent looks for a rule that names another version of the same kind.
func (p *plugin) equivalent(rules []admissionv1.RuleWithOperations, a *admission.Attributes, asked *kinds.Kind) *kinds.Kind {
	for _, row := range p.Table.All() {
		if row != asked && row.Stored() == a.Kind && rulesMatch(rules, a, row) {
			return row
		}
	}
	return nil
}

func rulesMatch(rules []admissionv1.RuleWithOperations, a *admission.Attributes, row *kinds.Kind) bool {
	return slices.ContainsFunc(rules, func(r admissionv1.RuleWithOperations) bool {
		return inScope(r.Scope, a) && oneOf(r.APIGroups, row.Group) && oneOf(r.APIVersions, row.Version) &&
			oneOf(r.Operations, admissionv1.OperationType(a.Operation)) &&
			slices.ContainsFunc(r.Resources, func(pattern string) bool {
				resource, sub, _ := strings.Cut(pattern, "/")
				return (resource == "*" || resource == row.Resource) && (sub == "*" || sub == a.Subresource)
			})
	})
}

func oneOf[T ~string](list []T, value T) bool {
	return slices.Contains(list, "*") || slices.Contains(list, value)
}

func inScope(scope *admissionv1.ScopeType, a *admission.Attributes) bool {
	switch {
	case scope == nil || *scope == admissionv1.AllScopes:
		return true
	case *scope == admissionv1.NamespacedScope:
		return a.Namespace != "" && !isNamespace(a)
	}
	return a.Namespace == "" || isNamespace(a)
}

func isNamespace(a *admission.Attributes) bool {
	return a.Kind.Group == "" && a.Kind.Kind == "Namespace"
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
func (p *plugin) selectsNamespace(ctx context.Context, s *metav1.LabelSelector, a *admission.Attributes) (bool, error) {
	name := a.Namespace
	if isNamespace(a) {
		if a.Object != nil && a.Subresource == "" {
			return selects(s, a.Object)
		}
		name = a.Name
	}
	if name == "" || s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return true, nil
	}
	ns, err := p.Objects.Get(ctx, schema.GroupResource{Resource: "namespaces"}, "", name)
	if err != nil {
		return false, err
	}
	return selects(s, ns)
}
