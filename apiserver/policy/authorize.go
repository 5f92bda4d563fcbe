package policy

import (
	"context"
	"fmt"
	"slices"

	"orrery/apiserver/admission"
	"orrery/apiserver/auth"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// authorize refuses a policy or binding of a user who may not read its parameters: what a policy says of
// them would tell the user what they are.
func (p *plugin) authorize(ctx context.Context, a *admission.Attributes) error {
	if a.Subresource != "" || a.User == nil || slices.Contains(a.User.Groups, auth.GroupMasters) {
		return nil
	}
	var why *field.Error
	switch obj := a.Object.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		why = p.mayReadKind(ctx, a, obj)
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		why = p.mayReadParams(ctx, a, obj)
	}
	if why == nil {
		return nil
	}
	return apierrors.NewInvalid(a.Kind.GK(), a.Name, field.ErrorList{why})
}

// Upstream: pkg/registry/admissionregistration/validatingadmissionpolicy/authz.go, validatingAdmissionPolicyStrategy.authorize.
func (p *plugin) mayReadKind(ctx context.Context, a *admission.Attributes, policy *admissionv1.ValidatingAdmissionPolicy) *field.Error {
	kind := policy.Spec.ParamKind
	if old, ok := a.Old.(*admissionv1.ValidatingAdmissionPolicy); kind == nil || ok && old.Spec.ParamKind != nil && *old.Spec.ParamKind == *kind {
		return nil
	}
	asks, _ := p.asks(kind)
	asks.Verb, asks.Namespace, asks.Name = "get", "*", "*"
	if ok, err := p.may(ctx, a, asks); !ok {
		if err == nil {
			err = fmt.Errorf("user %v must have \"get\" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)", a.User, kind.Kind, kind.APIVersion)
		}
		return field.Forbidden(field.NewPath("spec", "paramKind"), err.Error())
	}
	return nil
}

// Upstream: pkg/registry/admissionregistration/validatingadmissionpolicybinding/authz.go, validatingAdmissionPolicyBindingStrategy.authorize.
func (p *plugin) mayReadParams(ctx context.Context, a *admission.Attributes, b *admissionv1.ValidatingAdmissionPolicyBinding) *field.Error {
	ref := b.Spec.ParamRef
	old, ok := a.Old.(*admissionv1.ValidatingAdmissionPolicyBinding)
	if ref == nil || ok && old.Spec.ParamRef != nil && *old.Spec.ParamRef == *ref && old.Spec.PolicyName == b.Spec.PolicyName {
		return nil
	}
	unknown := fmt.Sprintf("unable to get policy %s", b.Spec.PolicyName)
	asks := auth.Attributes{APIGroup: "*", APIVersion: "*", Resource: "*"}
	obj, err := p.Objects.Get(ctx, schema.GroupResource{Group: admissionv1.GroupName, Resource: "validatingadmissionpolicies"}, "", b.Spec.PolicyName)
	if policy, ok := obj.(*admissionv1.ValidatingAdmissionPolicy); ok && err == nil {
		unknown = ""
		if kind := policy.Spec.ParamKind; kind != nil {
			var found bool
			if asks, found = p.asks(kind); !found {
				unknown = fmt.Sprintf("unable to resolve paramKind %v", kind)
			}
		}
	}
	asks.Verb, asks.Namespace, asks.Name = "get", ref.Namespace, ref.Name
	if ref.Name == "" {
		asks.Verb = "list"
	}
	allowed, err := p.may(ctx, a, asks)
	switch {
	case allowed:
		return nil
	case err != nil:
		err = fmt.Errorf("failed to authorize request: %w", err)
	case unknown != "":
		err = fmt.Errorf("%s to determine minimum required permissions and user %v does not have %q permission for all groups, versions and resources", unknown, a.User, asks.Verb)
	default:
		err = fmt.Errorf("user %v does not have %q permission on the object referenced by paramRef", a.User, asks.Verb)
	}
	return field.Forbidden(field.NewPath("spec", "paramRef"), err.Error())
}

// asks is a question about a kind of parameters: about all resources of its version when there is no such kind.
func (p *plugin) asks(kind *admissionv1.ParamKind) (asks auth.Attributes, found bool) {
	gvk := schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind)
	asks = auth.Attributes{APIGroup: gvk.Group, APIVersion: gvk.Version, Resource: "*"}
	if row := p.Table.ByKind(gvk); row != nil {
		asks.Resource = row.Resource
		return asks, true
	}
	return asks, false
}

func (p *plugin) may(ctx context.Context, a *admission.Attributes, asks auth.Attributes) (bool, error) {
	asks.User, asks.IsResource = a.User, true
	decision, _, err := p.Authorizer.Authorize(ctx, asks)
	return err == nil && decision == auth.Allow, err
}
