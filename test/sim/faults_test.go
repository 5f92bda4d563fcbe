package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/client/timing"
	"orrery/lab/sim"
)

// defaultSeeds is how many schedules run unless SEEDS says otherwise.
const defaultSeeds = 200

// latency is how long an answer of the API server takes.
const latency = 10 * time.Millisecond

// seen counts what all schedules together have met: of what none has met, nothing
// was checked.
var seen struct{ taintEvictions, outlived, granted, refused, sideDeletions atomic.Int64 }

// TestRandomFaults runs schedules of random faults, one for each seed, and holds
// the cluster to its promises all the while and after the last fault.
//
//	SEEDS=1000 go test ./test/sim -run TestRandomFaults       more of them
//	go test ./test/sim -run TestRandomFaults/all/seed=17 -v      one of them again
//
// A seed fixes the cluster and the schedule of what is done to it. The jitter of
// the components and the turns of goroutines are not its to fix.
func TestRandomFaults(t *testing.T) {
	seeds := uint64(defaultSeeds)
	if s := os.Getenv("SEEDS"); s != "" {
		var err error
		if seeds, err = strconv.ParseUint(s, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	var whole atomic.Bool
	t.Run("all", func(t *testing.T) {
		for seed := uint64(1); seed <= seeds; seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				if seed == seeds {
					whole.Store(true) // the filter of -run has let the last one through
				}
				rng := rand.New(rand.NewPCG(seed, 0))
				inCluster(t, sim.Config{Nodes: 3 + rng.IntN(2), Latency: latency}, func(w *world) { newChaos(w, rng, seed%2 == 0).run() })
			})
		}
	})
	if !whole.Load() || seeds < 20 || t.Failed() {
		return
	}
	for what, n := range map[string]*atomic.Int64{"an eviction by a taint": &seen.taintEvictions, "a member of a StatefulSet that outlives its eviction": &seen.outlived,
		"an eviction that a budget granted": &seen.granted, "an eviction that a budget refused": &seen.refused, "the deletion of a Deployment": &seen.sideDeletions} {
		if n.Load() == 0 {
			t.Errorf("no schedule has led to %s", what)
		}
	}
}

// chaos is one schedule.
type chaos struct {
	*world
	rng    *rand.Rand
	faults map[string]fault // by target: what is wrong with it now
	story  []string         // for the message of a failure

	image, newest int // of the Deployment's template: what it shall have, and the highest that it had
	desired       int32
	asked         []wish // the sizes that the Deployment was asked to have, in order
	surge         int
	missing       int   // maxUnavailable
	sum           int32 // of what the ReplicaSets wanted at the last check

	drains map[string]*drain // by node

	siege    bool // every other schedule has one
	besieged bool // it has begun

	// tainted is when a node had its NoExecute taint not yet, known when the controllers
	// surely saw it, looked when it was last looked for.
	tainted, known map[string]time.Duration
	looked         time.Duration
	// missed is when a node got a taint whose end the controllers may not have seen.
	missed   map[string]time.Duration
	evicted  map[types.UID]bool
	outlived map[types.UID]bool // its eviction and its grace
	// led is when the leading controllers began, slow when something last kept them
	// from acting at once, blind until when they may not see what is.
	led, slow, blind time.Duration
	leader           string
	clear            time.Duration // since when the controllers may know what was asked for
}

type wish struct {
	at time.Duration
	n  int32
}

type fault struct {
	until time.Duration
	undo  func()
}

func newChaos(w *world, rng *rand.Rand, siege bool) *chaos {
	c := &chaos{world: w, rng: rng, faults: map[string]fault{}, drains: map[string]*drain{}, tainted: map[string]time.Duration{}, known: map[string]time.Duration{}, missed: map[string]time.Duration{}, evicted: map[types.UID]bool{},
		siege: siege, outlived: map[types.UID]bool{}, image: 1, newest: 1, desired: int32(2 + rng.IntN(4)), surge: rng.IntN(3), missing: rng.IntN(2)}
	if c.surge == 0 {
		c.missing = 1
	}
	c.asked = []wish{{0, c.desired}}
	c.workloads()
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
		if c.siege && !c.besieged && c.rng.IntN(20) == 0 {
			c.besiege()
		}
		if c.rng.IntN(15) == 0 {
			c.harm()
		}
		if c.rng.IntN(40) == 0 {
			c.ask()
		}
	}
	c.heal(func(fault) bool { return true })
	for end := c.at() + 15*time.Minute; !c.well(); c.second() {
		if c.at() > end {
			c.t.Fatalf("the cluster has not converged within a quarter of an hour")
		}
	}
	// Informers whose last try failed a while ago wait but shortly after the next failure,
	// and no lease looks stale for it.
	c.pass(reconnects + timing.ReflectorBackOffReset)
	c.until("all is well at last", 10*time.Minute, c.well)
	c.rollOutUnderWay()
	c.until("nothing is an orphan", time.Minute, func() bool { return len(c.orphans()) == 0 })
}

func (c *chaos) tell(what string) {
	c.story = append(c.story, fmt.Sprintf("%8.1f %s", c.at().Seconds(), what))
}

// second lets a second pass, ends faults whose time is over, and checks what must always hold.
func (c *chaos) second() {
	c.pass(time.Second)
	c.heal(func(f fault) bool { return c.at() >= f.until })
	c.observe()
	c.drainOn()
	c.surgeHolds()
	c.oneOfEachOrdinal()
	c.evictionsAreDue()
}

// heal ends the faults whose turn it is.
func (c *chaos) heal(over func(fault) bool) {
	for _, target := range slices.Sorted(maps.Keys(c.faults)) {
		if f := c.faults[target]; over(f) {
			c.tell("heal " + target)
			f.undo()
			delete(c.faults, target)
		}
	}
}

// harm does something to one part that nothing is being done to.
func (c *chaos) harm() {
	nodes := c.sim.Nodes()
	node := nodes[1+c.rng.IntN(len(nodes)-1)]
	component := []string{sim.ControllerManager, sim.Scheduler}[c.rng.IntN(2)]
	lasts := time.Duration(5+c.rng.IntN(40)) * time.Second
	if !c.besieged && c.rng.IntN(4) == 0 {
		lasts = 6*time.Minute + time.Duration(c.rng.IntN(120))*time.Second
	}
	switch c.rng.IntN(12) {
	case 0, 9:
		c.begin(node.Name, "stop", lasts, node.Stop, node.Start)
	case 1, 10:
		c.begin(node.Name, "pause", lasts, node.Pause, node.Heal)
	case 2, 11:
		c.begin(node.Name, "cut", lasts, node.Link.Cut, node.Heal)
	case 3:
		if c.besieged {
			component = sim.Scheduler
		}
		c.begin(component, "stop", lasts%time.Minute, func() { c.do("stop " + component) }, func() { c.do("start " + component) })
	case 4:
		away := time.Duration(1+c.rng.IntN(20)) * time.Second
		if c.besieged {
			away = min(away, 3*time.Second) // no leader gives up
		}
		c.begin(sim.APIServer, "stop", away, func() { c.do("stop " + sim.APIServer) }, func() { c.do("start " + sim.APIServer) })
	case 5:
		link := c.sim.Link(component)
		delay := time.Duration(c.rng.IntN(1500)) * time.Millisecond
		c.begin(linkOf(component), fmt.Sprintf("delay by up to %v", delay), lasts%time.Minute,
			func() { link.Delay(func() time.Duration { return delay / 2 }) }, func() { link.Delay(nil) })
	case 6:
		c.drop(component)
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

// besiege cuts off or freezes a machine that runs a member of db, to the end of
// the harm: that is longer than an eviction takes. Until then nothing happens that
// would call the eviction off or leave no machine for a second pod of that name:
// controllers are not restarted, and no other machine is away for long.
func (c *chaos) besiege() {
	members := c.find(func(p *corev1.Pod) bool { return isMember(p) && isReady(p) })
	if len(members) == 0 {
		return
	}
	c.heal(func(fault) bool { return true })
	c.besieged = true
	node := c.sim.Node(members[c.rng.IntN(len(members))].Spec.NodeName)
	if c.rng.IntN(2) == 0 {
		c.begin(node.Name, "cut", time.Hour, node.Link.Cut, node.Heal)
	} else {
		c.begin(node.Name, "pause", time.Hour, node.Pause, node.Heal)
	}
}

func linkOf(component string) string { return component + " link" }

// drop breaks a component's connections: its requests fail, its watches begin
// anew after a wait that grows.
func (c *chaos) drop(component string) {
	c.tell("drop connections of " + component)
	c.sim.Link(component).Drop()
	if component == sim.ControllerManager {
		c.blind = max(c.blind, c.at()+5*time.Second) // a watch that was well begins anew at once
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
	switch c.rng.IntN(7) {
	case 0:
		n := int32(1 + c.rng.IntN(6))
		if c.patchWeb(fmt.Sprintf("scale web to %d", n), fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)) {
			c.desired, c.asked = n, append(c.asked, wish{c.at(), n})
		}
	case 1: // forward, or back to what was
		image := 1 + c.rng.IntN(c.newest+1)
		if c.patchWeb(fmt.Sprintf("image %d for web", image), webImage(image)) {
			c.image, c.newest = image, max(c.newest, image)
		}
	case 2:
		if pods := c.find(isReady); len(pods) > 0 {
			p := pods[c.rng.IntN(len(pods))]
			err := client.For[*corev1.Pod](c.api).Delete(c.ctx, p.Namespace, p.Name, metav1.DeleteOptions{})
			c.tell(fmt.Sprintf("delete %s: %v", p.Name, err))
		}
	case 3:
		c.touch()
	case 4, 6:
		nodes := c.sim.Nodes()
		c.drain(nodes[1+c.rng.IntN(len(nodes)-1)].Name, time.Duration(10+c.rng.IntN(60))*time.Second)
	case 5:
		c.toggleSide()
	}
}

func webImage(n int) string {
	return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"demo/app:%d"}]}}}}`, n)
}

func (c *chaos) patchWeb(what, body string) bool {
	_, err := client.For[*appsv1.Deployment](c.api).Patch(c.ctx, "default", "web", types.StrategicMergePatchType, []byte(body))
	c.tell(fmt.Sprintf("%s: %v", what, err))
	return err == nil
}

// touch writes to every object of web: between a controller's reading and its writing.
func (c *chaos) touch() {
	c.tell("touch every object of web")
	body := []byte(fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%v"}}}`, c.at()))
	_, _ = client.For[*appsv1.Deployment](c.api).Patch(c.ctx, "default", "web", types.MergePatchType, body)
	for _, rs := range c.sets.List() {
		_, _ = client.For[*appsv1.ReplicaSet](c.api).Patch(c.ctx, rs.Namespace, rs.Name, types.MergePatchType, body)
	}
	for _, p := range c.pods.List() {
		_, _ = client.For[*corev1.Pod](c.api).Patch(c.ctx, p.Namespace, p.Name, types.MergePatchType, body)
	}
}
