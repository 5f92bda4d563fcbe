package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"orrery/apiserver/store"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Delete removes an object, or marks it with a deletionTimestamp when a grace
// period or finalizers hold it; deleted tells which. The object is returned as
// it is or was. options may be nil.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go,
// Store.Delete, and registry/rest/delete.go, BeforeDelete.
func (r *Resource) Delete(ctx context.Context, namespace, name string, options *metav1.DeleteOptions, o WriteOptions) (_ runtime.Object, deleted bool, err error) {
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	cur, err := r.registry.store.Get(ctx, r.Kind.Key(namespace, name))
	for range attempts {
		if err != nil {
			return nil, false, r.storeError(err, name)
		}
		old, err := Decode(r.Kind, cur.Value, cur.Revision)
		if err != nil {
			return nil, false, apierrors.NewInternalError(err)
		}
		if err := r.checkPreconditions(old, name, options.Preconditions); err != nil {
			return nil, false, err
		}
		if o.Validate != nil {
			if err := o.Validate(ctx, nil, old); err != nil {
				return nil, false, err
			}
		}
		var obj runtime.Object
		var retry bool
		obj, deleted, retry, cur, err = r.deleteOnce(ctx, cur, old, options, o)
		if !retry {
			return obj, deleted, err
		}
	}
	return nil, false, apierrors.NewConflict(r.Kind.GR(), name, errModified)
}

func (r *Resource) checkPreconditions(obj runtime.Object, name string, p *metav1.Preconditions) error {
	m, err := meta.Accessor(obj)
	if err != nil || p == nil {
		return err
	}
	// The texts say the kind and not the resource, as upstream's do.
	gr := r.Kind.GR()
	gr.Resource = r.Kind.Kind
	if p.UID != nil && *p.UID != m.GetUID() {
		return apierrors.NewConflict(gr, name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(gr, name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

func (r *Resource) deleteOnce(ctx context.Context, cur store.Entry, old runtime.Object, options *metav1.DeleteOptions, o WriteOptions) (_ runtime.Object, deleted, retry bool, _ store.Entry, err error) {
	obj := old.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, false, false, cur, err
	}
	r.mark(obj, m, options)
	ready := r.ready(obj, m)
	if o.DryRun {
		return obj, ready, false, cur, nil
	}
	value, err := Encode(r.Kind, obj)
	if err != nil {
		return nil, false, false, cur, apierrors.NewInternalError(err)
	}
	next := cur
	if marked := string(value) != string(cur.Value); marked {
		// Also before it goes at once: whoever watches sees the mark first, then the end.
		if next, err = r.registry.store.Update(ctx, cur.Key, value, cur.Revision, r.Kind.TTL); err == nil {
			r.wrote(next.Revision)
		}
	}
	if ready && err == nil {
		if next, err = r.registry.store.Delete(ctx, cur.Key, next.Revision); err == nil {
			r.wrote(next.Revision)
			r.afterDelete(ctx, old)
		}
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return nil, false, true, next, nil
	case err != nil:
		return nil, false, false, cur, r.storeError(err, m.GetName())
	}
	out, err := Decode(r.Kind, value, next.Revision)
	return out, ready, false, next, err
}

// mark changes the object as the beginning of its deletion does: when it is to
// go, and what its dependents are waited for.
func (r *Resource) mark(obj runtime.Object, m metav1.Object, options *metav1.DeleteOptions) {
	var grace int64
	if r.Kind.GracePeriod != nil {
		grace = r.Kind.GracePeriod(obj, options)
	}
	m.SetFinalizers(r.finalizers(m, options))
	held := len(m.GetFinalizers()) > 0 || r.Kind.Held != nil && r.Kind.Held(obj)
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	if at := m.GetDeletionTimestamp(); at != nil {
		// A second delete may only shorten what the first one granted.
		if left := m.GetDeletionGracePeriodSeconds(); left != nil && grace < *left {
			shorter := metav1.NewTime(at.Add(time.Duration(grace-*left) * time.Second))
			if r.Kind.GracePeriod != nil && options.GracePeriodSeconds != nil {
				m.SetDeletionTimestamp(&shorter)
				m.SetDeletionGracePeriodSeconds(&grace)
			}
		}
		return
	}
	if r.Kind.GracePeriod == nil && !held {
		return // it goes at once, and needs no mark
	}
	at := metav1.NewTime(now.Add(time.Duration(grace) * time.Second))
	m.SetDeletionTimestamp(&at)
	if r.Kind.Held == nil { // a Namespace has finalizers of its own instead
		m.SetDeletionGracePeriodSeconds(&grace)
	}
	if m.GetGeneration() > 0 {
		m.SetGeneration(m.GetGeneration() + 1)
	}
	if r.Kind.MarkDeleted != nil {
		r.Kind.MarkDeleted(obj)
	}
}

// finalizers adds or drops those that stand for a propagation policy.
//
// Upstream: registry/generic/registry/store.go, deletionFinalizersForGarbageCollection.
func (r *Resource) finalizers(m metav1.Object, options *metav1.DeleteOptions) []string {
	orphan, foreground := false, false
	switch policy := options.PropagationPolicy; {
	case options.OrphanDependents != nil:
		orphan = *options.OrphanDependents
	case policy != nil:
		orphan = *policy == metav1.DeletePropagationOrphan
		foreground = *policy == metav1.DeletePropagationForeground
	default:
		foreground = slices.Contains(m.GetFinalizers(), metav1.FinalizerDeleteDependents)
		orphan = slices.Contains(m.GetFinalizers(), metav1.FinalizerOrphanDependents) || r.Kind.OrphanByDefault && !foreground
	}
	var out []string
	for _, f := range m.GetFinalizers() {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}
