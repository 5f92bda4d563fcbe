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

func ownedBy(kind, prefix string) func(p *corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return len(p.OwnerReferences) == 1 && p.OwnerReferences[0].Kind == kind && len(p.Name) > len(prefix) && p.Name[:len(prefix)] == prefix
	}
}

// active is the Deployment's pods that have not ended and are not to end.
func (c *chaos) active() []*corev1.Pod {
	web := ownedBy("ReplicaSet", "web-")
	return c.find(func(p *corev1.Pod) bool {
		return web(p) && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
	})
}

// surgeHolds: the ReplicaSets together never want more pods than the Deployment
// plus maxSurge. What was wanted before may still be there until the controllers
// have acted; and pods may outlive for a moment what their ReplicaSet wants.
func (c *chaos) surgeHolds() {
	c.t.Helper()
	sets, err := client.For[*appsv1.ReplicaSet](c.api).List(c.ctx, "default", metav1.ListOptions{})
	if err != nil {
		return // there is no server to ask just now
	}
	sum := int32(0)
	for _, rs := range sets.Items {
		sum += *rs.Spec.Replicas
	}
	if sum > c.most+int32(c.surge) {
		c.t.Fatalf("at %v the ReplicaSets of a Deployment of %d with maxSurge %d want %d pods", c.at(), c.most, c.surge, sum)
	}
}

// oneOfEachOrdinal: no two machines run the same member of a StatefulSet, not even
// while one of them is cut off.
func (c *chaos) oneOfEachOrdinal() {
	c.t.Helper()
	where := map[string]string{}
	for _, n := range c.sim.Nodes() {
		for pod := range n.Runtime.Running() {
			if other := where[pod]; other != "" {
				c.t.Fatalf("at %v %s runs on %s and on %s", c.at(), pod, other, n.Name)
			}
			where[pod] = n.Name
		}
	}
}

// evictionsAreDue: a pod leaves a node 300 s after its NoExecute taint, or after
// the controllers began anew: never earlier, and, unless something has hindered
// the controllers, not later.
func (c *chaos) evictionsAreDue() {
	c.t.Helper()
	for _, n := range c.nodes.List() {
		_, was := c.tainted[n.Name]
		if is := tainted(n, corev1.TaintEffectNoExecute); is && !was {
			c.tainted[n.Name] = c.at()
		} else if !is {
			delete(c.tainted, n.Name)
		}
	}
	_, stopped := c.faults[sim.ControllerManager]
	_, slowed := c.faults[sim.ControllerManager+" link"]
	_, down := c.faults[sim.APIServer]
	if leader := c.holder(0); leader != c.leader || stopped || slowed || down {
		c.leader, c.slow = leader, c.at()
		if stopped || leader == "" {
			c.led = c.at()
		}
	}
	for _, p := range c.pods.List() {
		at, dead := c.tainted[p.Spec.NodeName]
		if !dead && byTaint(p) {
			c.evicted[p.UID] = true // and within the same second its node came back
		}
		if !dead || c.evicted[p.UID] {
			continue
		}
		due := max(at, c.slow) + 300*time.Second
		switch taken := byTaint(p); {
		case taken:
			c.evicted[p.UID] = true
			evictions.Add(1)
			if c.at() < at+299*time.Second {
				c.t.Fatalf("%s was evicted %v after the taint of its node", p.Name, c.at()-at)
			}
		case p.DeletionTimestamp == nil && !ended(p) && c.at() > due+2*time.Second && p.CreationTimestamp.Time.Before(c.began.Add(at)):
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
	if len(c.active()) != int(c.desired) || len(c.find(func(p *corev1.Pod) bool { return ownedBy("StatefulSet", "db-")(p) && isReady(p) })) != 3 {
		return false
	}
	for _, n := range c.nodes.List() {
		if ready(n) != corev1.ConditionTrue || tainted(n, corev1.TaintEffectNoExecute) || tainted(n, corev1.TaintEffectNoSchedule) {
			return false
		}
	}
	image := fmt.Sprintf("demo/app:%d", c.image)
	d, err := client.For[*appsv1.Deployment](c.api).Get(c.ctx, "default", "web")
	if err != nil || d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != c.desired || d.Status.Replicas != c.desired || d.Status.UpdatedReplicas != c.desired {
		return false
	}
	if got := d.Spec.Template.Spec.Containers[0].Image; got != image {
		c.image = c.imageOf(got) // the request for a newer one met no server
		return false
	}
	job, err := client.For[*batchv1.Job](c.api).Get(c.ctx, "default", "sum")
	if err != nil || c.at() > 10*time.Minute && job.Status.Succeeded < 6 { // a request whose answer was lost may have made one more
		return false
	}
	return true
}

func (c *chaos) imageOf(name string) (n int) {
	_, err := fmt.Sscanf(name, "demo/app:%d", &n)
	c.must(err)
	return n
}

// rollOutUnderWay replaces all pods while the controllers restart, but nothing
// happens to a pod: then at least replicas - maxUnavailable pods must be ready
// throughout. (Were the controllers' view delayed, they might count a pod twice:
// a Deployment believes the counts in the statuses of its ReplicaSets, here as upstream.)
func (c *chaos) rollOutUnderWay() {
	c.t.Helper()
	c.most, c.slow = c.desired, c.at()
	c.image++
	_, err := client.For[*appsv1.Deployment](c.api).Patch(c.ctx, "default", "web", types.StrategicMergePatchType,
		[]byte(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"demo/app:%d"}]}}}}`, c.image)))
	c.must(err)
	c.tell("the last rollout")
	restart := c.at() + time.Duration(c.rng.IntN(4000))*time.Millisecond
	for end := c.at() + 5*time.Minute; ; {
		c.pass(200 * time.Millisecond)
		up := 0
		for _, p := range c.active() {
			if isReady(p) {
				up++
			}
		}
		if up < int(c.desired)-c.missing {
			c.t.Fatalf("at %v only %d of %d pods are ready in a rollout with maxUnavailable %d", c.at(), up, c.desired, c.missing)
		}
		c.surgeHolds()
		if restart > 0 && c.at() > restart {
			restart = 0
			c.pass(57 * time.Millisecond) // between two of the cluster's steps, not within one
			c.do("stop " + sim.ControllerManager)
			c.do("start " + sim.ControllerManager)
		}
		if c.well() {
			return
		}
		if c.at() > end {
			c.t.Fatal("the rollout has not ended")
		}
	}
}

// noOrphans: every pod has the owner that it names, and no machine runs or keeps
// what the API does not know.
func (c *chaos) noOrphans() {
	c.t.Helper()
	owners := map[types.UID]bool{}
	sets, err := client.For[*appsv1.ReplicaSet](c.api).List(c.ctx, "", metav1.ListOptions{})
	c.must(err)
	for _, o := range sets.Items {
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
	known := map[string]bool{}
	for _, p := range c.pods.List() {
		known[p.Namespace+"/"+p.Name] = true
		if len(p.OwnerReferences) != 1 || !owners[p.OwnerReferences[0].UID] {
			c.t.Errorf("%s is an orphan", p.Name)
		}
	}
	for _, n := range c.sim.Nodes() {
		for pod := range n.Runtime.Running() {
			if !known[pod] {
				c.t.Errorf("%s still runs %s", n.Name, pod)
			}
		}
	}
}
