package admission

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"orrery/apiserver/auth"
	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Config is what the plugins work with.
type Config struct {
	// Objects are read by nearly all plugins; ResourceQuota also writes the status of quotas.
	Objects objects.Client
	// Authorizer is asked by the plugins that guard certificates; nil turns those off.
	Authorizer auth.Authorizer
	// Configured are the plugins whose rules are objects of the API: webhooks and policies, in upstream's order.
	Configured []Plugin
	// Enable and Disable are the values of --enable-admission-plugins and --disable-admission-plugins.
	Enable, Disable []string
	// NotReadySeconds and UnreachableSeconds are how long a pod that says nothing about
	// it stays on a node that is not ready or unreachable; nil means 300.
	NotReadySeconds, UnreachableSeconds *int64
}

// New makes the chain of plugins that is on by default, in upstream's order. NodeRestriction is on when enabled by name, as kubeadm does.
//
// Upstream: pkg/kubeapiserver/options/plugins.go, AllOrderedPlugins and DefaultOffAdmissionPlugins.
// Left out: PodTopologyLabels, ClusterTrustBundleAttest, NodeDeclaredFeatures, MutatingAdmissionPolicy.
func New(c Config) (Chain, error) {
	offByDefault := []string{"NodeRestriction"}
	all := Chain{
		namespaceLifecycle{objects: c.Objects},
		limitRanger{objects: c.Objects},
		serviceAccount{objects: c.Objects},
		nodeRestriction{objects: c.Objects},
		taintNodesByCondition{},
		newPodSecurity(c.Objects),
		priority{objects: c.Objects},
		defaultTolerationSeconds{notReady: seconds(c.NotReadySeconds), unreachable: seconds(c.UnreachableSeconds)},
		defaultStorageClass{objects: c.Objects},
		storageObjectInUseProtection{},
		claimResize{objects: c.Objects},
		runtimeClass{objects: c.Objects},
		certificateApproval{authorizer: c.Authorizer},
		certificateSigning{authorizer: c.Authorizer},
		certificateSubjectRestriction{},
		defaultIngressClass{objects: c.Objects},
	}
	all = append(append(all, c.Configured...), resourceQuota{objects: c.Objects}) // what is counted is what is stored
	known := func(name string) bool {
		return slices.ContainsFunc(all, func(p Plugin) bool { return p.Name() == name })
	}
	for _, name := range slices.Concat(c.Enable, c.Disable) {
		if !known(name) && !slices.Contains(elsewhere, name) {
			return nil, fmt.Errorf("unknown admission plugin %q", name)
		}
	}
	return slices.DeleteFunc(all, func(p Plugin) bool {
		if slices.Contains(offByDefault, p.Name()) {
			return !slices.Contains(c.Enable, p.Name())
		}
		return slices.Contains(c.Disable, p.Name())
	}), nil
}

// elsewhere are upstream's plugins that flags may name without effect here: they are left out.
var elsewhere = []string{"MutatingAdmissionWebhook", "ValidatingAdmissionWebhook", "MutatingAdmissionPolicy", "ValidatingAdmissionPolicy",
	"PodTopologyLabels", "ClusterTrustBundleAttest"}

// forbidden is the 403 that a plugin answers with: pods "web" is forbidden: reason.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/admission/errors.go, NewForbidden.
func forbidden(a *Attributes, format string, args ...any) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Kind.GR(), nameOf(a), fmt.Errorf(format, args...))
}

// Forbidden is that 403 for plugins of other packages.
func Forbidden(a *Attributes, err error) *apierrors.StatusError { return forbidden(a, "%w", err) }

// nameOf names the object even while it only has a generateName.
func nameOf(a *Attributes) string {
	if a.Name != "" || a.Object == nil {
		return a.Name
	}
	m, err := meta.Accessor(a.Object)
	switch {
	case err != nil:
		return "Unknown/errorGettingName"
	case m.GetName() != "":
		return m.GetName()
	}
	return cmp.Or(m.GetGenerateName(), "Unknown")
}

// is reports whether the write is one of the operations on the main resource of a group and kind.
func (a *Attributes) is(group, kind string, ops ...Operation) bool {
	return a.Subresource == "" && a.Kind.Group == group && a.Kind.Kind == kind && slices.Contains(ops, a.Operation)
}

// newPod is the pod that is being created, or nil when the write is anything else.
func (a *Attributes) newPod() *corev1.Pod {
	if !a.is("", "Pod", Create) {
		return nil
	}
	pod, _ := a.Object.(*corev1.Pod)
	return pod
}

// get reads one object of a known Go type.
func get[T any](ctx context.Context, r objects.Reader, group, resource, namespace, name string) (*T, error) {
	o, err := r.Get(ctx, schema.GroupResource{Group: group, Resource: resource}, namespace, name)
	if err != nil {
		return nil, err
	}
	t, ok := any(o).(*T)
	if !ok {
		return nil, fmt.Errorf("%s %q is a %T", resource, name, o)
	}
	return t, nil
}

// list reads objects of a known Go type.
func list[T any](ctx context.Context, r objects.Reader, group, resource, namespace string) ([]*T, error) {
	all, err := r.List(ctx, schema.GroupResource{Group: group, Resource: resource}, namespace, nil)
	if err != nil {
		return nil, err
	}
	typed := make([]*T, 0, len(all))
	for _, o := range all {
		if t, ok := any(o).(*T); ok {
			typed = append(typed, t)
		}
	}
	return typed, nil
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}
