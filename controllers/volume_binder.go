package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

const (
	bindCompleted  = "pv.kubernetes.io/bind-completed"
	boundByUs      = "pv.kubernetes.io/bound-by-controller"
	provisionedBy  = "pv.kubernetes.io/provisioned-by"
	provisionerOf  = "volume.kubernetes.io/storage-provisioner"
	selectedNode   = "volume.kubernetes.io/selected-node"
	defaultClass   = "storageclass.kubernetes.io/is-default-class"
	binderEvents   = "persistentvolume-controller"
	hostPathFolder = "/var/lib/orrery/volumes"
	// HostPathProvisioner is the provisioner of StorageClasses whose volumes are
	// folders on a node.
	HostPathProvisioner = "orrery.local/hostpath"
)

type (
	volume = corev1.PersistentVolume
	pvc    = corev1.PersistentVolumeClaim
)

// binder is the persistent volume binder.
//
// Watches: PersistentVolumes, PersistentVolumeClaims, StorageClasses.
// Wants: each claim bound to one volume that fits and each volume to one claim,
// both saying so.
// Does: finds the smallest volume that fits, or makes one (a folder on a node)
// where the class names our provisioner; waits for a pod's node where the class
// says WaitForFirstConsumer; releases and deletes volumes whose claim is gone.
// Upstream: pkg/controller/volume/persistentvolume/pv_controller.go,
// PersistentVolumeController; the provisioner is like sig-storage's
// local-path ones.
// Left out: the reclaim policy Recycle; deleting the folder on the node.
type binder struct {
	claims   *client.Informer[*pvc]
	volumes  *client.Informer[*volume]
	classes  *client.Informer[*storagev1.StorageClass]
	claimAPI *client.Resource[*pvc]
	volAPI   *client.Resource[*volume]
	recorder *client.Recorder
	loop     *client.Controller // keys are "claim/<key>" and "volume/<name>"
}

func startVolumeBinder(e *env) (func(context.Context) error, error) {
	c := &binder{
		claims: watching[*pvc](e), volumes: watching[*volume](e), classes: watching[*storagev1.StorageClass](e),
		claimAPI: client.For[*pvc](e.client), volAPI: client.For[*volume](e.client), recorder: e.recorder(binderEvents),
	}
	c.loop = client.NewController("persistentvolume-binder-controller", c.reconcile)
	c.loop.Workers = 1 // two claims must not take one volume
	c.claims.AddHandler(client.HandlerFunc(func(p *pvc) {
		c.loop.Queue.Add("claim/" + client.Key(p))
		if p.Spec.VolumeName != "" {
			c.loop.Queue.Add("volume/" + p.Spec.VolumeName)
		}
	}))
	c.volumes.AddHandler(client.HandlerFunc(func(v *volume) {
		c.loop.Queue.Add("volume/" + v.Name)
		for _, p := range c.claims.List() {
			if p.Spec.VolumeName == v.Name || p.Spec.VolumeName == "" {
				c.loop.Queue.Add("claim/" + client.Key(p))
			}
		}
	}))
	return c.loop.Run, nil
}

func (c *binder) reconcile(ctx context.Context, key string) (client.Result, error) {
	kind, name := client.SplitKey(key)
	if kind == "volume" {
		return client.Result{}, c.syncVolume(ctx, name)
	}
	p, ok := c.claims.GetKey(name)
	if !ok {
		return client.Result{}, nil
	}
	if p.Annotations[bindCompleted] != "" {
		return client.Result{}, c.syncBound(ctx, p)
	}
	return client.Result{}, c.syncUnbound(ctx, p)
}

// syncUnbound looks for a volume, or for a way to get one.
func (c *binder) syncUnbound(ctx context.Context, p *pvc) error {
	class := c.classOf(p)
	if p.Spec.VolumeName != "" {
		v, ok := c.volumes.GetKey(p.Spec.VolumeName)
		if !ok || v.Spec.ClaimRef != nil && !isFor(v.Spec.ClaimRef, p) {
			return c.phase(ctx, p, corev1.ClaimPending)
		}
		return c.bind(ctx, v, p)
	}
	late := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if v := bestVolume(c.volumes.List(), p, late && p.Annotations[selectedNode] == ""); v != nil {
		return c.bind(ctx, v, p)
	}
	if err := c.phase(ctx, p, corev1.ClaimPending); err != nil {
		return err
	}
	switch {
	case late && p.Annotations[selectedNode] == "":
		c.recorder.Event(p, normal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case class == nil || class.Provisioner == "kubernetes.io/no-provisioner":
		c.recorder.Event(p, normal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class.Provisioner != HostPathProvisioner:
		c.recorder.Eventf(p, normal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
	default:
		return c.provision(ctx, p, class)
	}
	return nil
}

func (c *binder) classOf(p *pvc) *storagev1.StorageClass {
	if p.Spec.StorageClassName == nil || *p.Spec.StorageClassName == "" {
		return nil
	}
	class, _ := c.classes.GetKey(*p.Spec.StorageClassName)
	return class
}

func isFor(ref *corev1.ObjectReference, p *pvc) bool {
	return ref.Namespace == p.Namespace && ref.Name == p.Name && (ref.UID == "" || ref.UID == p.UID)
}

// bestVolume is the volume that is meant for a claim, or else the smallest free
// one that fits; only the former if reserved is set.
//
// Upstream: k8s.io/component-helpers/storage/volume, FindMatchingVolume.
func bestVolume(all []*volume, p *pvc, reserved bool) *volume {
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
	if err != nil {
		return nil
	}
	if p.Spec.Selector == nil {
		selector = labels.Everything()
	}
	class := ""
	if p.Spec.StorageClassName != nil {
		class = *p.Spec.StorageClassName
	}
	mode := func(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
		if m == nil {
			return corev1.PersistentVolumeFilesystem
		}
		return *m
	}
	size := func(v *volume) int64 { return v.Spec.Capacity.Storage().Value() }
	fits := filter(all, func(v *volume) bool {
		if v.DeletionTimestamp != nil || mode(v.Spec.VolumeMode) != mode(p.Spec.VolumeMode) || size(v) < p.Spec.Resources.Requests.Storage().Value() {
			return false
		}
		if v.Spec.ClaimRef != nil {
			return isFor(v.Spec.ClaimRef, p)
		}
		return !reserved && v.Spec.StorageClassName == class && selector.Matches(labels.Set(v.Labels)) &&
			!slices.ContainsFunc(p.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) })
	})
	if len(fits) == 0 {
		return nil
	}
	return slices.MinFunc(fits, func(a, b *volume) int {
		return cmp.Or(cmpBool(a.Spec.ClaimRef == nil, b.Spec.ClaimRef == nil), cmp.Compare(size(a), size(b)), cmp.Compare(a.Name, b.Name))
	})
}

// bind joins both, in four writes, each of which may be the last: the next pass
// goes on from there.
func (c *binder) bind(ctx context.Context, v *volume, p *pvc) (err error) {
	v, p = v.DeepCopy(), p.DeepCopy()
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "" {
		if v.Spec.ClaimRef == nil {
			setAnnotation(&v.ObjectMeta, boundByUs, "yes")
		}
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
		if v, err = c.volAPI.Update(ctx, v); err != nil {
			return err
		}
	}
	if v.Status.Phase != corev1.VolumeBound {
		v.Status.Phase = corev1.VolumeBound
		if v, err = c.volAPI.UpdateStatus(ctx, v); err != nil {
			return err
		}
	}
	if p.Spec.VolumeName == "" {
		p.Spec.VolumeName = v.Name
		setAnnotation(&p.ObjectMeta, boundByUs, "yes")
	}
	if setAnnotation(&p.ObjectMeta, bindCompleted, "yes") {
		if p, err = c.claimAPI.Update(ctx, p); err != nil {
			return err
		}
	}
	return c.claimBound(ctx, p, v)
}

// claimBound writes what a bound claim has got.
func (c *binder) claimBound(ctx context.Context, p *pvc, v *volume) error {
	status := p.Status.DeepCopy()
	status.Phase, status.AccessModes = corev1.ClaimBound, v.Spec.AccessModes
	status.Capacity = corev1.ResourceList{corev1.ResourceStorage: *v.Spec.Capacity.Storage()}
	if equality.Semantic.DeepEqual(p.Status, *status) {
		return nil
	}
	p = p.DeepCopy()
	p.Status = *status
	_, err := c.claimAPI.UpdateStatus(ctx, p)
	return err
}

func (c *binder) phase(ctx context.Context, p *pvc, phase corev1.PersistentVolumeClaimPhase) error {
	if p.Status.Phase == phase {
		return nil
	}
	p = p.DeepCopy()
	p.Status.Phase = phase
	_, err := c.claimAPI.UpdateStatus(ctx, p)
	return err
}

// syncBound checks that a bound claim still has its volume.
func (c *binder) syncBound(ctx context.Context, p *pvc) error {
	v, ok := c.volumes.GetKey(p.Spec.VolumeName)
	if ok && (v.Spec.ClaimRef == nil || isFor(v.Spec.ClaimRef, p)) {
		return c.bind(ctx, v, p)
	}
	if p.Status.Phase == corev1.ClaimLost {
		return nil
	}
	if !ok {
		c.recorder.Event(p, warning, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	} else {
		c.recorder.Event(p, warning, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	return c.phase(ctx, p, corev1.ClaimLost)
}

// syncVolume brings a volume's phase in line with its claim.
func (c *binder) syncVolume(ctx context.Context, name string) error {
	v, ok := c.volumes.GetKey(name)
	if !ok || v.DeletionTimestamp != nil {
		return nil
	}
	phase := corev1.VolumeAvailable
	if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
		p, ok := c.claims.Get(ref.Namespace, ref.Name)
		if ok && p.UID == ref.UID {
			return nil // the claim's pass sees to it
		}
		phase = corev1.VolumeReleased
	}
	if v.Status.Phase != phase {
		v = v.DeepCopy()
		v.Status.Phase = phase
		var err error
		if v, err = c.volAPI.UpdateStatus(ctx, v); err != nil {
			return err
		}
	}
	if phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && v.Annotations[provisionedBy] == HostPathProvisioner {
		return ignoring(c.volAPI.Delete(ctx, "", v.Name, metav1.DeleteOptions{}), apierrors.IsNotFound)
	}
	return nil
}

// provision makes a volume for a claim: a folder on the node that the scheduler
// chose, or on every node where none was.
func (c *binder) provision(ctx context.Context, p *pvc, class *storagev1.StorageClass) error {
	v := hostPathVolume(p, class)
	_, err := c.volAPI.Create(ctx, v)
	if ignoring(err, apierrors.IsAlreadyExists) != nil {
		c.recorder.Eventf(p, warning, "ProvisioningFailed", "Failed to provision volume with StorageClass %q: %v", class.Name, err)
		return err
	}
	c.recorder.Eventf(p, normal, "ProvisioningSucceeded", "Successfully provisioned volume %s", v.Name)
	return nil
}

func hostPathVolume(p *pvc, class *storagev1.StorageClass) *volume {
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	v := &volume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(p.UID), Annotations: map[string]string{provisionedBy: HostPathProvisioner}}}
	v.Spec = corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: *p.Spec.Resources.Requests.Storage()}, AccessModes: p.Spec.AccessModes,
		PersistentVolumeReclaimPolicy: policy, StorageClassName: class.Name, VolumeMode: p.Spec.VolumeMode, MountOptions: class.MountOptions,
		ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{
			Path: fmt.Sprintf("%s/%s_%s_%s", hostPathFolder, p.Namespace, p.Name, p.UID), Type: new(corev1.HostPathDirectoryOrCreate),
		}},
	}
	if node := p.Annotations[selectedNode]; node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	return v
}
