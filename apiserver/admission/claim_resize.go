package admission

import (
	"context"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// claimResize lets a claim grow only when its storage class says that its volumes can.
//
// Upstream: plugin/pkg/admission/storage/persistentvolume/resize/admission.go.
type claimResize struct {
	Base
	objects objects.Reader
}

func (claimResize) Name() string { return "PersistentVolumeClaimResize" }

func (p claimResize) Validate(ctx context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	old, ok2 := a.Old.(*corev1.PersistentVolumeClaim)
	if !ok || !ok2 || !a.is("", "PersistentVolumeClaim", Update) {
		return nil
	}
	size, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbidden(a, "Only bound persistent volume claims can be expanded")
	}
	if name := claim.Spec.StorageClassName; name != nil && *name != "" {
		class, err := get[storagev1.StorageClass](ctx, p.objects, "storage.k8s.io", "storageclasses", "", *name)
		if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return forbidden(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}
