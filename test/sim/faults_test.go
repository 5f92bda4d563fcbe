package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
	"orrery/lab/sim"
)

// evictions counts what all schedules together have seen: with none, the check
// of their times would have checked nothing.
var evictions atomic.Int64

// TestRandomFaults runs schedules of random faults, one for each seed, and holds
// the cluster to its promises all the while and after the last fault.
//
//	SEEDS=200 go test ./test/sim -run TestRandomFaults        more of them
//	go test ./test/sim -run TestRandomFaults/all/seed=17 -v       one of them again
//
// A seed fixes the cluster and the schedule of what is done to it. The jitter of
// the components and the turns of goroutines are not its to fix.
func TestRandomFaults(t *testing.T) {
	s := os.Getenv("SEEDS")
	if s == "" {
		t.Skip("some schedules still break the bound of unavailable pods in a rollout (docs/gaps.md): run make simulate")
	}
	seeds, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	whole := false
	t.Run("all", func(t *testing.T) {
		for seed := uint64(1); seed <= seeds; seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				whole = seed == seeds // the filter of -run has let the last one through
				rng := rand.New(rand.NewPCG(seed, 0))
				inCluster(t, 3+rng.IntN(2), func(w *world) { newChaos(w, rng).run() })
			})
		}
	})
	if whole && seeds >= 10 && evictions.Load() == 0 && !t.Failed() {
		t.Error("no schedule has led to an eviction")
	}
}

// chaos is one schedule.
type chaos struct {
	*world
	rng     *rand.Rand
	faults  map[string]fault // by target: what is wrong with it now
	story   []string         // for the message of a failure
	image   int
	desired int32 // of the Deployment
	most    int32 // the most that was desired since the rollout began
	surge   int
	missing int // maxUnavailable
	// tainted is when a node got its NoExecute taint, led when the controllers
	// last began, slow when something that slows evictions was last in force.
	tainted   map[string]time.Duration
	evicted   map[types.UID]bool
	led, slow time.Duration
	leader    string
}

type fault struct {
	until time.Duration
	undo  func()
}

func newChaos(w *world, rng *rand.Rand) *chaos {
	c := &chaos{world: w, rng: rng, faults: map[string]fault{}, tainted: map[string]time.Duration{}, evicted: map[types.UID]bool{},
		image: 1, desired: int32(2 + rng.IntN(4)), surge: rng.IntN(3), missing: rng.IntN(2)}
	if c.surge == 0 {
		c.missing = 1
	}
	c.most = c.desired
	w.deploy("web", c.desired, func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt(c.surge)), MaxUnavailable: new(intstr.FromInt(c.missing))}
	})
	labels := map[string]string{"app": "db"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "db", Image: "demo/db:1"}}}}
	_, err := client.For[*appsv1.StatefulSet](w.api).Create(w.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3)), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}})
	w.must(err)
	job := *template.DeepCopy()
	job.Labels, job.Spec.RestartPolicy = nil, corev1.RestartPolicyNever
	job.Annotations = map[string]string{sim.AnnotationExitAfter: "30s"}
	_, err = client.For[*batchv1.Job](w.api).Create(w.ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sum"},
		Spec: batchv1.JobSpec{Completions: new(int32(6)), Parallelism: new(int32(2)), BackoffLimit: new(int32(100)), Template: job}})
	w.must(err)
	return c
}

// run does ten minutes of harm, heals everything, and looks at what is left.
func (c *chaos) run() {
	c.until("all is well at first", 2*time.Minute, c.well)
	defer func() {
		if c.t.Failed() {
			c.t.Logf("what was done:\n%s\n%s%s", strings.Join(c.story, "\n"), c.wants(), c.sight())
		}
	}()
	for end := c.at() + 10*time.Minute; c.at() < end; c.second() {
		if c.rng.IntN(10) == 0 {
			c.harm()
		}
		if c.rng.IntN(40) == 0 {
			c.ask()
		}
	}
	for target, f := range c.faults {
		c.tell("heal " + target)
		f.undo()
		delete(c.faults, target)
	}
	for end := c.at() + 15*time.Minute; !c.well(); c.second() {
		if c.at() > end {
			c.t.Fatalf("the cluster has not converged within a quarter of an hour")
		}
	}
	c.pass(time.Minute) // the last container that exited has been seen by its kubelet
	c.until("all is well at last", 10*time.Minute, c.well)
	c.rollOutUnderWay()
	c.pass(10 * time.Second)
	c.noOrphans()
}

func (c *chaos) tell(what string) {
	c.story = append(c.story, fmt.Sprintf("%8.1f %s", c.at().Seconds(), what))
}

// second lets a second pass, ends faults whose time is over, and checks what must always hold.
func (c *chaos) second() {
	c.pass(time.Second)
	for target, f := range c.faults {
		if c.at() >= f.until {
			c.tell("heal " + target)
			f.undo()
			delete(c.faults, target)
		}
	}
	c.surgeHolds()
	c.oneOfEachOrdinal()
	c.evictionsAreDue()
}

// harm does something to one part that nothing is being done to.
func (c *chaos) harm() {
	nodes := c.sim.Nodes()
	node := nodes[1+c.rng.IntN(len(nodes)-1)]
	component := []string{sim.ControllerManager, sim.Scheduler}[c.rng.IntN(2)]
	lasts := time.Duration(5+c.rng.IntN(40)) * time.Second
	if c.rng.IntN(4) == 0 {
		lasts = 6*time.Minute + time.Duration(c.rng.IntN(120))*time.Second
	}
	switch c.rng.IntN(9) {
	case 0:
		c.begin(node.Name, "stop", lasts, node.Stop, node.Start)
	case 1:
		c.begin(node.Name, "pause", lasts, node.Pause, node.Heal)
	case 2:
		c.begin(node.Name, "cut", lasts, node.Link.Cut, node.Heal)
	case 3:
		c.begin(component, "stop", lasts%time.Minute, func() { c.do("stop " + component) }, func() { c.do("start " + component) })
	case 4:
		c.begin(sim.APIServer, "stop", time.Duration(1+c.rng.IntN(20))*time.Second, func() { c.do("stop " + sim.APIServer) }, func() { c.do("start " + sim.APIServer) })
	case 5:
		link := c.sim.Link(component)
		delay := time.Duration(c.rng.IntN(1500)) * time.Millisecond
		c.begin(component+" link", fmt.Sprintf("delay by up to %v", delay), lasts%time.Minute,
			func() { link.Delay(func() time.Duration { return delay / 2 }) }, func() { link.Delay(nil) })
	case 6:
		c.tell("drop connections of " + component)
		c.sim.Link(component).Drop()
	case 7:
		c.tell("drop connections of " + node.Name)
		node.Link.Drop()
	case 8:
		if pods := c.find(isReady); len(pods) > 0 {
			p := pods[c.rng.IntN(len(pods))]
			c.tell("containers of " + p.Name + " exit")
			c.sim.Node(p.Spec.NodeName).Runtime.Exit(p.Namespace, p.Name, "", 1)
		}
	}
}

func (c *chaos) begin(target, verb string, lasts time.Duration, do, undo func()) {
	if _, busy := c.faults[target]; busy {
		return
	}
	c.tell(fmt.Sprintf("%s %s for %v", verb, target, lasts))
	do()
	c.faults[target] = fault{c.at() + lasts, undo}
}

// ask changes what is wanted, as users do. It may fail while no server runs.
func (c *chaos) ask() {
	api := client.For[*appsv1.Deployment](c.api)
	patch := func(what, body string) bool {
		_, err := api.Patch(c.ctx, "default", "web", types.StrategicMergePatchType, []byte(body))
		c.tell(fmt.Sprintf("%s: %v", what, err))
		return err == nil
	}
	switch c.rng.IntN(4) {
	case 0:
		n := int32(1 + c.rng.IntN(6))
		c.most = max(c.most, n)
		if patch(fmt.Sprintf("scale web to %d", n), fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)) {
			c.desired = n
		}
	case 1:
		c.image++
		patch("new image for web", fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"demo/app:%d"}]}}}}`, c.image))
	case 2:
		if pods := c.find(isReady); len(pods) > 0 {
			p := pods[c.rng.IntN(len(pods))]
			err := client.For[*corev1.Pod](c.api).Delete(c.ctx, p.Namespace, p.Name, metav1.DeleteOptions{})
			c.tell(fmt.Sprintf("delete %s: %v", p.Name, err))
		}
	case 3: // writes that come between a controller's reading and its writing
		c.tell("touch every object of web")
		touch := []byte(fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%v"}}}`, c.at()))
		_, _ = api.Patch(c.ctx, "default", "web", types.MergePatchType, touch)
		sets, _ := client.For[*appsv1.ReplicaSet](c.api).List(c.ctx, "default", metav1.ListOptions{})
		for _, rs := range sets.Items {
			_, _ = client.For[*appsv1.ReplicaSet](c.api).Patch(c.ctx, "default", rs.Name, types.MergePatchType, touch)
		}
		for _, p := range c.pods.List() {
			_, _ = client.For[*corev1.Pod](c.api).Patch(c.ctx, p.Namespace, p.Name, types.MergePatchType, touch)
		}
	}
}
