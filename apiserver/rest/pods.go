package rest

import (
	"context"
	"fmt"
	"net/http"

	"orrery/apiserver/admission"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	podsGR = schema.GroupResource{Resource: "pods"}
	pdbsGR = schema.GroupResource{Group: "policy", Resource: "poddisruptionbudgets"}
)

// asWritten is a view without rules of its own: its handler knows what it changes.
func asWritten(name string) *kinds.Subresource {
	return &kinds.Subresource{Name: name, PrepareForUpdate: func(context.Context, runtime.Object, runtime.Object) {}}
}

func success(w http.ResponseWriter, r *http.Request, q *request) {
	s := &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}
	s.SetGroupVersionKind(statusGVK)
	f := q.form
	f.as = ""
	write(w, r, f, http.StatusCreated, s)
}

// bind puts a pod on a node: the scheduler's one write.
//
// Upstream: pkg/registry/core/pod/storage/storage.go, BindingREST.
func (h *Handlers) bind(w http.ResponseWriter, r *http.Request, q *request) {
	err := h.doBind(r, q)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	success(w, r, q)
}

func (h *Handlers) doBind(r *http.Request, q *request) error {
	if q.Verb != "create" {
		return notAllowed()
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	gvk := corev1.SchemeGroupVersion.WithKind("Binding")
	obj, err := decodeInto(r.Context(), body, r.Header.Get("Content-Type"), r.URL.Query().Get("fieldValidation"), gvk, &corev1.Binding{})
	if err != nil {
		return err
	}
	b := obj.(*corev1.Binding)
	name := q.Name
	if name == "" {
		name = b.Name
	}
	if b.Name != "" && b.Name != name {
		return badRequest("name in URL does not match name in Binding object")
	}
	var errs field.ErrorList
	if kind := b.Target.Kind; kind != "" && kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(gvk.GroupKind(), name, errs) // in upstream Kubernetes a 500 with the bare text
	}
	dryRun := r.URL.Query().Get("dryRun") == metav1.DryRunAll
	a := q.attributes(r.Context(), admission.Create, nil, dryRun)
	a.Name, a.Subresource, a.Object = name, "binding", b
	if err := h.Admission.Admit(r.Context(), a); err != nil {
		return err
	}
	if err := h.Admission.Validate(r.Context(), a); err != nil {
		return err
	}
	pods := h.Registry.For(h.Table.Stored(podsGR))
	_, _, err = pods.Update(r.Context(), q.Namespace, name, func(_ context.Context, cur runtime.Object) (runtime.Object, error) {
		return cur, assign(cur.(*corev1.Pod), b)
	}, registry.WriteOptions{DryRun: dryRun, Subresource: asWritten("binding"), AnyVersion: true})
	if apierrors.IsConflict(err) {
		err = apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, unwrapConflict(err))
	}
	return err
}

// assign changes the pod as the binding says.
func assign(pod *corev1.Pod, b *corev1.Binding) error {
	refuse := func(format string, args ...any) error {
		return apierrors.NewConflict(podsGR, pod.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return refuse("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case pod.DeletionTimestamp != nil:
		return refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	for k, v := range b.Labels {
		metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			if c.Status != corev1.ConditionTrue {
				*c = corev1.PodCondition{Type: c.Type, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), ObservedGeneration: c.ObservedGeneration}
			}
			return nil
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	return nil
}

// unwrapConflict is the cause in a conflict's text, without whose conflict it was.
func unwrapConflict(err error) error {
	const mark = "\": "
	text := err.Error()
	for i := 0; i+len(mark) <= len(text); i++ {
		if text[i:i+len(mark)] == mark {
			return fmt.Errorf("%s", text[i+len(mark):])
		}
	}
	return err
}

// evict deletes a pod if its disruption budget allows.
//
// Upstream: pkg/registry/core/pod/storage/eviction.go, EvictionREST.
func (h *Handlers) evict(w http.ResponseWriter, r *http.Request, q *request) {
	if err := h.doEvict(r, q); err != nil {
		WriteError(w, r, err)
		return
	}
	success(w, r, q)
}

func (h *Handlers) doEvict(r *http.Request, q *request) error {
	if q.Verb != "create" {
		return notAllowed()
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	obj, err := decodeInto(r.Context(), body, r.Header.Get("Content-Type"), r.URL.Query().Get("fieldValidation"), policyv1.SchemeGroupVersion.WithKind("Eviction"), &policyv1.Eviction{})
	if err != nil {
		return err
	}
	e := obj.(*policyv1.Eviction)
	if e.Name != "" && e.Name != q.Name {
		return badRequest("name in URL does not match name in Eviction object")
	}
	cur, err := q.res.Get(r.Context(), q.Namespace, q.Name)
	if err != nil {
		return err
	}
	pod, o := cur.(*corev1.Pod), e.DeleteOptions
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	if err := check("DeleteOptions", validation.ValidateDeleteOptions(o)); err != nil {
		return err
	}
	dryRun := len(o.DryRun) > 0
	if needsBudget(pod) {
		if err := h.spend(r.Context(), pod, dryRun); err != nil {
			return err
		}
	}
	_, _, err = h.delete(r.Context(), q, q.Namespace, q.Name, o)
	return err
}

// needsBudget: a pod that does not run, or is going already, disturbs nobody.
func needsBudget(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return false
	}
	return pod.DeletionTimestamp == nil
}

// spend takes one disruption from the budget that covers the pod, or answers 429.
func (h *Handlers) spend(ctx context.Context, pod *corev1.Pod, dryRun bool) error {
	all, err := h.Registry.List(ctx, pdbsGR, pod.Namespace, nil)
	if err != nil {
		return err
	}
	var budgets []*policyv1.PodDisruptionBudget
	for _, obj := range all {
		b := obj.(*policyv1.PodDisruptionBudget)
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && sel.Matches(labels.Set(pod.Labels)) {
			budgets = append(budgets, b)
		}
	}
	switch {
	case len(budgets) == 0:
		return nil
	case len(budgets) > 1:
		return statusError(http.StatusInternalServerError, metav1.StatusReasonInternalError,
			"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	}
	if always := budgets[0].Spec.UnhealthyPodEvictionPolicy; !ready(pod) &&
		(always != nil && *always == policyv1.AlwaysAllow || budgets[0].Status.CurrentHealthy >= budgets[0].Status.DesiredHealthy && budgets[0].Status.DesiredHealthy > 0) {
		return nil
	}
	take := func(obj runtime.Object) error { return takeOne(obj.(*policyv1.PodDisruptionBudget), pod.Name) }
	if dryRun {
		return take(budgets[0].DeepCopy())
	}
	_, err = h.Registry.Update(ctx, pdbsGR, pod.Namespace, budgets[0].Name, "status", take)
	return err
}

func takeOne(b *policyv1.PodDisruptionBudget, pod string) error {
	refuse := func(text string) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: text}}
		return err
	}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return refuse(fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case b.Status.DisruptionsAllowed < 1:
		return refuse(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	// The disruption controller removes it when it sees the pod go.
	b.Status.DisruptedPods[pod] = metav1.Now()
	return nil
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
