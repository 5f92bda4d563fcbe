package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const whenImmutable = "field is immutable when `immutable` is set"

// Upstream: pkg/apis/core/validation/validation.go, ValidateConfigMap.
func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	var c checks
	size := 0
	for _, key := range sortedKeys(cm.Data) {
		c.texts(key, field.NewPath("data").Key(key), utilvalidation.IsConfigMapKey(key))
		if _, ok := cm.BinaryData[key]; ok {
			c.add(field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(cm.Data[key])
	}
	for _, key := range sortedKeys(cm.BinaryData) {
		c.texts(key, field.NewPath("binaryData").Key(key), utilvalidation.IsConfigMapKey(key))
		size += len(cm.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		c.add(field.TooLong(field.NewPath(""), cm, corev1.MaxSecretSize))
	}
	return c.errs
}

func validateConfigMapUpdate(cm, old *corev1.ConfigMap) field.ErrorList {
	var c checks
	if frozen(&c, cm.Immutable, old.Immutable) {
		c.unchanged(cm.Data, old.Data, "data")
		c.unchanged(cm.BinaryData, old.BinaryData, "binaryData")
	}
	return c.errs
}

// frozen reports whether an object was made immutable; that it stays.
func frozen(c *checks, now, before *bool) bool {
	if before == nil || !*before {
		return false
	}
	if now == nil || !*now {
		c.add(field.Forbidden(field.NewPath("immutable"), whenImmutable))
	}
	return true
}

func (c *checks) unchanged(now, before any, name string) {
	if !equal(now, before) {
		c.add(field.Forbidden(field.NewPath(name), whenImmutable))
	}
}

// secretKeys are what secrets of some types must have; of the first list all, of the second one.
var secretKeys = map[corev1.SecretType][]string{
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	corev1.SecretTypeSSHAuth:          {corev1.SSHAuthPrivateKey},
	corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateSecret.
func validateSecret(s *corev1.Secret) field.ErrorList {
	var c checks
	data, size := field.NewPath("data"), 0
	for _, key := range sortedKeys(s.Data) {
		c.texts(key, data.Key(key), utilvalidation.IsConfigMapKey(key))
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		c.add(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	for _, key := range secretKeys[s.Type] {
		if _, ok := s.Data[key]; !ok {
			c.add(field.Required(data.Key(key), ""))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		c.required(s.Annotations[corev1.ServiceAccountNameKey], field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			c.add(field.Required(data.Key(corev1.BasicAuthUsernameKey), ""), field.Required(data.Key(corev1.BasicAuthPasswordKey), ""))
		}
	}
	return c.errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	var c checks
	c.same(s.Type, old.Type, field.NewPath("type"))
	if frozen(&c, s.Immutable, old.Immutable) {
		c.unchanged(s.Data, old.Data, "data")
	}
	return c.errs
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	var c checks
	for i, f := range ns.Spec.Finalizers {
		c.texts(string(f), specPath.Child("finalizers").Index(i), utilvalidation.IsQualifiedName(string(f)))
	}
	return c.errs
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateNode.
func validateNode(n *corev1.Node) field.ErrorList {
	var c checks
	seen := sets.New[corev1.Taint]()
	for i, t := range n.Spec.Taints {
		at := specPath.Child("taints").Index(i)
		c.addAll(metavalidation.ValidateLabelName(t.Key, at.Child("key")))
		c.texts(t.Value, at.Child("value"), utilvalidation.IsValidLabelValue(t.Value))
		oneOf(&c, t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		if key := (corev1.Taint{Key: t.Key, Effect: t.Effect}); seen.Has(key) {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			c.add(duplicate)
		} else {
			seen.Insert(key)
		}
	}
	for i, cidr := range n.Spec.PodCIDRs {
		c.addAll(utilvalidation.IsValidCIDR(specPath.Child("podCIDRs").Index(i), cidr))
	}
	return c.errs
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateNodeUpdate.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var c checks
	if len(old.Spec.PodCIDRs) > 0 && !equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		c.add(field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		c.add(field.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return c.errs
}

// Upstream: pkg/apis/core/validation/events.go, legacyValidateEvent.
func validateEvent(e *corev1.Event) field.ErrorList {
	var c checks
	at := field.NewPath("involvedObject", "namespace")
	if about := e.InvolvedObject.Namespace; about == "" {
		if e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault {
			c.add(field.Invalid(at, about, "does not match event.namespace"))
		}
	} else if about != e.Namespace {
		c.add(field.Invalid(at, about, "does not match event.namespace"))
	}
	return c.errs
}

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	var c checks
	for _, name := range sortedKeys(q.Spec.Hard) {
		at := specPath.Child("hard").Key(string(name))
		c.texts(string(name), at, utilvalidation.IsQualifiedName(string(name)))
		amount := q.Spec.Hard[name]
		c.quantity(amount, at)
		if whole := slices.Contains([]corev1.ResourceName{corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceConfigMaps, corev1.ResourceSecrets}, name) ||
			strings.HasPrefix(string(name), "count/"); whole && amount.MilliValue()%1000 != 0 {
			c.add(field.Invalid(at, amount, "must be an integer"))
		}
	}
	return c.errs
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	if equal(q.Spec.Scopes, old.Spec.Scopes) {
		return nil
	}
	return field.ErrorList{field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable")}
}

// validateLimitRange: minimum, default request, default limit and maximum must follow one another.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateLimitRange.
func validateLimitRange(lr *corev1.LimitRange) field.ErrorList {
	var c checks
	types := sets.New[corev1.LimitType]()
	for i, item := range lr.Spec.Limits {
		at := specPath.Child("limits").Index(i)
		c.texts(string(item.Type), at.Child("type"), utilvalidation.IsQualifiedName(string(item.Type)))
		if types.Has(item.Type) {
			c.add(field.Duplicate(at.Child("type"), item.Type))
		}
		types.Insert(item.Type)
		ladder := []struct {
			field, text string
			amounts     corev1.ResourceList
		}{{"min", "min value", item.Min}, {"defaultRequest", "default request value", item.DefaultRequest}, {"default", "default value", item.Default}, {"max", "max value", item.Max}}
		for low := range ladder {
			for high := low + 1; high < len(ladder); high++ {
				for _, name := range sortedKeys(ladder[low].amounts) {
					a, b := ladder[low].amounts[name], ladder[high].amounts[name]
					if _, ok := ladder[high].amounts[name]; ok && a.Cmp(b) > 0 {
						c.add(field.Invalid(at.Child(ladder[low].field).Key(string(name)), ladder[low].amounts[name],
							ladder[low].text+" "+a.String()+" is greater than "+ladder[high].text+" "+b.String()))
					}
				}
			}
		}
	}
	return c.errs
}

var allAccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

// Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeSpec.
func validateVolumeObject(pv *corev1.PersistentVolume) field.ErrorList {
	var c checks
	s := &pv.Spec
	if len(s.AccessModes) == 0 {
		c.add(field.Required(specPath.Child("accessModes"), ""))
	}
	for _, m := range s.AccessModes {
		optionOf(&c, m, specPath.Child("accessModes"), allAccessModes...)
	}
	if len(s.Capacity) == 0 {
		c.add(field.Required(specPath.Child("capacity"), ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		c.add(field.NotSupported(specPath.Child("capacity"), s.Capacity, []string{string(corev1.ResourceStorage)}))
	}
	for _, name := range sortedKeys(s.Capacity) {
		if q := s.Capacity[name]; q.Sign() <= 0 {
			c.add(field.Invalid(specPath.Child("capacity").Key(string(name)), q.String(), "must be greater than zero"))
		}
	}
	optionOf(&c, s.PersistentVolumeReclaimPolicy, specPath.Child("persistentVolumeReclaimPolicy"),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	exclusive(&c, s.PersistentVolumeSource, specPath, "volume type")
	if h := s.HostPath; h != nil && c.required(h.Path, specPath.Child("hostPath", "path"), "") {
		c.noBacksteps(h.Path, specPath.Child("hostPath", "path"))
	}
	c.name(s.StorageClassName, specPath.Child("storageClassName"), subdomain)
	return c.errs
}

func validateVolumeObjectUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	var c checks
	if !equal(pv.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		c.add(field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+
			diff.Diff(old.Spec.PersistentVolumeSource, pv.Spec.PersistentVolumeSource)))
	}
	c.same(pv.Spec.VolumeMode, old.Spec.VolumeMode, specPath.Child("volumeMode"))
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
	for _, m := range s.AccessModes {
		optionOf(&c, m, specPath.Child("accessModes"), allAccessModes...)
	}
	at := specPath.Child("resources").Key(string(corev1.ResourceStorage))
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		c.add(field.Required(at, ""))
	} else if size.Sign() <= 0 {
		c.add(field.Invalid(at, size.String(), "must be greater than zero"))
	}
	if s.StorageClassName != nil {
		c.name(*s.StorageClassName, specPath.Child("storageClassName"), subdomain)
	}
	return c.errs
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
	return c.errs
}

func validateStorageClass(k *storagev1.StorageClass) field.ErrorList {
	var c checks
	c.required(k.Provisioner, field.NewPath("provisioner"), "")
	if k.ReclaimPolicy != nil {
		optionOf(&c, *k.ReclaimPolicy, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if k.VolumeBindingMode != nil {
		optionOf(&c, *k.VolumeBindingMode, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	return c.errs
}

func validateStorageClassUpdate(k, old *storagev1.StorageClass) field.ErrorList {
	var c checks
	if !equal(k.Parameters, old.Parameters) {
		c.add(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if k.Provisioner != old.Provisioner {
		c.add(field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	c.same(k.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))
	c.same(k.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))
	return c.errs
}
