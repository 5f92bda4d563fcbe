package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadConstraint is a parsed TopologySpreadConstraint.
type spreadConstraint struct {
	maxSkew                    int32
	key                        string
	selector                   labels.Selector
	minDomains                 int32
	honorAffinity, honorTaints bool
}

// topologySpread spreads pods of one kind over nodes and zones: strictly where a
// constraint says DoNotSchedule, and by score where it says ScheduleAnyway or
// where the pod says nothing and the defaults apply.
//
// Upstream: pkg/scheduler/framework/plugins/podtopologyspread.
type topologySpread struct {
	// defaultSelector selects the pods of the same services and controllers.
	defaultSelector func(*corev1.Pod) labels.Selector
}

func (*topologySpread) Name() string { return "PodTopologySpread" }

// defaultConstraints are the cluster's own, for pods without any.
func (p *topologySpread) defaultConstraints(pod *corev1.Pod) []spreadConstraint {
	sel := p.defaultSelector(pod)
	if sel == nil || sel.Empty() {
		return nil
	}
	return []spreadConstraint{
		{maxSkew: 3, key: corev1.LabelHostname, selector: sel, minDomains: 1, honorAffinity: true},
		{maxSkew: 5, key: corev1.LabelTopologyZone, selector: sel, minDomains: 1, honorAffinity: true},
	}
}

func parseSpread(pod *corev1.Pod, when corev1.UnsatisfiableConstraintAction) (out []spreadConstraint) {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != when {
			continue
		}
		sc := spreadConstraint{
			maxSkew: c.MaxSkew, key: c.TopologyKey, selector: ownKind(selectorOrNothing(c.LabelSelector), c.MatchLabelKeys, pod), minDomains: 1,
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			sc.minDomains = *c.MinDomains
		}
		out = append(out, sc)
	}
	return out
}

// ownKind narrows a selector to pods whose labels under keys are the pod's own: to
// one revision of a Deployment, for example.
func ownKind(sel labels.Selector, keys []string, pod *corev1.Pod) labels.Selector {
	own := labels.Set{}
	for _, k := range keys {
		if v, ok := pod.Labels[k]; ok {
			own[k] = v
		}
	}
	if reqs, ok := labels.SelectorFromSet(own).Requirements(); ok && len(own) > 0 {
		return sel.Add(reqs...)
	}
	return sel
}

// hasAll says whether a node is in a domain of every constraint; where it is not,
// it does not count for any.
func hasAll(constraints []spreadConstraint, n *NodeInfo) bool {
	for i := range constraints {
		if _, ok := n.Node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}

// counts says whether a node takes part in the counting of a constraint.
func (c *spreadConstraint) counts(pod *corev1.Pod, n *NodeInfo, affinity nodeaffinity.RequiredNodeAffinity) bool {
	if c.honorAffinity {
		if ok, _ := affinity.Match(n.Node); !ok {
			return false
		}
	}
	return !c.honorTaints || !untolerated(n.Node.Spec.Taints, pod)
}

// matching counts the pods of a node that a constraint selects.
//
// An empty selector selects nothing here, as upstream.
func (c *spreadConstraint) matching(namespace string, n *NodeInfo) int {
	count := 0
	if c.selector.Empty() {
		return 0
	}
	for _, p := range n.Pods {
		if p.Pod.Namespace == namespace && p.Pod.DeletionTimestamp == nil && c.selector.Matches(labels.Set(p.Pod.Labels)) {
			count++
		}
	}
	return count
}

// spreading is what PreFilter finds: the constraints and, for each, how many
// matching pods each domain has.
type spreading struct {
	constraints []spreadConstraint
	domains     []map[string]int
}

func (p *topologySpread) PreFilter(c *Cycle) *Status {
	s := &spreading{constraints: parseSpread(c.Pod, corev1.DoNotSchedule)}
	if len(s.constraints) == 0 {
		return verdict(Skip)
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(c.Pod)
	for i := range s.constraints {
		sc, domains := &s.constraints[i], map[string]int{}
		for _, n := range c.Snapshot.Nodes {
			if hasAll(s.constraints, n) && sc.counts(c.Pod, n, affinity) {
				domains[n.Node.Labels[sc.key]] += sc.matching(c.Pod.Namespace, n)
			}
		}
		s.domains = append(s.domains, domains)
	}
	note(c, "PodTopologySpread", s)
	return nil
}

func (p *topologySpread) Filter(c *Cycle, n *NodeInfo) *Status {
	s := noted[*spreading](c, "PodTopologySpread")
	for i := range s.constraints {
		sc, domains := &s.constraints[i], s.domains[i]
		value, ok := n.Node.Labels[sc.key]
		if !ok {
			return verdict(Unresolvable, "node(s) didn't match pod topology spread constraints (missing required label)")
		}
		self := 0
		if sc.selector.Matches(labels.Set(c.Pod.Labels)) {
			self = 1
		}
		if domains[value]+self-fewest(domains, sc.minDomains) > int(sc.maxSkew) {
			return verdict(Unschedulable, "node(s) didn't match pod topology spread constraints")
		}
	}
	return nil
}

// fewest is the least count of a domain, or 0 while there are fewer domains than
// there shall be.
func fewest(domains map[string]int, minDomains int32) int {
	if len(domains) < int(minDomains) {
		return 0
	}
	least := math.MaxInt
	for _, n := range domains {
		least = min(least, n)
	}
	if least == math.MaxInt {
		return 0
	}
	return least
}

// spreadScore is what PreScore finds.
type spreadScore struct {
	constraints []spreadConstraint
	domains     []map[string]int // nil for the host name: there each node is its own
	weights     []float64
	ignored     map[*NodeInfo]bool // lack a topology label of the pod's own constraints
}

func (p *topologySpread) PreScore(c *Cycle, nodes []*NodeInfo) *Status {
	s := &spreadScore{constraints: parseSpread(c.Pod, corev1.ScheduleAnyway), ignored: map[*NodeInfo]bool{}}
	own := len(c.Pod.Spec.TopologySpreadConstraints) > 0
	if !own {
		s.constraints = p.defaultConstraints(c.Pod)
	}
	if len(s.constraints) == 0 {
		return verdict(Skip)
	}
	for _, n := range nodes {
		if own && !hasAll(s.constraints, n) {
			s.ignored[n] = true
		}
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(c.Pod)
	for i := range s.constraints {
		sc := &s.constraints[i]
		size := len(nodes) - len(s.ignored)
		var domains map[string]int
		if sc.key != corev1.LabelHostname {
			domains = p.countDomains(c, s, sc, nodes, affinity)
			size = len(domains)
		}
		s.domains = append(s.domains, domains)
		// The more domains there are, the less one pod more or less in one means.
		s.weights = append(s.weights, math.Log(float64(size+2)))
	}
	note(c, "PodTopologySpread/score", s)
	return nil
}

// countDomains counts matching pods in the domains that the candidates are in,
// over all nodes of these domains. Under the default constraints the nodes without
// the label are a domain, too.
func (p *topologySpread) countDomains(c *Cycle, s *spreadScore, sc *spreadConstraint, nodes []*NodeInfo, affinity nodeaffinity.RequiredNodeAffinity) map[string]int {
	domains := map[string]int{}
	for _, n := range nodes {
		if !s.ignored[n] {
			domains[n.Node.Labels[sc.key]] = 0
		}
	}
	if len(domains) == 0 {
		return domains
	}
	own := len(c.Pod.Spec.TopologySpreadConstraints) > 0
	for _, n := range c.Snapshot.Nodes {
		if v := n.Node.Labels[sc.key]; (!own || hasAll(s.constraints, n)) && sc.counts(c.Pod, n, affinity) {
			if _, ok := domains[v]; ok {
				domains[v] += sc.matching(c.Pod.Namespace, n)
			}
		}
	}
	return domains
}

func (p *topologySpread) Score(c *Cycle, n *NodeInfo) int64 {
	s := noted[*spreadScore](c, "PodTopologySpread/score")
	if s.ignored[n] {
		return 0
	}
	var score float64
	for i := range s.constraints {
		sc := &s.constraints[i]
		v, ok := n.Node.Labels[sc.key]
		if !ok {
			continue
		}
		count := 0
		if s.domains[i] == nil {
			count = sc.matching(c.Pod.Namespace, n)
		} else {
			count = s.domains[i][v]
		}
		score += float64(count)*s.weights[i] + float64(sc.maxSkew-1)
	}
	return int64(math.Round(score))
}

// Normalize turns fewer pods into better scores. Nodes that lack a label get 0.
func (p *topologySpread) Normalize(c *Cycle, scores []NodeScore) {
	s := noted[*spreadScore](c, "PodTopologySpread/score")
	least, most := int64(math.MaxInt64), int64(0)
	for _, ns := range scores {
		if !s.ignored[ns.Node] {
			least, most = min(least, ns.Score), max(most, ns.Score)
		}
	}
	for i := range scores {
		switch {
		case s.ignored[scores[i].Node]:
			scores[i].Score = 0
		case most == 0:
			scores[i].Score = MaxScore
		default:
			scores[i].Score = MaxScore * (most + least - scores[i].Score) / most
		}
	}
}

func (p *topologySpread) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	return ev.Node != nil || ev.PodGone != nil || ev.PodChanged != nil
}
