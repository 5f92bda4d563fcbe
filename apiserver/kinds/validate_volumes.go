package kinds

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes checks the volumes of a pod and gives those with nothing wrong.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateVolumes and validateVolumeSource.
func (c *checks) volumes(volumes []corev1.Volume, at *field.Path) map[string]corev1.VolumeSource {
	good := map[string]corev1.VolumeSource{}
	for i, v := range volumes {
		at, before := at.Index(i), len(c.errs)
		c.volume(&v.VolumeSource, at)
		if v.EmptyDir != nil && v.HostPath != nil { // in this order
			c.add(field.Forbidden(at.Child("hostPath"), "may not specify more than 1 volume type"))
			v.HostPath = nil
		}
		exclusive(c, v.VolumeSource, at, "volume type")
		if c.required(v.Name, at.Child("name"), "") {
			c.texts(v.Name, at.Child("name"), utilvalidation.IsDNS1123Label(v.Name))
		}
		if _, ok := good[v.Name]; ok {
			c.add(field.Duplicate(at.Child("name"), v.Name))
		}
		if len(c.errs) == before {
			good[v.Name] = v.VolumeSource
		}
	}
	return good
}

func (c *checks) volume(v *corev1.VolumeSource, at *field.Path) {
	switch {
	case v.EmptyDir != nil:
		if q := v.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
			c.add(field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case v.HostPath != nil:
		at := at.Child("hostPath")
		if c.required(v.HostPath.Path, at.Child("path"), "") {
			c.noBacksteps(v.HostPath.Path, at.Child("path"))
			given(c, v.HostPath.Type, at.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
				corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
		}
	case v.Secret != nil:
		c.required(v.Secret.SecretName, at.Child("secret", "secretName"), "")
		c.mode(v.Secret.DefaultMode, at.Child("secret", "defaultMode"))
		c.files(v.Secret.Items, at.Child("secret"))
	case v.NFS != nil:
		c.required(v.NFS.Server, at.Child("nfs", "server"), "")
		c.required(v.NFS.Path, at.Child("nfs", "path"), "")
		if !path.IsAbs(v.NFS.Path) {
			c.add(field.Invalid(at.Child("nfs", "path"), v.NFS.Path, "must be an absolute path"))
		}
	case v.PersistentVolumeClaim != nil:
		c.required(v.PersistentVolumeClaim.ClaimName, at.Child("persistentVolumeClaim", "claimName"), "")
	case v.DownwardAPI != nil:
		c.mode(v.DownwardAPI.DefaultMode, at.Child("downwardAPI", "defaultMode"))
		for i := range v.DownwardAPI.Items {
			c.downward(&v.DownwardAPI.Items[i], at.Child("downwardAPI"))
		}
	case v.ConfigMap != nil:
		c.required(v.ConfigMap.Name, at.Child("configMap", "name"), "")
		c.mode(v.ConfigMap.DefaultMode, at.Child("configMap", "defaultMode"))
		c.files(v.ConfigMap.Items, at.Child("configMap"))
	case v.Projected != nil:
		c.mode(v.Projected.DefaultMode, at.Child("projected", "defaultMode"))
		c.projected(v.Projected, at.Child("projected"))
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate == nil:
		c.add(field.Required(at.Child("ephemeral", "volumeClaimTemplate"), ""))
	}
}

// projected checks a volume of many sources.
func (c *checks) projected(v *corev1.ProjectedVolumeSource, at *field.Path) {
	taken, all := sets.New[string](), at
	take := func(path, who string) { // a token's does not count
		if path != "" && taken.Has(path) {
			c.add(field.Invalid(all, who, "conflicting duplicate paths"))
		}
		taken.Insert(path)
	}
	for i, s := range v.Sources {
		at, sources := at.Child("sources").Index(i), 0
		if s.Secret != nil {
			sources++
			c.required(s.Secret.Name, at.Child("secret", "name"), "")
			c.files(s.Secret.Items, at.Child("secret"))
			for _, item := range s.Secret.Items {
				take(item.Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			sources++
			c.required(s.ConfigMap.Name, at.Child("configMap", "name"), "")
			c.files(s.ConfigMap.Items, at.Child("configMap"))
			for _, item := range s.ConfigMap.Items {
				take(item.Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			sources++
			for j := range s.DownwardAPI.Items {
				c.downward(&s.DownwardAPI.Items[j], at.Child("downwardAPI"))
				take(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
			}
		}
		if token := s.ServiceAccountToken; token != nil {
			sources++
			if e := token.ExpirationSeconds; e != nil && *e < 10*60 {
				c.add(field.Invalid(at.Child("serviceAccountToken", "expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
			}
			if c.required(token.Path, all.Child("path"), "") {
				c.filePath(token.Path, all.Child("path"))
			}
		}
		if sources > 1 {
			c.add(field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
}

// downward checks a file that tells a pod about itself; upstream's paths are without its index.
func (c *checks) downward(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	c.required(f.Path, at.Child("path"), "")
	c.filePath(f.Path, at.Child("path"))
	switch r := f.ResourceFieldRef; {
	case f.FieldRef != nil:
		c.fieldRef(f.FieldRef, at.Child("fieldRef"), "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
		if r != nil {
			c.add(field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case r == nil:
		c.add(field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	case c.required(r.ContainerName, at.Child("resourceFieldRef", "containerName"), ""):
		c.resourceRef(r, at.Child("resourceFieldRef"))
	}
	c.mode(f.Mode, at.Child("mode"))
}

// files checks how keys become files.
func (c *checks) files(items []corev1.KeyToPath, at *field.Path) {
	for i, item := range items {
		at := at.Child("items").Index(i)
		c.required(item.Key, at.Child("key"), "")
		c.required(item.Path, at.Child("path"), "")
		c.filePath(item.Path, at.Child("path"))
		c.mode(item.Mode, at.Child("mode"))
	}
}

// filePath checks where in a volume a file is to be; names that begin with two dots are the kubelet's own.
func (c *checks) filePath(p string, at *field.Path) {
	c.localPath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		c.add(field.Invalid(at, p, "must not start with '..'"))
	}
}

func (c *checks) mode(mode *int32, at *field.Path) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		c.add(field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
	}
}
