package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePod checks a pod.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodCreate and ValidatePodSpec.
// Left out: checks of rarely used volume types, of Windows and of seccomp and AppArmor profiles, of device claims, of images as volumes.
func validatePod(pod *corev1.Pod) field.ErrorList {
	return validatePodSpec(&pod.Spec, specPath)
}

func validatePodTemplate(t *corev1.PodTemplate) field.ErrorList {
	return validateTemplate(&t.Template, field.NewPath("template"))
}

// validateTemplate checks the template that a workload makes its pods from.
func validateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	var c checks
	c.labels(t.Labels, at.Child("labels"))
	c.addAll(validation.ValidateAnnotations(t.Annotations, at.Child("annotations")))
	c.addAll(validatePodSpec(&t.Spec, at.Child("spec")))
	if len(t.Spec.EphemeralContainers) > 0 {
		c.add(field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return c.errs
}

// alwaysRestart checks the restart policy of a template whose pods are meant to run for ever.
func (c *checks) alwaysRestart(t *corev1.PodTemplateSpec, at *field.Path) {
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		c.add(field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		c.add(field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
}

func validatePodSpec(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var c checks
	volumes := c.volumes(s.Volumes, at.Child("volumes"))
	p := podChecks{checks: &c, hostNetwork: s.HostNetwork, volumes: volumes, names: sets.New[string](), hostPorts: sets.New[string]()}
	if len(s.Containers) == 0 {
		c.add(field.Required(at.Child("containers"), ""))
	}
	for i := range s.Containers {
		p.container(&s.Containers[i], at.Child("containers").Index(i), regular)
	}
	p.hostPorts = sets.New[string]() // init containers have gone when the others start
	for i := range s.InitContainers {
		p.container(&s.InitContainers[i], at.Child("initContainers").Index(i), initial)
	}
	for i := range s.EphemeralContainers {
		p.container((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i), ephemeral)
	}
	oneOf(&c, s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(&c, s.DNSPolicy, at.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.labels(s.NodeSelector, at.Child("nodeSelector"))
	c.podSecurityContext(s, at.Child("securityContext"))
	c.affinity(s.Affinity, at.Child("affinity"))
	if d := s.DNSConfig; s.DNSPolicy == corev1.DNSNone && (d == nil || len(d.Nameservers) == 0) {
		c.add(field.Required(at.Child("dnsConfig", "nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	for i, g := range s.ReadinessGates {
		c.texts(string(g.ConditionType), at.Child("readinessGates").Index(i).Child("conditionType"), utilvalidation.IsQualifiedName(string(g.ConditionType)))
	}
	c.spread(s.TopologySpreadConstraints, at.Child("topologySpreadConstraints"))
	c.name(s.ServiceAccountName, at.Child("serviceAccountName"), subdomain)
	c.name(s.NodeName, at.Child("nodeName"), subdomain)
	if a := s.ActiveDeadlineSeconds; a != nil && (*a < 1 || *a > 1<<31-1) {
		c.add(field.Invalid(at.Child("activeDeadlineSeconds"), *a, utilvalidation.InclusiveRangeError(1, 1<<31-1)))
	}
	c.name(s.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Label)
	c.name(s.Subdomain, at.Child("subdomain"), utilvalidation.IsDNS1123Label)
	c.tolerations(s.Tolerations, at.Child("tolerations"))
	for i, alias := range s.HostAliases {
		c.addAll(utilvalidation.IsValidIP(at.Child("hostAliases").Index(i).Child("ip"), alias.IP))
	}
	c.name(s.PriorityClassName, at.Child("priorityClassName"), subdomain)
	if s.RuntimeClassName != nil {
		c.name(*s.RuntimeClassName, at.Child("runtimeClassName"), subdomain)
	}
	if s.PreemptionPolicy != nil {
		oneOf(&c, *s.PreemptionPolicy, at.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return c.errs
}

// podMayChange is upstream's sentence about the few fields of a pod that may change.
const podMayChange = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks that nothing changed in a pod but what a running pod can follow.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodUpdate.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	var c checks
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		c.add(field.Forbidden(specPath.Child("containers"), "pod updates may not add or remove containers"))
		return c.errs
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		c.add(field.Forbidden(specPath.Child("initContainers"), "pod updates may not add or remove containers"))
		return c.errs
	}
	if before, now := old.Spec.ActiveDeadlineSeconds, pod.Spec.ActiveDeadlineSeconds; before != nil {
		if now == nil {
			c.add(field.Invalid(specPath.Child("activeDeadlineSeconds"), now, "must not update from a positive integer to nil value"))
		} else if *now > *before {
			c.add(field.Invalid(specPath.Child("activeDeadlineSeconds"), *now, "must be less than or equal to previous value"))
		}
	}
	for _, t := range old.Spec.Tolerations {
		// Only the time may be changed of what was tolerated before.
		kept := slices.ContainsFunc(pod.Spec.Tolerations, func(n corev1.Toleration) bool {
			n.TolerationSeconds, t.TolerationSeconds = nil, nil
			return equal(n, t)
		})
		if !kept {
			c.add(field.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
			break
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
	same.ActiveDeadlineSeconds, same.Tolerations = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations
	same.EphemeralContainers = old.Spec.EphemeralContainers
	if g, b := same.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; g != nil && b != nil && *b < 0 && *g == 1 {
		same.TerminationGracePeriodSeconds = b
	}
	if len(old.Spec.SchedulingGates) > 0 {
		// Gates may be taken away, and while there are some, where the pod may run can be narrowed.
		for _, g := range pod.Spec.SchedulingGates {
			if !slices.Contains(old.Spec.SchedulingGates, g) {
				c.add(field.Forbidden(specPath.Child("schedulingGates"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
			}
		}
		same.SchedulingGates, same.NodeSelector, same.Affinity = old.Spec.SchedulingGates, old.Spec.NodeSelector, old.Spec.Affinity
	}
	if !equal(*same, old.Spec) {
		c.add(field.Forbidden(specPath, podMayChange+"\n"+diff.Diff(old.Spec, *same)))
	}
	return c.errs
}
