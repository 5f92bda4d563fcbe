package admission

import (
	"context"
	"fmt"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaceLifecycle keeps objects out of namespaces that are not there or on their way out, and the namespaces that every cluster has from being deleted.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go, Lifecycle.
type namespaceLifecycle struct {
	Base
	objects objects.Reader
}

func (namespaceLifecycle) Name() string { return "NamespaceLifecycle" }

func (p namespaceLifecycle) Admit(ctx context.Context, a *Attributes) error {
	if a.Kind.Group == "" && a.Kind.Kind == "Namespace" {
		if a.Operation == Delete && (a.Name == metav1.NamespaceDefault || a.Name == metav1.NamespaceSystem || a.Name == metav1.NamespacePublic) {
			return forbidden(a, "this namespace may not be deleted")
		}
		return nil
	}
	if a.Namespace == "" || a.Operation == Delete || a.Operation == Connect || a.Kind.Kind == "LocalSubjectAccessReview" {
		return nil
	}
	ns, err := get[corev1.Namespace](ctx, p.objects, "", "namespaces", "", a.Namespace)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if a.Operation == Create && ns.Status.Phase == corev1.NamespaceTerminating {
		refused := forbidden(a, "unable to create new content in namespace %s because it is being terminated", a.Namespace)
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace), Field: "metadata.namespace",
		})
		return refused
	}
	return nil
}
