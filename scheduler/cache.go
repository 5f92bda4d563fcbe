package scheduler

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func newMilli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }
func newBytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

// Cache is what the scheduler believes the nodes to hold: the pods that the API
// server says are there, and those it is about to say, because we assumed them.
//
// Upstream: pkg/scheduler/backend/cache, cacheImpl.
// Left out: the order of nodes by zone, expiry of assumed pods (a binding that
// fails is forgotten by the cycle that made it).
type Cache struct {
	mu sync.Mutex
	// nodes are all entries in a stable order; index finds them by name. An entry
	// whose Node is nil has pods but no node. Guarded by mu.
	nodes []*NodeInfo
	index map[string]int
	free  []int // entries of nodes that went
	// pods says on which node each pod counts, assumed which of them only we
	// think so. Guarded by mu.
	pods    map[types.UID]string
	assumed map[types.UID]bool
}

// NewCache is an empty Cache.
func NewCache() *Cache {
	return &Cache{index: map[string]int{}, pods: map[types.UID]string{}, assumed: map[types.UID]bool{}}
}

// entry is the place of a node, made if need be; the caller holds mu.
func (c *Cache) entry(name string) *(*NodeInfo) {
	i, ok := c.index[name]
	if !ok {
		if n := len(c.free); n > 0 {
			i, c.free = c.free[n-1], c.free[:n-1]
		} else {
			i = len(c.nodes)
			c.nodes = append(c.nodes, nil)
		}
		c.nodes[i] = (&NodeInfo{}).clone()
		c.index[name] = i
	}
	return &c.nodes[i]
}

// prune drops an entry that has neither node nor pods; the caller holds mu.
func (c *Cache) prune(name string) {
	i, ok := c.index[name]
	if ok && c.nodes[i].Node == nil && len(c.nodes[i].Pods) == 0 {
		c.nodes[i] = nil
		delete(c.index, name)
		c.free = append(c.free, i)
	}
}

// SetNode adds or changes a node.
func (c *Cache) SetNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(node.Name)
	*e = (*e).withNode(node)
}

// RemoveNode forgets a node; its pods stay counted until they go.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(name)
	*e = (*e).withNode(nil)
	c.prune(name)
}

// SetPod counts a pod on the node that it names, as the API server has it.
func (c *Cache) SetPod(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, pod.UID)
	c.take(pod.UID)
	c.put(pod, pod.Spec.NodeName)
}

// RemovePod counts a pod no more.
func (c *Cache) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, uid)
	c.take(uid)
}

// Assume counts a pod on a node before the API server knows.
func (c *Cache) Assume(pod *corev1.Pod, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(pod.UID)
	c.put(pod, node)
	c.assumed[pod.UID] = true
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

func (c *Cache) put(pod *corev1.Pod, node string) {
	e := c.entry(node)
	*e = (*e).withPod(newPodInfo(pod))
	c.pods[pod.UID] = node
}

func (c *Cache) take(uid types.UID) {
	if node, ok := c.pods[uid]; ok {
		delete(c.pods, uid)
		e := c.entry(node)
		*e = (*e).withoutPod(uid)
		c.prune(node)
	}
}

// Snapshot is all known nodes at one moment. It is cheap, because a NodeInfo is
// never changed.
type Snapshot struct {
	Nodes []*NodeInfo
	// withAffinity and withAnti are the nodes that have pods with inter-pod
	// affinity, and with required anti-affinity.
	withAffinity, withAnti []*NodeInfo
}

// Snapshot takes one.
func (c *Cache) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &Snapshot{Nodes: make([]*NodeInfo, 0, len(c.nodes))}
	for _, n := range c.nodes {
		if n == nil || n.Node == nil {
			continue
		}
		s.Nodes = append(s.Nodes, n)
		if n.withAffinity > 0 {
			s.withAffinity = append(s.withAffinity, n)
		}
		if n.withAnti > 0 {
			s.withAnti = append(s.withAnti, n)
		}
	}
	return s
}

// with is the snapshot with one node replaced: the world after a preemption.
func (s *Snapshot) with(n *NodeInfo) *Snapshot {
	replace := func(list []*NodeInfo, keep bool) []*NodeInfo {
		i := slices.IndexFunc(list, func(o *NodeInfo) bool { return o.Name() == n.Name() })
		if i < 0 {
			return list
		}
		out := slices.Clone(list)
		if !keep {
			return slices.Delete(out, i, i+1)
		}
		out[i] = n
		return out
	}
	return &Snapshot{
		Nodes:        replace(s.Nodes, true),
		withAffinity: replace(s.withAffinity, n.withAffinity > 0),
		withAnti:     replace(s.withAnti, n.withAnti > 0),
	}
}
