package scheduler

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var oracleSeeds = flag.Int("oracle-seeds", 2000, "random clusters that are checked against the oracle")

// On random clusters every node is feasible, and scored, as the rules say when
// they are read off the whole cluster again for each node, with no caches,
// indexes or steps; and the pod goes to one of the best.
func TestChoiceIsAsTheRulesSay(t *testing.T) {
	placed, lonely := 0, 0
	for seed := range *oracleSeeds {
		w := randomWorld(rand.New(rand.NewPCG(uint64(seed), 1)))
		s := newScheduler(t)
		w.load(s)
		if w.check(t, seed, s) {
			placed++
		} else {
			lonely++
		}
	}
	if placed < *oracleSeeds/4 || lonely < *oracleSeeds/50 {
		t.Errorf("%d placed, %d without a node: the clusters are too alike", placed, lonely)
	}
}

// They are so, too, when the scheduler has seen the cluster change, and remembers
// what it has counted for pods like this one.
func TestChoiceIsAsTheRulesSayAfterChanges(t *testing.T) {
	for seed := range *oracleSeeds / 20 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		w, s := randomWorld(r), newScheduler(t)
		w.load(s)
		kinds := []*corev1.Pod{w.pod, randomPod(r, "p"), randomPod(r, "p")}
		for step := range 30 {
			for range pick(r, 1, 1, 2, 5, 150) {
				w.change(r, s)
				if chance(r, 50) {
					s.cache.Update(s.snapshot)
				}
			}
			w.pod = pick(r, kinds...)
			if w.check(t, seed, s); t.Failed() {
				t.Fatalf("at step %d", step)
			}
		}
	}
}

// change changes one thing in the cluster, and tells the scheduler.
func (w *oracleWorld) change(r *rand.Rand, s *Scheduler) {
	w.changes++
	switch r.IntN(6) {
	case 0: // a node goes, with its pods
		if len(w.nodes) > 1 {
			i := r.IntN(len(w.nodes))
			for _, p := range w.podsOn(w.nodes[i]) {
				w.end(s, p)
			}
			s.cache.RemoveNode(w.nodes[i].Name)
			w.nodes = slices.Delete(slices.Clone(w.nodes), i, i+1)
		}
	case 1: // a node comes
		n := randomNode(r, fmt.Sprint("new-", w.changes))
		w.nodes = append(w.nodes, n)
		s.cache.SetNode(n)
	case 2: // a node is another
		i := r.IntN(len(w.nodes))
		w.nodes[i] = randomNode(r, w.nodes[i].Name)
		s.cache.SetNode(w.nodes[i])
	case 3: // a pod goes
		if len(w.there) > 0 {
			w.end(s, pick(r, w.there...))
		}
	default: // a pod comes, or is another
		name := fmt.Sprint("new-", w.changes)
		if len(w.there) > 0 && chance(r, 50) {
			name = pick(r, w.there...).Name
		}
		p := randomPod(r, name, on(pick(r, w.nodes...).Name))
		w.there = append(slices.DeleteFunc(w.there, func(o *corev1.Pod) bool { return o.UID == p.UID }), p)
		s.cache.SetPod(p)
	}
}

func (w *oracleWorld) end(s *Scheduler, p *corev1.Pod) {
	w.there = slices.DeleteFunc(w.there, func(o *corev1.Pod) bool { return o == p })
	s.cache.RemovePod(p.UID)
}

func (w *oracleWorld) load(s *Scheduler) {
	for _, n := range w.nodes {
		s.cache.SetNode(n)
	}
	for _, p := range w.there {
		s.cache.SetPod(p)
	}
}

// check has the pod placed; it is false if there is no node for it.
func (w *oracleWorld) check(t *testing.T, seed int, s *Scheduler) bool {
	t.Helper()
	s.cache.Update(s.snapshot)
	c := newCycle(w.pod, s.snapshot)
	got, fit := s.choose(c)
	var feasible []*corev1.Node
	for _, n := range w.nodes {
		want := w.feasible(n)
		if want {
			feasible = append(feasible, n)
		}
		trial := newCycle(w.pod, c.Snapshot)
		st := s.framework.preFilter(trial)
		if st.OK() {
			st = s.framework.filter(trial, c.Snapshot.Nodes[c.Snapshot.index[n.Name]])
		}
		if st.OK() != want {
			t.Fatalf("seed %d: %s feasible: %v, the rules say %v (%s: %s)", seed, n.Name, st.OK(), want, st.Plugin, st.Message())
		}
	}
	switch {
	case len(feasible) == 0 && fit == nil:
		t.Fatalf("seed %d: placed on %s, no node will do", seed, got)
	case len(feasible) == 0:
		return false
	case fit != nil:
		t.Fatalf("seed %d: not placed (%v), %d nodes would do", seed, fit, len(feasible))
	}
	w.checkScores(t, seed, s, c, feasible, got)
	return true
}

func (w *oracleWorld) checkScores(t *testing.T, seed int, s *Scheduler, c *Cycle, feasible []*corev1.Node, got string) {
	t.Helper()
	want := w.totals(feasible)
	best := int64(math.MinInt64)
	for _, v := range want {
		best = max(best, v)
	}
	if want[got] != best {
		t.Fatalf("seed %d: placed on %s with %d, the best have %d: %v", seed, got, want[got], best, want)
	}
	var infos []*NodeInfo
	for _, n := range feasible {
		infos = append(infos, c.Snapshot.Nodes[c.Snapshot.index[n.Name]])
	}
	trial, detail := newCycle(w.pod, c.Snapshot), ""
	scores, st := s.framework.score(trial, infos, func(plugin string, weight int64, scores []NodeScore) {
		for _, ns := range scores {
			detail += fmt.Sprintf("\n%s %s %d x%d", plugin, ns.Node.Name(), ns.Score, weight)
		}
	})
	if !st.OK() {
		t.Fatalf("seed %d: %s", seed, st.Message())
	}
	for _, ns := range scores {
		if ns.Score != want[ns.Node.Name()] {
			t.Fatalf("seed %d: %s has %d, the rules say %d%s\n%v", seed, ns.Node.Name(), ns.Score, want[ns.Node.Name()], detail, w.parts(feasible))
		}
	}
}

// oracleWorld is a cluster and a pod that wants a node of it.
type oracleWorld struct {
	nodes []*corev1.Node
	there []*corev1.Pod
	pod   *corev1.Pod
	// changes is how many there were.
	changes int
}

func pick[T any](r *rand.Rand, of ...T) T   { return of[r.IntN(len(of))] }
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }
func amount(q string) resource.Quantity     { return resource.MustParse(q) }
func selects(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}
func appOf(r *rand.Rand) string { return pick(r, "web", "db", "job") }
func topologyOf(r *rand.Rand) string {
	return pick(r, corev1.LabelHostname, corev1.LabelTopologyZone, "rack")
}
func taintOf(r *rand.Rand) (key, effect string) {
	return pick(r, "a", "b"), pick(r, "NoSchedule", "NoExecute", "PreferNoSchedule")
}
func imageOf(r *rand.Rand) string { return pick(r, "app:1", "big:1", "huge:1") }

var imageSize = map[string]int64{"app:1": 10 << 20, "big:1": 300 << 20, "huge:1": 4000 << 20}

func randomWorld(r *rand.Rand) *oracleWorld {
	w := &oracleWorld{}
	for i := range 1 + r.IntN(8) {
		w.nodes = append(w.nodes, randomNode(r, fmt.Sprint("n", i)))
	}
	for i := range r.IntN(14) {
		w.there = append(w.there, randomPod(r, fmt.Sprint("there-", i), on(pick(r, w.nodes...).Name)))
	}
	w.pod = randomPod(r, "p")
	return w
}

func randomNode(r *rand.Rand, name string) *corev1.Node {
	return node(name, pick(r, "1", "2", "4", "7"), func(n *corev1.Node) {
		n.Status.Allocatable[corev1.ResourceMemory] = amount(pick(r, "1Gi", "4Gi", "9Gi"))
		n.Status.Allocatable[corev1.ResourcePods] = amount(pick(r, "2", "5", "110"))
		if chance(r, 80) {
			n.Labels[corev1.LabelTopologyZone] = pick(r, "east", "west", "north")
		}
		if chance(r, 60) {
			n.Labels["rack"] = pick(r, "r1", "r2")
		}
		if chance(r, 25) {
			key, effect := taintOf(r)
			n.Spec.Taints = []corev1.Taint{{Key: key, Value: "x", Effect: corev1.TaintEffect(effect)}}
		}
		n.Spec.Unschedulable = chance(r, 7)
		for _, image := range slices.Sorted(maps.Keys(imageSize)) { // in order: a seed makes one cluster
			if chance(r, 30) {
				n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: imageSize[image]})
			}
		}
	})
}

func randomPod(r *rand.Rand, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	return pod(name, pick(r, "", "100m", "300m", "1"), append(change, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": appOf(r)}
		p.Namespace = pick(r, "default", "default", "other")
		c := &p.Spec.Containers[0]
		c.Image = imageOf(r)
		if chance(r, 40) {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[corev1.ResourceMemory] = amount(pick(r, "100Mi", "700Mi", "2Gi"))
		}
		if chance(r, 15) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: pick(r, int32(80), int32(81)), HostIP: pick(r, "", "10.0.0.1", "10.0.0.2"), Protocol: corev1.ProtocolTCP}}
		}
		if chance(r, 25) {
			key, effect := taintOf(r)
			p.Spec.Tolerations = []corev1.Toleration{{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffect(pick(r, effect, ""))}}
		}
		if chance(r, 12) {
			p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: pick(r, "east", "west")}
		}
		if chance(r, 45) {
			p.Spec.Affinity = randomAffinity(r)
		}
		if chance(r, 30) {
			for range 1 + r.IntN(2) {
				p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, randomSpread(r))
			}
		}
	})...)
}

func randomAffinity(r *rand.Rand) *corev1.Affinity {
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: topologyOf(r), LabelSelector: selects(appOf(r))}
		if chance(r, 20) {
			t.Namespaces = []string{"other"}
		}
		if chance(r, 10) {
			t.NamespaceSelector = &metav1.LabelSelector{} // all
		}
		return t
	}
	weighted := func() corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(100)), PodAffinityTerm: term()}
	}
	a := &corev1.Affinity{}
	switch r.IntN(5) {
	case 0:
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term()}}
	case 1:
		a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(), term()}[:1+r.IntN(2)]}
	case 2:
		a.PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{weighted(), weighted()}}
	case 3:
		a.PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{weighted()}}
	case 4:
		in := func(key string, values ...string) corev1.NodeSelectorTerm {
			return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}
		}
		a.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: int32(1 + r.IntN(100)), Preference: in("rack", "r1")}, {Weight: 7, Preference: in(corev1.LabelTopologyZone, "west", "north")}}}
		if chance(r, 30) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{in("rack", "r1"), in("rack", "r2")}}
		}
	}
	return a
}

func randomSpread(r *rand.Rand) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + r.IntN(2)), TopologyKey: topologyOf(r), LabelSelector: selects(appOf(r)),
		WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway)}
	if chance(r, 20) {
		c.NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore)
	}
	if chance(r, 20) {
		c.NodeTaintsPolicy = new(corev1.NodeInclusionPolicyHonor)
	}
	if chance(r, 15) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
		c.MinDomains = new(int32(1 + r.IntN(4)))
	}
	return c
}

// What follows are the rules, stated once more for one node and one pod.

func (w *oracleWorld) podsOn(n *corev1.Node) (out []*corev1.Pod) {
	for _, p := range w.there {
		if p.Spec.NodeName == n.Name {
			out = append(out, p)
		}
	}
	return out
}

func (w *oracleWorld) nodeOf(p *corev1.Pod) *corev1.Node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *corev1.Node) bool { return n.Name == p.Spec.NodeName })]
}

// asks is what the one container of a pod asks for; unset takes the place of what it does not say.
func asks(p *corev1.Pod, name corev1.ResourceName, unset int64) int64 {
	q, ok := p.Spec.Containers[0].Resources.Requests[name]
	switch {
	case !ok:
		return unset
	case name == corev1.ResourceCPU:
		return q.MilliValue()
	}
	return q.Value()
}

func has(n *corev1.Node, name corev1.ResourceName) int64 {
	q := n.Status.Allocatable[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func tolerates(p *corev1.Pod, key string, effect corev1.TaintEffect) bool {
	for _, t := range p.Spec.Tolerations {
		if t.Key == key && (t.Effect == "" || t.Effect == effect) {
			return true
		}
	}
	return false
}

func termSelects(owner *corev1.Pod, t corev1.PodAffinityTerm, p *corev1.Pod) bool {
	in := t.NamespaceSelector != nil || slices.Contains(t.Namespaces, p.Namespace) || len(t.Namespaces) == 0 && p.Namespace == owner.Namespace
	return in && p.Labels["app"] == t.LabelSelector.MatchLabels["app"]
}

// together says whether two nodes are one place as far as a topology key goes.
func together(a, b *corev1.Node, key string) bool {
	va, oka := a.Labels[key]
	vb, okb := b.Labels[key]
	return oka && okb && va == vb
}

func matchesNode(n *corev1.Node, t corev1.NodeSelectorTerm) bool {
	for _, e := range t.MatchExpressions {
		if v, ok := n.Labels[e.Key]; !ok || !slices.Contains(e.Values, v) {
			return false
		}
	}
	return true
}

func wantsNode(p *corev1.Pod, n *corev1.Node) bool {
	for k, v := range p.Spec.NodeSelector {
		if n.Labels[k] != v {
			return false
		}
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return slices.ContainsFunc(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool { return matchesNode(n, t) })
	}
	return true
}

func repels(p *corev1.Pod, n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(p, t.Key, t.Effect)
	})
}

func (w *oracleWorld) feasible(n *corev1.Node) bool {
	if n.Spec.Unschedulable || repels(w.pod, n) || !wantsNode(w.pod, n) || int64(len(w.podsOn(n))) >= has(n, corev1.ResourcePods) {
		return false
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		sum := asks(w.pod, name, 0)
		for _, p := range w.podsOn(n) {
			sum += asks(p, name, 0)
		}
		if asks(w.pod, name, 0) > 0 && sum > has(n, name) {
			return false
		}
	}
	for _, mine := range w.pod.Spec.Containers[0].Ports {
		for _, p := range w.podsOn(n) {
			for _, theirs := range p.Spec.Containers[0].Ports {
				if mine.HostPort == theirs.HostPort && (mine.HostIP == theirs.HostIP || mine.HostIP == "" || theirs.HostIP == "") {
					return false
				}
			}
		}
	}
	return w.spreadAllows(n) && w.neighboursAllow(n)
}

// required are a pod's required terms.
func required(p *corev1.Pod) (near, apart []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		apart = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return near, apart
}

func (w *oracleWorld) neighboursAllow(n *corev1.Node) bool {
	near, apart := required(w.pod)
	for _, p := range w.there {
		for _, t := range apart {
			if termSelects(w.pod, t, p) && together(n, w.nodeOf(p), t.TopologyKey) {
				return false
			}
		}
		_, theirs := required(p)
		for _, t := range theirs {
			if termSelects(p, t, w.pod) && together(n, w.nodeOf(p), t.TopologyKey) {
				return false
			}
		}
	}
	// The random pods have one term at most: nearness to any pod that it selects, or the first of its kind.
	for _, t := range near {
		if _, ok := n.Labels[t.TopologyKey]; !ok {
			return false
		}
		anywhere, here := false, false
		for _, p := range w.there {
			if _, placed := w.nodeOf(p).Labels[t.TopologyKey]; placed && termSelects(w.pod, t, p) {
				anywhere, here = true, here || together(n, w.nodeOf(p), t.TopologyKey)
			}
		}
		if !here && (anywhere || !termSelects(w.pod, t, w.pod)) {
			return false
		}
	}
	return true
}

// constraints are the pod's own of one kind.
func (w *oracleWorld) constraints(when corev1.UnsatisfiableConstraintAction) (out []corev1.TopologySpreadConstraint) {
	for _, c := range w.pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == when {
			out = append(out, c)
		}
	}
	return out
}

func inAll(n *corev1.Node, cs []corev1.TopologySpreadConstraint) bool {
	return !slices.ContainsFunc(cs, func(c corev1.TopologySpreadConstraint) bool { return n.Labels[c.TopologyKey] == "" })
}

// counted are the domains of a constraint with the pods in them.
func (w *oracleWorld) counted(c corev1.TopologySpreadConstraint, cs []corev1.TopologySpreadConstraint) map[string]int {
	out := map[string]int{}
	for _, n := range w.nodes {
		if !inAll(n, cs) || c.NodeAffinityPolicy == nil && !wantsNode(w.pod, n) || c.NodeTaintsPolicy != nil && repels(w.pod, n) {
			continue
		}
		out[n.Labels[c.TopologyKey]] += w.alike(c, n)
	}
	return out
}

func (w *oracleWorld) alike(c corev1.TopologySpreadConstraint, n *corev1.Node) (count int) {
	sel, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	for _, p := range w.podsOn(n) {
		if p.Namespace == w.pod.Namespace && sel.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}

func (w *oracleWorld) spreadAllows(n *corev1.Node) bool {
	cs := w.constraints(corev1.DoNotSchedule)
	for _, c := range cs {
		if n.Labels[c.TopologyKey] == "" {
			return false
		}
		domains, self := w.counted(c, cs), 0
		if w.pod.Labels["app"] == c.LabelSelector.MatchLabels["app"] {
			self = 1
		}
		least := 0
		if need := c.MinDomains; need == nil && len(domains) > 0 || need != nil && len(domains) >= int(*need) {
			least = math.MaxInt
			for _, k := range domains {
				least = min(least, k)
			}
		}
		if domains[n.Labels[c.TopologyKey]]+self-least > int(c.MaxSkew) {
			return false
		}
	}
	return true
}

// totals are the weighted sums of all scores of the feasible nodes.
func (w *oracleWorld) totals(feasible []*corev1.Node) map[string]int64 {
	out := map[string]int64{}
	for _, part := range w.parts(feasible) {
		for i, n := range feasible {
			out[n.Name] += part.weight * part.scores[i]
		}
	}
	return out
}

type oraclePart struct {
	name   string
	weight int64
	scores []int64
}

func (w *oracleWorld) parts(feasible []*corev1.Node) []oraclePart {
	each := func(name string, weight int64, of func(*corev1.Node) int64) oraclePart {
		p := oraclePart{name: name, weight: weight}
		for _, n := range feasible {
			p.scores = append(p.scores, of(n))
		}
		return p
	}
	taints := each("taints", 3, func(n *corev1.Node) (bad int64) {
		for _, t := range n.Spec.Taints {
			if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(w.pod, t.Key, t.Effect) {
				bad++
			}
		}
		return bad
	})
	most := max(1, slices.Max(taints.scores))
	for i, s := range taints.scores {
		taints.scores[i] = 100 - 100*s/most
	}
	wishes := each("node affinity", 2, w.wishes)
	if most := slices.Max(wishes.scores); most > 0 {
		for i, s := range wishes.scores {
			wishes.scores[i] = 100 * s / most
		}
	}
	near := each("pod affinity", 2, w.company)
	low, high := slices.Min(near.scores), slices.Max(near.scores)
	for i, s := range near.scores {
		near.scores[i] = 0
		if high > low {
			near.scores[i] = int64(100 * (float64(s-low) / float64(high-low)))
		}
	}
	return []oraclePart{taints, wishes, near, w.spreadScores(feasible),
		each("room", 1, w.room), each("balance", 1, w.evenness), each("images", 1, w.imagesThere)}
}

func (w *oracleWorld) wishes(n *corev1.Node) (sum int64) {
	if a := w.pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		for _, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			if matchesNode(n, t.Preference) {
				sum += int64(t.Weight)
			}
		}
	}
	return sum
}

// company sums the wishes of the pod about the others and of the others about it.
func (w *oracleWorld) company(n *corev1.Node) (sum int64) {
	wish := func(of, about, there *corev1.Pod, ts []corev1.WeightedPodAffinityTerm, sign int64) {
		for _, t := range ts {
			if termSelects(of, t.PodAffinityTerm, about) && together(n, w.nodeOf(there), t.PodAffinityTerm.TopologyKey) {
				sum += sign * int64(t.Weight)
			}
		}
	}
	both := func(of, about, there *corev1.Pod) {
		if a := of.Spec.Affinity; a != nil && a.PodAffinity != nil {
			wish(of, about, there, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a := of.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
			wish(of, about, there, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
		}
	}
	for _, p := range w.there {
		both(w.pod, p, p)
		both(p, w.pod, p)
		near, _ := required(p)
		for _, t := range near {
			wish(p, w.pod, p, []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: t}}, 1)
		}
	}
	return sum
}

func (w *oracleWorld) spreadScores(feasible []*corev1.Node) oraclePart {
	out := oraclePart{name: "spread", weight: 2, scores: make([]int64, len(feasible))}
	cs := w.constraints(corev1.ScheduleAnyway)
	if len(cs) == 0 {
		return out // the random pods have no service or controller, so no default either
	}
	var took []int
	for i, n := range feasible {
		if inAll(n, cs) {
			took = append(took, i)
		}
	}
	raw, low, high := map[int]int64{}, int64(math.MaxInt64), int64(0)
	for _, i := range took {
		n, sum := feasible[i], 0.0
		for _, c := range cs {
			places := map[string]bool{}
			for _, j := range took {
				places[feasible[j].Labels[c.TopologyKey]] = true
			}
			count, size := w.counted(c, cs)[n.Labels[c.TopologyKey]], len(places)
			if c.TopologyKey == corev1.LabelHostname {
				count, size = w.alike(c, n), len(took)
			}
			sum += float64(count)*math.Log(float64(size+2)) + float64(c.MaxSkew-1)
		}
		raw[i] = int64(math.Round(sum))
		low, high = min(low, raw[i]), max(high, raw[i])
	}
	for _, i := range took {
		out.scores[i] = 100
		if high > 0 {
			out.scores[i] = 100 * (high + low - raw[i]) / high
		}
	}
	return out
}

func (w *oracleWorld) room(n *corev1.Node) int64 {
	var sum int64
	for name, unset := range map[corev1.ResourceName]int64{corev1.ResourceCPU: 100, corev1.ResourceMemory: 200 << 20} {
		used := asks(w.pod, name, unset)
		for _, p := range w.podsOn(n) {
			used += asks(p, name, unset)
		}
		sum += max(0, has(n, name)-used) * 100 / has(n, name)
	}
	return sum / 2
}

func (w *oracleWorld) evenness(n *corev1.Node) int64 {
	if asks(w.pod, corev1.ResourceCPU, 0)+asks(w.pod, corev1.ResourceMemory, 0) == 0 {
		return 0
	}
	even := func(pods []*corev1.Pod) int64 {
		var part [2]float64
		for i, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			var sum int64
			for _, p := range pods {
				sum += asks(p, name, 0)
			}
			part[i] = min(1, float64(sum)/float64(has(n, name)))
		}
		return int64((1 - math.Abs((part[0]-part[1])/2)) * 100)
	}
	pods := w.podsOn(n)
	return 50 + (50+even(append(slices.Clone(pods), w.pod))-even(pods))/2
}

func (w *oracleWorld) imagesThere(n *corev1.Node) int64 {
	image, nodes, here := w.pod.Spec.Containers[0].Image, 0, false
	for _, o := range w.nodes {
		if slices.ContainsFunc(o.Status.Images, func(i corev1.ContainerImage) bool { return i.Names[0] == image }) {
			nodes++
			here = here || o == n
		}
	}
	bytes := int64(0)
	if here {
		bytes = int64(float64(imageSize[image]) * float64(nodes) / float64(len(w.nodes)))
	}
	const low, high = 23 << 20, 1000 << 20
	return 100 * (min(max(bytes, low), high) - low) / (high - low)
}
