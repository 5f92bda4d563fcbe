package controllers

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/client/timing"
)

// nodeLifecycle is the node lifecycle controller.
//
// Watches: Nodes, Leases in kube-node-lease, Pods.
// Wants: what a node says about itself to be true, even of a node that says
// nothing any more.
// Does: each 5 s looks for nodes silent for 50 s and sets their conditions to
// Unknown and their pods' Ready to False; keeps NoSchedule taints equal to the
// conditions; adds NoExecute taints, at a rate that depends on the health of the
// zone, so that a broken network does not move every pod. Who evicts is the
// taint eviction controller.
// Upstream: pkg/controller/nodelifecycle/node_lifecycle_controller.go, Controller.
type nodeLifecycle struct {
	cfg      *Config
	nodes    *client.Informer[*corev1.Node]
	leases   *client.Informer[*coordinationv1.Lease]
	pods     *client.Informer[*corev1.Pod]
	api      *client.Resource[*corev1.Node]
	podAPI   *client.Resource[*corev1.Pod]
	recorder *client.Recorder
	noSched  *client.Controller // keys are nodes
	newPods  *client.Controller // keys are pods

	mu     sync.Mutex
	health map[string]*nodeHealth // by node; guarded by mu
	zones  map[string]*zone       // by zone key; guarded by mu

	known map[string]*corev1.Node // only the monitor reads and writes it
	retry sync.Map                // nodes whose pods could not all be marked
}

const (
	nodeLeaseNamespace = "kube-node-lease"
	// excludeDisruption is a label of nodes that do not count in their zone.
	excludeDisruption = "node.kubernetes.io/exclude-disruption"
	// monitorWorkers look at nodes in parallel.
	monitorWorkers = 8
)

func startNodeLifecycle(e *env) (func(context.Context) error, error) {
	leases := client.NewInformer(client.For[*coordinationv1.Lease](e.informers.Client()), nodeLeaseNamespace, metav1.ListOptions{})
	e.needs, e.own = append(e.needs, leases.Synced()), append(e.own, leases.Run)
	c := &nodeLifecycle{
		cfg: e.cfg, nodes: watching[*corev1.Node](e), leases: leases, pods: watching[*corev1.Pod](e),
		api: client.For[*corev1.Node](e.client), podAPI: client.For[*corev1.Pod](e.client), recorder: e.recorder("node-controller"),
		health: map[string]*nodeHealth{}, zones: map[string]*zone{}, known: map[string]*corev1.Node{},
	}
	c.pods.AddIndex(podsOnNode, podNodeIndex)
	c.noSched = client.NewController("node-lifecycle-controller", c.syncNoSchedule)
	c.noSched.Workers = monitorWorkers
	c.nodes.AddHandler(client.Handler[*corev1.Node]{
		Add:    func(n *corev1.Node) { c.noSched.Enqueue(n) },
		Update: func(_, n *corev1.Node) { c.noSched.Enqueue(n) },
	})
	c.newPods = client.NewController("node-lifecycle-controller", c.syncNewPod)
	c.pods.AddHandler(client.Handler[*corev1.Pod]{
		Add: func(p *corev1.Pod) { c.podPlaced(nil, p) }, Update: func(old, p *corev1.Pod) { c.podPlaced(old, p) },
	})
	return together(c.noSched.Run, c.newPods.Run,
		func(ctx context.Context) error { return every(ctx, timing.NodeEvictionTick, c.taintQueued) },
		func(ctx context.Context) error { return every(ctx, e.cfg.NodeMonitorPeriod, c.monitor) },
	), nil
}

// monitor is one look at all nodes.
func (c *nodeLifecycle) monitor(ctx context.Context) {
	nodes := c.nodes.List()
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	c.welcome(ctx, nodes)
	var mu sync.Mutex
	ready := map[string][]bool{} // of the nodes of a zone
	var wg sync.WaitGroup
	slots := make(chan struct{}, monitorWorkers)
	for _, node := range nodes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			current := c.look(ctx, node)
			if _, excluded := node.Labels[excludeDisruption]; current != nil && !excluded {
				mu.Lock()
				defer mu.Unlock()
				ready[zoneKey(node)] = append(ready[zoneKey(node)], current.Status == corev1.ConditionTrue)
			}
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		c.handleDisruption(ctx, ready, nodes)
	}
}

// welcome notes nodes that are new and forgets nodes that are gone. A node that
// this process has not seen before starts without NoExecute taints: after a
// restart of the manager everything is found out again.
func (c *nodeLifecycle) welcome(ctx context.Context, nodes []*corev1.Node) {
	seen := map[string]bool{}
	for _, n := range nodes {
		seen[n.Name] = true
		c.zoneOf(n)
		if c.known[n.Name] == nil {
			c.known[n.Name] = n
			c.recorder.Eventf(nodeRef(n), normal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", n.Name, n.Name)
			c.markReachable(ctx, n)
		}
	}
	for name, n := range c.known {
		if !seen[name] {
			delete(c.known, name)
			c.recorder.Eventf(nodeRef(n), normal, "RemovingNode", "Node %s event: Removing Node %s from Controller", name, name)
			c.mu.Lock()
			delete(c.health, name)
			c.mu.Unlock()
		}
	}
}

func nodeRef(n *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.Name, UID: n.UID}
}

// look judges one node, writes what changed, and returns its Ready condition
// afterwards.
func (c *nodeLifecycle) look(ctx context.Context, node *corev1.Node) *corev1.NodeCondition {
	const tries, pause = 5, 20 * time.Millisecond
	node = node.DeepCopy()
	var observed, current *corev1.NodeCondition
	var err error
	for range tries {
		if observed, current, err = c.update(ctx, node); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		fresh, getErr := c.api.Get(ctx, "", node.Name)
		if getErr != nil {
			slog.Warn("node not read", "component", "node-lifecycle-controller", "node", node.Name, "err", getErr)
			return nil
		}
		node = fresh
	}
	if err != nil {
		slog.Warn("node health not updated, skipping", "component", "node-lifecycle-controller", "node", node.Name, "err", err)
		return nil
	}
	if current == nil {
		return nil
	}
	c.taintByReady(ctx, node, current)
	_, again := c.retry.Load(node.Name)
	fell := current.Status != corev1.ConditionTrue && observed.Status == corev1.ConditionTrue
	if fell {
		c.recorder.Eventf(nodeRef(node), normal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	if fell || again && observed.Status != corev1.ConditionTrue {
		if err := c.markPodsNotReady(ctx, c.pods.ByIndex(podsOnNode, node.Name)); err != nil {
			slog.Warn("pods not marked, will be tried again", "component", "node-lifecycle-controller", "node", node.Name, "err", err)
			c.retry.Store(node.Name, true)
			return current
		}
	}
	c.retry.Delete(node.Name)
	return current
}

// update brings the node's health up to date and writes conditions that the node
// can no longer write itself. It returns Ready before and after.
func (c *nodeLifecycle) update(ctx context.Context, node *corev1.Node) (observed, current *corev1.NodeCondition, err error) {
	c.mu.Lock()
	before := c.health[node.Name]
	c.mu.Unlock()
	lease, _ := c.leases.Get(nodeLeaseNamespace, node.Name)
	now := time.Now()
	after, conditions := judge(before, node, lease, now, c.cfg.NodeMonitorGracePeriod, c.cfg.NodeStartupGracePeriod)
	defer func() {
		c.mu.Lock()
		c.health[node.Name] = after
		c.mu.Unlock()
	}()
	observed = nodeCondition(node.Status.Conditions, corev1.NodeReady)
	if observed == nil {
		observed = &corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}
	}
	if conditions != nil {
		node.Status.Conditions = conditions
		updated, err := c.api.UpdateStatus(ctx, node)
		if err != nil {
			return nil, nil, err
		}
		*node = *updated
		after.ready, after.transition = nodeCondition(node.Status.Conditions, corev1.NodeReady), now
	}
	return observed, nodeCondition(node.Status.Conditions, corev1.NodeReady), nil
}

// taintByReady queues a node for a NoExecute taint or takes it off again.
func (c *nodeLifecycle) taintByReady(ctx context.Context, node *corev1.Node, ready *corev1.NodeCondition) {
	want, other := executeTaints(ready.Status)
	if want == nil {
		c.markReachable(ctx, node)
		return
	}
	if hasTaint(node, *other) {
		c.swapTaints(ctx, node.Name, []corev1.Taint{*want}, []corev1.Taint{*other})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.zoneOfLocked(node)
	if !hasTaint(node, *want) {
		q.remove(node.Name) // someone took the taint away: taint again
	}
	q.add(node.Name)
}

// markReachable takes a node out of the queue and its NoExecute taints off.
func (c *nodeLifecycle) markReachable(ctx context.Context, node *corev1.Node) {
	c.mu.Lock()
	c.zoneOfLocked(node).remove(node.Name)
	c.mu.Unlock()
	if hasTaint(node, unreachableExecute) || hasTaint(node, notReadyExecute) {
		c.swapTaints(ctx, node.Name, nil, []corev1.Taint{unreachableExecute, notReadyExecute})
	}
}

// taintQueued gives NoExecute taints to as many queued nodes as the rates allow.
func (c *nodeLifecycle) taintQueued(ctx context.Context) {
	c.mu.Lock()
	var zones []*zone
	for _, z := range c.zones {
		zones = append(zones, z)
	}
	c.mu.Unlock()
	for _, z := range zones {
		for {
			c.mu.Lock()
			name, ok := z.take(time.Now())
			c.mu.Unlock()
			if !ok {
				break
			}
			node, found := c.nodes.GetKey(name)
			if !found {
				continue
			}
			ready := c.readyOf(node)
			if ready == nil {
				continue
			}
			want, other := executeTaints(ready.Status)
			if want != nil && !c.swapTaints(ctx, name, []corev1.Taint{*want}, []corev1.Taint{*other}) {
				c.mu.Lock()
				z.again(name)
				c.mu.Unlock()
				break
			}
		}
	}
}

// readyOf is the newer of two Ready conditions: what the monitor has just written may
// not have come back through the cache, and what the kubelet has just written the
// monitor may not have looked at.
func (c *nodeLifecycle) readyOf(node *corev1.Node) *corev1.NodeCondition {
	cached := nodeCondition(node.Status.Conditions, corev1.NodeReady)
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health[node.Name]
	if h == nil || h.ready == nil || cached != nil && h.ready.LastTransitionTime.Before(&cached.LastTransitionTime) {
		return cached
	}
	return h.ready
}

// syncNoSchedule makes a node's NoSchedule taints equal to its conditions.
func (c *nodeLifecycle) syncNoSchedule(ctx context.Context, name string) (client.Result, error) {
	node, ok := c.nodes.GetKey(name)
	if !ok {
		return client.Result{}, nil
	}
	add, remove := noScheduleChange(node)
	if len(add)+len(remove) > 0 && !c.swapTaints(ctx, name, add, remove) {
		return client.Result{RequeueAfter: time.Second}, nil
	}
	return client.Result{}, nil
}

// podPlaced queues a pod that has just got a node.
func (c *nodeLifecycle) podPlaced(old, p *corev1.Pod) {
	if p.Spec.NodeName != "" && (old == nil || old.Spec.NodeName != p.Spec.NodeName) {
		c.newPods.Enqueue(p)
	}
}

// syncNewPod marks a pod that came to a node which is not ready.
func (c *nodeLifecycle) syncNewPod(ctx context.Context, key string) (client.Result, error) {
	p, ok := c.pods.GetKey(key)
	if !ok {
		return client.Result{}, nil
	}
	c.mu.Lock()
	h := c.health[p.Spec.NodeName]
	down := h != nil && h.ready != nil && h.ready.Status != corev1.ConditionTrue
	c.mu.Unlock()
	if !down {
		return client.Result{}, nil
	}
	return client.Result{}, c.markPodsNotReady(ctx, []*corev1.Pod{p})
}

// markPodsNotReady sets Ready=False, which takes pods out of Services.
//
// Upstream: pkg/controller/util/node/controller_utils.go, MarkPodsNotReady.
func (c *nodeLifecycle) markPodsNotReady(ctx context.Context, pods []*corev1.Pod) error {
	var first error
	for _, p := range pods {
		ready := podCondition(p, corev1.PodReady)
		if ready == nil || ready.Status == corev1.ConditionFalse {
			continue
		}
		cond := *ready
		cond.Status = corev1.ConditionFalse
		if err := setPodCondition(ctx, c.podAPI, p, cond, ""); apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		c.recorder.Event(p, warning, "NodeNotReady", "Node is not ready")
	}
	return first
}

// swapTaints adds and removes taints of a node as it is now; it says whether that
// went well.
//
// Upstream: pkg/controller/util/node/controller_utils.go, SwapNodeControllerTaint.
func (c *nodeLifecycle) swapTaints(ctx context.Context, name string, add, remove []corev1.Taint) bool {
	const tries, pause = 5, 100 * time.Millisecond
	for try := 0; ; try++ {
		err := c.swapOnce(ctx, name, add, remove)
		if err == nil || apierrors.IsNotFound(err) {
			return true
		}
		if !apierrors.IsConflict(err) || try == tries {
			slog.Warn("taints not changed", "component", "node-lifecycle-controller", "node", name, "err", err)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (c *nodeLifecycle) swapOnce(ctx context.Context, name string, add, remove []corev1.Taint) error {
	node, err := c.api.Get(ctx, "", name)
	if err != nil {
		return err
	}
	taints, changed := taintsAfter(node.Spec.Taints, add, remove, metav1.Now())
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion}, "spec": map[string]any{"taints": taints},
	})
	if err != nil {
		return err
	}
	_, err = c.api.Patch(ctx, "", name, types.StrategicMergePatchType, patch)
	return err
}
