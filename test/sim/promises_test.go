package sim

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/lab/sim"
)

// reconnects is how long controllers may be blind after a server was away: the
// longest wait of an informer, 30 s and as much of chance, and what it takes to
// read everything.
const reconnects = 65 * time.Second

func ownedBy(kind, prefix string) func(p *corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return len(p.OwnerReferences) == 1 && p.OwnerReferences[0].Kind == kind && len(p.Name) > len(prefix) && p.Name[:len(prefix)] == prefix
	}
}

// active is the Deployment's pods that have not ended and are not to end.
func (c *chaos) active() []*corev1.Pod {
	web := ownedBy("ReplicaSet", "web-")
	return c.find(func(p *corev1.Pod) bool { return web(p) && p.DeletionTimestamp == nil && !ended(p) })
}

// observe notes what the controllers can do just now.
func (c *chaos) observe() {
	_, stopped := c.faults[sim.ControllerManager]
	_, slowed := c.faults[linkOf(sim.ControllerManager)]
	_, down := c.faults[sim.APIServer]
	switch {
	case down:
		c.blind = c.at() + reconnects
	case slowed:
		c.blind = max(c.blind, c.at()+5*time.Second)
	}
	leader, since, renewed := c.office()
	if leader != c.leader || c.at()-renewed > 5*time.Second || stopped || slowed || down {
		c.leader, c.led, c.slow = leader, since, c.at()
	}
}

// sighted says whether the controllers work and see all there is.
func (c *chaos) sighted() bool { return c.at() > c.blind && c.at() > c.slow+2*time.Second }

// surgeHolds: the ReplicaSets together never come to want more pods than the
// Deployment plus maxSurge. What is too much already, because less was asked for,
// may only shrink. Controllers that cannot see may act on what was asked for before.
func (c *chaos) surgeHolds() {
	c.t.Helper()
	since := c.at() - 2*time.Second
	if !c.sighted() {
		since = min(since, c.clear)
	} else {
		c.clear = since
	}
	most := int32(0)
	for i, w := range c.asked {
		if i+1 == len(c.asked) || c.asked[i+1].at >= since { // it was in force after since
			most = max(most, w.n)
		}
	}
	sum := int32(0)
	for _, rs := range c.sets.List() {
		if len(rs.OwnerReferences) == 1 && rs.OwnerReferences[0].Name == "web" {
			sum += *rs.Spec.Replicas
		}
	}
	if bound := max(most+int32(c.surge), c.sum); sum > bound {
		c.t.Fatalf("at %v the ReplicaSets of a Deployment of %d with maxSurge %d want %d pods, more than %d", c.at(), c.desired, c.surge, sum, bound)
	}
	c.sum = sum
}

func isMember(p *corev1.Pod) bool { return ownedBy("StatefulSet", "db-")(p) }

// oneOfEachOrdinal: no two pods of one name run, which are two members of a
// StatefulSet with one ordinal, not even while a machine is cut off. What the
// machines run counts, not what the API server believes. Nobody here deletes by
// force, or declares a machine to be gone: users who do so break this promise.
func (c *chaos) oneOfEachOrdinal() {
	c.t.Helper()
	where, runs := map[string]string{}, map[types.UID]bool{}
	for _, n := range c.sim.Nodes() {
		for uid, pod := range n.Runtime.Running() {
			runs[uid] = true
			if other := where[pod]; other != "" {
				c.t.Fatalf("at %v %s runs on %s and on %s", c.at(), pod, other, n.Name)
			}
			where[pod] = n.Name
		}
	}
	for _, p := range c.pods.List() {
		if isMember(p) && byTaint(p) && runs[p.UID] && time.Now().After(p.DeletionTimestamp.Time) && !c.outlived[p.UID] {
			c.outlived[p.UID] = true
			seen.outlived.Add(1)
		}
	}
}

// evictionsAreDue: a pod leaves a node 300 s after its NoExecute taint, or after
// the leading controllers began: never earlier, and not later, unless they did not
// see the taint at once, or something hinders them when the time has come. Half
// blind they may find all nodes dead and take the taints off; when the other half
// sees again only after the taints are back, nothing was ever called off.
func (c *chaos) evictionsAreDue() {
	c.t.Helper()
	for _, n := range c.nodes.List() {
		since, was := c.tainted[n.Name]
		if is := tainted(n, corev1.TaintEffectNoExecute); is && !was {
			c.tell(n.Name + " is tainted NoExecute")
			c.tainted[n.Name], c.known[n.Name] = c.looked, max(c.at(), c.blind) // at some time between
			if since, ok := c.missed[n.Name]; ok && c.at() <= c.blind+10*time.Second {
				c.tainted[n.Name] = since
			}
		} else if was && !is {
			c.tell(n.Name + " is tainted NoExecute no more")
			delete(c.tainted, n.Name)
			if delete(c.missed, n.Name); c.at() <= c.blind {
				c.missed[n.Name] = since
			}
		} else if c.at() <= c.known[n.Name] {
			c.known[n.Name] = max(c.known[n.Name], c.blind)
		}
	}
	c.looked = c.at()
	for _, p := range c.pods.List() {
		at, dead := c.tainted[p.Spec.NodeName]
		if !dead && byTaint(p) {
			c.evicted[p.UID] = true // and within the same second its node came back
		}
		if !dead || c.evicted[p.UID] {
			continue
		}
		early, due := max(at, c.led)+299*time.Second, max(c.known[p.Spec.NodeName], c.led+5*time.Second)+300*time.Second
		switch taken := byTaint(p); {
		case taken:
			c.evicted[p.UID] = true
			seen.taintEvictions.Add(1)
			if c.at() < early {
				c.t.Fatalf("%s was evicted at %v: its node has its taint since %v, the controllers work since %v", p.Name, c.at(), at, c.led)
			}
		case p.DeletionTimestamp == nil && !ended(p) && c.at() > max(due+2*time.Second, c.slow+40*time.Second) && p.CreationTimestamp.Time.Before(c.began.Add(at)):
			c.t.Fatalf("%s should have been evicted at %v, and it is %v (taint %v, hindered until %v)", p.Name, due, c.at(), at, c.slow)
		}
	}
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}

func byTaint(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.DisruptionTarget && cond.Reason == "DeletionByTaintManager" {
			return p.DeletionTimestamp != nil
		}
	}
	return false
}

// wants is what well looks at, for messages.
func (c *chaos) wants() string {
	d, err := client.For[*appsv1.Deployment](c.api).Get(c.ctx, "default", "web")
	if err != nil {
		return err.Error()
	}
	job, err := client.For[*batchv1.Job](c.api).Get(c.ctx, "default", "sum")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("wanted: %d of demo/app:%d\nweb: generation %d, %s %s\nsum: %s\n", c.desired, c.image, d.Generation, d.Spec.Template.Spec.Containers[0].Image, d.Status.String(), job.Status.String())
}

// well: everything that was asked for is there, and nothing else.
func (c *chaos) well() bool {
	if len(c.active()) != int(c.desired) || len(c.find(func(p *corev1.Pod) bool { return isMember(p) && isReady(p) })) != 3 || len(c.drains) > 0 {
		return false
	}
	for _, n := range c.nodes.List() {
		if ready(n) != corev1.ConditionTrue || tainted(n, corev1.TaintEffectNoExecute) || tainted(n, corev1.TaintEffectNoSchedule) {
			return false
		}
	}
	all, err := client.For[*appsv1.Deployment](c.api).List(c.ctx, "", metav1.ListOptions{})
	if err != nil {
		return false
	}
	for _, d := range all.Items {
		if n := *d.Spec.Replicas; d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != n || d.Status.Replicas != n || d.Status.UpdatedReplicas != n {
			return false
		}
		if image := fmt.Sprintf("demo/app:%d", c.image); d.Name == "web" && (*d.Spec.Replicas != c.desired || d.Spec.Template.Spec.Containers[0].Image != image) {
			c.t.Fatalf("web is %d of %s, and was asked to be %d of %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image, c.desired, image)
		}
	}
	job, err := client.For[*batchv1.Job](c.api).Get(c.ctx, "default", "sum")
	return err == nil && (c.at() < 10*time.Minute || job.Status.Succeeded >= 6) // a request whose answer was lost may have made one more
}

// rollOutUnderWay replaces all pods while something happens to the control plane
// but nothing to a pod: then at least replicas - maxUnavailable pods must be ready
// throughout.
func (c *chaos) rollOutUnderWay() {
	c.t.Helper()
	c.newest++
	c.image = c.newest
	if !c.patchWeb("the last rollout", webImage(c.image)) {
		c.t.Fatal("no server for the last rollout")
	}
	trouble := c.at() + time.Duration(c.rng.IntN(4000))*time.Millisecond
	for end := c.at() + 10*time.Minute; !c.well(); {
		c.pass(100 * time.Millisecond)
		up := len(c.find(func(p *corev1.Pod) bool { return ownedBy("ReplicaSet", "web-")(p) && isReady(p) }))
		if up < int(c.desired)-c.missing {
			c.t.Fatalf("at %v only %d of %d pods are ready in a rollout with maxUnavailable %d", c.at(), up, c.desired, c.missing)
		}
		c.observe()
		c.surgeHolds()
		if trouble > 0 && c.at() > trouble {
			trouble = 0
			c.pass(57 * time.Millisecond) // between two of the cluster's steps, not within one
			c.disturb()
		}
		if c.at() > end {
			c.t.Fatal("the rollout has not ended")
		}
	}
}

// disturb does something to the control plane that is over at once.
func (c *chaos) disturb() {
	part := []string{sim.ControllerManager, sim.ControllerManager, sim.Scheduler, sim.APIServer}[c.rng.IntN(4)]
	switch c.rng.IntN(3) {
	case 0:
		c.drop(sim.ControllerManager)
	case 1:
		c.touch()
		fallthrough
	default:
		c.tell("restart " + part)
		c.do("stop " + part)
		c.do("start " + part)
	}
}

// orphans is what has outlived its owner: objects in the API, and containers on
// machines of pods that the API does not know.
func (c *chaos) orphans() (out []string) {
	owners := map[types.UID]bool{}
	deployments, err := client.For[*appsv1.Deployment](c.api).List(c.ctx, "", metav1.ListOptions{})
	c.must(err)
	for _, o := range deployments.Items {
		owners[o.UID] = true
	}
	stateful, err := client.For[*appsv1.StatefulSet](c.api).List(c.ctx, "", metav1.ListOptions{})
	c.must(err)
	for _, o := range stateful.Items {
		owners[o.UID] = true
	}
	jobs, err := client.For[*batchv1.Job](c.api).List(c.ctx, "", metav1.ListOptions{})
	c.must(err)
	for _, o := range jobs.Items {
		owners[o.UID] = true
	}
	for _, rs := range c.sets.List() {
		if len(rs.OwnerReferences) != 1 || !owners[rs.OwnerReferences[0].UID] {
			out = append(out, "ReplicaSet "+rs.Name)
		}
		owners[rs.UID] = true
	}
	known := map[types.UID]bool{}
	for _, p := range c.pods.List() {
		known[p.UID] = true
		if len(p.OwnerReferences) != 1 || !owners[p.OwnerReferences[0].UID] {
			out = append(out, "Pod "+p.Name)
		}
	}
	for _, n := range c.sim.Nodes() {
		for uid, pod := range n.Runtime.Running() {
			if !known[uid] {
				out = append(out, "containers of "+pod+" on "+n.Name)
			}
		}
	}
	return out
}
