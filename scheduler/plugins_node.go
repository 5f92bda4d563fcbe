package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// schedulingGates keeps a pod out of the queue while it has gates.
//
// Upstream: pkg/scheduler/framework/plugins/schedulinggates.
type schedulingGates struct{}

func (schedulingGates) Name() string { return "SchedulingGates" }

func (schedulingGates) PreEnqueue(pod *corev1.Pod) *Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	var names []string
	for _, g := range pod.Spec.SchedulingGates {
		names = append(names, g.Name)
	}
	return verdict(Unresolvable, "waiting for scheduling gates: "+strings.Join(names, ", "))
}

// nodeUnschedulable turns pods away from cordoned nodes.
//
// Upstream: pkg/scheduler/framework/plugins/nodeunschedulable.
type nodeUnschedulable struct{}

func (nodeUnschedulable) Name() string { return "NodeUnschedulable" }

func (nodeUnschedulable) Filter(c *Cycle, n *NodeInfo) *Status {
	if !n.Node.Spec.Unschedulable {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(klog.Background(), c.Pod.Spec.Tolerations, &taint, true) {
		return nil
	}
	return verdict(Unresolvable, "node(s) were unschedulable")
}

func (nodeUnschedulable) Helps(ev ClusterEvent, _ *corev1.Pod) bool {
	return ev.Node != nil && !ev.Node.Spec.Unschedulable
}

// nodeName lets a pod that names a node go nowhere else.
//
// Upstream: pkg/scheduler/framework/plugins/nodename.
type nodeName struct{}

func (nodeName) Name() string { return "NodeName" }

func (nodeName) Filter(c *Cycle, n *NodeInfo) *Status {
	if name := c.Pod.Spec.NodeName; name != "" && name != n.Name() {
		return verdict(Unresolvable, "node(s) didn't match the requested node name")
	}
	return nil
}

func (nodeName) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	return ev.Node != nil && ev.Node.Name == pod.Spec.NodeName
}

// taintToleration turns pods away from nodes whose taints they do not tolerate,
// and prefers nodes with few PreferNoSchedule taints.
//
// Upstream: pkg/scheduler/framework/plugins/tainttoleration.
type taintToleration struct{}

func (taintToleration) Name() string { return "TaintToleration" }

func (taintToleration) Filter(c *Cycle, n *NodeInfo) *Status {
	if untolerated(n.Node.Spec.Taints, c.Pod) {
		return verdict(Unresolvable, "node(s) had untolerated taint(s)")
	}
	return nil
}

func untolerated(taints []corev1.Taint, pod *corev1.Pod) bool {
	_, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, true)
	return found
}

func (taintToleration) Score(c *Cycle, n *NodeInfo) int64 {
	var count int64
	for i := range n.Node.Spec.Taints {
		t := &n.Node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), c.Pod.Spec.Tolerations, t, true) {
			count++
		}
	}
	return count
}

func (taintToleration) Normalize(_ *Cycle, scores []NodeScore) { scaleToMax(scores, true) }

func (taintToleration) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	return ev.Node != nil && !untolerated(ev.Node.Spec.Taints, pod)
}

// nodeAffinity obeys a pod's node selector and node affinity.
//
// Upstream: pkg/scheduler/framework/plugins/nodeaffinity.
type nodeAffinity struct{}

func (nodeAffinity) Name() string { return "NodeAffinity" }

func (nodeAffinity) PreFilter(c *Cycle) *Status {
	a := c.Pod.Spec.Affinity
	if len(c.Pod.Spec.NodeSelector) == 0 && (a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil) {
		return verdict(Skip)
	}
	note(c, "NodeAffinity", nodeaffinity.GetRequiredNodeAffinity(c.Pod))
	names, named := namedNodes(a)
	if named && len(names) == 0 {
		return verdict(Unresolvable, "pod affinity terms conflict")
	}
	c.only = names
	return nil
}

// namedNodes are the nodes that every required term asks for by name, as the pods of
// a DaemonSet do. named is false if some term does not.
func namedNodes(a *corev1.Affinity) (names []string, named bool) {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil, false
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var all []string // the term's names: those in each of its requirements
		named = false
		for _, r := range term.MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !named {
				all, named = slices.Clone(r.Values), true
			}
			all = slices.DeleteFunc(all, func(name string) bool { return !slices.Contains(r.Values, name) })
		}
		if !named {
			return nil, false
		}
		names = append(names, all...)
	}
	slices.Sort(names)
	return slices.Compact(names), named
}

func (nodeAffinity) Filter(c *Cycle, n *NodeInfo) *Status {
	if ok, _ := noted[nodeaffinity.RequiredNodeAffinity](c, "NodeAffinity").Match(n.Node); !ok {
		return verdict(Unresolvable, "node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

func (nodeAffinity) PreScore(c *Cycle, _ []*NodeInfo) *Status {
	a := c.Pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return verdict(Skip)
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return failed(err)
	}
	note(c, "NodeAffinity/score", terms)
	return nil
}

func (nodeAffinity) Score(c *Cycle, n *NodeInfo) int64 {
	return noted[*nodeaffinity.PreferredSchedulingTerms](c, "NodeAffinity/score").Score(n.Node)
}

func (nodeAffinity) Normalize(_ *Cycle, scores []NodeScore) { scaleToMax(scores, false) }

func (nodeAffinity) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	if ev.Node == nil {
		return false
	}
	ok, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(ev.Node)
	return ok
}

// nodePorts keeps two pods from wanting one port of a node.
//
// Upstream: pkg/scheduler/framework/plugins/nodeports.
type nodePorts struct{}

func (nodePorts) Name() string { return "NodePorts" }

func (nodePorts) PreFilter(c *Cycle) *Status {
	if len(c.ports) == 0 {
		return verdict(Skip)
	}
	return nil
}

func (nodePorts) Filter(c *Cycle, n *NodeInfo) *Status {
	if !n.portsFree(c.ports) {
		return verdict(Unschedulable, "node(s) didn't have free ports for the requested pod ports")
	}
	return nil
}

func (nodePorts) Helps(ev ClusterEvent, _ *corev1.Pod) bool {
	return ev.Node != nil || ev.PodGone != nil && len(hostPorts(ev.PodGone)) > 0
}

// imageLocality prefers nodes that have the pod's images, the more bytes the
// better, scaled by how many nodes have them.
//
// Upstream: pkg/scheduler/framework/plugins/imagelocality.
type imageLocality struct{}

// Below minImageBytes of present images a node gets nothing, from
// maxImageBytes a container on it gets everything.
const (
	minImageBytes = 23 << 20
	maxImageBytes = 1000 << 20
)

func (imageLocality) Name() string { return "ImageLocality" }

func (imageLocality) PreScore(c *Cycle, _ []*NodeInfo) *Status {
	images := podImages(c.Pod)
	if !slices.ContainsFunc(images, func(img string) bool { return c.Snapshot.images[img] > 0 }) {
		return verdict(Skip)
	}
	note(c, "ImageLocality", images)
	return nil
}

func (imageLocality) Score(c *Cycle, n *NodeInfo) int64 {
	var sum int64
	for _, img := range noted[[]string](c, "ImageLocality") {
		sum += int64(float64(n.images[img]) * float64(c.Snapshot.images[img]) / float64(len(c.Snapshot.Nodes)))
	}
	most := int64(maxImageBytes) * int64(len(c.Pod.Spec.InitContainers)+len(c.Pod.Spec.Containers))
	sum = min(max(sum, minImageBytes), most)
	return MaxScore * (sum - minImageBytes) / (most - minImageBytes)
}

func (imageLocality) Normalize(*Cycle, []NodeScore) {}

// podImages are the image names of a pod, with ":latest" where there is no tag.
func podImages(pod *corev1.Pod) []string {
	var out []string
	add := func(name string) {
		if i := strings.LastIndexAny(name, ":@/"); i < 0 || name[i] == '/' {
			name += ":latest"
		}
		out = append(out, name)
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			add(v.Reference)
		}
	}
	return out
}
