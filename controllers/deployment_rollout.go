package controllers

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
)

// This file is the arithmetic of rollouts: which ReplicaSet gets which size.
// Nothing here touches the API.
//
// Upstream: pkg/controller/deployment/util/deployment_util.go, rolling.go, sync.go.

const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredAnnotation         = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation             = "deployment.kubernetes.io/max-replicas"
	// revisionHistoryLength bounds the history annotation, in characters.
	revisionHistoryLength = 2000
)

// notCopied are annotations of a deployment that its ReplicaSets do not get.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true, revisionAnnotation: true, revisionHistoryAnnotation: true,
	desiredAnnotation: true, maxAnnotation: true, appsv1.DeprecatedRollbackTo: true,
}

// step is one resizing.
type step struct {
	rs *appsv1.ReplicaSet
	to int32
}

// templateHash is the pod-template-hash of a template, and the suffix of its
// ReplicaSet's name: FNV-1a over Go's printed form of the struct, so that it
// depends on the very types of k8s.io/api, as upstream's does.
//
// Upstream: pkg/controller/controller_utils.go, ComputeHash.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*t))
	if collisions != nil {
		b := make([]byte, 8)
		binary.LittleEndian.PutUint32(b, uint32(*collisions))
		h.Write(b)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// sameTemplate compares templates without the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

func byCreation(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
}

func byRevision(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) }

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) (most int64) {
	for _, rs := range sets {
		most = max(most, revisionOf(rs))
	}
	return most
}

// fenceposts are maxSurge and maxUnavailable in pods: surge rounded up,
// unavailability down, and never both zero.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	ru, n := d.Spec.Strategy.RollingUpdate, int(*d.Spec.Replicas)
	s, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxSurge, intstr.FromInt32(0)), n, true)
	u, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxUnavailable, intstr.FromInt32(0)), n, false)
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(u)
}

func maxSurge(d *appsv1.Deployment) int32 {
	s, _ := fenceposts(d)
	return s
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, u := fenceposts(d)
	return min(u, *d.Spec.Replicas)
}

// total adds up one figure of several ReplicaSets.
func total(sets []*appsv1.ReplicaSet, figure func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, rs := range sets {
		if rs != nil {
			n += figure(rs)
		}
	}
	return n
}

func wanted(rs *appsv1.ReplicaSet) int32    { return *rs.Spec.Replicas }
func available(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }

// newSize is what the new ReplicaSet may grow to without exceeding the surge.
func newSize(d *appsv1.Deployment, next *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return *d.Spec.Replicas
	}
	current := total(old, wanted) + wanted(next)
	most := *d.Spec.Replicas + maxSurge(d)
	if current >= most {
		return wanted(next)
	}
	return wanted(next) + min(most-current, *d.Spec.Replicas-wanted(next))
}

// rollingUp is the growth of the new ReplicaSet that is allowed now.
func rollingUp(d *appsv1.Deployment, next *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []step {
	want := *d.Spec.Replicas
	if wanted(next) == want {
		return nil
	}
	if wanted(next) < want {
		want = newSize(d, next, old)
	}
	if want == wanted(next) {
		return nil
	}
	return []step{{next, want}}
}

// rollingDown is the shrinking of old ReplicaSets that keeps enough pods
// available: unhealthy pods first, since they cost nothing.
func rollingDown(d *appsv1.Deployment, next *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []step {
	// The pods of a ReplicaSet that wants none are going, whatever its status says yet.
	old = filter(old, func(rs *appsv1.ReplicaSet) bool { return wanted(rs) > 0 })
	if len(old) == 0 {
		return nil
	}
	all := append(slices.Clone(old), next)
	least := *d.Spec.Replicas - maxUnavailable(d)
	budget := total(all, wanted) - least - (wanted(next) - available(next))
	if budget <= 0 {
		return nil
	}
	size := map[*appsv1.ReplicaSet]int32{}
	for _, rs := range old {
		size[rs] = wanted(rs)
		if available(rs) > wanted(rs) {
			return nil // its status is of before it shrank: these pods must not be counted again
		}
		unhealthy := min(budget, max(0, wanted(rs)-available(rs)))
		size[rs], budget = size[rs]-unhealthy, budget-unhealthy
	}
	spare := total(all, available) - least
	for _, rs := range old {
		n := min(size[rs], max(0, spare))
		size[rs], spare = size[rs]-n, spare-n
	}
	var steps []step
	for _, rs := range old {
		if size[rs] != wanted(rs) {
			steps = append(steps, step{rs, size[rs]})
		}
	}
	return steps
}

// scaled says whether spec.replicas changed since the ReplicaSets were last sized.
func scaled(d *appsv1.Deployment, all []*appsv1.ReplicaSet) bool {
	for _, rs := range all {
		if n, ok := intAnnotation(rs, desiredAnnotation); ok && wanted(rs) > 0 && n != *d.Spec.Replicas {
			return true
		}
	}
	return false
}

// rescaling spreads a new spec.replicas over the ReplicaSets that have pods, in
// proportion to their sizes, so that a bad new template does not profit from it.
func rescaling(d *appsv1.Deployment, next *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []step {
	active := func(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
		return filter(sets, func(rs *appsv1.ReplicaSet) bool { return rs != nil && wanted(rs) > 0 })
	}
	living := active(append(slices.Clone(old), next))
	if len(living) < 2 {
		var one *appsv1.ReplicaSet
		switch {
		case len(living) == 1:
			one = living[0]
		case next != nil:
			one = next
		case len(old) > 0:
			one = old[len(old)-1]
		}
		if one == nil || wanted(one) == *d.Spec.Replicas {
			return nil
		}
		return []step{{one, *d.Spec.Replicas}}
	}
	if saturated(d, next) {
		var steps []step
		for _, rs := range active(old) {
			steps = append(steps, step{rs, 0})
		}
		return steps
	}
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	return proportional(d, living)
}

func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	n, ok := intAnnotation(rs, desiredAnnotation)
	want := *d.Spec.Replicas
	return ok && n == want && wanted(rs) == want && available(rs) == want
}

func proportional(d *appsv1.Deployment, living []*appsv1.ReplicaSet) []step {
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge(d)
	}
	toAdd := allowed - total(living, wanted)
	// The largest first; among equals the newer when growing, the older when shrinking.
	slices.SortStableFunc(living, func(a, b *appsv1.ReplicaSet) int {
		if c := cmp.Compare(wanted(b), wanted(a)); c != 0 {
			return c
		}
		if toAdd > 0 {
			return byCreation(b, a)
		}
		return byCreation(a, b)
	})
	var steps []step
	added := int32(0)
	for _, rs := range living {
		share := proportion(d, rs, toAdd, added)
		added += share
		steps = append(steps, step{rs, wanted(rs) + share})
	}
	steps[0].to = max(0, steps[0].to+toAdd-added) // what rounding left over
	return steps
}

// proportion is the part of toAdd that falls to one ReplicaSet.
func proportion(d *appsv1.Deployment, rs *appsv1.ReplicaSet, toAdd, added int32) int32 {
	if toAdd == 0 || toAdd == added {
		return 0
	}
	share := -wanted(rs)
	if *d.Spec.Replicas > 0 {
		before, ok := intAnnotation(rs, maxAnnotation)
		if !ok || before == 0 {
			before = d.Status.Replicas
		}
		size := float64(wanted(rs)) * float64(*d.Spec.Replicas+maxSurge(d)) / float64(before)
		share = int32(math.Round(size)) - wanted(rs)
	}
	if toAdd > 0 {
		return min(share, toAdd-added)
	}
	return max(share, toAdd-added)
}

func intAnnotation(rs *appsv1.ReplicaSet, name string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[name], 10, 32)
	return int32(n), err == nil
}

// setAnnotation sets one and says whether that changed anything.
func setAnnotation(m *metav1.ObjectMeta, name, value string) bool {
	if old, ok := m.Annotations[name]; ok && old == value {
		return false
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[name] = value
	return true
}

func noteReplicas(rs *appsv1.ReplicaSet, desired, most int32) bool {
	a := setAnnotation(&rs.ObjectMeta, desiredAnnotation, strconv.Itoa(int(desired)))
	b := setAnnotation(&rs.ObjectMeta, maxAnnotation, strconv.Itoa(int(most)))
	return a || b
}

// annotateRevision gives a ReplicaSet the deployment's annotations and, if it is
// higher than its own, a revision: an old ReplicaSet that becomes the new one by
// a rollback moves to the top, and remembers which revision it was.
func annotateRevision(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64, exists bool) bool {
	changed := false
	for k, v := range d.Annotations {
		if !notCopied[k] {
			changed = setAnnotation(&rs.ObjectMeta, k, v) || changed
		}
	}
	before, had := rs.Annotations[revisionAnnotation]
	if number, err := strconv.ParseInt(before, 10, 64); had && err != nil {
		return changed // not ours to understand
	} else if number < revision {
		setAnnotation(&rs.ObjectMeta, revisionAnnotation, strconv.FormatInt(revision, 10))
		changed = true
		if had {
			history := rs.Annotations[revisionHistoryAnnotation]
			if history != "" {
				history += ","
			}
			history += before
			for len(history) > revisionHistoryLength && strings.Contains(history, ",") {
				_, history, _ = strings.Cut(history, ",")
			}
			setAnnotation(&rs.ObjectMeta, revisionHistoryAnnotation, history)
		}
	}
	if !exists && noteReplicas(rs, *d.Spec.Replicas, *d.Spec.Replicas+maxSurge(d)) {
		changed = true
	}
	return changed
}

// nextReplicaSet is the ReplicaSet of the deployment's template.
func nextReplicaSet(d *appsv1.Deployment, old []*appsv1.ReplicaSet, revision int64) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, deploymentKind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	rs.Spec.Replicas = new(newSize(d, rs, old))
	annotateRevision(d, rs, revision, false)
	return rs
}

// withLabel is a copy of labels with one more.
func withLabel(labels map[string]string, name, value string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[name] = value
	return out
}
