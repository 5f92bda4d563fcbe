package scheduler

import (
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Cache is what the scheduler believes the nodes to hold: the pods that the API
// server says are there, and those it is about to say, because we assumed them.
//
// Upstream: pkg/scheduler/backend/cache, cacheImpl.
// Left out: the order of nodes by zone, expiry of assumed pods (a binding that
// fails is forgotten by the cycle that made it).
type Cache struct {
	mu sync.Mutex
	// infos are the nodes that are known or that pods name, by name: where Node is
	// nil, there are pods but no node. changed are those that are others than at the
	// last Update. Guarded by mu.
	infos   map[string]*NodeInfo
	changed map[string]bool
	// recount is set when what was counted of the nodes counts no more; guarded by mu.
	recount bool
	// pods says on which node each pod counts, assumed which of them only we
	// think so. Guarded by mu.
	pods    map[types.UID]string
	assumed map[types.UID]bool
}

// NewCache is an empty Cache.
func NewCache() *Cache {
	return &Cache{infos: map[string]*NodeInfo{}, changed: map[string]bool{}, pods: map[types.UID]string{}, assumed: map[types.UID]bool{}}
}

// change puts what f makes of a node's info in its place, and drops it when it
// has neither node nor pods. The caller holds mu.
func (c *Cache) change(name string, f func(*NodeInfo) *NodeInfo) {
	old := c.infos[name]
	if old == nil {
		old = &NodeInfo{}
	}
	info := f(old)
	c.infos[name] = info
	if info.Node == nil && len(info.Pods) == 0 {
		delete(c.infos, name)
	}
	c.changed[name] = true
}

// SetNode adds or changes a node.
func (c *Cache) SetNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change(node.Name, func(n *NodeInfo) *NodeInfo { return n.withNode(node) })
}

// RemoveNode forgets a node; its pods stay counted until they go.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change(name, func(n *NodeInfo) *NodeInfo { return n.withNode(nil) })
}

// SetPod counts a pod on the node that it names, as the API server has it.
func (c *Cache) SetPod(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, pod.UID)
	c.put(newPodInfo(pod), pod.Spec.NodeName)
}

// RemovePod counts a pod no more.
func (c *Cache) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, uid)
	c.take(uid)
}

// Assume counts a pod on a node before the API server knows.
func (c *Cache) Assume(pod *PodInfo, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(pod, node)
	c.assumed[pod.Pod.UID] = true
}

// Forget undoes Assume, unless the API server has confirmed the pod since.
func (c *Cache) Forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.assumed[uid] {
		delete(c.assumed, uid)
		c.take(uid)
	}
}

// Has says whether a pod counts on some node.
func (c *Cache) Has(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pods[uid]
	return ok
}

func (c *Cache) put(pod *PodInfo, node string) {
	uid := pod.Pod.UID
	if c.pods[uid] != node {
		c.take(uid)
	}
	c.pods[uid] = node
	c.change(node, func(n *NodeInfo) *NodeInfo { return n.withPod(pod) })
}

func (c *Cache) take(uid types.UID) {
	if node, ok := c.pods[uid]; ok {
		delete(c.pods, uid)
		c.change(node, func(n *NodeInfo) *NodeInfo { return n.withoutPod(uid) })
	}
}

// Recount has the next Update forget all that was counted of the nodes, because it
// depended on more than them: on the labels of namespaces.
func (c *Cache) Recount() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recount = true
}

// Update brings a snapshot up to date. It costs as much as has changed since the
// last time, not as much as there are nodes; so a cache has one snapshot.
//
// Upstream: pkg/scheduler/backend/cache/cache.go, cacheImpl.UpdateSnapshot.
func (c *Cache) Update(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.changed)) {
		info := c.infos[name]
		if info != nil && info.Node == nil {
			info = nil
		}
		s.set(name, info)
	}
	clear(c.changed)
	if c.recount {
		clear(s.tallies)
		c.recount = false
	}
}
