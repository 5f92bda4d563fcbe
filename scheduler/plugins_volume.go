package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"orrery/client"
	"orrery/client/timing"
)

// volumeBinding sends pods where their volumes are, and volumes where their pods
// go: a bound claim ties the pod to the nodes that its volume can be used on; an
// unbound claim whose class waits for its first consumer gets a volume of the
// node, or is told the node so that a provisioner makes one there.
//
// Upstream: pkg/scheduler/framework/plugins/volumebinding.
// Left out: storage capacity of CSI drivers, attach limits (NodeVolumeLimits),
// scoring by capacity.
type volumeBinding struct {
	c       *client.Client
	claims  *client.Informer[*corev1.PersistentVolumeClaim]
	volumes *client.Informer[*corev1.PersistentVolume]
	classes *client.Informer[*storagev1.StorageClass]

	mu sync.Mutex
	// taken are the volumes that an assumed pod will have, by name; guarded by mu.
	taken map[string]types.UID
	// timeout is how long claims may take to be bound.
	timeout time.Duration
}

// waitingClaim is a claim that waits for its pod's node.
type waitingClaim struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
}

// podVolumes is what PreFilter finds.
type podVolumes struct {
	bound   []*corev1.PersistentVolume
	waiting []waitingClaim
	// chosen are the volumes for the waiting claims on the reserved node; a claim
	// without one is to be provisioned there.
	chosen map[string]*corev1.PersistentVolume
}

func (*volumeBinding) Name() string { return "VolumeBinding" }

// claimNames are the claims that a pod uses; those of ephemeral volumes are
// named after pod and volume.
func claimNames(pod *corev1.Pod) []string {
	var names []string
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Name+"-"+v.Name)
		}
	}
	return names
}

func (p *volumeBinding) PreFilter(c *Cycle) *Status {
	names := claimNames(c.Pod)
	if len(names) == 0 {
		return verdict(Skip)
	}
	found := &podVolumes{chosen: map[string]*corev1.PersistentVolume{}}
	for _, name := range names {
		claim, ok := p.claims.Get(c.Pod.Namespace, name)
		switch {
		case !ok:
			return verdict(Unresolvable, fmt.Sprintf("persistentvolumeclaim %q not found", name))
		case claim.DeletionTimestamp != nil:
			return verdict(Unresolvable, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name))
		case claim.Status.Phase == corev1.ClaimLost:
			return verdict(Unresolvable, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName))
		}
		if claim.Spec.VolumeName != "" {
			if pv, ok := p.volumes.Get("", claim.Spec.VolumeName); ok && claim.Status.Phase == corev1.ClaimBound {
				found.bound = append(found.bound, pv)
				continue
			}
			return verdict(Unresolvable, "pod has unbound immediate PersistentVolumeClaims")
		}
		class := p.class(claim)
		if class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
			return verdict(Unresolvable, "pod has unbound immediate PersistentVolumeClaims")
		}
		found.waiting = append(found.waiting, waitingClaim{claim, class})
	}
	note(c, p.Name(), found)
	return nil
}

func (p *volumeBinding) class(claim *corev1.PersistentVolumeClaim) *storagev1.StorageClass {
	if claim.Spec.StorageClassName == nil {
		return nil
	}
	class, _ := p.classes.Get("", *claim.Spec.StorageClassName)
	return class
}

func (p *volumeBinding) Filter(c *Cycle, n *NodeInfo) *Status {
	found := noted[*podVolumes](c, p.Name())
	for _, pv := range found.bound {
		if !reachable(pv, n.Node) {
			return verdict(Unresolvable, "node(s) didn't match PersistentVolume's node affinity")
		}
	}
	if _, ok := p.match(found.waiting, n.Node); !ok {
		return verdict(Unresolvable, "node(s) didn't find available persistent volumes to bind")
	}
	return nil
}

// reachable says whether a volume can be used on a node.
func reachable(pv *corev1.PersistentVolume, node *corev1.Node) bool {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return true
	}
	selector, err := nodeaffinity.NewNodeSelector(pv.Spec.NodeAffinity.Required)
	return err == nil && selector.Match(node)
}

// match finds a volume on the node for each waiting claim, the smallest that
// fits; a claim whose class can provision there needs none. ok is false when
// some claim could have neither.
func (p *volumeBinding) match(waiting []waitingClaim, node *corev1.Node) (chosen map[string]*corev1.PersistentVolume, ok bool) {
	chosen = map[string]*corev1.PersistentVolume{}
	used := map[string]bool{}
	for _, w := range waiting {
		var best *corev1.PersistentVolume
		for _, pv := range p.volumes.List() {
			if used[pv.Name] || !p.free(pv, w.claim) || !suits(pv, w.claim) || !reachable(pv, node) {
				continue
			}
			if best == nil || capacity(pv).Cmp(*capacity(best)) < 0 {
				best = pv
			}
		}
		switch {
		case best != nil:
			used[best.Name] = true
			chosen[w.claim.Name] = best
		case !provisions(w.class, node):
			return nil, false
		}
	}
	return chosen, true
}

func capacity(pv *corev1.PersistentVolume) *resource.Quantity { return pv.Spec.Capacity.Storage() }

// free says whether a volume is nobody's, or already meant for the claim.
func (p *volumeBinding) free(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if uid, ok := p.taken[pv.Name]; ok && uid != claim.UID {
		return false
	}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return pv.Status.Phase == corev1.VolumeAvailable && pv.DeletionTimestamp == nil
	}
	return ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// suits says whether a volume has what a claim asks for.
func suits(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	if pv.Spec.StorageClassName != *claim.Spec.StorageClassName {
		return false
	}
	if claim.Spec.Selector != nil && !selectorOrNothing(claim.Spec.Selector).Matches(labels.Set(pv.Labels)) {
		return false
	}
	for _, mode := range claim.Spec.AccessModes {
		if !slices.Contains(pv.Spec.AccessModes, mode) {
			return false
		}
	}
	return volumeMode(pv.Spec.VolumeMode) == volumeMode(claim.Spec.VolumeMode) &&
		capacity(pv).Cmp(*claim.Spec.Resources.Requests.Storage()) >= 0
}

func volumeMode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

// provisions says whether a class can make volumes for a node.
func provisions(class *storagev1.StorageClass, node *corev1.Node) bool {
	if class.Provisioner == "" || class.Provisioner == "kubernetes.io/no-provisioner" {
		return false
	}
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		for _, e := range t.MatchLabelExpressions {
			if !slices.Contains(e.Values, node.Labels[e.Key]) {
				return false
			}
		}
		return true
	})
}

// Reserve keeps the volumes of the chosen node from the next pods.
func (p *volumeBinding) Reserve(c *Cycle, node string) *Status {
	found := noted[*podVolumes](c, p.Name())
	if found == nil || len(found.waiting) == 0 {
		return nil
	}
	chosen, ok := p.match(found.waiting, c.Snapshot.Nodes[c.Snapshot.index[node]].Node)
	if !ok {
		return verdict(Unschedulable, "node(s) didn't find available persistent volumes to bind")
	}
	found.chosen = chosen
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range found.waiting {
		if pv := chosen[w.claim.Name]; pv != nil {
			p.taken[pv.Name] = w.claim.UID
		}
	}
	return nil
}

// Unreserve gives the volumes back; those that were written to the API server
// by then stay the claim's.
func (p *volumeBinding) Unreserve(c *Cycle, _ string) {
	found := noted[*podVolumes](c, p.Name())
	if found == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pv := range found.chosen {
		delete(p.taken, pv.Name)
	}
}

// PreBind tells the volume binder what was decided, and waits until every claim
// is bound.
func (p *volumeBinding) PreBind(ctx context.Context, c *Cycle, node string) *Status {
	found := noted[*podVolumes](c, p.Name())
	if found == nil || len(found.waiting) == 0 {
		return nil
	}
	defer p.Unreserve(c, node)
	for _, w := range found.waiting {
		if err := p.decide(ctx, w.claim, found.chosen[w.claim.Name], node); err != nil {
			return failed(fmt.Errorf("binding volumes: %w", err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	// The binder answers within milliseconds; a provisioner may take its time.
	tick := time.NewTicker(timing.VolumeBindPoll)
	defer tick.Stop()
	for {
		if p.allBound(found.waiting) {
			return nil
		}
		select {
		case <-ctx.Done():
			return failed(fmt.Errorf("binding volumes: %w", ctx.Err()))
		case <-tick.C:
		}
	}
}

// decide gives a claim its volume, or has one provisioned on the node.
func (p *volumeBinding) decide(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, node string) error {
	if pv != nil {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": pv.ResourceVersion, "annotations": map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}},
			"spec": map[string]any{"claimRef": corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			}},
		})
		if err != nil {
			return err
		}
		_, err = client.For[*corev1.PersistentVolume](p.c).Patch(ctx, "", pv.Name, types.StrategicMergePatchType, patch)
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": claim.UID, "annotations": map[string]string{"volume.kubernetes.io/selected-node": node},
	}})
	if err != nil {
		return err
	}
	_, err = client.For[*corev1.PersistentVolumeClaim](p.c).Patch(ctx, claim.Namespace, claim.Name, types.StrategicMergePatchType, patch)
	return err
}

func (p *volumeBinding) allBound(waiting []waitingClaim) bool {
	for _, w := range waiting {
		claim, ok := p.claims.Get(w.claim.Namespace, w.claim.Name)
		if !ok || claim.Status.Phase != corev1.ClaimBound {
			return false
		}
	}
	return true
}

// newVolumeBinding watches what it needs; changes of storage have pods tried
// again that wait for it.
func newVolumeBinding(inf *client.Informers, changed func(), timeScale float64) *volumeBinding {
	p := &volumeBinding{
		c:       inf.Client(),
		claims:  client.InformerFor[*corev1.PersistentVolumeClaim](inf),
		volumes: client.InformerFor[*corev1.PersistentVolume](inf),
		classes: client.InformerFor[*storagev1.StorageClass](inf),
		taken:   map[string]types.UID{},
		timeout: timing.VolumeBindTimeout,
	}
	timing.Scale(timeScale, &p.timeout)
	p.claims.AddHandler(client.HandlerFunc(func(*corev1.PersistentVolumeClaim) { changed() }))
	p.volumes.AddHandler(client.HandlerFunc(func(*corev1.PersistentVolume) { changed() }))
	p.classes.AddHandler(client.HandlerFunc(func(*storagev1.StorageClass) { changed() }))
	return p
}

func (p *volumeBinding) Helps(ev ClusterEvent, _ *corev1.Pod) bool {
	return ev.Node != nil || ev.Storage
}
