package kinds

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestFieldsOfFeaturesThatAreOffAreDropped(t *testing.T) {
	set := func(withStop bool) *appsv1.StatefulSet {
		s := &appsv1.StatefulSet{}
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(1)), MaxUnavailable: new(intstr.FromInt32(2))}
		s.Spec.Template.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{}
		s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "quiet"}, {Name: "loud", Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}}}
		if withStop {
			s.Spec.Template.Spec.Containers[1].Lifecycle.StopSignal = new(corev1.SIGUSR1)
		}
		return s
	}
	k := NewTable().Lookup("apps", "v1", "statefulsets")
	check := func(what string, s *appsv1.StatefulSet, kept bool) {
		t.Helper()
		spec, update := s.Spec.Template.Spec, s.Spec.UpdateStrategy.RollingUpdate
		if has := spec.Containers[1].Lifecycle.StopSignal != nil; has != kept {
			t.Errorf("%s: the stop signal is kept: %v, want %v", what, has, kept)
		}
		if has := spec.SchedulingGroup != nil && update.MaxUnavailable != nil; has != kept {
			t.Errorf("%s: the others are kept: %v, want %v", what, has, kept)
		}
		if *update.Partition != 1 || spec.Containers[1].Lifecycle.PreStop == nil || len(spec.Containers) != 2 {
			t.Errorf("%s: something else is gone: %+v", what, s.Spec)
		}
	}
	fresh := set(true)
	k.PrepareForCreate(t.Context(), fresh)
	check("new", fresh, false)
	changed := set(true)
	k.PrepareForUpdate(t.Context(), changed, fresh)
	check("changed", changed, false)
	old := set(true)
	old.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = nil
	changed = set(true)
	k.PrepareForUpdate(t.Context(), changed, old)
	check("changed, of one that has such fields", changed, true)
}
