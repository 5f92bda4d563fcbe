package controllers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orrery/client"
)

// history keeps the templates that an owner has had, as ControllerRevisions:
// DaemonSets and StatefulSets have no ReplicaSets to remember them by.
//
// Upstream: pkg/controller/history/controller_history.go.
type history struct {
	revisions *client.Informer[*appsv1.ControllerRevision]
	api       *client.Resource[*appsv1.ControllerRevision]
	kind      schema.GroupVersionKind
}

func newHistory(e *env, kind schema.GroupVersionKind) *history {
	h := &history{revisions: watching[*appsv1.ControllerRevision](e), api: client.For[*appsv1.ControllerRevision](e.client), kind: kind}
	h.revisions.AddIndex(byController, controllerIndex[*appsv1.ControllerRevision])
	return h
}

// templatePatch is what a revision stores: a patch that puts the template back.
func templatePatch(template any) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var t map[string]any
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	t["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": t}})
}

// list claims the owner's revisions, oldest first.
func (h *history) list(ctx context.Context, owner client.Object, selector labels.Selector, fresh func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	c := claimer[*appsv1.ControllerRevision]{resource: h.api, owner: owner, kind: h.kind, selector: selector, fresh: fresh}
	list, err := c.claim(ctx, candidates(h.revisions, owner))
	slices.SortFunc(list, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// errCollision says that another template of the owner has this hash.
type errCollision struct{ name string }

func (e errCollision) Error() string {
	return fmt.Sprintf("controllerrevision %s exists with other data", e.name)
}

// current finds the revision of want.Data among the old ones and moves it to the
// top, or creates want.
func (h *history) current(ctx context.Context, old []*appsv1.ControllerRevision, want *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	want.Revision = 1
	if len(old) > 0 {
		want.Revision = old[len(old)-1].Revision + 1
	}
	for i := len(old) - 1; i >= 0; i-- {
		if !bytes.Equal(old[i].Data.Raw, want.Data.Raw) {
			continue
		}
		if i == len(old)-1 {
			return old[i], nil
		}
		again := old[i].DeepCopy()
		again.Revision = want.Revision
		return h.api.Update(ctx, again)
	}
	created, err := h.api.Create(ctx, want)
	if !apierrors.IsAlreadyExists(err) {
		return created, err
	}
	found, err := h.api.Get(ctx, want.Namespace, want.Name)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(found.Data.Raw, want.Data.Raw) {
		return nil, errCollision{want.Name}
	}
	return found, nil
}

// trim deletes the oldest revisions beyond limit that are not in use.
func (h *history) trim(ctx context.Context, old []*appsv1.ControllerRevision, live map[string]bool, limit *int32) error {
	idle := filter(old, func(r *appsv1.ControllerRevision) bool { return !live[r.Name] })
	keep := 10
	if limit != nil {
		keep = int(*limit)
	}
	for _, r := range idle[:max(0, len(idle)-keep)] {
		if err := h.api.Delete(ctx, r.Namespace, r.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// newRevision is a revision under a name that ends in hash.
func newRevision(owner client.Object, kind schema.GroupVersionKind, hash string, data []byte, labels map[string]string) *appsv1.ControllerRevision {
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: owner.GetName() + "-" + hash, Labels: labels, Annotations: maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data: runtime.RawExtension{Raw: data},
	}
}
