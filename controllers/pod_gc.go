package controllers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// podGC is the pod garbage collector.
//
// Watches: Pods, Nodes.
// Wants: no pod that nobody will ever finish: its node is deleted, or declared
// out of service, or it never had one; and not too many finished pods.
// Does: looks each 20 s, marks such pods Failed and deletes them by force. A
// missing node is trusted to be gone only after 40 s.
// Upstream: pkg/controller/podgc/gc_controller.go, PodGCController.
type podGC struct {
	cfg   *Config
	nodes *client.Informer[*corev1.Node]
	pods  *client.Informer[*corev1.Pod]
	api   *client.Resource[*corev1.Pod]
	real  *client.Resource[*corev1.Node]
	// missing nodes and when they were first missed; only the loop uses it.
	missing map[string]time.Time
}

func startPodGC(e *env) (func(context.Context) error, error) {
	c := &podGC{
		cfg: e.cfg, nodes: watching[*corev1.Node](e), pods: watching[*corev1.Pod](e),
		api: client.For[*corev1.Pod](e.client), real: client.For[*corev1.Node](e.client), missing: map[string]time.Time{},
	}
	return func(ctx context.Context) error { return every(ctx, e.cfg.PodGCPeriod, c.collect) }, nil
}

func (c *podGC) collect(ctx context.Context) {
	pods := c.pods.List()
	nodes := map[string]*corev1.Node{}
	for _, n := range c.nodes.List() {
		nodes[n.Name] = n
	}
	for _, p := range tooManyFinished(pods, c.cfg.TerminatedPodGCThreshold) {
		c.end(ctx, p, nil)
	}
	for _, p := range pods {
		if stuckOutOfService(p, nodes[p.Spec.NodeName]) {
			c.end(ctx, p, nil)
		}
	}
	for _, name := range c.gone(ctx, pods, nodes, time.Now()) {
		for _, p := range pods {
			if p.Spec.NodeName == name {
				c.end(ctx, p, &corev1.PodCondition{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
				})
			}
		}
	}
	for _, p := range pods {
		if p.DeletionTimestamp != nil && p.Spec.NodeName == "" {
			c.end(ctx, p, nil)
		}
	}
}

// tooManyFinished are the oldest of the finished pods beyond the threshold.
func tooManyFinished(pods []*corev1.Pod, threshold int) []*corev1.Pod {
	finished := filter(pods, func(p *corev1.Pod) bool { return podFinished(p) && p.DeletionTimestamp == nil })
	if threshold <= 0 || len(finished) <= threshold {
		return nil
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return finished[:len(finished)-threshold]
}

// stuckOutOfService says whether a pod hangs in deletion on a node of which a
// person has said, by a taint, that it will not come back.
func stuckOutOfService(p *corev1.Pod, node *corev1.Node) bool {
	if node == nil || p.DeletionTimestamp == nil {
		return false
	}
	ready := nodeCondition(node.Status.Conditions, corev1.NodeReady)
	return (ready == nil || ready.Status != corev1.ConditionTrue) &&
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// gone are the nodes that pods name and that have been missing for 40 s.
func (c *podGC) gone(ctx context.Context, pods []*corev1.Pod, nodes map[string]*corev1.Node, now time.Time) (out []string) {
	named := map[string]bool{}
	for _, p := range pods {
		if name := p.Spec.NodeName; name != "" && nodes[name] == nil {
			named[name] = true
			if _, ok := c.missing[name]; !ok {
				c.missing[name] = now
			}
		}
	}
	for name, since := range c.missing {
		if !named[name] {
			delete(c.missing, name)
		} else if now.Sub(since) >= c.cfg.PodGCQuarantine {
			if _, err := c.real.Get(ctx, "", name); apierrors.IsNotFound(err) { // the cache may be behind
				out = append(out, name)
			}
		}
	}
	return out
}

// end marks a pod Failed, unless it is finished, and deletes it by force.
func (c *podGC) end(ctx context.Context, p *corev1.Pod, why *corev1.PodCondition) {
	var err error
	if !podFinished(p) {
		if why == nil {
			why = &corev1.PodCondition{}
		}
		err = setPodCondition(ctx, c.api, p, *why, corev1.PodFailed)
	}
	if err == nil {
		err = c.api.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	}
	if ignoring(err, apierrors.IsNotFound) != nil {
		logFailure("pod-garbage-collector-controller", client.Key(p), err)
	}
}
