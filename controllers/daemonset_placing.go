package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"orrery/client"
)

// This file decides which node gets a daemon pod and which loses one. Nothing
// here touches the API.
//
// Upstream: pkg/controller/daemon/daemon_controller.go, podsShouldBeOnNode,
// NodeShouldRunDaemonPod; update.go, rollingUpdate; util/daemonset_util.go.

// templateGenerationLabel is an older way to tell old daemon pods from new ones.
const templateGenerationLabel = "pod-template-generation"

// daemonView is one look at a DaemonSet: its pods by node.
type daemonView struct {
	nodes []*corev1.Node
	pods  map[string][]*corev1.Pod // by target node, oldest first
	hash  string                   // of the newest template
	now   time.Time
}

// daemonPlan is what is to be done.
type daemonPlan struct {
	create []string // node names
	remove []*corev1.Pod
	notes  []note
}

type note struct{ eventType, reason, message string }

func viewDaemons(ds *appsv1.DaemonSet, nodes []*corev1.Node, pods []*corev1.Pod, hash string, now time.Time) daemonView {
	v := daemonView{nodes: nodes, pods: map[string][]*corev1.Pod{}, hash: hash, now: now}
	slices.SortFunc(v.nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmpBool(a.Spec.NodeName == "", b.Spec.NodeName == ""), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range pods {
		if podFinished(p) && p.DeletionTimestamp != nil {
			continue // its place is free
		}
		node := targetNode(p)
		v.pods[node] = append(v.pods[node], p)
	}
	return v
}

// targetNode is where a daemon pod is or will be: its node, or the one that its
// affinity names.
func targetNode(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
					return f.Values[0]
				}
			}
		}
	}
	return ""
}

// daemonTolerations are what lets daemon pods stay where others must leave.
func daemonTolerations(hostNetwork bool) []corev1.Toleration {
	out := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	}
	if hostNetwork {
		out = append(out, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// addTolerations adds those that are not there yet.
func addTolerations(spec *corev1.PodSpec) {
	for _, t := range daemonTolerations(spec.HostNetwork) {
		if !slices.ContainsFunc(spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) && have.TolerationSeconds == nil }) {
			spec.Tolerations = append(spec.Tolerations, t)
		}
	}
}

// tolerated says whether all taints with one of the effects are tolerated.
func tolerated(taints []corev1.Taint, tolerations []corev1.Toleration, effects ...corev1.TaintEffect) bool {
	for _, taint := range taints {
		if slices.Contains(effects, taint.Effect) && !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			return t.ToleratesTaint(klog.Background(), &taint, false)
		}) {
			return false
		}
	}
	return true
}

// fits says whether a daemon pod should be started on a node, and whether one
// that runs there may stay.
func fits(ds *appsv1.DaemonSet, node *corev1.Node) (start, stay bool) {
	if n := ds.Spec.Template.Spec.NodeName; n != "" && n != node.Name {
		return false, false
	}
	pod := &corev1.Pod{Spec: *ds.Spec.Template.Spec.DeepCopy()}
	addTolerations(&pod.Spec)
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return false, false
	}
	if tolerated(node.Spec.Taints, pod.Spec.Tolerations, corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule) {
		return true, true
	}
	return false, tolerated(node.Spec.Taints, pod.Spec.Tolerations, corev1.TaintEffectNoExecute)
}

// daemonPod is a pod of the set for one node.
func daemonPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	pod := podFrom(&ds.Spec.Template, ds, daemonSetKind)
	addTolerations(&pod.Spec)
	pod.Labels = withLabel(pod.Labels, appsv1.ControllerRevisionHashLabelKey, hash)
	if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
		pod.Labels[templateGenerationLabel] = g
	}
	term := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
	}}
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}
	return pod
}

// isNew says whether a pod is of the newest template.
func (v daemonView) isNew(ds *appsv1.DaemonSet, p *corev1.Pod) bool {
	g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return p.Labels[appsv1.ControllerRevisionHashLabelKey] == v.hash || g != "" && p.Labels[templateGenerationLabel] == g
}

// place gives each node one pod. mayRetry says whether a failed pod on a node may
// be replaced already.
func (v daemonView) place(ds *appsv1.DaemonSet, mayRetry func(node string) bool) (plan daemonPlan) {
	surge, _ := daemonBounds(ds, len(v.nodes))
	known := map[string]bool{}
	for _, node := range v.nodes {
		known[node.Name] = true
		start, stay := fits(ds, node)
		pods := v.pods[node.Name]
		switch {
		case start && len(pods) == 0:
			plan.create = append(plan.create, node.Name)
		case stay:
			v.thin(ds, node.Name, pods, surge > 0, mayRetry, &plan)
		default:
			plan.remove = append(plan.remove, filter(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil })...)
		}
	}
	for node, pods := range v.pods { // waiting for a node that is gone
		if !known[node] {
			plan.remove = append(plan.remove, filter(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && p.Spec.NodeName == "" })...)
		}
	}
	return plan
}

// thin removes finished pods from a node, and pods beyond the first (with surge:
// beyond one old and one new).
func (v daemonView) thin(ds *appsv1.DaemonSet, node string, pods []*corev1.Pod, surge bool, mayRetry func(string) bool, plan *daemonPlan) {
	var running []*corev1.Pod
	for _, p := range pods {
		switch {
		case p.DeletionTimestamp != nil:
		case p.Status.Phase == corev1.PodFailed:
			if mayRetry(node) {
				plan.notes = append(plan.notes, note{warning, "FailedDaemonPod", fmt.Sprintf("Found failed daemon pod %s on node %s, will try to kill it", client.Key(p), node)})
				plan.remove = append(plan.remove, p)
			}
		case p.Status.Phase == corev1.PodSucceeded:
			plan.notes = append(plan.notes, note{normal, "SucceededDaemonPod", fmt.Sprintf("Found succeeded daemon pod %s on node %s, will try to delete it", client.Key(p), node)})
			plan.remove = append(plan.remove, p)
		default:
			running = append(running, p)
		}
	}
	if !surge {
		if len(running) > 1 {
			plan.remove = append(plan.remove, running[1:]...)
		}
		return
	}
	var old, young *corev1.Pod
	for _, p := range running {
		switch {
		case v.isNew(ds, p) && young == nil:
			young = p
		case !v.isNew(ds, p) && old == nil:
			old = p
		default:
			plan.remove = append(plan.remove, p)
		}
	}
	if old != nil && young != nil && (!podReady(old) || v.available(ds, young)) {
		plan.remove = append(plan.remove, old)
	}
}

func (v daemonView) available(ds *appsv1.DaemonSet, p *corev1.Pod) bool {
	ok, _ := podAvailable(p, time.Duration(ds.Spec.MinReadySeconds)*time.Second, v.now)
	return ok
}

// daemonBounds are maxSurge and maxUnavailable in pods, of desired nodes.
func daemonBounds(ds *appsv1.DaemonSet, desired int) (surge, unavailable int) {
	ru := ds.Spec.UpdateStrategy.RollingUpdate
	if ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || ru == nil {
		return 0, 1
	}
	surge, _ = intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxSurge, intstr.FromInt32(0)), desired, true)
	unavailable, _ = intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(ru.MaxUnavailable, intstr.FromInt32(1)), desired, true)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// roll replaces old pods as far as the bounds allow: those that do not work at
// once, the others one by one.
func (v daemonView) roll(ds *appsv1.DaemonSet) (plan daemonPlan) {
	desired := 0
	for _, node := range v.nodes {
		if start, _ := fits(ds, node); start {
			desired++
		}
	}
	surge, budget := daemonBounds(ds, desired)
	var broken, healthy []*corev1.Pod
	for _, node := range v.nodes {
		pods := v.pods[node.Name]
		if len(pods) == 0 {
			continue
		}
		living := filter(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil })
		old := filter(living, func(p *corev1.Pod) bool { return !v.isNew(ds, p) })
		young := filter(living, func(p *corev1.Pod) bool { return v.isNew(ds, p) })
		switch {
		case surge > 0 && len(old) == 1 && len(young) == 0:
			if v.available(ds, old[0]) {
				healthy = append(healthy, old[0])
			} else {
				broken = append(broken, old[0])
			}
		case surge > 0 && len(old) == 1: // a new pod is coming up beside the old one
			surge--
			if surge == 0 {
				return plan
			}
		case len(old) == 1 && len(young) == 0:
			if v.available(ds, old[0]) {
				healthy = append(healthy, old[0])
			} else {
				broken = append(broken, old[0])
				budget--
			}
		case len(young) == 1 && len(old) == 0 && v.available(ds, young[0]):
		default:
			budget--
		}
	}
	if surge > 0 {
		for _, p := range append(broken, healthy[:min(len(healthy), surge)]...) {
			plan.create = append(plan.create, targetNode(p))
		}
		return plan
	}
	plan.remove = append(broken, healthy[:min(len(healthy), max(0, budget))]...)
	return plan
}

// status counts nodes and pods, and says when a ready pod will be available.
func (v daemonView) status(ds *appsv1.DaemonSet) (s appsv1.DaemonSetStatus, after time.Duration) {
	s = appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, CollisionCount: ds.Status.CollisionCount, Conditions: ds.Status.Conditions}
	for _, node := range v.nodes {
		pods := v.pods[node.Name]
		start, _ := fits(ds, node)
		if !start {
			if len(pods) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		first := pods[0]
		if podReady(first) {
			s.NumberReady++
			ok, left := podAvailable(first, time.Duration(ds.Spec.MinReadySeconds)*time.Second, v.now)
			if ok {
				s.NumberAvailable++
			} else if left > 0 && (after == 0 || left < after) {
				after = left
			}
		}
		if v.isNew(ds, first) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s, after
}

// backOff spaces out retries by key: first at once, then after initial, 2*initial
// ... up to most; a key that is quiet for twice the most starts again.
type backOff struct {
	initial, most time.Duration
	mu            sync.Mutex
	m             map[string]backOffEntry
}

type backOffEntry struct {
	wait time.Duration
	last time.Time
}

func newBackOff(initial, most time.Duration) *backOff {
	return &backOff{initial: initial, most: most, m: map[string]backOffEntry{}}
}

// ready says whether key may be tried now, and if so counts the try.
func (b *backOff) ready(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.m[key]
	quiet := time.Since(e.last)
	switch {
	case !ok || quiet > 2*b.most:
		b.m[key] = backOffEntry{b.initial, time.Now()}
		return true
	case quiet < e.wait:
		return false
	}
	b.m[key] = backOffEntry{min(2*e.wait, b.most), time.Now()}
	return true
}

// left is the shortest wait of the keys under a prefix, 0 if none waits.
func (b *backOff) left(prefix string) (least time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, e := range b.m {
		quiet := time.Since(e.last)
		if quiet > 2*b.most {
			delete(b.m, key)
			continue
		}
		if left := e.wait - quiet; len(key) > len(prefix) && key[:len(prefix)+1] == prefix+"/" && left > 0 && (least == 0 || left < least) {
			least = left
		}
	}
	return least
}
