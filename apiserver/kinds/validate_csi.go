package kinds

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What drivers of volumes tell about themselves. No part of this cluster uses it; the drivers' own controllers would.
//
// Upstream: pkg/apis/storage/validation/validation.go.

// longest is how many bytes keys and values of parameters may have together.
const longest = 256 << 10

func (c *checks) driver(name string, at *field.Path) {
	c.required(name, at, "")
	if len(name) > utilvalidation.DNS1123LabelMaxLength {
		c.add(field.TooLong(at, "", utilvalidation.DNS1123LabelMaxLength))
	}
	c.texts(name, at, utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)))
}

// parameters checks what is handed to a driver as it is.
func (c *checks) parameters(p map[string]string) {
	at, size := field.NewPath("parameters"), 0
	if len(p) > 512 {
		c.add(field.TooLong(at, "", 512))
		return
	}
	for key, value := range p {
		if key == "" {
			c.add(field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > longest {
		c.add(field.TooLong(at, "", longest))
	}
}

func (c *checks) provisioner(name string, at *field.Path) {
	c.required(name, at, "")
	c.name(strings.ToLower(name), at, utilvalidation.IsQualifiedName)
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	var c checks
	s := &d.Spec
	set := func(b *bool, name string) {
		if b == nil {
			c.add(field.Required(specPath.Child(name), ""))
		}
	}
	set(s.AttachRequired, "attachedRequired") // upstream's spelling
	set(s.PodInfoOnMount, "podInfoOnMount")
	set(s.StorageCapacity, "storageCapacity")
	given(&c, s.FSGroupPolicy, specPath.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	audiences := sets.New[string]()
	for i, t := range s.TokenRequests {
		at := specPath.Child("tokenRequests").Index(i)
		if audiences.Has(t.Audience) {
			c.add(field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		audiences.Insert(t.Audience)
		if at := at.Child("expirationSeconds"); t.ExpirationSeconds != nil {
			if *t.ExpirationSeconds < 600 {
				c.add(field.Invalid(at, *t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
			}
			if *t.ExpirationSeconds > 1<<32 {
				c.add(field.Invalid(at, *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
			}
		}
	}
	for _, mode := range s.VolumeLifecycleModes {
		listed(&c, mode, specPath.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)
	}
	set(s.SELinuxMount, "seLinuxMount")
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		c.add(field.Invalid(specPath.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		c.add(field.Invalid(specPath.Child("serviceAccountTokenInSecrets"), s.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return c.errs
}

func validateCSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	var c checks
	c.same(d.Spec.AttachRequired, old.Spec.AttachRequired, specPath.Child("attachedRequired"))
	c.same(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, specPath.Child("volumeLifecycleModes"))
	return c.errs
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var c checks
	drivers := sets.New[string]()
	for i, d := range n.Spec.Drivers {
		at := specPath.Child("drivers").Index(i)
		c.driver(d.Name, at.Child("name"))
		c.required(d.NodeID, at.Child("nodeID"), "")
		if len(d.NodeID) > 256 {
			c.add(field.Invalid(at.Child("nodeID"), d.NodeID, "must be 256 characters or less"))
		}
		if d.Allocatable != nil {
			c.notNegativePtr(d.Allocatable.Count, at.Child("allocatable", "count"))
		}
		if drivers.Has(d.Name) {
			c.add(field.Duplicate(at.Child("name"), d.Name))
		}
		drivers.Insert(d.Name)
		keys := sets.New[string]()
		for _, key := range d.TopologyKeys {
			c.required(key, at, "")
			if keys.Has(key) {
				c.add(field.Duplicate(at, key))
			}
			keys.Insert(key)
			c.texts(key, at, utilvalidation.IsQualifiedName(key))
		}
	}
	return c.errs
}

// validateCSINodeUpdate lets drivers come and go, and change how many volumes they can attach.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	var c checks
	for _, was := range old.Spec.Drivers {
		for _, is := range n.Spec.Drivers {
			if was.Name == is.Name {
				was.Allocatable, is.Allocatable = nil, nil
				c.same(is, was, specPath.Child("drivers"))
			}
		}
	}
	return c.errs
}

func validateStorageCapacity(s *storagev1.CSIStorageCapacity) field.ErrorList {
	var c checks
	c.selector(s.NodeTopology, field.NewPath("nodeTopology"))
	c.texts(s.StorageClassName, field.NewPath("storageClassName"), subdomain(s.StorageClassName))
	if s.Capacity != nil {
		c.quantity(*s.Capacity, field.NewPath("capacity"))
	}
	return c.errs
}

func validateStorageCapacityUpdate(s, old *storagev1.CSIStorageCapacity) field.ErrorList {
	var c checks
	c.same(s.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))
	c.same(s.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))
	return c.errs
}

func validateVolumeAttachment(v *storagev1.VolumeAttachment) field.ErrorList {
	var c checks
	s := &v.Spec
	c.driver(s.Attacher, specPath.Child("attacher"))
	at, name := specPath.Child("source"), s.Source.PersistentVolumeName
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case s.Source.InlineVolumeSpec == nil && name == nil:
		c.add(field.Required(at, one))
	case s.Source.InlineVolumeSpec != nil && name != nil:
		c.add(field.Forbidden(at, one))
	case name != nil:
		c.required(*name, at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")
	}
	c.texts(s.NodeName, specPath.Child("nodeName"), subdomain(s.NodeName))
	if name != nil {
		c.texts(*name, at.Child("persistentVolumeName"), subdomain(*name))
	}
	return c.errs
}

func validateVolumeAttachmentUpdate(v, old *storagev1.VolumeAttachment) field.ErrorList {
	var c checks
	c.same(v.Spec, old.Spec, specPath)
	return c.errs
}

func validateVolumeAttributesClass(k *storagev1.VolumeAttributesClass) field.ErrorList {
	var c checks
	c.provisioner(k.DriverName, field.NewPath("driverName"))
	c.parameters(k.Parameters)
	if len(k.Parameters) == 0 {
		c.add(field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return c.errs
}

func validateVolumeAttributesClassUpdate(k, old *storagev1.VolumeAttributesClass) field.ErrorList {
	var c checks
	c.forbidden(k.DriverName != old.DriverName, field.NewPath("driverName"), "updates to driverName are forbidden.")
	c.forbidden(!equal(k.Parameters, old.Parameters), field.NewPath("parameters"), "updates to parameters are forbidden.")
	return c.errs
}
