package kinds

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodCreate checks a new pod.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodCreate.
// Left out: checks of rarely used volume types, of Windows, of images as volumes.
func validatePodCreate(pod *corev1.Pod) field.ErrorList {
	c := checks{errs: validatePod(pod)}
	if len(pod.Spec.EphemeralContainers) > 0 {
		c.add(field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		c.add(field.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return c.errs
}

// validatePod checks a pod by itself, new or changed.
func validatePod(pod *corev1.Pod) field.ErrorList {
	var c checks
	if cost, ok := pod.Annotations[corev1.PodDeletionCost]; ok {
		if n, err := strconv.ParseInt(cost, 10, 32); err != nil || strconv.Itoa(int(n)) != cost {
			c.add(field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.PodDeletionCost), cost, "must be a 32bit integer"))
		}
	}
	c.addAll(validatePodSpec(&pod.Spec, pod, specPath))
	for i, t := range pod.Spec.Containers {
		c.trimmed(t.Image, specPath.Child("containers").Index(i).Child("image"))
	}
	for i, t := range pod.Spec.InitContainers {
		c.trimmed(t.Image, specPath.Child("initContainers").Index(i).Child("image"))
	}
	return c.errs
}

func validatePodTemplate(t *corev1.PodTemplate) field.ErrorList {
	return validateTemplate(&t.Template, field.NewPath("template"))
}

// validateTemplate checks the template that a workload makes its pods from.
func validateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	var c checks
	c.labels(t.Labels, at.Child("labels"))
	c.addAll(validation.ValidateAnnotations(t.Annotations, at.Child("annotations")))
	c.addAll(validatePodSpec(&t.Spec, nil, at.Child("spec")))
	if len(t.Spec.EphemeralContainers) > 0 {
		c.add(field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return c.errs
}

// validatePodSpec checks the spec of a pod, or of a template, which has none.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodSpec.
func validatePodSpec(s *corev1.PodSpec, pod *corev1.Pod, at *field.Path) field.ErrorList {
	var c checks
	p := podChecks{checks: &c, spec: s, at: at, names: sets.New[string]()}
	p.volumes = c.volumes(s.Volumes, at.Child("volumes"))
	p.resourceClaims(pod, at.Child("resourceClaims"))
	if len(s.Containers) == 0 {
		c.add(field.Required(at.Child("containers"), ""))
	}
	for i := range s.Containers {
		p.container(&s.Containers[i], at.Child("containers").Index(i), regular)
	}
	c.hostPorts(s.Containers, at.Child("containers"))
	for i := range s.InitContainers {
		p.container(&s.InitContainers[i], at.Child("initContainers").Index(i), initial)
	}
	targets := p.names.Clone()
	for i := range s.EphemeralContainers {
		e, at := &s.EphemeralContainers[i], at.Child("ephemeralContainers").Index(i)
		p.container((*corev1.Container)(&e.EphemeralContainerCommon), at, ephemeral)
		if t := e.TargetContainerName; t != "" && !targets.Has(t) {
			c.add(field.NotFound(at.Child("targetContainerName"), t))
		}
	}
	p.podResources(at.Child("resources"))
	for i, t := range s.Containers {
		for j, port := range t.Ports { // a template's are filled in when there is a pod
			if s.HostNetwork && port.HostPort != port.ContainerPort && (pod != nil || port.HostPort != 0) {
				c.add(field.Invalid(at.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	oneOf(&c, s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(&c, s.DNSPolicy, at.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.labels(s.NodeSelector, at.Child("nodeSelector"))
	c.podSecurityContext(s, at.Child("securityContext"))
	if s.HostUsers != nil && !*s.HostUsers {
		const why = "when `hostUsers` is false"
		c.forbidden(s.HostNetwork, at.Child("hostNetwork"), why)
		c.forbidden(s.HostPID, at.Child("HostPID"), why) // upstream's spelling
		c.forbidden(s.HostIPC, at.Child("HostIPC"), why)
	}
	c.affinity(s.Affinity, at.Child("affinity"))
	c.dns(s, at.Child("dnsConfig"))
	for i, g := range s.ReadinessGates {
		c.texts(string(g.ConditionType), at.Child("readinessGates").Index(i).Child("conditionType"), utilvalidation.IsQualifiedName(string(g.ConditionType)))
	}
	gates := sets.New[string]()
	for i, g := range s.SchedulingGates {
		c.texts(g.Name, at.Child("schedulingGates").Index(i), utilvalidation.IsQualifiedName(g.Name))
		if gates.Has(g.Name) {
			c.add(field.Duplicate(at.Child("schedulingGates").Index(i), g.Name))
		}
		gates.Insert(g.Name)
	}
	c.spread(s.TopologySpreadConstraints, at.Child("topologySpreadConstraints"))
	c.name(s.ServiceAccountName, at.Child("serviceAccountName"), subdomain)
	c.name(s.NodeName, at.Child("nodeName"), subdomain)
	if a := s.ActiveDeadlineSeconds; a != nil && (*a < 1 || *a > 1<<31-1) {
		c.add(field.Invalid(at.Child("activeDeadlineSeconds"), *a, utilvalidation.InclusiveRangeError(1, 1<<31-1)))
	}
	c.name(s.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Label)
	c.name(s.Subdomain, at.Child("subdomain"), utilvalidation.IsDNS1123Label)
	if o, at := s.HostnameOverride, at.Child("hostnameOverride"); o != nil {
		c.forbidden(s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN, at, "may not be specified when setHostnameAsFQDN is true")
		c.forbidden(s.HostNetwork, at, "may not be specified when hostNetwork is true")
		if len(*o) > 64 {
			c.add(field.TooLong(at, "", 64))
		}
		c.texts(*o, at, utilvalidation.IsDNS1123Subdomain(*o))
	}
	c.tolerations(s.Tolerations, at.Child("tolerations"))
	for i, alias := range s.HostAliases {
		at := at.Child("hostAliases").Index(i)
		c.addAll(utilvalidation.IsValidIP(at.Child("ip"), alias.IP))
		for j, name := range alias.Hostnames {
			c.texts(name, at.Child("hostnames").Index(j), utilvalidation.IsDNS1123Subdomain(name))
		}
	}
	c.name(s.PriorityClassName, at.Child("priorityClassName"), subdomain)
	if s.RuntimeClassName != nil {
		c.texts(*s.RuntimeClassName, at.Child("runtimeClassName"), subdomain(*s.RuntimeClassName))
	}
	if s.PreemptionPolicy != nil {
		oneOf(&c, *s.PreemptionPolicy, at.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	c.resources(&corev1.ResourceRequirements{Limits: s.Overhead}, at.Child("overhead"), c.containerResource)
	if s.OS != nil && c.required(string(s.OS.Name), at.Child("os", "name"), "") {
		supported(&c, s.OS.Name, at.Child("os"), corev1.Linux, corev1.Windows)
	}
	return c.errs
}

// dns checks the servers and domains that a pod has of its own; the limits are those of libc.
func (c *checks) dns(s *corev1.PodSpec, at *field.Path) {
	d := s.DNSConfig
	switch {
	case s.DNSPolicy == corev1.DNSNone && d == nil:
		c.add(field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None"))
	case s.DNSPolicy == corev1.DNSNone && len(d.Nameservers) == 0:
		c.add(field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		return
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > 3 {
		c.add(field.Invalid(at.Child("nameservers"), d.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, ip := range d.Nameservers {
		c.addAll(utilvalidation.IsValidIP(at.Child("nameservers").Index(i), ip))
	}
	for i, domain := range d.Searches {
		if domain != "." {
			domain = strings.TrimSuffix(domain, ".")
			c.texts(domain, at.Child("searches").Index(i), utilvalidation.IsDNS1123SubdomainWithUnderscore(domain))
		}
	}
	for i, o := range d.Options {
		c.required(o.Name, at.Child("options").Index(i), "must not be empty")
	}
}

// podMayChange is upstream's sentence about the few fields of a pod that may change.
const podMayChange = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks that nothing changed in a pod but what a running pod can follow.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodUpdate.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	c := checks{errs: validatePod(pod)}
	for _, list := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", pod.Spec.Containers, old.Spec.Containers}, {"initContainers", pod.Spec.InitContainers, old.Spec.InitContainers}} {
		at := specPath.Child(list.name)
		if len(list.now) != len(list.was) {
			c.add(field.Forbidden(at, "pod updates may not add or remove containers"))
			return c.errs
		}
		for i, t := range list.now {
			c.required(t.Image, at.Index(i).Child("image"), "")
			c.trimmed(t.Image, at.Index(i).Child("image"))
		}
	}
	switch before, now, at := old.Spec.ActiveDeadlineSeconds, pod.Spec.ActiveDeadlineSeconds, specPath.Child("activeDeadlineSeconds"); {
	case now != nil && (*now < 0 || *now > 1<<31-1):
		c.add(field.Invalid(at, *now, utilvalidation.InclusiveRangeError(0, 1<<31-1)))
		return c.errs
	case now != nil && before != nil && *now > *before:
		c.add(field.Invalid(at, *now, "must be less than or equal to previous value"))
		return c.errs
	case now == nil && before != nil:
		c.add(field.Invalid(at, now, "must not update from a positive integer to nil value"))
	}
	kept := func(t corev1.Toleration) bool { // only the time may be changed of what was tolerated before
		return slices.ContainsFunc(pod.Spec.Tolerations, func(n corev1.Toleration) bool {
			n.TolerationSeconds = t.TolerationSeconds
			return equal(n, t)
		})
	}
	if slices.ContainsFunc(old.Spec.Tolerations, func(t corev1.Toleration) bool { return !kept(t) }) {
		c.add(field.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
	} else {
		c.tolerations(pod.Spec.Tolerations, specPath.Child("tolerations"))
	}
	for i, g := range pod.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			c.add(field.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
		}
	}
	// What is allowed to differ is made the same; then nothing may differ.
	same := pod.Spec.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	same.ActiveDeadlineSeconds, same.Tolerations, same.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if g, b := same.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; g != nil && b != nil && *b < 0 && *g == 1 {
		same.TerminationGracePeriodSeconds = b
	}
	if len(old.Spec.SchedulingGates) > 0 { // while there are some, where the pod may run can be narrowed
		for key, value := range old.Spec.NodeSelector {
			if now, ok := same.NodeSelector[key]; !ok || now != value {
				c.add(field.Invalid(specPath.Child("nodeSelector"), same.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
				break
			}
		}
		same.NodeSelector = old.Spec.NodeSelector
		c.narrowed(pod.Spec.Affinity, old.Spec.Affinity)
		sameNodeAffinity(same, &old.Spec)
	}
	if !equal(*same, old.Spec) {
		c.add(field.Forbidden(specPath, podMayChange+"\n"+diff.Diff(old.Spec, *same)))
	}
	return c.errs
}

// validatePodStatus checks what kubelets and controllers say about a pod.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodStatusUpdate.
// Left out: whether ended containers may come back, what is said of the node, devices and users.
func validatePodStatus(pod, old *corev1.Pod) field.ErrorList {
	var c checks
	at, s := field.NewPath("status"), &pod.Status
	for i, condition := range s.Conditions {
		c.texts(string(condition.Type), at.Child("conditions").Index(i).Child("Type"), utilvalidation.IsQualifiedName(string(condition.Type)))
	}
	if n := s.NominatedNodeName; n != old.Status.NominatedNodeName {
		c.name(n, at.Child("nominatedNodeName"), subdomain)
		if n != "" && old.Spec.NodeName != "" {
			c.add(field.Forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	c.same(s.QOSClass, old.Status.QOSClass, at.Child("qosClass"))
	for i, ip := range s.PodIPs {
		c.addAll(utilvalidation.IsValidIP(at.Child("podIPs").Index(i), ip.IP))
	}
	for i, ip := range s.HostIPs {
		c.addAll(utilvalidation.IsValidIP(at.Child("hostIPs").Index(i), ip.IP))
	}
	for i, t := range s.EphemeralContainerStatuses {
		c.forbidden(len(t.AllocatedResourcesStatus) > 0, at.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status")
	}
	c.addAll(validateClaimsInUse(pod))
	return c.errs
}
