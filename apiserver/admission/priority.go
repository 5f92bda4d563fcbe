package admission

import (
	"context"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// priority turns the name of a pod's priority class into a number, by which the scheduler and the kubelet go.
//
// Upstream: plugin/pkg/admission/priority/admission.go, Plugin.
type priority struct {
	objects objects.Reader
}

func (priority) Name() string { return "Priority" }

func (p priority) Admit(ctx context.Context, a *Attributes) error {
	if pod, ok := a.Object.(*corev1.Pod); ok && a.is("", "Pod", Update) {
		// An old manifest that is put again says nothing of the number.
		if old, ok := a.Old.(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
		return nil
	}
	pod := a.newPod()
	if pod == nil {
		return nil
	}
	class, err := p.classOf(ctx, a, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	pod.Spec.PriorityClassName = class.Name
	if given := pod.Spec.Priority; given != nil && *given != class.Value {
		return forbidden(a, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, class.Value)
	}
	pod.Spec.Priority = new(class.Value)
	policy := corev1.PreemptLowerPriority
	if class.PreemptionPolicy != nil {
		policy = *class.PreemptionPolicy
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return forbidden(a, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// classOf finds a class by name; without a name the default one, and without that a class of no name and no weight.
func (p priority) classOf(ctx context.Context, a *Attributes, name string) (*schedulingv1.PriorityClass, error) {
	if name != "" {
		class, err := get[schedulingv1.PriorityClass](ctx, p.objects, "scheduling.k8s.io", "priorityclasses", "", name)
		if apierrors.IsNotFound(err) {
			return nil, forbidden(a, "no PriorityClass with name %v was found", name)
		}
		return class, err
	}
	classes, err := list[schedulingv1.PriorityClass](ctx, p.objects, "scheduling.k8s.io", "priorityclasses", "")
	if err != nil {
		return nil, err
	}
	best := &schedulingv1.PriorityClass{}
	for _, c := range classes {
		if c.GlobalDefault && (best.Name == "" || c.Value < best.Value) {
			best = c
		}
	}
	return best, nil
}

func (p priority) Validate(ctx context.Context, a *Attributes) error {
	class, ok := a.Object.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault {
		return nil
	}
	classes, err := list[schedulingv1.PriorityClass](ctx, p.objects, "scheduling.k8s.io", "priorityclasses", "")
	if err != nil {
		return err
	}
	for _, c := range classes {
		if c.GlobalDefault && c.Name != class.Name {
			return forbidden(a, "PriorityClass %v is already marked as default. Only one default can exist", c.Name)
		}
	}
	return nil
}
