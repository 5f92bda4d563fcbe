package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resourceClaims checks which claims of devices a pod has, and notes their names.
//
// Upstream: pkg/apis/core/validation/validation.go, validatePodResourceClaim.
func (c *podChecks) resourceClaims(pod *corev1.Pod, at *field.Path) {
	c.claims = sets.New[string]()
	for i, claim := range c.spec.ResourceClaims {
		at := at.Index(i)
		if pod != nil && pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			c.add(field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
			continue
		}
		if c.required(claim.Name, at.Child("name"), "") {
			if c.claims.Has(claim.Name) {
				c.add(field.Duplicate(at.Child("name"), claim.Name))
			} else {
				c.texts(claim.Name, at.Child("name"), utilvalidation.IsDNS1123Label(claim.Name))
			}
			c.claims.Insert(claim.Name)
		}
		name, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		if name != nil && template != nil {
			c.add(field.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if name == nil && template == nil {
			c.add(field.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if name != nil {
			c.texts(*name, at.Child("resourceClaimName"), subdomain(*name))
		}
		if template != nil {
			c.texts(*template, at.Child("resourceClaimTemplateName"), subdomain(*template))
		}
	}
}

// claimed checks which of the pod's claims a container uses. A claim is named once, or some of its requests are, each once.
//
// Upstream: pkg/apis/core/validation/validation.go, validateResourceClaimNames.
func (c *podChecks) claimed(claims []corev1.ResourceClaim, at *field.Path) {
	seen := sets.New[string]()
	for i, claim := range claims {
		at := at.Index(i)
		if !c.required(claim.Name, at, "") {
			continue
		}
		key, shown := claim.Name, claim.Name
		if claim.Request != "" {
			key += "/" + claim.Request
		}
		again := seen.Has(claim.Name)
		if !again && claim.Request != "" {
			c.texts(claim.Request, at.Child("request"), utilvalidation.IsDNS1123Label(claim.Request))
			again, shown = seen.Has(key), key
		} else if !again {
			again = slices.ContainsFunc(seen.UnsortedList(), func(s string) bool { return strings.HasPrefix(s, claim.Name+"/") })
		}
		if again {
			c.add(field.Duplicate(at, shown))
		}
		seen.Insert(key)
		if !c.claims.Has(claim.Name) {
			err := field.NotFound(at, claim.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if len(c.claims) > 0 {
				err.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(c.claims), ", ")
			}
			c.add(err)
		}
	}
}

// devices checks which volumes a container gets as block devices: not those that it mounts.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateVolumeDevices.
func (c *podChecks) devices(t *corev1.Container, at *field.Path) {
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range t.VolumeDevices {
		at := at.Index(i)
		name, path := at.Child("name"), at.Child("devicePath")
		c.required(d.Name, name, "")
		if names.Has(d.Name) {
			c.add(field.Invalid(name, d.Name, "must be unique"))
		}
		if v, ok := c.volumes[d.Name]; !ok {
			c.add(field.NotFound(name, d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			c.add(field.Invalid(name, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		c.required(d.DevicePath, path, "")
		if paths.Has(d.DevicePath) {
			c.add(field.Invalid(path, d.DevicePath, "must be unique"))
		}
		if slices.Contains(strings.Split(d.DevicePath, "/"), "..") {
			c.add(field.Invalid(path, d.DevicePath, "can not contain backsteps ('..')"))
		} else {
			paths.Insert(d.DevicePath)
		}
		if slices.ContainsFunc(t.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
			c.add(field.Invalid(name, d.Name, "must not already exist in volumeMounts"))
		}
		if slices.ContainsFunc(t.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			c.add(field.Invalid(path, d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
		if d.Name != "" {
			names.Insert(d.Name)
		}
	}
}

// resizePolicies checks what becomes of a container when its amounts change.
//
// Upstream: pkg/apis/core/validation/validation.go, validateResizePolicy.
func (c *podChecks) resizePolicies(t *corev1.Container, at *field.Path) {
	seen := sets.New[corev1.ResourceName]()
	for i, p := range t.ResizePolicy {
		if seen.Has(p.ResourceName) {
			c.add(field.Duplicate(at.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		oneOf(c.checks, p.ResourceName, at, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(c.checks, p.RestartPolicy, at, corev1.NotRequired, corev1.RestartContainer)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.add(field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
}

// validateClaimsInUse checks what controllers note about a pod's claims of devices.
//
// Upstream: pkg/apis/core/validation/validation.go, validatePodResourceClaimStatuses and validatePodExtendedResourceClaimStatus.
func validateClaimsInUse(pod *corev1.Pod) field.ErrorList {
	var c checks
	names := sets.New[string]()
	for i, s := range pod.Status.ResourceClaimStatuses {
		at := statusPath.Child("resourceClaimStatuses").Index(i)
		if !slices.ContainsFunc(pod.Spec.ResourceClaims, func(r corev1.PodResourceClaim) bool { return r.Name == s.Name }) {
			c.add(field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if names.Has(s.Name) {
			c.add(field.Duplicate(at.Child("name"), s.Name))
		}
		names.Insert(s.Name)
		if s.ResourceClaimName != nil {
			c.texts(s.ResourceClaimName, at.Child("resourceClaimName"), subdomain(*s.ResourceClaimName))
		}
	}
	s, at := pod.Status.ExtendedResourceClaimStatus, statusPath.Child("extendedResourceClaimStatus")
	if s == nil {
		return c.errs
	}
	mappings := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		c.add(field.Required(mappings, "at least one request mapping is required"))
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	for i, m := range s.RequestMappings {
		one := mappings.Index(i)
		n := slices.IndexFunc(containers, func(t corev1.Container) bool { return t.Name == m.ContainerName })
		if n < 0 {
			c.add(field.Invalid(one.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := containers[n].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			c.add(field.Invalid(one.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		c.texts(m.RequestName, at.Child("requestName"), utilvalidation.IsDNS1123Label(m.RequestName))
		if slices.Contains(s.RequestMappings[:i], m) {
			c.add(field.Duplicate(one.Child("containerName"), m.ContainerName), field.Duplicate(one.Child("resourceName"), m.ResourceName), field.Duplicate(one.Child("requestName"), m.RequestName))
		}
	}
	if c.required(s.ResourceClaimName, at.Child("resourceClaimName"), "") {
		c.texts(s.ResourceClaimName, at.Child("resourceClaimName"), validation.NameIsDNSSubdomain(s.ResourceClaimName, false))
	}
	return c.errs
}
