package kinds

import (
	"crypto/tls"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// notices collects what a client is told of an object that is accepted: what
// will hardly do what was meant, and what has had its time.
type notices []string

func (n *notices) at(path *field.Path, format string, args ...any) {
	*n = append(*n, path.String()+": "+fmt.Sprintf(format, args...))
}

func (n *notices) add(texts []string) { *n = append(*n, texts...) }

// name tells of a name that pods will have, and hosts cannot.
func (n *notices) name(name, use string) {
	if why := utilvalidation.IsDNS1123Label(name); len(why) > 0 {
		n.at(field.NewPath("metadata", "name"), "this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", use, why)
	}
}

// oldNodeLabels are labels of nodes that have other names today.
//
// Upstream: pkg/api/node/util.go, deprecatedNodeLabels.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  "deprecated since v1.9",
	"scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

// nodeLabel tells of an old label; before is what comes before the text.
func (n *notices) nodeLabel(label string, at *field.Path, before string) {
	if text, ok := oldNodeLabels[label]; ok {
		n.at(at, "%s%s", before, text)
	}
}

func (n *notices) nodeTerms(terms []corev1.NodeSelectorTerm, at *field.Path) {
	for i, t := range terms {
		for j, r := range t.MatchExpressions {
			n.nodeLabel(r.Key, at.Index(i).Child("matchExpressions").Index(j).Child("key"), r.Key+" is ")
		}
	}
}

// fractions tells of amounts of bytes that are not whole.
func (n *notices) fractions(amounts corev1.ResourceList, at *field.Path, names ...corev1.ResourceName) {
	for _, name := range names {
		if q := amounts[name]; q.MilliValue()%1000 != 0 {
			n.at(at.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

func (n *notices) claim(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	n.fractions(s.Resources.Requests, at.Child("resources", "requests"), corev1.ResourceStorage)
	n.fractions(s.Resources.Limits, at.Child("resources", "limits"), corev1.ResourceStorage)
}

// warnWorkload looks at what makes pods, when it is new or has changed.
//
// Upstream: pkg/registry/<group>/<resource>/strategy.go, WarningsOnCreate and WarningsOnUpdate, and pkg/api/job/warnings.go.
func warnWorkload[T any](obj, old *T) []string {
	var n notices
	m := any(obj).(metav1.Object)
	template := func(t *corev1.PodTemplateSpec, at *field.Path) {
		if old == nil || m.GetGeneration() != any(old).(metav1.Object).GetGeneration() {
			n.pod(&t.Spec, t.Annotations, at)
		}
	}
	named := func() {
		if old == nil {
			n.name(m.GetName(), "Pod names and hostnames")
		}
	}
	job := func(s *batchv1.JobSpec, at *field.Path) {
		if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && *s.Completions > 100_000 && s.Parallelism != nil && *s.Parallelism > 10_000 {
			n.at(at, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
		}
		template(&s.Template, at.Child("template"))
	}
	switch o := any(obj).(type) {
	case *corev1.PodTemplate:
		template(&o.Template, field.NewPath("template"))
	case *corev1.ReplicationController:
		named()
		template(o.Spec.Template, specPath.Child("template"))
	case *appsv1.ReplicaSet:
		named()
		template(&o.Spec.Template, specPath.Child("template"))
	case *appsv1.Deployment:
		named()
		template(&o.Spec.Template, specPath.Child("template"))
	case *appsv1.DaemonSet:
		template(&o.Spec.Template, specPath.Child("template"))
	case *appsv1.StatefulSet:
		template(&o.Spec.Template, specPath.Child("template"))
		at := specPath.Child("volumeClaimTemplates")
		for i := range o.Spec.VolumeClaimTemplates {
			at := at.Index(i)
			if old != nil {
				at = at.Child("Spec") // upstream's path differs so
			}
			n.claim(&o.Spec.VolumeClaimTemplates[i].Spec, at)
		}
		if l := o.Spec.RevisionHistoryLimit; l != nil && *l < 0 {
			n.at(specPath.Child("revisionHistoryLimit"), "a negative value retains all historical revisions; a value >= 0 is recommended")
		}
	case *batchv1.Job:
		named()
		job(&o.Spec, specPath)
	case *batchv1.CronJob:
		named()
		job(&o.Spec.JobTemplate.Spec, specPath.Child("jobTemplate", "spec"))
		if old != nil && strings.Contains(o.Spec.Schedule, "TZ") {
			n.add([]string{"cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"})
		}
	}
	return n
}

// Upstream: pkg/api/service/warnings.go, GetWarningsForService.
func warnService(s, _ *corev1.Service) []string {
	var n notices
	say := func(when bool, format string, args ...any) {
		if when {
			n = append(n, fmt.Sprintf(format, args...))
		}
	}
	_, hints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	say(hints, "annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	headless := s.Spec.Type == corev1.ServiceTypeClusterIP && s.Spec.ClusterIP == corev1.ClusterIPNone
	external := s.Spec.Type == corev1.ServiceTypeExternalName
	if !headless && !external {
		for i, ip := range s.Spec.ClusterIPs {
			n.add(utilvalidation.GetWarningsForIP(specPath.Child("clusterIPs").Index(i), ip))
		}
	}
	say(headless && s.Spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
	say(headless && len(s.Spec.ExternalIPs) > 0, "spec.externalIPs is ignored for headless services")
	say(headless && s.Spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	for i, ip := range s.Spec.ExternalIPs {
		n.add(utilvalidation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip))
	}
	say(len(s.Spec.ExternalIPs) > 0 && !headless && !external, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	if s.Spec.LoadBalancerIP != "" {
		n.add(utilvalidation.GetWarningsForIP(specPath.Child("loadBalancerIP"), s.Spec.LoadBalancerIP))
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		n.add(utilvalidation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), cidr))
	}
	say(external && len(s.Spec.ExternalIPs) > 0, "spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	say(!external && s.Spec.ExternalName != "", "spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	d := s.Spec.TrafficDistribution
	say(d != nil && *d == corev1.ServiceTrafficDistributionPreferClose, "spec.trafficDistribution: %q is deprecated; use %q",
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	return n
}

// Upstream: pkg/registry/core/node/strategy.go, nodeWarnings.
func warnNode(node, _ *corev1.Node) []string {
	var n notices
	if node.Spec.ConfigSource != nil {
		n.at(specPath.Child("configSource"), "the feature is removed")
	}
	if node.Spec.DoNotUseExternalID != "" {
		n.at(specPath.Child("externalID"), "this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range node.Spec.PodCIDRs {
		n.add(utilvalidation.GetWarningsForCIDR(specPath.Child("podCIDRs").Index(i), cidr))
	}
	return n
}

// warnSecret tells of a key that is not the certificate's.
func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type == corev1.SecretTypeTLS {
		if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return []string{err.Error()}
		}
	}
	return nil
}

// warnQuota tells of requests that may be larger than the limits.
//
// Upstream: pkg/registry/core/resourcequota/strategy.go, WarningsOnCreate.
func warnQuota(q, old *corev1.ResourceQuota) []string {
	var n notices
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		asked := "requests." + name
		request, ok := q.Spec.Hard[asked]
		if !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			asked = name
			request, ok = q.Spec.Hard[asked]
		}
		if limit, limited := q.Spec.Hard["limits."+name]; old == nil && ok && limited && request.Cmp(limit) > 0 {
			n = append(n, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", asked, request.String(), name, limit.String()))
		}
	}
	return n
}

// oldVolumeAnnotations said what fields say today.
var oldVolumeAnnotations = []struct{ key, instead string }{
	{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
	{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
}

// Upstream: pkg/api/persistentvolume/util.go, GetWarningsForPersistentVolume.
func warnVolumeObject(pv, _ *corev1.PersistentVolume) []string {
	var n notices
	for _, a := range oldVolumeAnnotations {
		if _, ok := pv.Annotations[a.key]; ok {
			n.at(field.NewPath("metadata", "annotations").Key(a.key), "%s", a.instead)
		}
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		n.at(specPath.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		n.nodeTerms(a.Required.NodeSelectorTerms, specPath.Child("nodeAffinity", "required", "nodeSelectorTerms"))
	}
	return n
}

func warnClaim(pvc, _ *corev1.PersistentVolumeClaim) []string {
	var n notices
	a := oldVolumeAnnotations[0]
	if _, ok := pvc.Annotations[a.key]; ok {
		n.at(field.NewPath("metadata", "annotations").Key(a.key), "%s", a.instead)
	}
	n.claim(&pvc.Spec, specPath)
	return n
}

func warnStorageClass(sc, _ *storagev1.StorageClass) []string {
	var n notices
	for i, t := range sc.AllowedTopologies {
		for j, r := range t.MatchLabelExpressions {
			n.nodeLabel(r.Key, field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), "")
		}
	}
	return n
}

func warnRuntimeClass(rc, _ *nodev1.RuntimeClass) []string {
	var n notices
	if rc.Scheduling != nil {
		for _, label := range sortedKeys(rc.Scheduling.NodeSelector) {
			n.nodeLabel(label, field.NewPath("scheduling", "nodeSelector"), "")
		}
	}
	return n
}

// annotationIngressClass said what spec.ingressClassName says today.
const annotationIngressClass = "kubernetes.io/ingress.class"

func warnIngress(in, old *networkingv1.Ingress) []string {
	if _, ok := in.Annotations[annotationIngressClass]; ok && old == nil && in.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", annotationIngressClass)}
	}
	return nil
}

func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) []string {
	var n notices
	peers := func(peers []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i, peer := range peers {
			if b := peer.IPBlock; b != nil {
				at := at.Index(i).Child("ipBlock")
				n.add(utilvalidation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR))
				for j, cidr := range b.Except {
					n.add(utilvalidation.GetWarningsForCIDR(at.Child("except").Index(j), cidr))
				}
			}
		}
	}
	for i, r := range p.Spec.Ingress {
		peers(r.From, specPath.Child("ingress").Index(i).Child("from"))
	}
	for i, r := range p.Spec.Egress {
		peers(r.To, specPath.Child("egress").Index(i).Child("to"))
	}
	return n
}

// warnEndpointSlice leaves those alone that the controllers make.
func warnEndpointSlice(s, old *discoveryv1.EndpointSlice) []string {
	var n notices
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		n.at(specPath.Child("addressType"), "FQDN endpoints are deprecated")
	}
	by := s.Labels[discoveryv1.LabelManagedBy]
	if s.AddressType == discoveryv1.AddressTypeFQDN || by == "endpointslice-controller.k8s.io" || by == "endpointslicemirroring-controller.k8s.io" {
		return n
	}
	for i, e := range s.Endpoints {
		for j, ip := range e.Addresses {
			n.add(utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), ip))
		}
	}
	return n
}
