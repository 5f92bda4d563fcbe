package admission

import (
	"context"
	"maps"
	"slices"
	"strings"

	"orrery/apiserver/objects"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// nodeRestriction confines each kubelet to its own node, lease and pods: a node that is taken over must not take the others with it.
//
// Upstream: plugin/pkg/admission/noderestriction/admission.go, Plugin.
// Left out: checks of PVC status, ResourceSlices and certificate requests.
type nodeRestriction struct {
	Base
	objects objects.Reader
}

func (nodeRestriction) Name() string { return "NodeRestriction" }

func (p nodeRestriction) Admit(ctx context.Context, a *Attributes) error {
	if a.User == nil || !slices.Contains(a.User.Groups, "system:nodes") {
		return nil
	}
	node, ok := strings.CutPrefix(a.User.Name, "system:node:")
	if !ok {
		return nil
	}
	switch a.Kind.Group + "/" + a.Kind.Resource {
	case "/pods":
		return p.pods(ctx, a, node)
	case "/nodes":
		return ownNode(a, node)
	case "/serviceaccounts":
		return p.token(ctx, a, node)
	case "coordination.k8s.io/leases":
		if a.Namespace != corev1.NamespaceNodeLease {
			return forbidden(a, "can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		name := a.Name
		if lease, ok := a.Object.(*coordinationv1.Lease); ok && a.Operation == Create {
			name = lease.Name
		}
		if name != node {
			return forbidden(a, "can only access node lease with the same name as the requesting node")
		}
	case "storage.k8s.io/csinodes":
		if nameOf(a) != node {
			return forbidden(a, "can only access CSINode with the same name as the requesting node")
		}
	}
	return nil
}

func (p nodeRestriction) pods(ctx context.Context, a *Attributes, node string) error {
	switch a.Subresource {
	case "":
		switch a.Operation {
		case Create:
			return ownMirror(a, node)
		case Delete:
			pod, err := p.pod(ctx, a)
			if err == nil && pod.Spec.NodeName != node {
				return forbidden(a, "node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return err
		}
		return forbidden(a, "unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, node)
	case "status":
		old, ok := a.Old.(*corev1.Pod)
		pod, ok2 := a.Object.(*corev1.Pod)
		if !ok || !ok2 {
			return nil
		}
		if old.Spec.NodeName != node {
			return forbidden(a, "node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		if !maps.Equal(old.Labels, pod.Labels) {
			return forbidden(a, "node %q cannot update labels through pod status", node)
		}
		return nil
	case "eviction":
		pod, err := p.pod(ctx, a)
		if err == nil && pod.Spec.NodeName != node {
			return forbidden(a, "node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return err
	}
	return forbidden(a, "unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
}

func (p nodeRestriction) pod(ctx context.Context, a *Attributes) (*corev1.Pod, error) {
	return get[corev1.Pod](ctx, p.objects, "", "pods", a.Namespace, a.Name)
}

// ownMirror lets a kubelet create only pods that show what it runs itself, and that use nothing of the API.
func ownMirror(a *Attributes, node string) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	switch {
	case !isMirror(pod):
		return forbidden(a, "pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return forbidden(a, "node %q can only create pods with spec.nodeName set to itself", node)
	case len(pod.OwnerReferences) > 1:
		return forbidden(a, "node %q can only create pods with a single owner reference set to itself", node)
	case len(pod.OwnerReferences) == 1 && (pod.OwnerReferences[0].Kind != "Node" || pod.OwnerReferences[0].Name != node):
		return forbidden(a, "node %q can only create pods with an owner reference set to itself", node)
	case pod.Spec.ServiceAccountName != "":
		return forbidden(a, "node %q can not create pods that reference a service account", node)
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.Secret != nil:
			return forbidden(a, "node %q can not create pods that reference secrets", node)
		case v.ConfigMap != nil:
			return forbidden(a, "node %q can not create pods that reference configmaps", node)
		case v.PersistentVolumeClaim != nil:
			return forbidden(a, "node %q can not create pods that reference persistentvolumeclaims", node)
		}
	}
	return nil
}

// ownNode lets a kubelet write its own Node, but neither its taints nor labels that others may trust.
func ownNode(a *Attributes, name string) error {
	if nameOf(a) != name {
		return forbidden(a, "node %q is not allowed to modify node %q", name, nameOf(a))
	}
	node, ok := a.Object.(*corev1.Node)
	if !ok {
		return nil
	}
	if a.Operation == Create {
		if bad := guarded(nil, node.Labels); len(bad) > 0 {
			return forbidden(a, "node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
		return nil
	}
	old, ok := a.Old.(*corev1.Node)
	if !ok || a.Operation != Update {
		return nil
	}
	if !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
		return forbidden(a, "node %q is not allowed to modify taints", name)
	}
	if bad := guarded(old.Labels, node.Labels); len(bad) > 0 {
		return forbidden(a, "node %q is not allowed to modify labels: %s", name, strings.Join(bad, ", "))
	}
	return nil
}

// kubeletLabels are the labels of Kubernetes' own domain that a kubelet may set on itself.
//
// Upstream: staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go, kubeletLabels.
var kubeletLabels = []string{
	corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
	corev1.LabelWindowsBuild, "beta.kubernetes.io/arch", "beta.kubernetes.io/os",
}

// guarded lists the labels that differ and that a kubelet must not set.
func guarded(old, labels map[string]string) []string {
	var bad []string
	all := maps.Clone(old)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, labels)
	for key := range all {
		before, was := old[key]
		after, is := labels[key]
		if was == is && before == after {
			continue
		}
		domain, _, ok := strings.Cut(key, "/")
		within := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
		if !ok || !within("kubernetes.io") && !within("k8s.io") {
			continue
		}
		if !within("node-restriction.kubernetes.io") && (slices.Contains(kubeletLabels, key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")) {
			continue
		}
		bad = append(bad, key)
	}
	slices.Sort(bad)
	return bad
}

// token lets a kubelet ask for tokens only on behalf of pods that run on its node.
func (p nodeRestriction) token(ctx context.Context, a *Attributes, node string) error {
	request, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok || a.Subresource != "token" || a.Operation != Create {
		return nil
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return forbidden(a, "node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return forbidden(a, "node requested token with a pod binding without a uid")
	}
	pod, err := get[corev1.Pod](ctx, p.objects, "", "pods", a.Namespace, ref.Name)
	if err != nil {
		return err
	}
	if pod.UID != ref.UID {
		return forbidden(a, "the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != node {
		return forbidden(a, "node requested token bound to a pod scheduled on a different node")
	}
	return nil
}
