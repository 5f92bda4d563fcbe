package node

import (
	"context"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	pods            = schema.GroupResource{Resource: "pods"}
	nodes           = schema.GroupResource{Resource: "nodes"}
	secrets         = schema.GroupResource{Resource: "secrets"}
	configMaps      = schema.GroupResource{Resource: "configmaps"}
	claims          = schema.GroupResource{Resource: "persistentvolumeclaims"}
	volumes         = schema.GroupResource{Resource: "persistentvolumes"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
	leases          = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	csiNodes        = schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}
	attachments     = schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}
	resourceClaims  = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
	resourceSlices  = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
)

// pod reads a pod; nil when there is none.
func (n *Authorizer) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	obj, err := n.Objects.Get(ctx, pods, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// refers reports whether a pod of the node refers to an object.
//
// Upstream: plugin/pkg/auth/authorizer/node/graph.go, Graph.AddPod, AddPV, AddVolumeAttachment.
func (n *Authorizer) refers(ctx context.Context, node string, resource schema.GroupResource, namespace, name string) (bool, error) {
	if resource == attachments {
		obj, err := n.Objects.Get(ctx, attachments, "", name)
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		attachment, ok := obj.(*storagev1.VolumeAttachment)
		return ok && attachment.Spec.NodeName == node, err
	}
	list, err := n.Objects.List(ctx, pods, namespace, nil)
	if err != nil {
		return false, err
	}
	for _, obj := range list {
		pod := obj.(*corev1.Pod)
		if pod.Spec.NodeName != node || !alive(pod) {
			continue
		}
		ok, err := podRefers(ctx, n.Objects, pod, resource, name)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// alive reports whether a pod may still need what it refers to. A static pod's
// mirror never gives access: the node itself wrote it and could name anything.
func alive(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return !mirror
}

// podRefers looks for one object among those that a pod refers to.
func podRefers(ctx context.Context, reader objects.Reader, pod *corev1.Pod, resource schema.GroupResource, name string) (bool, error) {
	switch resource {
	case serviceAccounts:
		return pod.Spec.ServiceAccountName == name, nil
	case secrets, configMaps:
		return mentions(pod, resource, name), nil
	case claims:
		return hasClaim(pod, name), nil
	case volumes:
		return usesVolume(ctx, reader, pod, name)
	case resourceClaims:
		for _, status := range pod.Status.ResourceClaimStatuses {
			if status.ResourceClaimName != nil && *status.ResourceClaimName == name {
				return true, nil
			}
		}
		for _, claim := range pod.Spec.ResourceClaims {
			if claim.ResourceClaimName != nil && *claim.ResourceClaimName == name {
				return true, nil
			}
		}
	}
	return false, nil
}

// usesVolume reports whether a claim of the pod is bound to the volume.
func usesVolume(ctx context.Context, reader objects.Reader, pod *corev1.Pod, name string) (bool, error) {
	obj, err := reader.Get(ctx, volumes, "", name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	claim := obj.(*corev1.PersistentVolume).Spec.ClaimRef
	return claim != nil && claim.Namespace == pod.Namespace && hasClaim(pod, claim.Name), nil
}

// hasClaim knows claims by name and those of ephemeral volumes, which are called <pod>-<volume>.
func hasClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name {
			return true
		}
		if v.Ephemeral != nil && pod.Name+"-"+v.Name == name {
			return true
		}
	}
	return false
}

// mentions looks for a Secret or ConfigMap in the pull secrets, environment and volumes of a pod.
//
// Upstream: pkg/api/v1/pod/util.go, VisitPodSecretNames, VisitPodConfigmapNames.
func mentions(pod *corev1.Pod, resource schema.GroupResource, name string) bool {
	if resource == secrets {
		for _, ref := range pod.Spec.ImagePullSecrets {
			if ref.Name == name {
				return true
			}
		}
	}
	containers := make([]corev1.Container, 0, len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	containers = append(append(containers, pod.Spec.Containers...), pod.Spec.InitContainers...)
	for i := range pod.Spec.EphemeralContainers {
		containers = append(containers, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	for i := range containers {
		if environmentMentions(&containers[i], resource, name) {
			return true
		}
	}
	for i := range pod.Spec.Volumes {
		if volumeMentions(&pod.Spec.Volumes[i], resource, name) {
			return true
		}
	}
	return false
}

func environmentMentions(c *corev1.Container, resource schema.GroupResource, name string) bool {
	for _, from := range c.EnvFrom {
		if (resource == secrets && from.SecretRef != nil && from.SecretRef.Name == name) ||
			(resource == configMaps && from.ConfigMapRef != nil && from.ConfigMapRef.Name == name) {
			return true
		}
	}
	for _, env := range c.Env {
		if from := env.ValueFrom; from != nil {
			if (resource == secrets && from.SecretKeyRef != nil && from.SecretKeyRef.Name == name) ||
				(resource == configMaps && from.ConfigMapKeyRef != nil && from.ConfigMapKeyRef.Name == name) {
				return true
			}
		}
	}
	return false
}

func volumeMentions(v *corev1.Volume, resource schema.GroupResource, name string) bool {
	if resource == configMaps && v.ConfigMap != nil && v.ConfigMap.Name == name {
		return true
	}
	if resource == secrets {
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
		if v.CSI != nil && v.CSI.NodePublishSecretRef != nil && v.CSI.NodePublishSecretRef.Name == name {
			return true
		}
	}
	if v.Projected == nil {
		return false
	}
	for _, source := range v.Projected.Sources {
		if (resource == secrets && source.Secret != nil && source.Secret.Name == name) ||
			(resource == configMaps && source.ConfigMap != nil && source.ConfigMap.Name == name) {
			return true
		}
	}
	return false
}
