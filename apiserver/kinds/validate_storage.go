package kinds

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var allAccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

// Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeSpec.
func validateVolumeObject(pv *corev1.PersistentVolume) field.ErrorList {
	var c checks
	s := &pv.Spec
	if len(s.AccessModes) == 0 {
		c.add(field.Required(specPath.Child("accessModes"), ""))
	}
	c.accessModes(s.AccessModes)
	if len(s.Capacity) == 0 {
		c.add(field.Required(specPath.Child("capacity"), ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		c.add(field.NotSupported(specPath.Child("capacity"), s.Capacity, []string{string(corev1.ResourceStorage)}))
	}
	for _, name := range sortedKeys(s.Capacity) {
		q, at := s.Capacity[name], specPath.Child("capacity").Key(string(name))
		c.size(q, at)
		c.positive(q, at)
	}
	optionOf(&c, s.PersistentVolumeReclaimPolicy, specPath.Child("persistentVolumeReclaimPolicy"),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	affinity := specPath.Child("nodeAffinity")
	if a := s.NodeAffinity; a != nil && a.Required == nil {
		c.add(field.Required(affinity.Child("required"), "must specify required node constraints"))
	} else if a != nil {
		at := affinity.Child("required", "nodeSelectorTerms")
		if len(a.Required.NodeSelectorTerms) == 0 {
			c.add(field.Required(at, "must have at least one node selector term"))
		}
		for i := range a.Required.NodeSelectorTerms {
			c.nodeTerm(&a.Required.NodeSelectorTerms[i], at.Index(i), true)
		}
	}
	c.volumeSource(&s.PersistentVolumeSource)
	if s.Local != nil && s.NodeAffinity == nil {
		c.add(field.Required(affinity, "Local volume requires node affinity"))
	}
	exclusive(&c, s.PersistentVolumeSource, specPath, "volume type")
	c.forbidden(s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle,
		specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	c.name(s.StorageClassName, specPath.Child("storageClassName"), subdomain)
	c.volumeMode(s.VolumeMode)
	return c.errs
}

// volumeSource checks where the data of a volume is.
func (c *checks) volumeSource(s *corev1.PersistentVolumeSource) {
	if s.HostPath != nil {
		c.volume(&corev1.VolumeSource{HostPath: s.HostPath}, specPath)
	}
	if at := specPath.Child("nfs"); s.NFS != nil {
		c.required(s.NFS.Server, at.Child("server"), "")
		c.required(s.NFS.Path, at.Child("path"), "")
		if !path.IsAbs(s.NFS.Path) {
			c.add(field.Invalid(at.Child("path"), s.NFS.Path, "must be an absolute path"))
		}
	}
	if at := specPath.Child("local", "path"); s.Local != nil && c.required(s.Local.Path, at, "") {
		c.noBacksteps(s.Local.Path, at)
	}
	if at := specPath.Child("csi"); s.CSI != nil {
		c.required(s.CSI.Driver, at.Child("driver"), "")
		c.required(s.CSI.VolumeHandle, at.Child("volumeHandle"), "")
	}
}

func (c *checks) accessModes(modes []corev1.PersistentVolumeAccessMode) {
	alone, shared := false, false
	for _, m := range modes {
		listed(c, m, specPath.Child("accessModes"), allAccessModes...)
		alone = alone || m == corev1.ReadWriteOncePod
		shared = shared || m != corev1.ReadWriteOncePod && slices.Contains(allAccessModes, m)
	}
	c.forbidden(alone && shared, specPath.Child("accessModes"), "may not use ReadWriteOncePod with other access modes")
}

func (c *checks) volumeMode(mode *corev1.PersistentVolumeMode) {
	if mode != nil {
		optionOf(c, *mode, specPath.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
}

// size refuses less than nothing, positive also nothing.
func (c *checks) size(q resource.Quantity, at *field.Path) {
	if q.Sign() < 0 {
		c.add(field.Invalid(at, q.Value(), "must be a valid resource quantity"))
	}
}

func (c *checks) positive(q resource.Quantity, at *field.Path) {
	if q.Sign() <= 0 {
		c.add(field.Invalid(at, q.String(), "must be greater than zero"))
	}
}

func validateVolumeObjectUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	var c checks
	if !equal(pv.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		c.add(field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+
			diff.Diff(old.Spec.PersistentVolumeSource, pv.Spec.PersistentVolumeSource)))
	}
	c.same(pv.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))
	return c.errs
}

// Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeClaimSpec.
func validateClaim(pvc *corev1.PersistentVolumeClaim) field.ErrorList {
	var c checks
	s := &pvc.Spec
	if len(s.AccessModes) == 0 {
		c.add(field.Required(specPath.Child("accessModes"), "at least 1 access mode is required"))
	}
	c.selector(s.Selector, specPath.Child("selector"))
	c.accessModes(s.AccessModes)
	at := specPath.Child("resources").Key(string(corev1.ResourceStorage))
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		c.add(field.Required(at, ""))
	} else {
		c.positive(size, at)
	}
	c.dataSources(s)
	if s.StorageClassName != nil {
		c.name(*s.StorageClassName, specPath.Child("storageClassName"), subdomain)
	}
	c.volumeMode(s.VolumeMode)
	if s.VolumeAttributesClassName != nil {
		c.name(*s.VolumeAttributesClassName, specPath.Child("volumeAttributesClassName"), subdomain)
	}
	return c.errs
}

// dataSources checks what a new volume is to be filled from: both fields say the same, one of them also of other namespaces.
func (c *checks) dataSources(s *corev1.PersistentVolumeClaimSpec) {
	source := func(group *string, kind, name string, at *field.Path) {
		c.required(name, at.Child("name"), "")
		c.required(kind, at.Child("kind"), "")
		if of := show(group, ""); of != "" {
			c.texts(of, at.Child("apiGroup"), utilvalidation.IsDNS1123Subdomain(of))
		} else if kind != "PersistentVolumeClaim" {
			c.add(field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
	}
	from, ref := s.DataSource, s.DataSourceRef
	if from != nil {
		source(from.APIGroup, from.Kind, from.Name, specPath.Child("dataSource"))
	}
	if ref == nil {
		return
	}
	at := specPath.Child("dataSourceRef")
	source(ref.APIGroup, ref.Kind, ref.Name, at)
	elsewhere := show(ref.Namespace, "")
	c.name(elsewhere, at.Child("namespace"), utilvalidation.IsDNS1123Label)
	switch at := specPath.Child("dataSource"); {
	case from == nil:
	case elsewhere != "":
		c.add(field.Invalid(specPath, at, "may not be specified when dataSourceRef.namespace is specified"))
	case !equal(from, &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}):
		c.add(field.Invalid(specPath, at, "must match dataSourceRef"))
	}
}

var resizeStatuses = []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible}

func validateClaimStatus(pvc, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var c checks
	s := &pvc.Status
	for _, name := range sortedKeys(s.Capacity) {
		c.size(s.Capacity[name], statusPath.Child("capacity").Key(string(name)))
	}
	at := statusPath.Child("allocatedResourceStatuses")
	for _, name := range sortedKeys(s.AllocatedResourceStatuses) {
		c.claimResource(name, at)
		if !slices.Contains(resizeStatuses, s.AllocatedResourceStatuses[name]) {
			c.add(field.NotSupported(at, name, sets.List(sets.New(resizeStatuses...)))) // upstream shows the key
		}
	}
	at = statusPath.Child("allocatedResources")
	for _, name := range sortedKeys(s.AllocatedResources) {
		if c.claimResource(name, at) {
			c.size(s.AllocatedResources[name], at.Key(string(name)))
		}
	}
	return c.errs
}

// claimResource checks the name of what a claim has an amount of, and reports whether it is one: the storage, or something with a domain.
func (c *checks) claimResource(name corev1.ResourceName, at *field.Path) bool {
	if messages := utilvalidation.IsQualifiedName(string(name)); len(messages) > 0 {
		c.texts(name, at, messages)
		return false
	}
	native := !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
	if native && name != corev1.ResourceStorage {
		c.add(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage}))
		return false
	}
	return true
}

// validateClaimUpdate lets a bound claim grow, and the volume controller fill in which volume it got.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeClaimUpdate.
func validateClaimUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var c checks
	same := pvc.DeepCopy()
	if old.Spec.VolumeName == "" {
		same.Spec.VolumeName = ""
	}
	if old.Spec.StorageClassName == nil || old.Annotations[corev1.BetaStorageClassAnnotation] != "" {
		same.Spec.StorageClassName = old.Spec.StorageClassName
	}
	if old.Status.Phase == corev1.ClaimBound {
		same.Spec.Resources.Requests, same.Spec.VolumeAttributesClassName = old.Spec.Resources.Requests, old.Spec.VolumeAttributesClassName
	}
	if !equal(same.Spec, old.Spec) {
		c.add(field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(old.Spec, same.Spec)))
	}
	before, now := old.Spec.Resources.Requests[corev1.ResourceStorage], pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	if now.Cmp(before) < 0 && now.Cmp(old.Status.Capacity[corev1.ResourceStorage]) <= 0 {
		c.add(field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	c.same(pvc.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))
	if class, at := pvc.Spec.VolumeAttributesClassName, specPath.Child("volumeAttributesClassName"); old.Status.CurrentVolumeAttributesClassName != nil {
		c.forbidden(class == nil, at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")
		c.forbidden(class != nil && *class == "" && !equal(class, old.Spec.VolumeAttributesClassName), at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")
	}
	return c.errs
}

// Upstream: pkg/apis/storage/validation/validation.go, ValidateStorageClass.
func validateStorageClass(k *storagev1.StorageClass) field.ErrorList {
	var c checks
	c.provisioner(k.Provisioner, field.NewPath("provisioner"))
	c.parameters(k.Parameters)
	if k.ReclaimPolicy != nil {
		optionOf(&c, *k.ReclaimPolicy, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if k.VolumeBindingMode != nil {
		listed(&c, *k.VolumeBindingMode, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	c.topologies(k.AllowedTopologies, field.NewPath("allowedTopologies"))
	return c.errs
}

// topologies checks where the volumes of a class may be. Two terms that ask for the same are one too many, however they are written.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateTopologySelectorTerm.
func (c *checks) topologies(terms []corev1.TopologySelectorTerm, at *field.Path) {
	var before []map[string]sets.Set[string]
	for i, t := range terms {
		keys := map[string]sets.Set[string]{}
		at := at.Index(i).Child("matchLabelExpressions")
		for j, e := range t.MatchLabelExpressions {
			at, values := at.Index(j), sets.New[string]()
			if len(e.Values) == 0 {
				c.add(field.Required(at.Child("values"), ""))
			}
			for n, v := range e.Values {
				if values.Has(v) {
					c.add(field.Duplicate(at.Child("values").Index(n), v))
				}
				values.Insert(v)
			}
			c.addAll(metavalidation.ValidateLabelName(e.Key, at.Child("key")))
			if keys[e.Key] != nil {
				c.add(field.Duplicate(at.Child("key"), e.Key))
			}
			keys[e.Key] = values
		}
		if len(keys) == 0 || slices.ContainsFunc(before, func(b map[string]sets.Set[string]) bool { return equal(b, keys) }) {
			c.add(field.Duplicate(at, ""))
		}
		before = append(before, keys)
	}
}

func validateStorageClassUpdate(k, old *storagev1.StorageClass) field.ErrorList {
	var c checks
	c.same(k.Parameters, old.Parameters, field.NewPath("parameters"))
	c.same(k.Provisioner, old.Provisioner, field.NewPath("provisioner"))
	c.same(k.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))
	c.same(k.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))
	return c.errs
}
