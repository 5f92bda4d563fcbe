package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"orrery/client"
)

// taintEviction is the taint eviction controller.
//
// Watches: Nodes (their NoExecute taints), Pods (their tolerations).
// Wants: no pod on a node with a NoExecute taint for longer than it tolerates.
// Does: marks the pod with the condition DisruptionTarget and deletes it, at once
// or after the least tolerationSeconds of the tolerations that match; calls it
// off when the taint goes. The time runs from when this process first saw taint
// and pod together: a restart starts it afresh.
// Upstream: pkg/controller/tainteviction/taint_eviction.go, Controller.
type taintEviction struct {
	*client.Controller
	nodes    *client.Informer[*corev1.Node]
	pods     *client.Informer[*corev1.Pod]
	api      *client.Resource[*corev1.Pod]
	recorder *client.Recorder

	mu      sync.Mutex
	planned map[string]eviction // by pod key
}

// eviction is one that is planned.
type eviction struct {
	uid     types.UID
	due     time.Time
	carried bool // out: the pod is being deleted
}

func startTaintEviction(e *env) (func(context.Context) error, error) {
	c := &taintEviction{
		nodes: watching[*corev1.Node](e), pods: watching[*corev1.Pod](e), api: client.For[*corev1.Pod](e.client),
		recorder: e.recorder("taint-eviction-controller"), planned: map[string]eviction{},
	}
	c.Controller = client.NewController("taint-eviction-controller", c.reconcile)
	c.Workers = 8
	c.pods.AddIndex(podsOnNode, podNodeIndex)
	podsOf := func(n *corev1.Node) {
		for _, p := range c.pods.ByIndex(podsOnNode, n.Name) {
			c.Enqueue(p)
		}
	}
	c.nodes.AddHandler(client.Handler[*corev1.Node]{
		Add: podsOf,
		Update: func(old, n *corev1.Node) {
			if !equality.Semantic.DeepEqual(executing(old), executing(n)) {
				podsOf(n)
			}
		},
		Delete: podsOf,
	})
	c.pods.AddHandler(client.Handler[*corev1.Pod]{
		Add: func(p *corev1.Pod) { c.Enqueue(p) },
		Update: func(old, p *corev1.Pod) {
			if old.Spec.NodeName != p.Spec.NodeName || !equality.Semantic.DeepEqual(old.Spec.Tolerations, p.Spec.Tolerations) {
				c.Enqueue(p)
			}
		},
		Delete: func(p *corev1.Pod) { c.Enqueue(p) },
	})
	return c.Run, nil
}

// executing are a node's NoExecute taints.
func executing(n *corev1.Node) []corev1.Taint {
	return filter(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute })
}

// tolerance is for how long a pod bears taints: tolerates is false if it does not
// bear one of them at all, forever if without limit.
//
// Upstream: pkg/controller/tainteviction, getMinTolerationTime.
func tolerance(taints []corev1.Taint, tolerations []corev1.Toleration) (limit time.Duration, forever, tolerates bool) {
	forever = true
	for _, taint := range taints {
		i := slices.IndexFunc(tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), &taint, false) })
		if i < 0 {
			return 0, false, false
		}
		if s := tolerations[i].TolerationSeconds; s != nil {
			d := time.Duration(max(*s, 0)) * time.Second
			if forever || d < limit {
				limit = d
			}
			forever = false
		}
	}
	return limit, forever, true
}

// nextEviction decides what becomes of a plan: nil means that there shall be
// none. A plan that stands is not moved by tolerations that got longer or
// shorter.
func nextEviction(plan *eviction, taints []corev1.Taint, tolerations []corev1.Toleration, now time.Time) *eviction {
	if len(taints) == 0 {
		return nil
	}
	limit, forever, tolerates := tolerance(taints, tolerations)
	switch {
	case !tolerates:
		return &eviction{due: now}
	case forever:
		return nil
	case plan != nil:
		return plan
	}
	return &eviction{due: now.Add(limit)}
}

func (c *taintEviction) reconcile(ctx context.Context, key string) (client.Result, error) {
	p, ok := c.pods.GetKey(key)
	c.mu.Lock()
	plan, planned := c.planned[key]
	c.mu.Unlock()
	if planned && (!ok || plan.uid != p.UID) { // gone, or another pod of that name
		c.set(key, nil)
		if !plan.carried {
			c.cancelled(key)
		}
		planned = false
	}
	if !ok || p.Spec.NodeName == "" || plan.carried && planned {
		return client.Result{}, nil
	}
	var taints []corev1.Taint
	if node, ok := c.nodes.GetKey(p.Spec.NodeName); ok {
		taints = executing(node)
	}
	before := &plan
	if !planned {
		before = nil
	}
	next := nextEviction(before, taints, p.Spec.Tolerations, time.Now())
	if next == nil {
		c.set(key, nil)
		if planned {
			c.cancelled(key)
		}
		return client.Result{}, nil
	}
	next.uid = p.UID
	c.set(key, next)
	if left := time.Until(next.due); left > 0 {
		return client.Result{RequeueAfter: left}, nil
	}
	if err := c.evict(ctx, p); err != nil {
		return client.Result{}, err
	}
	next.carried = true
	c.set(key, next)
	return client.Result{}, nil
}

func (c *taintEviction) set(key string, e *eviction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e == nil {
		delete(c.planned, key)
	} else {
		c.planned[key] = *e
	}
}

func (c *taintEviction) evict(ctx context.Context, p *corev1.Pod) error {
	key := client.Key(p)
	c.event(key, "Marking for deletion Pod "+key)
	fresh, err := c.api.Get(ctx, p.Namespace, p.Name)
	if apierrors.IsNotFound(err) || err == nil && fresh.UID != p.UID {
		return nil
	}
	if err != nil {
		return err
	}
	err = setPodCondition(ctx, c.api, fresh, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint",
	}, "")
	if err == nil {
		err = c.api.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{})
	}
	return ignoring(err, apierrors.IsNotFound)
}

func (c *taintEviction) cancelled(key string) { c.event(key, "Cancelling deletion of Pod "+key) }

// event is about the pod by its name alone, as upstream's is.
func (c *taintEviction) event(key, message string) {
	namespace, name := client.SplitKey(key)
	c.recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name}, normal, "TaintManagerEviction", message)
}
