package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes checks the volumes of a pod and gives their names.
func (c *checks) volumes(volumes []corev1.Volume, at *field.Path) sets.Set[string] {
	names := sets.New[string]()
	for i, v := range volumes {
		at := at.Index(i)
		exclusive(c, v.VolumeSource, at, "volume type")
		c.volume(&v.VolumeSource, at)
		if c.required(v.Name, at.Child("name"), "") {
			c.texts(v.Name, at.Child("name"), utilvalidation.IsDNS1123Label(v.Name))
			if names.Has(v.Name) {
				c.add(field.Duplicate(at.Child("name"), v.Name))
			}
		}
		names.Insert(v.Name)
	}
	return names
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
		}
		if v.HostPath.Type != nil {
			optionOf(c, *v.HostPath.Type, at.Child("type"), corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
				corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
		}
	case v.Secret != nil:
		c.required(v.Secret.SecretName, at.Child("secret", "secretName"), "")
		c.files(v.Secret.DefaultMode, v.Secret.Items, at.Child("secret"))
	case v.ConfigMap != nil:
		c.required(v.ConfigMap.Name, at.Child("configMap", "name"), "")
		c.files(v.ConfigMap.DefaultMode, v.ConfigMap.Items, at.Child("configMap"))
	case v.PersistentVolumeClaim != nil:
		c.required(v.PersistentVolumeClaim.ClaimName, at.Child("persistentVolumeClaim", "claimName"), "")
	case v.NFS != nil:
		c.required(v.NFS.Server, at.Child("nfs", "server"), "")
		c.required(v.NFS.Path, at.Child("nfs", "path"), "")
	case v.DownwardAPI != nil:
		c.files(v.DownwardAPI.DefaultMode, nil, at.Child("downwardAPI"))
	case v.Projected != nil:
		c.files(v.Projected.DefaultMode, nil, at.Child("projected"))
		for i, s := range v.Projected.Sources {
			at := at.Child("projected", "sources").Index(i)
			switch {
			case s.Secret != nil:
				c.required(s.Secret.Name, at.Child("secret", "name"), "")
				c.files(nil, s.Secret.Items, at.Child("secret"))
			case s.ConfigMap != nil:
				c.required(s.ConfigMap.Name, at.Child("configMap", "name"), "")
				c.files(nil, s.ConfigMap.Items, at.Child("configMap"))
			case s.ServiceAccountToken != nil:
				at, token := at.Child("serviceAccountToken"), s.ServiceAccountToken
				if e := token.ExpirationSeconds; e != nil && *e < 10*60 {
					c.add(field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
				}
				if c.required(token.Path, at.Child("path"), "") {
					c.localPath(token.Path, at.Child("path"))
				}
			}
		}
	}
}

// files checks how keys become files.
func (c *checks) files(mode *int32, items []corev1.KeyToPath, at *field.Path) {
	check := func(mode *int32, at *field.Path) {
		if mode != nil && (*mode < 0 || *mode > 0o777) {
			c.add(field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
		}
	}
	check(mode, at.Child("defaultMode"))
	for i, item := range items {
		at := at.Child("items").Index(i)
		c.required(item.Key, at.Child("key"), "")
		if c.required(item.Path, at.Child("path"), "") {
			c.localPath(item.Path, at.Child("path"))
		}
		check(item.Mode, at.Child("mode"))
	}
}
