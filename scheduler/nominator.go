package scheduler

import (
	"math"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// nominator remembers for whom a preemption has made room where, until they are
// bound or gone.
type nominator struct {
	mu sync.Mutex
	// node is where each pod, by UID, was nominated to; on has the same by node,
	// because filters ask about many nodes and few have any. Guarded by mu.
	node map[types.UID]string
	on   map[string]*nominees
}

// nominees are the pods that were nominated to a node.
type nominees struct {
	pods map[types.UID]*PodInfo
	// with is the node as it was, base, with all of them counted in: for pods up to
	// the priority upTo, that are none of them, nobody else counts.
	base, with *NodeInfo
	upTo       int32
}

// update follows the pod's status; old is the pod as it was, nil if it is new. News
// of a pod that were written before its nomination do not undo it.
//
// Upstream: pkg/scheduler/backend/queue/nominator.go, nominator.UpdateNominatedPod.
func (n *nominator) update(old, pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := pod.Status.NominatedNodeName
	if node == "" && old != nil && old.Status.NominatedNodeName == "" {
		node = n.node[pod.UID]
	}
	n.put(pod, node)
}

// nominate keeps room on a node for a pod; on none for "".
func (n *nominator) nominate(pod *corev1.Pod, node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.put(pod, node)
}

// put is nominate; the caller holds mu.
func (n *nominator) put(pod *corev1.Pod, node string) {
	n.drop(pod.UID)
	if node == "" {
		return
	}
	if n.node == nil {
		n.node, n.on = map[types.UID]string{}, map[string]*nominees{}
	}
	on := n.on[node]
	if on == nil {
		on = &nominees{pods: map[types.UID]*PodInfo{}}
		n.on[node] = on
	}
	n.node[pod.UID], on.pods[pod.UID], on.base = node, newPodInfo(pod), nil
}

func (n *nominator) remove(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(uid)
}

// drop forgets a nomination; the caller holds mu.
func (n *nominator) drop(uid types.UID) {
	if node, ok := n.node[uid]; ok {
		delete(n.node, uid)
		on := n.on[node]
		on.base = nil
		if delete(on.pods, uid); len(on.pods) == 0 {
			delete(n.on, node)
		}
	}
}

// of is the node that a pod was nominated to, "" for none: what its status says,
// or will say when the write has come back.
func (n *nominator) of(pod *corev1.Pod) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node, ok := n.node[pod.UID]; ok {
		return node
	}
	return pod.Status.NominatedNodeName
}

// outrank ends the nominations to a node of pods that are less important than pod,
// and returns these pods.
func (n *nominator) outrank(node string, pod *corev1.Pod) (lower []*corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	on := n.on[node]
	if on == nil {
		return nil
	}
	for uid, info := range on.pods {
		if corev1helpers.PodPriority(info.Pod) < corev1helpers.PodPriority(pod) {
			n.drop(uid)
			lower = append(lower, info.Pod)
		}
	}
	return lower
}

// places has the pods nominated to the nodes of a snapshot, by their places there. It
// uses the memory of old.
func (n *nominator) places(old []*nominees, s *Snapshot) []*nominees {
	clear(old)
	out := slices.Grow(old[:0], len(s.Nodes))[:len(s.Nodes)]
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, on := range n.on {
		if i, ok := s.index[name]; ok {
			out[i] = on
		}
	}
	return out
}

// addTo is the node with those counted in that were nominated to it, are other pods
// than this one and at least as important; the node itself if there are none.
func (n *nominator) addTo(node *NodeInfo, pod *corev1.Pod, on *nominees) *NodeInfo {
	if on == nil {
		return node
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	priority := corev1helpers.PodPriority(pod)
	if on.base == node && priority <= on.upTo && on.pods[pod.UID] == nil {
		return on.with
	}
	var extra []*PodInfo
	upTo := int32(math.MaxInt32)
	for uid, info := range on.pods {
		if p := corev1helpers.PodPriority(info.Pod); uid != pod.UID && p >= priority {
			extra = append(extra, info)
			upTo = min(upTo, p)
		}
	}
	if len(extra) == 0 {
		return node
	}
	with := node.withPod(extra...)
	if len(extra) == len(on.pods) {
		on.base, on.with, on.upTo = node, with, upTo
	}
	return with
}
