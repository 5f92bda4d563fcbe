package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// warnPod tells what is likely to be a mistake in a new pod; nobody changes pods by hand.
//
// Upstream: pkg/api/pod/warnings.go, GetWarningsForPod, and pkg/registry/core/pod/strategy.go, WarningsOnCreate.
func warnPod(pod, old *corev1.Pod) []string {
	var n notices
	if old == nil {
		n.name(pod.Name, "the Pod's hostname")
		n.pod(&pod.Spec, pod.Annotations, nil)
	}
	return n
}

// pod looks at a pod, or at a template at some path.
//
// Upstream: pkg/api/pod/warnings.go, warningsForPodSpecAndMeta.
// Left out: annotations of AppArmor.
func (n *notices) pod(s *corev1.PodSpec, annotations map[string]string, at *field.Path) {
	notes := func(key, instead string) {
		if _, ok := annotations[key]; ok {
			n.at(at.Child("metadata", "annotations").Key(key), "non-functional in %s field instead", instead)
		}
	}
	spec := at.Child("spec")
	for _, label := range sortedKeys(s.NodeSelector) {
		n.nodeLabel(label, spec.Child("nodeSelector").Key(label), "")
	}
	n.affinity(s.Affinity, spec.Child("affinity"))
	for i, t := range s.TopologySpreadConstraints {
		at := spec.Child("topologySpreadConstraints").Index(i)
		n.nodeLabel(t.TopologyKey, at.Child("topologyKey"), t.TopologyKey+" is ")
		n.matchesNothing(t.LabelSelector, at)
	}
	notes("scheduler.alpha.kubernetes.io/critical-pod", `v1.16+; use the "priorityClassName"`)
	notes("security.alpha.kubernetes.io/sysctls", `v1.11+; use the "sysctls"`)
	notes("security.alpha.kubernetes.io/unsafe-sysctls", `v1.11+; use the "sysctls"`)
	n.volumes(s.Volumes, spec.Child("volumes"))
	n.twice(len(s.HostAliases), func(i int) string { return s.HostAliases[i].IP }, spec.Child("hostAliases"), "ip")
	n.twice(len(s.ImagePullSecrets), func(i int) string { return s.ImagePullSecrets[i].Name }, spec.Child("imagePullSecrets"), "name")
	for i, secret := range s.ImagePullSecrets {
		if secret.Name == "" {
			n.at(spec.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", "")
		}
	}
	bytes := []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	n.fractions(s.Overhead, spec.Child("overhead"), bytes...)
	const seccomp = `v1.27+; use the "seccompProfile"`
	if s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil {
		notes(corev1.SeccompPodAnnotationKey, seccomp)
	}
	var ports []portAt
	eachContainerAt(s, spec, func(c *corev1.Container, at *field.Path) {
		if c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil {
			notes(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, seccomp)
		}
		for _, name := range bytes {
			n.fractions(c.Resources.Limits, at.Child("resources", "limits"), name)
			n.fractions(c.Resources.Requests, at.Child("resources", "requests"), name)
		}
		n.env(c.Env, at.Child("env"))
		for i, p := range c.Ports {
			ports = append(ports, portAt{p, at.Child("ports").Index(i)})
		}
	})
	n.ports(ports)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		n.at(spec.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	n.podAffinity(s.Affinity, spec.Child("affinity"))
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			n.add(utilvalidation.GetWarningsForIP(spec.Child("dnsConfig", "nameservers").Index(i), ip))
		}
	}
	for i, alias := range s.HostAliases {
		n.add(utilvalidation.GetWarningsForIP(spec.Child("hostAliases").Index(i).Child("ip"), alias.IP))
	}
}

// eachContainerAt is eachContainer with the place of each.
func eachContainerAt(s *corev1.PodSpec, at *field.Path, do func(*corev1.Container, *field.Path)) {
	for i := range s.InitContainers {
		do(&s.InitContainers[i], at.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		do(&s.Containers[i], at.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		do((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i))
	}
}

// twice tells of items of a list that say the same again.
func (n *notices) twice(count int, item func(int) string, at *field.Path, what string) {
	seen := map[string]bool{}
	for i := range count {
		if seen[item(i)] {
			n.at(at.Index(i).Child(what), "duplicate %s %q", what, item(i))
		}
		seen[item(i)] = true
	}
}

func (n *notices) affinity(a *corev1.Affinity, at *field.Path) {
	if a == nil || a.NodeAffinity == nil {
		return
	}
	at = at.Child("nodeAffinity")
	if r := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		n.nodeTerms(r.NodeSelectorTerms, at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"))
	}
	for i, p := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference", "matchExpressions")
		for j, r := range p.Preference.MatchExpressions {
			n.nodeLabel(r.Key, at.Index(j).Child("key"), r.Key+" is ")
			for k, value := range r.Values {
				for _, why := range utilvalidation.IsValidLabelValue(value) {
					n.at(at.Index(j).Child("values").Index(k), "%s is invalid, %s", value, why)
				}
			}
		}
	}
}

func (n *notices) podAffinity(a *corev1.Affinity, at *field.Path) {
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i, t := range required {
			n.matchesNothing(t.LabelSelector, at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i, t := range preferred {
			n.matchesNothing(t.PodAffinityTerm.LabelSelector, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if a != nil && a.PodAffinity != nil {
		terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if a != nil && a.PodAntiAffinity != nil {
		terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (n *notices) matchesNothing(s *metav1.LabelSelector, at *field.Path) {
	if s == nil {
		n.at(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
	}
}

// env tells of variables that come again without using what they were before.
func (n *notices) env(env []corev1.EnvVar, at *field.Path) {
	seen := map[string]bool{}
	for i, e := range env {
		before := "$(" + e.Name + ")"
		if seen[e.Name] && (e.ValueFrom != nil || e.Value == before || !strings.Contains(e.Value, before)) {
			n.at(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen[e.Name] = true
	}
}

// portAt is a port and where it stands.
type portAt struct {
	corev1.ContainerPort
	at *field.Path
}

// ports tells of ports of a pod that are in each other's way.
func (n *notices) ports(ports []portAt) {
	for i, p := range ports {
		if p.HostIP != "" && p.HostPort == 0 {
			n.at(p.at, "hostIP set without hostPort: %+v", p.ContainerPort)
		}
		for _, o := range ports[:i] {
			switch {
			case o.ContainerPort.ContainerPort != p.ContainerPort.ContainerPort || o.Protocol != p.Protocol:
			case o.HostIP == p.HostIP && o.HostPort == p.HostPort:
				n.at(p.at, "duplicate port definition with %s", o.at)
			case o.HostPort == 0 || p.HostPort == 0:
				n.at(p.at, "overlapping port definition with %s", o.at)
			case o.HostPort == p.HostPort && (o.HostIP == "" || p.HostIP == ""):
				n.at(p.at, "dangerously ambiguous port definition with %s", o.at)
			}
		}
	}
	named := map[string]*field.Path{}
	for _, p := range ports {
		if first := named[p.Name]; first != nil {
			n.at(p.at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first)
		} else if p.Name != "" {
			named[p.Name] = p.at
		}
	}
}

// volumes tells of kinds of volumes that have had their time, and of files in one place.
func (n *notices) volumes(volumes []corev1.Volume, at *field.Path) {
	for i, v := range volumes {
		at := at.Index(i)
		for _, old := range []struct {
			name string
			used bool
			what string
		}{
			{"photonPersistentDisk", v.PhotonPersistentDisk != nil, "v1.11, non-functional in v1.16+"},
			{"gitRepo", v.GitRepo != nil, "v1.11, and disabled by default in v1.33+"},
			{"scaleIO", v.ScaleIO != nil, "v1.16, non-functional in v1.22+"},
			{"flocker", v.Flocker != nil, "v1.22, non-functional in v1.25+"},
			{"storageOS", v.StorageOS != nil, "v1.22, non-functional in v1.25+"},
			{"quobyte", v.Quobyte != nil, "v1.22, non-functional in v1.25+"},
			{"glusterfs", v.Glusterfs != nil, "v1.25, non-functional in v1.26+"},
			{"cephfs", v.CephFS != nil, "v1.28, non-functional in v1.31+"},
			{"rbd", v.RBD != nil, "v1.28, non-functional in v1.31+"},
		} {
			if old.used {
				n.at(at.Child(old.name), "deprecated in %s", old.what)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			n.claim(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))
		}
	}
	for _, v := range volumes {
		n.files(&v)
	}
}

// files tells of files of a volume that cannot both be where they are to be.
//
// Upstream: pkg/api/pod/warnings.go, warningsForOverlappingVirtualPaths.
func (n *notices) files(v *corev1.Volume) {
	type file struct{ path, source string }
	show := func(f file) string {
		if f.source == "" {
			return fmt.Sprintf("%q", f.path)
		}
		return fmt.Sprintf("%q (%s)", f.path, f.source)
	}
	var all []file
	put := func(path, source, kind string) {
		f := file{strings.TrimRight(path, "/"), source}
		for _, o := range all {
			if f.path != "" && o.path != "" && (strings.HasPrefix(o.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", o.path+"/")) {
				*n = append(*n, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", v.Name, kind, show(f), show(o)))
			}
		}
		all = append(all, f)
	}
	keys := func(items []corev1.KeyToPath, source, kind string) {
		for _, item := range items {
			put(item.Path, source, kind)
		}
	}
	switch {
	case v.ConfigMap != nil:
		keys(v.ConfigMap.Items, "", fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name))
	case v.Secret != nil:
		keys(v.Secret.Items, "", fmt.Sprintf("Secret %q", v.Secret.SecretName))
	case v.DownwardAPI != nil:
		for _, item := range v.DownwardAPI.Items {
			put(item.Path, "", "DownwardAPI")
		}
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s == (corev1.VolumeProjection{}):
				*n = append(*n, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
			case s.ConfigMap != nil:
				keys(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name), "Projected")
			case s.Secret != nil:
				keys(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name), "Projected")
			case s.DownwardAPI != nil:
				for _, item := range s.DownwardAPI.Items {
					put(item.Path, "DownwardAPI", "Projected")
				}
			case s.ServiceAccountToken != nil:
				put(s.ServiceAccountToken.Path, "ServiceAccountToken", "Projected")
			}
		}
	}
}
