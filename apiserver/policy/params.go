package policy

import (
	"context"
	"errors"
	"fmt"

	"orrery/apiserver/admission"
	"orrery/apiserver/kinds"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// paramKind finds the row of a policy's paramKind; nil when it has none.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/generic/policy_source.go, policySource.ensureParamsForPolicyLocked.
func (p *plugin) paramKind(of *admissionv1.ParamKind) (*kinds.Kind, error) {
	if of == nil {
		return nil, nil
	}
	gvk := schema.FromAPIVersionAndKind(of.APIVersion, of.Kind)
	row := p.Table.ByKind(gvk)
	if row == nil || row.Virtual() || row.Remote {
		return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
	}
	return row, nil
}

// params are the parameters to evaluate a policy with: one that is nil when the policy or the binding names none.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/generic/policy_dispatcher.go, CollectParams.
func (p *plugin) params(ctx context.Context, kind *kinds.Kind, ref *admissionv1.ParamRef, a *admission.Attributes) ([]any, error) {
	if kind == nil || ref == nil {
		return []any{nil}, nil
	}
	namespace, err := paramNamespace(kind, ref, a)
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, kind, ref, namespace)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	params := make([]any, 0, len(found))
	for _, obj := range found {
		obj, err := kind.Convert(obj.DeepCopyObject())
		if err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(kind.GVK())
		param, err := fields(obj)
		if err != nil {
			return nil, err
		}
		params = append(params, param)
	}
	return params, nil
}

// paramNamespace is where parameters are: where the binding says, or where the written object is.
func paramNamespace(kind *kinds.Kind, ref *admissionv1.ParamRef, a *admission.Attributes) (string, error) {
	switch {
	case !kind.Namespaced && ref.Namespace != "":
		return "", errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case !kind.Namespaced:
		return "", nil
	case ref.Namespace != "":
		return ref.Namespace, nil
	case a.IsNamespace():
		return a.Name, nil
	case a.Namespace == "":
		return "", errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	}
	return a.Namespace, nil
}

func (p *plugin) find(ctx context.Context, kind *kinds.Kind, ref *admissionv1.ParamRef, namespace string) ([]runtime.Object, error) {
	if ref.Name != "" {
		obj, err := p.Objects.Get(ctx, kind.GR(), namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []runtime.Object{obj}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	return p.Objects.List(ctx, kind.GR(), namespace, selector)
}
