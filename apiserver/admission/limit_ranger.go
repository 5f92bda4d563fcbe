package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// limitRanger gives containers the amounts that their namespace's LimitRanges prescribe, and refuses what lies outside of them.
//
// Upstream: plugin/pkg/admission/limitranger/admission.go, LimitRanger.
type limitRanger struct {
	objects objects.Reader
}

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

func (limitRanger) Name() string { return "LimitRanger" }

func (p limitRanger) Admit(ctx context.Context, a *Attributes) error {
	pod := a.newPod()
	if a.resizes() {
		pod, _ = a.Object.(*corev1.Pod)
	}
	if pod == nil {
		return nil
	}
	ranges, err := list[corev1.LimitRange](ctx, p.objects, "", "limitranges", a.Namespace)
	if err != nil {
		return forbidden(a, "unable to %s %v at this time because there was an error enforcing limit ranges", a.Operation, a.Kind.GR())
	}
	for _, r := range ranges {
		for i := range r.Spec.Limits {
			if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
				prescribe(pod, item)
			}
		}
	}
	return nil
}

// resizes: the containers of a running pod are to get other amounts.
func (a *Attributes) resizes() bool { return a.Operation == Update && a.Subresource == "resize" }

// prescribe fills in amounts that containers leave open, and notes in an annotation which.
func prescribe(pod *corev1.Pod, item *corev1.LimitRangeItem) {
	var notes []string
	apply := func(kind string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			set := func(what string, into *corev1.ResourceList, from corev1.ResourceList) {
				var names []string
				for name, q := range from {
					if _, ok := (*into)[name]; ok {
						continue
					}
					if *into == nil {
						*into = corev1.ResourceList{}
					}
					(*into)[name] = q.DeepCopy()
					names = append(names, string(name))
				}
				if slices.Sort(names); len(names) > 0 {
					notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), what, kind, c.Name))
				}
			}
			set("request", &c.Resources.Requests, item.DefaultRequest)
			set("limit", &c.Resources.Limits, item.Default)
		}
	}
	apply("container", pod.Spec.Containers)
	apply("init container", pod.Spec.InitContainers)
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

func (p limitRanger) Validate(ctx context.Context, a *Attributes) error {
	var check func(*corev1.LimitRangeItem) []error
	switch o := a.Object.(type) {
	case *corev1.Pod:
		if !a.is("", "Pod", Create) && !a.resizes() {
			return nil
		}
		check = func(item *corev1.LimitRangeItem) []error { return podWithin(o, item) }
	case *corev1.PersistentVolumeClaim:
		if !a.is("", "PersistentVolumeClaim", Create, Update) {
			return nil
		}
		check = func(item *corev1.LimitRangeItem) []error {
			if item.Type != corev1.LimitTypePersistentVolumeClaim {
				return nil
			}
			return within(item, o.Spec.Resources.Requests, o.Spec.Resources.Requests)
		}
	default:
		return nil
	}
	ranges, err := list[corev1.LimitRange](ctx, p.objects, "", "limitranges", a.Namespace)
	if err != nil {
		return forbidden(a, "unable to %s %v at this time because there was an error enforcing limit ranges", a.Operation, a.Kind.GR())
	}
	for _, r := range ranges {
		var errs []error
		for i := range r.Spec.Limits {
			errs = append(errs, check(&r.Spec.Limits[i])...)
		}
		if len(errs) > 0 {
			return forbidden(a, "%w", utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

func podWithin(pod *corev1.Pod, item *corev1.LimitRangeItem) []error {
	var errs []error
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			errs = append(errs, within(item, c.Resources.Requests, c.Resources.Limits)...)
		}
	case corev1.LimitTypePod:
		requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
		for _, c := range pod.Spec.Containers {
			addTo(requests, c.Resources.Requests)
			addTo(limits, c.Resources.Limits)
		}
		errs = within(item, requests, limits)
	}
	return errs
}

// within checks amounts against minimum, maximum and ratio; resources go in order of name so that texts are stable.
func within(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range sortedNames(item.Min) {
		min, request, limit := item.Min[name], requests[name], limits[name]
		_, hasRequest := requests[name]
		_, hasLimit := limits[name]
		switch {
		case !hasRequest:
			fail("minimum %s usage per %s is %s.  No request is specified", name, item.Type, min.String())
		case request.Cmp(min) < 0:
			fail("minimum %s usage per %s is %s, but request is %s", name, item.Type, min.String(), request.String())
		case hasLimit && limit.Cmp(min) < 0:
			fail("minimum %s usage per %s is %s, but limit is %s", name, item.Type, min.String(), limit.String())
		}
	}
	for _, name := range sortedNames(item.Max) {
		max, request, limit := item.Max[name], requests[name], limits[name]
		_, hasLimit := limits[name]
		switch {
		case !hasLimit:
			fail("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, max.String())
		case limit.Cmp(max) > 0:
			fail("maximum %s usage per %s is %s, but limit is %s", name, item.Type, max.String(), limit.String())
		case request.Cmp(max) > 0:
			fail("maximum %s usage per %s is %s, but request is %s", name, item.Type, max.String(), request.String())
		}
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		max, request, limit := item.MaxLimitRequestRatio[name], requests[name], limits[name]
		if request.IsZero() || limit.IsZero() {
			fail("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, max.String())
			continue
		}
		if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > max.AsApproximateFloat64() {
			fail("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, max.String(), ratio)
		}
	}
	return errs
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(l))
	for name := range l {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func addTo(sum, amounts corev1.ResourceList) {
	for name, q := range amounts {
		total := sum[name]
		if total.IsZero() {
			total = resource.Quantity{Format: q.Format}
		}
		total.Add(q)
		sum[name] = total
	}
}
