package kinds

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podRule is what the server does to pods.
//
// Upstream: pkg/registry/core/pod/strategy.go.
var podRule = rule[corev1.Pod]{
	Default:  defaultPod,
	Create:   createPod,
	Validate: validatePodCreate,
	Change:   validatePodUpdate,
	Warn:     warnPod,
	Columns:  "Name, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*",
	Cells:    podCells,
	Fields: map[string]func(*corev1.Pod) string{
		"spec.nodeName":            func(p *corev1.Pod) string { return p.Spec.NodeName },
		"spec.restartPolicy":       func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) },
		"spec.schedulerName":       func(p *corev1.Pod) string { return p.Spec.SchedulerName },
		"spec.serviceAccountName":  func(p *corev1.Pod) string { return p.Spec.ServiceAccountName },
		"spec.hostNetwork":         func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) },
		"status.phase":             func(p *corev1.Pod) string { return string(p.Status.Phase) },
		"status.podIP":             func(p *corev1.Pod) string { return p.Status.PodIP },
		"status.podIPs":            func(p *corev1.Pod) string { return p.Status.PodIP },
		"status.nominatedNodeName": func(p *corev1.Pod) string { return p.Status.NominatedNodeName },
	},
	More: func(k *Kind) {
		k.UpdateAlone = true // what a pod can be made with, and have later, differs
		k.GracePeriod = podGracePeriod
		k.WatchedBy = "spec.nodeName" // each kubelet watches its own
		prepareSub(k, "status", preparePodStatus, validatePodStatus, s("spec"), s("metadata", "deletionTimestamp"), s("metadata", "ownerReferences"))
		prepareSub(k, "ephemeralcontainers", prepareEphemeralContainers, validateEphemeralContainers, s("status"))
		prepareSub(k, "resize", prepareResize, validateResize, s("status"))
	},
}

func createPod(_ context.Context, pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&pod.Spec)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: metav1.Now().Rfc3339Copy(),
		}}
	}
	mergeLabelKeys(pod)
}

// mergeLabelKeys turns what a pod says by the keys of its own labels (pods of my
// revision) into selectors, so that schedulers need not know of it.
//
// Upstream: pkg/registry/core/pod/strategy.go, mutatePodAffinity, mutateTopologySpreadConstraints.
func mergeLabelKeys(pod *corev1.Pod) {
	add := func(sel *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, ok := pod.Labels[key]; ok && sel != nil { // without a selector there is nothing to narrow
				sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
			}
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		add(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	for _, t := range PodAffinityTerms(pod.Spec.Affinity) {
		add(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		add(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
}

// PodAffinityTerms are all of an affinity (nil has none): required and preferred, for and against.
func PodAffinityTerms(a *corev1.Affinity) (terms []*corev1.PodAffinityTerm) {
	both := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if a != nil && a.PodAffinity != nil {
		both(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a != nil && a.PodAntiAffinity != nil {
		both(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms
}

// qosClass is how much the kubelet will do for a pod when memory runs short: Guaranteed when every container limits both processor
// and memory and requests as much, BestEffort when none says anything, else Burstable.
//
// Upstream: pkg/apis/core/v1/helper/qos/qos.go, ComputePodQOS.
func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	var all []corev1.ResourceRequirements
	if spec.Resources != nil {
		all = append(all, *spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range list {
				all = append(all, list[i].Resources)
			}
		}
	}
	requests, limits := map[corev1.ResourceName]resource.Quantity{}, map[corev1.ResourceName]resource.Quantity{}
	guaranteed := true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q := r.Requests[name]; q.Sign() > 0 {
				sum := requests[name]
				sum.Add(q)
				requests[name] = sum
			}
			q := r.Limits[name]
			if q.Sign() <= 0 {
				guaranteed = false
				continue
			}
			sum := limits[name]
			sum.Add(q)
			limits[name] = sum
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	for name, limit := range limits {
		if request := requests[name]; request.Cmp(limit) != 0 {
			guaranteed = false
		}
	}
	if guaranteed && len(requests) == len(limits) {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// podGracePeriod is how long a deleted pod has to stop. One that never came to a node, or has ended, needs no time.
//
// Upstream: pkg/registry/core/pod/strategy.go, podStrategy.CheckGracefulDelete.
func podGracePeriod(o runtime.Object, options *metav1.DeleteOptions) int64 {
	pod := as[corev1.Pod](o)
	var period int64
	if options != nil && options.GracePeriodSeconds != nil {
		period = *options.GracePeriodSeconds
	} else if pod.Spec.TerminationGracePeriodSeconds != nil {
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	if period < 0 {
		return 1
	}
	return period
}

func preparePodStatus(_ context.Context, pod, old *corev1.Pod) {
	pod.Spec = old.Spec
	pod.OwnerReferences = old.OwnerReferences
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
	fill(&pod.Status.QOSClass, old.Status.QOSClass)
}

// prepareEphemeralContainers lets nothing through but the ephemeral containers themselves.
func prepareEphemeralContainers(_ context.Context, pod, old *corev1.Pod) {
	added := pod.Spec.EphemeralContainers
	keepPod(pod, old)
	pod.Spec.EphemeralContainers = added
}

func validateEphemeralContainers(pod, old *corev1.Pod) field.ErrorList {
	errs := validatePod(pod)
	path := specPath.Child("ephemeralContainers")
	now := map[string]corev1.EphemeralContainer{}
	for _, c := range pod.Spec.EphemeralContainers {
		now[c.Name] = c
	}
	for _, c := range old.Spec.EphemeralContainers {
		if n, ok := now[c.Name]; !ok {
			errs = append(errs, field.Forbidden(path, "existing ephemeral containers "+strconv.Quote(c.Name)+" may not be removed\n"))
		} else if !equal(n, c) {
			errs = append(errs, field.Forbidden(path, "existing ephemeral containers "+strconv.Quote(c.Name)+" may not be changed\n"+diff.Diff(c, n)))
		}
	}
	return errs
}

// prepareResize lets nothing through but the amounts of the containers, and of the pod.
func prepareResize(_ context.Context, pod, old *corev1.Pod) {
	wanted := pod.Spec
	keepPod(pod, old)
	resize := func(to, from []corev1.Container) {
		for i := range to {
			for j := range from {
				if to[i].Name == from[j].Name {
					to[i].Resources, to[i].ResizePolicy = from[j].Resources, from[j].ResizePolicy
				}
			}
		}
	}
	resize(pod.Spec.Containers, wanted.Containers)
	resize(pod.Spec.InitContainers, wanted.InitContainers)
	pod.Spec.Resources = wanted.Resources
}

// validateResize: how a pod fares when memory is short was promised when it was made.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodResize.
// Left out: that only cpu and memory change, and are not taken away.
func validateResize(pod, old *corev1.Pod) field.ErrorList {
	errs := validatePod(pod)
	if qosClass(&pod.Spec) != qosClass(&old.Spec) {
		errs = append(errs, field.Invalid(specPath, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	return errs
}

// keepPod takes everything from old but what the write machinery keeps in metadata.
func keepPod(pod, old *corev1.Pod) {
	version, managed, generation := pod.ResourceVersion, pod.ManagedFields, pod.Generation
	old.DeepCopyInto(pod)
	pod.ResourceVersion, pod.ManagedFields, pod.Generation = version, managed, generation
}
