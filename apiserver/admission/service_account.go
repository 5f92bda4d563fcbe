package admission

import (
	"context"
	"slices"
	"strings"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
)

// serviceAccount gives every pod an identity: the service account, and a volume with a token that proves it, the certificate to trust
// the API server by, and the namespace's name.
//
// Upstream: plugin/pkg/admission/serviceaccount/admission.go, Plugin.
// Left out: the annotation kubernetes.io/enforce-mountable-secrets.
type serviceAccount struct {
	objects objects.Reader
}

const (
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix = "kube-api-access-"
	rootCAConfigMap   = "kube-root-ca.crt"
	// tokenSeconds is an hour and a little: the tell-tale by which the token request knows that an older client may need it longer.
	tokenSeconds = 60*60 + 7
)

func (serviceAccount) Name() string { return "ServiceAccount" }

func (p serviceAccount) Admit(ctx context.Context, a *Attributes) error {
	pod := a.newPod()
	if pod == nil || isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := p.lookUp(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if wantsToken(sa, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	return nil
}

func (p serviceAccount) Validate(ctx context.Context, a *Attributes) error {
	pod := a.newPod()
	if pod == nil {
		return nil
	}
	if !isMirror(pod) {
		_, err := p.lookUp(ctx, a, pod.Spec.ServiceAccountName)
		return err
	}
	// A mirror pod shows what a kubelet runs from a file; it gets nothing from the API.
	if pod.Spec.ServiceAccountName != "" {
		return forbidden(a, "a mirror pod may not reference service accounts")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil {
			return forbidden(a, "a mirror pod may not reference secrets")
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return forbidden(a, "a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

func (p serviceAccount) lookUp(ctx context.Context, a *Attributes, name string) (*corev1.ServiceAccount, error) {
	sa, err := get[corev1.ServiceAccount](ctx, p.objects, "", "serviceaccounts", a.Namespace, name)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
	}
	if err != nil {
		return nil, forbidden(a, "error looking up service account %s/%s: %w", a.Namespace, name, err)
	}
	return sa, nil
}

func wantsToken(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if p := pod.Spec.AutomountServiceAccountToken; p != nil {
		return *p
	}
	return sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken
}

// mountToken mounts the token into every container that has nothing in its place.
func mountToken(pod *corev1.Pod) {
	name := tokenVolumePrefix + rand.String(5)
	present := false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name, present = v.Name, true
			break
		}
	}
	used := false
	mount := func(containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			used = true
		}
	}
	mount(pod.Spec.InitContainers)
	mount(pod.Spec.Containers)
	if !used || present {
		return
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenSeconds))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}})
}
