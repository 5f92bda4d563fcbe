package controllers

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// claim is what becomes of one object that an owner looks at.
type claim int

const (
	leave   claim = iota // somebody else's, or nobody's that fits
	keep                 // ours
	adopt                // an orphan that our selector matches
	release              // ours, but the selector no longer matches
)

// decideClaim says what an owner does with an object: the pure half of adoption.
//
// Upstream: pkg/controller/controller_ref_manager.go, BaseControllerRefManager.ClaimObject.
func decideClaim(owner, obj metav1.Object, selector labels.Selector) claim {
	matches := selector.Matches(labels.Set(obj.GetLabels()))
	if ref := metav1.GetControllerOf(obj); ref != nil {
		switch {
		case ref.UID != owner.GetUID():
			return leave
		case matches:
			return keep
		case owner.GetDeletionTimestamp() != nil:
			return leave
		}
		return release
	}
	if owner.GetDeletionTimestamp() != nil || !matches || obj.GetDeletionTimestamp() != nil || obj.GetNamespace() != owner.GetNamespace() {
		return leave
	}
	return adopt
}

// claimer adopts and releases the objects of one owner.
type claimer[T client.Object] struct {
	resource *client.Resource[T]
	owner    metav1.Object
	kind     schema.GroupVersionKind
	selector labels.Selector
	// fresh reads the owner from the server, not from a cache: an owner that is
	// being deleted must not adopt what the garbage collector has just let go.
	fresh   func(ctx context.Context) (metav1.Object, error)
	checked bool
}

// claim returns the objects that belong to the owner after adopting and
// releasing.
func (c *claimer[T]) claim(ctx context.Context, objs []T) ([]T, error) {
	var ours []T
	for _, obj := range objs {
		switch decideClaim(c.owner, obj, c.selector) {
		case keep:
			ours = append(ours, obj)
		case adopt:
			ok, err := c.adopt(ctx, obj)
			if err != nil {
				return ours, err
			}
			if ok {
				ours = append(ours, obj)
			}
		case release:
			if err := c.release(ctx, obj); err != nil {
				return ours, err
			}
		}
	}
	return ours, nil
}

func (c *claimer[T]) adopt(ctx context.Context, obj T) (bool, error) {
	if !c.checked {
		fresh, err := c.fresh(ctx)
		if err != nil {
			return false, fmt.Errorf("can't adopt: %w", err)
		}
		if fresh.GetUID() != c.owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
			return false, fmt.Errorf("can't adopt for %s: it is gone or being deleted", c.owner.GetName())
		}
		c.checked = true
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             obj.GetUID(),
		"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(c.owner, c.kind)},
	}})
	if err != nil {
		return false, err
	}
	_, err = c.resource.Patch(ctx, obj.GetNamespace(), obj.GetName(), types.StrategicMergePatchType, patch)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (c *claimer[T]) release(ctx context.Context, obj T) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             obj.GetUID(),
		"ownerReferences": []any{map[string]any{"$patch": "delete", "uid": c.owner.GetUID()}},
	}})
	if err != nil {
		return err
	}
	_, err = c.resource.Patch(ctx, obj.GetNamespace(), obj.GetName(), types.StrategicMergePatchType, patch)
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // gone, or released by someone already
	}
	return err
}

// byController and orphan are index values: the objects of an owner by its UID,
// and the objects of a namespace that nobody owns.
const byController = "controller"

func controllerIndex[T client.Object](obj T) []string {
	if ref := metav1.GetControllerOf(obj); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{"orphan/" + obj.GetNamespace()}
}

// candidates are the objects that an owner must look at: its own and the orphans
// of its namespace.
func candidates[T client.Object](inf *client.Informer[T], owner metav1.Object) []T {
	return append(inf.ByIndex(byController, string(owner.GetUID())), inf.ByIndex(byController, "orphan/"+owner.GetNamespace())...)
}

// ownerKey is the queue key of an object's controller, if that is of a kind.
func ownerKey(obj metav1.Object, kind string) (string, bool) {
	ref := metav1.GetControllerOf(obj)
	if ref == nil || ref.Kind != kind {
		return "", false
	}
	return client.JoinKey(obj.GetNamespace(), ref.Name), true
}

// ownedHandler queues the owners of changed objects: the controller before and
// after the change, and for an orphan all owners whose selector matches it.
func ownedHandler[O, T client.Object](add func(key string), kind string, owners *client.Informer[O], selects func(O) (labels.Selector, error)) client.Handler[T] {
	queue := func(obj T) {
		if key, ok := ownerKey(obj, kind); ok {
			add(key)
			return
		}
		if metav1.GetControllerOf(obj) != nil || obj.GetDeletionTimestamp() != nil {
			return
		}
		for _, o := range owners.List() {
			if o.GetNamespace() != obj.GetNamespace() {
				continue
			}
			if sel, err := selects(o); err == nil && !sel.Empty() && sel.Matches(labels.Set(obj.GetLabels())) {
				add(client.Key(o))
			}
		}
	}
	return client.Handler[T]{
		Add: queue,
		Update: func(old, obj T) {
			if old.GetResourceVersion() == obj.GetResourceVersion() {
				return
			}
			if key, ok := ownerKey(old, kind); ok {
				add(key)
			}
			queue(obj)
		},
		Delete: queue,
	}
}

// byNamespace is the index of objects by namespace.
const byNamespace = "namespace"

func namespaceIndex[T client.Object](obj T) []string { return []string{obj.GetNamespace()} }

// podsOnNode is the index of pods by node name.
const podsOnNode = "node"

func podNodeIndex(p *corev1.Pod) []string {
	if p.Spec.NodeName == "" {
		return nil
	}
	return []string{p.Spec.NodeName}
}
