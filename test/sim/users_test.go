package sim

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
	"orrery/lab/sim"
)

// dbLeast is how many of the three members of db its budget wants to be healthy.
const dbLeast = 2

// workloads is what users have in the cluster: web, a Deployment; db, a
// StatefulSet; sum, a Job; and a budget for each of the first two.
func (c *chaos) workloads() {
	c.deploy("web", c.desired, func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt(c.surge)), MaxUnavailable: new(intstr.FromInt(c.missing))}
		d.Spec.RevisionHistoryLimit = new(int32(2)) // old ReplicaSets go in the midst of it all
	})
	labels := map[string]string{"app": "db"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{sim.AnnotationStopAfter: "5s"}}, Spec: corev1.PodSpec{AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "db", Image: "demo/db:1"}}}}
	_, err := client.For[*appsv1.StatefulSet](c.api).Create(c.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}})
	c.must(err)
	job := *template.DeepCopy()
	job.Labels, job.Spec.RestartPolicy = nil, corev1.RestartPolicyNever
	job.Annotations = map[string]string{sim.AnnotationExitAfter: "30s"}
	_, err = client.For[*batchv1.Job](c.api).Create(c.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sum"},
		Spec: batchv1.JobSpec{Completions: new(int32(6)), Parallelism: new(int32(2)), BackoffLimit: new(int32(100)), Template: job}})
	c.must(err)
	for app, spec := range map[string]policyv1.PodDisruptionBudgetSpec{"web": {MaxUnavailable: new(intstr.FromInt32(1))}, "db": {MinAvailable: new(intstr.FromInt32(dbLeast))}} {
		spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		_, err := client.For[*policyv1.PodDisruptionBudget](c.api).Create(c.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app}, Spec: spec})
		c.must(err)
	}
}

// toggleSide makes a Deployment on the side, or deletes it with all it owns.
func (c *chaos) toggleSide() {
	api := client.For[*appsv1.Deployment](c.api)
	_, err := api.Get(c.ctx, "default", "side")
	switch {
	case apierrors.IsNotFound(err):
		side := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "side"}, Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "side"}}, Template: podTemplate("side")}}
		_, err = api.Create(c.ctx, side)
		c.tell(fmt.Sprintf("create side: %v", err))
	case err == nil:
		how := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}[c.rng.IntN(2)]
		err = api.Delete(c.ctx, "default", "side", metav1.DeleteOptions{PropagationPolicy: &how})
		c.tell(fmt.Sprintf("delete side, %s: %v", how, err))
		if err == nil {
			seen.sideDeletions.Add(1)
		}
	}
}

// drain is what `kubectl drain` does to a node, and after a while `kubectl uncordon`.
type drain struct {
	began, until time.Duration
}

func (c *chaos) drain(node string, lasts time.Duration) {
	if c.drains[node] != nil || c.cordon(node, true) != nil {
		return
	}
	c.tell(fmt.Sprintf("drain %s for %v", node, lasts))
	c.drains[node] = &drain{c.at(), c.at() + lasts}
}

// drainOn evicts what is still there, at once and then every five seconds.
func (c *chaos) drainOn() {
	for _, n := range c.sim.Nodes() {
		d := c.drains[n.Name]
		switch {
		case d == nil:
		case c.at() >= d.until:
			if c.cordon(n.Name, false) == nil { // else in a second
				c.tell("uncordon " + n.Name)
				delete(c.drains, n.Name)
			}
		case int((c.at()-d.began)/time.Second)%5 == 1:
			for _, p := range c.find(func(p *corev1.Pod) bool { return p.Spec.NodeName == n.Name && p.DeletionTimestamp == nil && !ended(p) }) {
				c.evict(p)
			}
		}
	}
}

func (c *chaos) cordon(node string, on bool) error {
	_, err := client.For[*corev1.Node](c.api).Patch(c.ctx, "", node, types.MergePatchType, []byte(fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, on)))
	return err
}

// evict asks for one eviction and checks the answer: the budget's status decides,
// to the pod; and unless the controllers that write it could not see, what is left
// is what the budget wants.
//
// That a status which is behind is believed is upstream's way: its API server does
// not count pods, and evicts on the word of a controller manager that is away.
func (c *chaos) evict(p *corev1.Pod) {
	c.t.Helper()
	before, _ := c.healthy(p.Labels["app"])
	c.pass(200 * time.Millisecond) // the controllers take in the eviction before
	healthy, least := c.healthy(p.Labels["app"])
	budget, guarded := c.budgets.Get("default", p.Labels["app"])
	p, there := c.pods.Get(p.Namespace, p.Name)
	if !there {
		return
	}
	guarded = guarded && isReady(p) // what does not serve may go
	err := client.For[*corev1.Pod](c.api).Post(c.ctx, p.Namespace, p.Name, "eviction", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}, nil)
	c.tell(fmt.Sprintf("evict %s: %v", p.Name, err))
	if !guarded || err != nil && !apierrors.IsTooManyRequests(err) {
		return
	}
	allowed := budget.Status.DisruptionsAllowed
	switch {
	case err == nil:
		seen.granted.Add(1)
		if allowed < 1 {
			c.t.Fatalf("at %v %s was evicted although its budget allowed %d", c.at(), p.Name, allowed)
		}
		if c.sighted() && before == healthy && healthy-1 < least {
			c.t.Fatalf("at %v %s was evicted, and %d pods are left where the budget wants %d", c.at(), p.Name, healthy-1, least)
		}
	default:
		seen.refused.Add(1)
		if allowed > 0 {
			c.t.Fatalf("at %v the eviction of %s was refused although the budget allowed %d", c.at(), p.Name, allowed)
		}
	}
}

// healthy is how many pods of an app serve, and how many its budget wants to.
func (c *chaos) healthy(app string) (healthy, least int) {
	healthy = len(c.find(func(p *corev1.Pod) bool { return p.Labels["app"] == app && isReady(p) }))
	if app == "web" {
		return healthy, int(c.desired) - 1
	}
	return healthy, dbLeast
}
