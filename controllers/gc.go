package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// garbage is the garbage collector.
//
// Watches: the metadata of every kind that can be listed, watched and deleted.
// Wants: no object whose owners are all gone; and for an owner that is deleted in
// the foreground, or orphaning, that its dependents go first, or are let go.
// Does: keeps the graph of owners; looks at each object that lost one, asks the
// server (never the cache) whether the owners exist, and deletes it or takes the
// references off; takes the finalizers foregroundDeletion and orphan off owners.
// Upstream: pkg/controller/garbagecollector, GarbageCollector.
// Left out: events about owners in other namespaces; the cache of absent owners.
type garbage struct {
	client   *client.Client
	graph    *ownerGraph
	deleting *client.Controller // keys are UIDs
	orphans  *client.Controller

	mu        sync.Mutex
	resources map[schema.GroupKind]apiResource // guarded by mu
}

// gcIgnored are kinds that own nothing, are owned by nothing, and are many.
var gcIgnored = []schema.GroupResource{{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// gcResync is how often the kinds of the server are asked for.
const gcResync = 30 * time.Second

func startGarbageCollector(e *env) (func(context.Context) error, error) {
	c := &garbage{client: e.client, graph: newOwnerGraph(), resources: map[schema.GroupKind]apiResource{}}
	c.deleting = client.NewController("garbage-collector-controller", c.attemptToDelete)
	c.orphans = client.NewController("garbage-collector-controller", c.attemptToOrphan)
	c.deleting.Workers, c.orphans.Workers = 20, 20
	c.graph.toDelete = func(uid types.UID) { c.deleting.Queue.Add(string(uid)) }
	c.graph.toOrphan = func(uid types.UID) { c.orphans.Queue.Add(string(uid)) }
	return c.run, nil
}

// run keeps one monitor for each kind and starts working when the first set of
// them has synced.
func (c *garbage) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	monitors := map[schema.GroupVersionResource]context.CancelFunc{}
	defer func() {
		for _, stop := range monitors {
			stop()
		}
	}()
	working := false
	return every(ctx, gcResync, func(ctx context.Context) {
		fresh, err := c.resync(ctx, &wg, monitors)
		if err != nil {
			slog.Warn("discovery of kinds failed", "component", "garbage-collector-controller", "err", err)
		}
		late := time.After(gcResync) // one kind that fails must not stop the rest
		for _, synced := range fresh {
			select {
			case <-synced:
			case <-late:
			case <-ctx.Done():
				return
			}
		}
		if !working && len(monitors) > 0 {
			working = true
			wg.Go(func() { c.deleting.Run(ctx) })
			wg.Go(func() { c.orphans.Run(ctx) })
		}
	})
}

// resync starts monitors of kinds that are new and stops those of kinds that are
// gone. What it starts lives until ctx ends.
func (c *garbage) resync(ctx context.Context, wg *sync.WaitGroup, monitors map[schema.GroupVersionResource]context.CancelFunc) (fresh []<-chan struct{}, err error) {
	all, err := discover(ctx, c.client)
	all = filter(all, func(r apiResource) bool {
		return r.can("delete", "list", "watch") && !slices.Contains(gcIgnored, r.gvr.GroupResource())
	})
	served := map[schema.GroupVersionResource]bool{}
	for _, r := range all {
		served[r.gvr] = true
		c.mu.Lock()
		c.resources[schema.GroupKind{Group: r.gvr.Group, Kind: r.kind}] = r
		c.mu.Unlock()
		if monitors[r.gvr] != nil {
			continue
		}
		monitoring, stop := context.WithCancel(ctx)
		monitors[r.gvr] = stop
		inf := client.NewInformer(client.Metadata(c.client, r.gvr, r.namespaced), "", metav1.ListOptions{})
		put := func(obj *metav1.PartialObjectMetadata) {
			c.graph.put(objectRef{r.gvr.GroupVersion().String(), r.kind, obj.Namespace, obj.Name, obj.UID}, obj)
		}
		inf.AddHandler(client.Handler[*metav1.PartialObjectMetadata]{
			Add: put,
			Update: func(old, obj *metav1.PartialObjectMetadata) {
				if old.UID != obj.UID {
					c.graph.remove(old.UID)
				}
				put(obj)
			},
			Delete: func(obj *metav1.PartialObjectMetadata) { c.graph.remove(obj.UID) },
		})
		wg.Go(func() { inf.Run(monitoring) })
		fresh = append(fresh, inf.Synced())
	}
	if err == nil { // a group that did not answer is not gone
		for gvr, stop := range monitors {
			if !served[gvr] {
				stop()
				delete(monitors, gvr)
			}
		}
	}
	return fresh, err
}

// api is the endpoint of the kind that a reference names.
func (c *garbage) api(apiVersion, kind string) (*client.Resource[*metav1.PartialObjectMetadata], bool, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	r, ok := c.resources[schema.GroupKind{Group: gv.Group, Kind: kind}]
	c.mu.Unlock()
	if !ok {
		return nil, false, fmt.Errorf("unable to get REST mapping for %s/%s", apiVersion, kind)
	}
	return client.Metadata(c.client, r.gvr, r.namespaced), r.namespaced, nil
}

// live reads an object as it is now; nil if it is not there or another one of
// that name is.
func (c *garbage) live(ctx context.Context, ref objectRef) (*client.Resource[*metav1.PartialObjectMetadata], *metav1.PartialObjectMetadata, error) {
	api, namespaced, err := c.api(ref.apiVersion, ref.kind)
	if err != nil {
		return nil, nil, err
	}
	namespace := ""
	if namespaced {
		namespace = ref.namespace
	}
	obj, err := api.Get(ctx, namespace, ref.name)
	if apierrors.IsNotFound(err) || err == nil && obj.UID != ref.uid {
		return api, nil, nil
	}
	return api, obj, err
}

func (c *garbage) attemptToDelete(ctx context.Context, uid string) (client.Result, error) {
	node, dependents, ok := c.graph.view(types.UID(uid))
	if !ok || node.ending && !node.foreground {
		return client.Result{}, nil
	}
	api, obj, err := c.live(ctx, node.objectRef)
	if err != nil {
		return client.Result{}, err
	}
	if obj == nil {
		c.graph.remove(node.uid)
		return client.Result{}, nil
	}
	if node.virtual {
		return client.Result{}, nil // it exists; its monitor will tell of it
	}
	if node.foreground {
		return client.Result{}, c.waitForDependents(ctx, api, obj, dependents)
	}
	states := make([]ownerState, 0, len(obj.OwnerReferences))
	var gone []types.UID
	for _, ref := range obj.OwnerReferences {
		s, err := c.stateOf(ctx, ref, obj.Namespace)
		if err != nil {
			return client.Result{}, err
		}
		states = append(states, s)
		if s != solid {
			gone = append(gone, ref.UID)
		}
	}
	return client.Result{}, c.carryOut(ctx, decideGarbage(states, len(dependents)), api, obj, gone, dependents)
}

func (c *garbage) stateOf(ctx context.Context, ref metav1.OwnerReference, namespace string) (ownerState, error) {
	_, owner, err := c.live(ctx, objectRef{ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID})
	switch {
	case err != nil:
		return solid, err
	case owner == nil:
		return absent, nil
	case owner.DeletionTimestamp != nil && hasFinalizer(owner, metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

func (c *garbage) carryOut(ctx context.Context, v verdict, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata, gone []types.UID, dependents []graphNode) error {
	policy := metav1.DeletePropagationBackground
	switch v {
	case stay:
		return nil
	case dropRefs:
		return c.dropOwners(ctx, api, obj, gone)
	case goInFront:
		// A circle of objects that wait for each other is cut here.
		if slices.ContainsFunc(dependents, func(d graphNode) bool { return d.foreground }) {
			if err := c.unblock(ctx, api, obj); err != nil {
				return err
			}
		}
		policy = metav1.DeletePropagationForeground
	case goNow:
		if hasFinalizer(obj, metav1.FinalizerOrphanDependents) {
			policy = metav1.DeletePropagationOrphan
		} else if hasFinalizer(obj, metav1.FinalizerDeleteDependents) {
			policy = metav1.DeletePropagationForeground
		}
	}
	slog.Info("deleting", "component", "garbage-collector-controller", "kind", api.GroupVersionResource().Resource, "key", client.Key(obj), "policy", policy)
	err := api.Delete(ctx, obj.Namespace, obj.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &obj.UID, ResourceVersion: &obj.ResourceVersion}, PropagationPolicy: &policy})
	return ignoring(err, apierrors.IsNotFound)
}

// waitForDependents lets an owner go when nothing blocks it any more.
func (c *garbage) waitForDependents(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata, dependents []graphNode) error {
	blocking := filter(dependents, func(d graphNode) bool {
		ref := ownerRefTo(d.owners, obj.UID)
		return ref != nil && blocks(*ref)
	})
	if len(blocking) == 0 {
		return c.dropFinalizer(ctx, api, obj, metav1.FinalizerDeleteDependents)
	}
	for _, d := range blocking {
		if !d.foreground {
			c.graph.toDelete(d.uid)
		}
	}
	return nil
}

// attemptToOrphan takes an owner out of its dependents before it goes.
func (c *garbage) attemptToOrphan(ctx context.Context, uid string) (client.Result, error) {
	node, dependents, ok := c.graph.view(types.UID(uid))
	if !ok {
		return client.Result{}, nil
	}
	for _, d := range dependents {
		api, obj, err := c.live(ctx, d.objectRef)
		if err != nil {
			return client.Result{}, err
		}
		if obj == nil {
			continue
		}
		if err := c.dropOwners(ctx, api, obj, []types.UID{node.uid}); err != nil {
			return client.Result{}, err
		}
	}
	api, obj, err := c.live(ctx, node.objectRef)
	if err != nil || obj == nil {
		return client.Result{}, err
	}
	return client.Result{}, c.dropFinalizer(ctx, api, obj, metav1.FinalizerOrphanDependents)
}

func (c *garbage) dropOwners(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata, gone []types.UID) error {
	refs := filter(obj.OwnerReferences, func(r metav1.OwnerReference) bool { return !slices.Contains(gone, r.UID) })
	if len(refs) == len(obj.OwnerReferences) {
		return nil
	}
	return c.patch(ctx, api, obj, map[string]any{"ownerReferences": refs})
}

func (c *garbage) unblock(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata) error {
	refs := slices.Clone(obj.OwnerReferences)
	for i := range refs {
		refs[i].BlockOwnerDeletion = new(false)
	}
	if err := c.patch(ctx, api, obj, map[string]any{"ownerReferences": refs}); err != nil {
		return err
	}
	obj.ResourceVersion = "" // changed by ourselves just now
	fresh, err := api.Get(ctx, obj.Namespace, obj.Name)
	if err == nil {
		obj.ResourceVersion = fresh.ResourceVersion
	}
	return ignoring(err, apierrors.IsNotFound)
}

func (c *garbage) dropFinalizer(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata, name string) error {
	rest := filter(obj.Finalizers, func(f string) bool { return f != name })
	if len(rest) == len(obj.Finalizers) {
		return nil
	}
	return c.patch(ctx, api, obj, map[string]any{"finalizers": rest})
}

// patch merges metadata into the object of exactly this version: it must not undo
// what another has done meanwhile.
func (c *garbage) patch(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], obj *metav1.PartialObjectMetadata, metadata map[string]any) error {
	metadata["resourceVersion"] = obj.ResourceVersion
	raw, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = api.Patch(ctx, obj.Namespace, obj.Name, types.MergePatchType, raw)
	return ignoring(err, apierrors.IsNotFound)
}
