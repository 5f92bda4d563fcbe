package webhook

import (
	"context"
	"slices"

	"orrery/apiserver/admission"
	"orrery/apiserver/kinds"
	"orrery/apiserver/policy"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hook is one webhook of a configuration. Mutating ones have one field more.
type hook struct {
	admissionv1.ValidatingWebhook
	conditions *policy.Conditions
	again      bool // reinvocationPolicy IfNeeded
	id         string
}

// compiled gives the webhooks of a configuration their conditions, which are compiled once a generation.
func (p *plugin) compiled(c metav1.Object, hooks []*hook) []*hook {
	conditions := p.conditions.Of(c, func() (all []*policy.Conditions) {
		for _, h := range hooks {
			all = append(all, policy.NewConditions(h.MatchConditions, false, h.FailurePolicy))
		}
		return all
	})
	for i, h := range hooks {
		h.conditions = conditions[i]
	}
	return hooks
}

func (p *plugin) matcher() admission.Matcher {
	return admission.Matcher{Objects: p.Objects, Table: p.Table}
}

// match finds out whether a webhook wants to know of a write, and in which
// version of the kind. nil when it does not.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/webhook/generic/webhook.go, Webhook.ShouldCallHook.
func (p *plugin) match(ctx context.Context, h *hook, a *admission.Attributes) (*kinds.Kind, error) {
	row := p.matcher().Row(ctx, a, h.MatchPolicy, func(row *kinds.Kind) bool {
		return slices.ContainsFunc(h.Rules, func(r admissionv1.RuleWithOperations) bool { return admission.RuleNames(&r, a, row) })
	})
	if row == nil {
		return nil, nil
	}
	if ok, err := p.matcher().Selects(ctx, h.NamespaceSelector, h.ObjectSelector, a); !ok || err != nil {
		return nil, err
	}
	if len(h.MatchConditions) == 0 {
		return row, nil
	}
	in, err := policy.Input(ctx, p.matcher(), a, row, p.Authorizer)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ok, err := h.conditions.Match(ctx, in)
	switch {
	case err != nil:
		return nil, apierrors.NewForbidden(a.Kind.GR(), a.Name, err)
	case !ok:
		return nil, nil
	}
	return row, nil
}
