package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
	"orrery/client/timing"
)

var daemonSetKind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// daemonSets is the DaemonSet controller.
//
// Watches: DaemonSets, Pods, Nodes, ControllerRevisions.
// Wants: one pod of the newest template on each node that the template fits.
// Does: creates pods bound to their node by affinity, so that the scheduler
// still has the say; deletes pods that fail or fit no longer; replaces old pods,
// a few at a time; keeps revisions.
// Upstream: pkg/controller/daemon/daemon_controller.go, DaemonSetsController.
type daemonSets struct {
	*client.Controller
	sets     *client.Informer[*appsv1.DaemonSet]
	pods     *client.Informer[*corev1.Pod]
	nodes    *client.Informer[*corev1.Node]
	api      *client.Resource[*appsv1.DaemonSet]
	podAPI   *client.Resource[*corev1.Pod]
	history  *history
	writer   podWriter
	expected *expectations
	failures *backOff
	own      *consistency
}

// daemonBurst is the most pods that one pass creates or deletes.
const daemonBurst = 250

func startDaemonSet(e *env) (func(context.Context) error, error) {
	recorder := e.recorder("daemonset-controller")
	initial, most := timing.DaemonBackOffInitial, timing.DaemonBackOffMax
	timing.Scale(e.cfg.TimeScale, &initial, &most)
	c := &daemonSets{
		sets: watching[*appsv1.DaemonSet](e), pods: watching[*corev1.Pod](e), nodes: watching[*corev1.Node](e),
		api: client.For[*appsv1.DaemonSet](e.client), podAPI: client.For[*corev1.Pod](e.client), history: newHistory(e, daemonSetKind),
		writer:   podWriter{pods: client.For[*corev1.Pod](e.client), recorder: recorder},
		expected: newExpectations(), failures: newBackOff(initial, most), own: newConsistency(),
	}
	c.writer.wrote = func(owner, pod metav1.Object) { c.own.wrote(client.Key(owner), c.pods, pod) }
	c.Controller = client.NewController("daemonset-controller", c.reconcile)
	c.pods.AddIndex(byController, controllerIndex[*corev1.Pod])
	c.pods.AddHandler(c.expected.observe("DaemonSet"))
	c.sets.AddHandler(client.On[*appsv1.DaemonSet](c.Controller))
	c.pods.AddHandler(ownedHandler[*appsv1.DaemonSet, *corev1.Pod](c.Queue.Add, "DaemonSet", c.sets, func(ds *appsv1.DaemonSet) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	}))
	all := func() {
		for _, ds := range c.sets.List() {
			c.Enqueue(ds)
		}
	}
	c.nodes.AddHandler(client.Handler[*corev1.Node]{
		Add: func(*corev1.Node) { all() },
		Update: func(old, n *corev1.Node) {
			// Heartbeats are many; only what decides about fitting matters.
			if !equality.Semantic.DeepEqual(old.Labels, n.Labels) || !equality.Semantic.DeepEqual(old.Spec, n.Spec) {
				all()
			}
		},
		Delete: func(*corev1.Node) { all() },
	})
	return c.Run, nil
}

func (c *daemonSets) reconcile(ctx context.Context, key string) (client.Result, error) {
	if err := c.own.ready(key); err != nil {
		return client.Result{}, err
	}
	ds, ok := c.sets.GetKey(key)
	if !ok {
		c.expected.forget(key)
		return client.Result{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return client.Result{}, err
	}
	if selector.Empty() {
		c.writer.recorder.Event(ds, warning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return client.Result{}, nil
	}
	if ds.DeletionTimestamp != nil {
		return client.Result{}, nil
	}
	fresh := func(ctx context.Context) (metav1.Object, error) { return c.api.Get(ctx, ds.Namespace, ds.Name) }
	revisions, err := c.history.list(ctx, ds, selector, fresh)
	if err != nil {
		return client.Result{}, err
	}
	current, err := c.revision(ctx, ds, revisions)
	if err != nil {
		return client.Result{}, err
	}
	settled := c.expected.satisfied(key) // asked before pods are read: none may come between
	claimer := claimer[*corev1.Pod]{resource: c.podAPI, owner: ds, kind: daemonSetKind, selector: selector, fresh: fresh}
	pods, err := claimer.claim(ctx, candidates(c.pods, ds))
	if err != nil {
		return client.Result{}, err
	}
	view := viewDaemons(ds, c.nodes.List(), pods, current.Labels[appsv1.ControllerRevisionHashLabelKey], time.Now())
	var manageErr error
	if settled {
		manageErr = c.manage(ctx, key, ds, view)
	}
	if manageErr == nil {
		live := map[string]bool{current.Name: true}
		for _, r := range revisions {
			if slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
				return p.Labels[appsv1.ControllerRevisionHashLabelKey] == r.Labels[appsv1.ControllerRevisionHashLabelKey]
			}) {
				live[r.Name] = true
			}
		}
		manageErr = c.history.trim(ctx, revisions, live, ds.Spec.RevisionHistoryLimit)
	}
	after, err := c.updateStatus(ctx, ds, view)
	if err == nil {
		err = manageErr
	}
	if wait := c.failures.left(key); wait > 0 && (after == 0 || wait < after) {
		after = wait
	}
	return client.Result{RequeueAfter: after}, err
}

// revision is the ControllerRevision of the template, new if need be.
func (c *daemonSets) revision(ctx context.Context, ds *appsv1.DaemonSet, old []*appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	data, err := templatePatch(ds.Spec.Template)
	if err != nil {
		return nil, err
	}
	hash := templateHash(&ds.Spec.Template, ds.Status.CollisionCount)
	current, err := c.history.current(ctx, old, newRevision(ds, daemonSetKind, hash, data,
		withLabel(ds.Spec.Template.Labels, appsv1.ControllerRevisionHashLabelKey, hash)))
	if _, collided := errors.AsType[errCollision](err); collided {
		ds = ds.DeepCopy()
		n := int32(1)
		if ds.Status.CollisionCount != nil {
			n += *ds.Status.CollisionCount
		}
		ds.Status.CollisionCount = &n
		if _, err := c.api.UpdateStatus(ctx, ds); err != nil {
			return nil, err
		}
	}
	return current, err
}

// manage creates and deletes pods: first so that each node has what it should,
// then, if that needs nothing, so that old pods make room for new ones.
func (c *daemonSets) manage(ctx context.Context, key string, ds *appsv1.DaemonSet, view daemonView) error {
	plan := view.place(ds, func(node string) bool { return c.failures.ready(key + "/" + node) })
	for _, note := range plan.notes {
		c.writer.recorder.Event(ds, note.eventType, note.reason, note.message)
	}
	if len(plan.create)+len(plan.remove) == 0 && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		plan = view.roll(ds)
	}
	plan.create = plan.create[:min(len(plan.create), daemonBurst)]
	plan.remove = plan.remove[:min(len(plan.remove), daemonBurst)]
	if len(plan.create)+len(plan.remove) == 0 {
		return nil
	}
	for _, p := range plan.remove {
		slog.Debug("daemon pod goes", "component", c.Name, "pod", client.Key(p))
	}
	c.expected.expect(key, len(plan.create), plan.remove)
	done, createErr := slowStart(len(plan.create), func(i int) error {
		return c.writer.create(ctx, daemonPod(ds, plan.create[i], view.hash), ds)
	})
	c.expected.created(key, len(plan.create)-done)
	_, err := inParallel(plan.remove, func(p *corev1.Pod) error {
		err := c.writer.delete(ctx, p, ds)
		if err != nil {
			c.expected.deleted(key, p.UID)
		}
		return err
	})
	return errors.Join(createErr, err)
}

func (c *daemonSets) updateStatus(ctx context.Context, ds *appsv1.DaemonSet, view daemonView) (time.Duration, error) {
	status, after := view.status(ds)
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return after, nil
	}
	ds = ds.DeepCopy()
	ds.Status = status
	written, err := c.api.UpdateStatus(ctx, ds)
	if err != nil {
		return after, fmt.Errorf("error storing status for daemon set %s: %w", client.Key(ds), err)
	}
	c.own.wrote(client.Key(ds), c.sets, written)
	return after, nil
}
