package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"orrery/client"
)

var statefulSetKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// statefulSets is the StatefulSet controller.
//
// Watches: StatefulSets, Pods, ControllerRevisions, PersistentVolumeClaims.
// Wants: pods name-0 ... name-n-1, each with claims of its own, and never two of
// one name: a pod on a dead node is not replaced before it is surely gone.
// Does: one step at a time in the order of ordinals (or all at once, Parallel):
// creates with claims first, waits until ready, scales down from the top,
// updates from the top down to the partition; keeps revisions.
// Upstream: pkg/controller/statefulset, StatefulSetController.
type statefulSets struct {
	*client.Controller
	sets     *client.Informer[*appsv1.StatefulSet]
	pods     *client.Informer[*corev1.Pod]
	claims   *client.Informer[*corev1.PersistentVolumeClaim]
	api      *client.Resource[*appsv1.StatefulSet]
	podAPI   *client.Resource[*corev1.Pod]
	claimAPI *client.Resource[*corev1.PersistentVolumeClaim]
	history  *history
	recorder *client.Recorder
	own      *consistency
}

func startStatefulSet(e *env) (func(context.Context) error, error) {
	c := &statefulSets{
		sets: watching[*appsv1.StatefulSet](e), pods: watching[*corev1.Pod](e), claims: watching[*corev1.PersistentVolumeClaim](e),
		api: client.For[*appsv1.StatefulSet](e.client), podAPI: client.For[*corev1.Pod](e.client),
		claimAPI: client.For[*corev1.PersistentVolumeClaim](e.client),
		history:  newHistory(e, statefulSetKind), recorder: e.recorder("statefulset-controller"), own: newConsistency(),
	}
	c.Controller = client.NewController("statefulset-controller", c.reconcile)
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.sets.AddHandler(client.On[*appsv1.StatefulSet](c.Controller))
	c.pods.AddHandler(ownedHandler[*appsv1.StatefulSet, *corev1.Pod](c.Queue.Add, "StatefulSet", c.sets, func(s *appsv1.StatefulSet) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(s.Spec.Selector)
	}))
	return c.Run, nil
}

// statefulHash is the hash in the name of a revision.
//
// Upstream: pkg/controller/history/controller_history.go, HashControllerRevision.
func statefulHash(data []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions != nil {
		h.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

func (c *statefulSets) reconcile(ctx context.Context, key string) (client.Result, error) {
	if err := c.own.ready(key); err != nil {
		return client.Result{}, err
	}
	cached, ok := c.sets.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	set := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return client.Result{}, err
	}
	fresh := func(ctx context.Context) (metav1.Object, error) { return c.api.Get(ctx, set.Namespace, set.Name) }
	revisions, err := c.history.list(ctx, set, selector, fresh)
	if err != nil {
		return client.Result{}, err
	}
	claimer := claimer[*corev1.Pod]{resource: c.podAPI, owner: set, kind: statefulSetKind, selector: selector, fresh: fresh}
	pods, err := claimer.claim(ctx, filter(candidates(c.pods, set), func(p *corev1.Pod) bool {
		parent, _ := ordinalOf(p)
		return parent == set.Name || metav1.IsControlledBy(p, set)
	}))
	if err != nil {
		return client.Result{}, err
	}
	current, update, err := c.revisions(ctx, set, revisions)
	if err != nil {
		return client.Result{}, err
	}
	view := viewStateful(set, pods, current, update, time.Now())
	var stepErr error
	if set.DeletionTimestamp == nil {
		stepErr = c.step(ctx, set, view)
	}
	status, after := view.status()
	if !equality.Semantic.DeepEqual(set.Status, status) {
		set.Status = status
		written, err := c.api.UpdateStatus(ctx, set)
		if err != nil {
			return client.Result{}, errors.Join(stepErr, err)
		}
		c.own.wrote(key, c.sets, written)
	}
	live := map[string]bool{current.Name: true, update.Name: true}
	for _, p := range pods {
		live[p.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	if stepErr == nil {
		stepErr = c.history.trim(ctx, revisions, live, set.Spec.RevisionHistoryLimit)
	}
	return client.Result{RequeueAfter: after}, stepErr
}

// revisions are the revision that the pods came from and the one they go to.
func (c *statefulSets) revisions(ctx context.Context, set *appsv1.StatefulSet, old []*appsv1.ControllerRevision) (current, update *appsv1.ControllerRevision, err error) {
	data, err := templatePatch(set.Spec.Template)
	if err != nil {
		return nil, nil, err
	}
	hash := statefulHash(data, set.Status.CollisionCount)
	update, err = c.history.current(ctx, old, newRevision(set, statefulSetKind, hash, data, withLabel(set.Spec.Template.Labels, "controller.kubernetes.io/hash", hash)))
	if _, collided := errors.AsType[errCollision](err); collided {
		n := int32(1)
		if set.Status.CollisionCount != nil {
			n += *set.Status.CollisionCount
		}
		set.Status.CollisionCount = &n
		if _, err := c.api.UpdateStatus(ctx, set); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for _, r := range old {
		if r.Name == set.Status.CurrentRevision {
			return r, update, nil
		}
	}
	return update, update, nil
}

// templateAt is the set's template as a revision has it.
func templateAt(set *appsv1.StatefulSet, r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	data, err := templatePatch(set.Spec.Template)
	if err != nil || bytes.Equal(data, r.Data.Raw) {
		return &set.Spec.Template, err
	}
	raw, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	patched, err := strategicpatch.StrategicMergePatch(raw, r.Data.Raw, set)
	if err != nil {
		return nil, err
	}
	var then appsv1.StatefulSet
	err = json.Unmarshal(patched, &then)
	return &then.Spec.Template, err
}

// step does what the view says is next.
func (c *statefulSets) step(ctx context.Context, set *appsv1.StatefulSet, view statefulView) error {
	for _, a := range view.next() {
		var err error
		switch {
		case a.create:
			err = c.create(ctx, set, a.ordinal, view.revisionFor(a.ordinal))
		case a.replace:
			err = c.delete(ctx, set, a.pod)
			if err == nil && a.pod.Status.Phase == corev1.PodFailed {
				c.recorder.Eventf(set, warning, "RecreatingFailedPod", "StatefulSet %s is recreating failed Pod %s", client.Key(set), a.pod.Name)
			}
		default:
			err = c.delete(ctx, set, a.pod)
		}
		if err != nil {
			return err
		}
	}
	return c.keepClaims(ctx, set, view)
}

func (c *statefulSets) delete(ctx context.Context, set *appsv1.StatefulSet, p *corev1.Pod) error {
	err := c.podAPI.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	c.tell(set, "delete", p.Name, "", err)
	return ignoring(err, apierrors.IsNotFound)
}

// tell writes the event of a verb and its outcome.
func (c *statefulSets) tell(set *appsv1.StatefulSet, verb, pod, claim string, err error) {
	name := strings.ToUpper(verb[:1]) + verb[1:]
	what, done, failed := "Pod "+pod, "successful", "Pod "+pod
	if claim != "" {
		what, done, failed = fmt.Sprintf("Claim %s Pod %s", claim, pod), "success", fmt.Sprintf("Claim %s for Pod %s", claim, pod)
	}
	if err == nil {
		c.recorder.Eventf(set, normal, "Successful"+name, "%s %s in StatefulSet %s %s", name, what, set.Name, done)
	} else {
		c.recorder.Eventf(set, warning, "Failed"+name, "%s %s in StatefulSet %s failed error: %s", name, failed, set.Name, err)
	}
}

// create makes the claims of a pod, then the pod.
func (c *statefulSets) create(ctx context.Context, set *appsv1.StatefulSet, ordinal int, revision *appsv1.ControllerRevision) error {
	template, err := templateAt(set, revision)
	if err != nil {
		return err
	}
	pod := statefulPod(set, template, ordinal, revision.Name)
	for _, claim := range statefulClaims(set, ordinal) {
		if have, ok := c.claims.Get(claim.Namespace, claim.Name); ok {
			if have.DeletionTimestamp != nil {
				return fmt.Errorf("pvc %s is being deleted", claim.Name)
			}
			continue
		}
		if _, err := c.claimAPI.Create(ctx, claim); apierrors.IsAlreadyExists(err) {
			continue
		} else if err != nil {
			c.tell(set, "create", pod.Name, claim.Name, err)
			return err
		}
		c.tell(set, "create", pod.Name, claim.Name, nil)
	}
	created, err := c.podAPI.Create(ctx, pod)
	if apierrors.IsAlreadyExists(err) {
		return nil // the cache is behind
	}
	if err == nil {
		c.own.wrote(client.Key(set), c.pods, created)
	}
	c.tell(set, "create", pod.Name, "", err)
	return err
}

// keepClaims makes claims owned by the set, or by a pod that is to go, as
// persistentVolumeClaimRetentionPolicy says.
func (c *statefulSets) keepClaims(ctx context.Context, set *appsv1.StatefulSet, view statefulView) error {
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return nil
	}
	for _, p := range view.pods {
		_, ordinal := ordinalOf(p)
		for _, want := range statefulClaims(set, ordinal) {
			claim, ok := c.claims.Get(want.Namespace, want.Name)
			if !ok {
				continue
			}
			refs := claimOwners(claim.OwnerReferences, policy, set, p, !view.wanted(ordinal))
			if equality.Semantic.DeepEqual(refs, claim.OwnerReferences) {
				continue
			}
			raw, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": claim.ResourceVersion, "ownerReferences": refs}})
			if err != nil {
				return err
			}
			if _, err := c.claimAPI.Patch(ctx, claim.Namespace, claim.Name, types.MergePatchType, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// claimOwners are the owners that a claim shall have.
func claimOwners(have []metav1.OwnerReference, policy *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, set *appsv1.StatefulSet, pod *corev1.Pod, condemned bool) []metav1.OwnerReference {
	refs := filter(have, func(r metav1.OwnerReference) bool { return r.UID != set.UID && r.UID != pod.UID })
	switch {
	case policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && condemned:
		refs = append(refs, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID})
	case policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		refs = append(refs, *metav1.NewControllerRef(set, statefulSetKind))
	}
	return refs
}

// ordinalOf splits name-3 into name and 3; -1 for names of another form.
func ordinalOf(p *corev1.Pod) (parent string, ordinal int) {
	i := strings.LastIndexByte(p.Name, '-')
	if i < 0 {
		return "", -1
	}
	n, err := strconv.Atoi(p.Name[i+1:])
	if err != nil {
		return "", -1
	}
	return p.Name[:i], n
}

// statefulClaims are the claims of one pod: <template>-<set>-<ordinal>.
func statefulClaims(set *appsv1.StatefulSet, ordinal int) (out []*corev1.PersistentVolumeClaim) {
	for i := range set.Spec.VolumeClaimTemplates {
		claim := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		claim.Namespace, claim.Name = set.Namespace, fmt.Sprintf("%s-%s-%d", claim.Name, set.Name, ordinal)
		for k, v := range set.Spec.Selector.MatchLabels {
			claim.Labels = withLabel(claim.Labels, k, v)
		}
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		out = append(out, claim)
	}
	return out
}

// statefulPod is the pod of an ordinal.
func statefulPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, ordinal int, revision string) *corev1.Pod {
	pod := podFrom(template, set, statefulSetKind)
	pod.GenerateName, pod.Name = "", fmt.Sprintf("%s-%d", set.Name, ordinal)
	pod.Labels = withLabel(pod.Labels, appsv1.StatefulSetPodNameLabel, pod.Name)
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	for i, claim := range statefulClaims(set, ordinal) {
		name := set.Spec.VolumeClaimTemplates[i].Name
		pod.Spec.Volumes = slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name},
		}})
	}
	return pod
}
