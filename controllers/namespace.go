package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// namespaces is the namespace controller.
//
// Watches: Namespaces.
// Wants: a namespace that is being deleted to be empty, and then gone.
// Does: asks the server which kinds there are, deletes all objects of each, the
// pods first; writes into conditions what remains; takes the finalizer
// "kubernetes" off when nothing does.
// Upstream: pkg/controller/namespace/deletion, namespacedResourcesDeleter.
type namespaces struct {
	*client.Controller
	cache  *client.Informer[*corev1.Namespace]
	api    *client.Resource[*corev1.Namespace]
	client *client.Client
}

const (
	// namespaceGrace lets every API server hear of the deletion first.
	namespaceGrace = 5 * time.Second
	// finalizerPatience is how long objects with finalizers are given.
	finalizerPatience = 15 * time.Second
)

func startNamespace(e *env) (func(context.Context) error, error) {
	c := &namespaces{cache: watching[*corev1.Namespace](e), api: client.For[*corev1.Namespace](e.client), client: e.client}
	c.Controller = client.NewController("namespace-controller", c.reconcile)
	ending := func(ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			c.Queue.AddAfter(ns.Name, namespaceGrace)
		}
	}
	c.cache.AddHandler(client.Handler[*corev1.Namespace]{Add: ending, Update: func(_, ns *corev1.Namespace) { ending(ns) }})
	return c.Run, nil
}

func (c *namespaces) reconcile(ctx context.Context, name string) (client.Result, error) {
	ns, ok := c.cache.GetKey(name)
	if !ok || ns.DeletionTimestamp == nil {
		return client.Result{}, nil
	}
	ns, err := c.api.Get(ctx, "", name)
	if err != nil {
		return client.Result{}, ignoring(err, apierrors.IsNotFound)
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		if ns, err = c.api.UpdateStatus(ctx, ns); err != nil {
			return client.Result{}, err
		}
	}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return client.Result{}, nil // somebody else's finalizer
	}
	found := c.deleteContent(ctx, ns)
	status := ns.Status.DeepCopy()
	found.conditions(status, time.Now())
	if !equality.Semantic.DeepEqual(ns.Status, *status) {
		ns.Status = *status
		if ns, err = c.api.UpdateStatus(ctx, ns); err != nil {
			return client.Result{}, err
		}
	}
	if found.wait > 0 {
		return client.Result{RequeueAfter: found.wait/2 + time.Second}, nil
	}
	if err := errors.Join(append(found.errs, found.discovery)...); err != nil {
		return client.Result{}, err
	}
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = c.api.UpdateSubresource(ctx, ns, "finalize")
	return client.Result{}, ignoring(err, apierrors.IsNotFound)
}

// content is what was found in a namespace on one pass.
type content struct {
	discovery  error
	errs       []error
	remaining  map[string]int // objects by resource
	finalizers map[string]int // objects by finalizer
	wait       time.Duration  // until it is worth another look
}

// deleteContent deletes everything once and counts what is still there. Pods go
// first: what they depend on stays until they have ended.
func (c *namespaces) deleteContent(ctx context.Context, ns *corev1.Namespace) *content {
	found := &content{remaining: map[string]int{}, finalizers: map[string]int{}}
	var all []apiResource
	all, found.discovery = discover(ctx, c.client)
	all = filter(all, func(r apiResource) bool { return r.namespaced && r.can("delete") })
	isPods := func(r apiResource) bool { return r.gvr.Group == "" && r.gvr.Resource == "pods" }
	for _, r := range filter(all, isPods) {
		c.deleteAll(ctx, ns, r, found)
	}
	if found.wait > 0 || len(found.errs) > 0 {
		return found
	}
	for _, r := range filter(all, func(r apiResource) bool { return !isPods(r) }) {
		c.deleteAll(ctx, ns, r, found)
	}
	return found
}

func (c *namespaces) deleteAll(ctx context.Context, ns *corev1.Namespace, r apiResource, found *content) {
	api := client.Metadata(c.client, r.gvr, true)
	list, err := api.List(ctx, ns.Name, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return
	}
	if err == nil && len(list.Items) > 0 {
		if r.can("deletecollection") {
			err = api.DeleteCollection(ctx, ns.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}, metav1.ListOptions{})
		} else {
			for _, obj := range list.Items {
				deleteErr := api.Delete(ctx, ns.Name, obj.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
				err = errors.Join(err, ignoring(deleteErr, apierrors.IsNotFound))
			}
		}
		if err == nil {
			list, err = api.List(ctx, ns.Name, metav1.ListOptions{})
		}
	}
	if err != nil {
		found.errs = append(found.errs, fmt.Errorf("%s: %w", r.gvr.Resource, err))
		return
	}
	if len(list.Items) == 0 {
		return
	}
	found.remaining[r.gvr.GroupResource().String()+"."] = len(list.Items)
	wait := finalizerPatience
	for _, obj := range list.Items {
		for _, f := range obj.Finalizers {
			found.finalizers[f]++
		}
		if g := obj.DeletionGracePeriodSeconds; g != nil {
			wait = max(wait, time.Duration(*g)*time.Second)
		}
	}
	if r.gvr.Resource == "pods" && len(found.finalizers) == 0 {
		wait = 0
		for _, obj := range list.Items {
			if g := obj.DeletionGracePeriodSeconds; g != nil {
				wait = max(wait, time.Duration(*g)*time.Second)
			}
		}
		wait = max(wait, time.Second)
	}
	found.wait = max(found.wait, wait)
}

// conditions writes what was found, with upstream's words.
//
// Upstream: pkg/controller/namespace/deletion/status_condition_utils.go.
func (f *content) conditions(s *corev1.NamespaceStatus, now time.Time) {
	set := func(t corev1.NamespaceConditionType, bad bool, reason, message, goodReason, goodMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: metav1.NewTime(now)}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, reason, message
		}
		i := slices.IndexFunc(s.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == t })
		if i < 0 {
			s.Conditions = append(s.Conditions, c)
			return
		}
		if s.Conditions[i].Status == c.Status {
			c.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
		s.Conditions[i] = c
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, f.discovery != nil, "DiscoveryFailed", "Discovery failed for some groups, "+text(f.discovery),
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(f.errs) > 0, "ContentDeletionFailed", "Failed to delete all resource types, "+text(errors.Join(f.errs...)),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(f.remaining) > 0, "SomeResourcesRemain", "Some resources are remaining: "+counts(f.remaining, "%s has %d resource instances"),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+counts(f.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
}

func counts(m map[string]int, format string) string {
	var parts []string
	for name, n := range m {
		parts = append(parts, fmt.Sprintf(format, name, n))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}
