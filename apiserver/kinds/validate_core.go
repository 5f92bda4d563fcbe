package kinds

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// forbidden refuses a field where it has no meaning.
func (c *checks) forbidden(wrong bool, at *field.Path, why string) {
	if wrong {
		c.add(field.Forbidden(at, why))
	}
}

// qualified checks a name that may have a domain before a slash, when there is one.
func (c *checks) qualified(name *string, at *field.Path) {
	if name != nil {
		c.texts(*name, at, utilvalidation.IsQualifiedName(*name))
	}
}

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
		c.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
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

// secretKeys are what secrets of some types must have.
var secretKeys = map[corev1.SecretType][]string{
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
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
		if value, ok := s.Data[key]; !ok {
			c.add(field.Required(data.Key(key), ""))
		} else if s.Type != corev1.SecretTypeTLS {
			if err := json.Unmarshal(value, new(map[string]any)); err != nil {
				c.add(field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeSSHAuth:
		c.required(string(s.Data[corev1.SSHAuthPrivateKey]), data.Key(corev1.SSHAuthPrivateKey), "")
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
	return append(c.errs, validateSecret(s)...)
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	var c checks
	for _, f := range ns.Spec.Finalizers {
		c.finalizer(string(f), specPath.Child("finalizers"))
	}
	return c.errs
}

func validateNamespaceFinalize(ns, _ *corev1.Namespace) field.ErrorList {
	var c checks
	for i, f := range ns.Spec.Finalizers {
		c.finalizer(string(f), specPath.Child("finalizers").Index(i))
	}
	return c.errs
}

func (c *checks) finalizer(name string, at *field.Path) {
	c.addAll(validation.ValidateFinalizerName(name, at))
	c.addAll(ValidateFinalizer(name, at))
}

// ValidateFinalizer wants a domain in names that are not the system's own.
//
// Upstream: pkg/apis/core/validation/validation.go, validateKubeFinalizerName.
func ValidateFinalizer(name string, at *field.Path) field.ErrorList {
	standard := []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}
	if strings.Contains(name, "/") || slices.Contains(standard, name) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

func validateNamespaceStatus(ns, _ *corev1.Namespace) field.ErrorList {
	at := field.NewPath("status", "Phase")
	switch phase := ns.Status.Phase; {
	case ns.DeletionTimestamp == nil && phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(at, phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case ns.DeletionTimestamp != nil && phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateNode, where taints are said to be in the metadata.
func validateNode(n *corev1.Node) field.ErrorList {
	var c checks
	seen := sets.New[corev1.Taint]()
	for i, t := range n.Spec.Taints {
		at := field.NewPath("metadata", "taints").Index(i)
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
	c.nodeResources(n)
	families := sets.New[bool]()
	for i, cidr := range n.Spec.PodCIDRs {
		c.addAll(utilvalidation.IsValidCIDR(specPath.Child("podCIDRs").Index(i), cidr))
		families.Insert(strings.Contains(cidr, ":"))
	}
	if len(n.Spec.PodCIDRs) > 1 && (len(families) < 2 || len(n.Spec.PodCIDRs) > 2) {
		c.add(field.Invalid(specPath.Child("podCIDRs"), n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
	}
	return c.errs
}

func (c *checks) nodeResources(n *corev1.Node) {
	for _, name := range sortedKeys(n.Status.Capacity) {
		c.amount(name, n.Status.Capacity[name], field.NewPath("status", "capacity", string(name)))
	}
	for _, name := range sortedKeys(n.Status.Allocatable) {
		c.amount(name, n.Status.Allocatable[name], field.NewPath("status", "allocatable", string(name)))
	}
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateNodeUpdate.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var c checks
	c.forbidden(len(old.Spec.PodCIDRs) > 0 && !equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs), specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	c.forbidden(old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID, specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid")
	return c.errs
}

func validateNodeStatus(n, _ *corev1.Node) field.ErrorList {
	var c checks
	c.nodeResources(n)
	for i, a := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], a) {
			c.add(field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
	}
	return c.errs
}
