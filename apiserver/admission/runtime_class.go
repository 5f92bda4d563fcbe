package admission

import (
	"context"
	"maps"

	"orrery/apiserver/objects"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// runtimeClass adds to a pod what its runtime class costs, and where it runs.
//
// Upstream: plugin/pkg/admission/runtimeclass/admission.go, RuntimeClass.
type runtimeClass struct {
	Base
	objects objects.Reader
}

func (runtimeClass) Name() string { return "RuntimeClass" }

func (p runtimeClass) Admit(ctx context.Context, a *Attributes) error {
	pod := a.newPod()
	if pod == nil || pod.Spec.RuntimeClassName == nil {
		return nil
	}
	class, err := get[nodev1.RuntimeClass](ctx, p.objects, "node.k8s.io", "runtimeclasses", "", *pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		return forbidden(a, "pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName)
	}
	if err != nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return forbidden(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if s := class.Scheduling; s != nil {
		selector := maps.Clone(s.NodeSelector)
		for key, value := range pod.Spec.NodeSelector {
			if have, ok := selector[key]; ok && have != value {
				return forbidden(a, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, have, key, value)
			}
			if selector == nil {
				selector = map[string]string{}
			}
			selector[key] = value
		}
		pod.Spec.NodeSelector = selector
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, s.Tolerations...)
	}
	return nil
}
