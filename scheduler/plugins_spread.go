package scheduler

import (
	"fmt"
	"math"
	"strings"

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
	// perNode takes each node for a domain of its own, whatever its label is.
	perNode bool
}

// domain is the one that a node is in.
func (c *spreadConstraint) domain(n *NodeInfo) string {
	if c.perNode {
		return n.Name()
	}
	return n.Node.Labels[c.key]
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

// spreading is what PreFilter and PreScore find: the constraints and, for each of
// them, how many matching pods each domain has.
type spreading struct {
	constraints []spreadConstraint
	sums        []sum
	self        []int              // for Filter: whether the pod itself counts, 0 or 1
	weights     []float64          // for Score
	ignored     map[*NodeInfo]bool // for Score: nodes that lack a topology label of the pod's own constraints
}

// count counts the pods of a node under each constraint. A node that lacks a label
// of one counts for none, unless all is set.
func count(pod *corev1.Pod, constraints []spreadConstraint, all bool) func(*NodeInfo) shares {
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(n *NodeInfo) (out shares) {
		if !all && !hasAll(constraints, n) {
			return nil
		}
		for i := range constraints {
			if c := &constraints[i]; c.counts(pod, n, affinity) {
				out.add(i, c.key, c.domain(n), c.matching(pod.Namespace, n))
			}
		}
		return out
	}
}

// spreadKey says all that count depends on.
func spreadKey(pod *corev1.Pod, constraints []spreadConstraint, all bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "PodTopologySpread/%s/%t", pod.Namespace, all)
	for _, c := range constraints {
		fmt.Fprintf(&b, "/%s %s %t %t %t", c.key, c.selector, c.perNode, c.honorAffinity, c.honorTaints)
	}
	where := corev1.PodSpec{NodeSelector: pod.Spec.NodeSelector, Tolerations: pod.Spec.Tolerations}
	if a := pod.Spec.Affinity; a != nil {
		where.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	}
	raw, _ := where.Marshal() // it came over the wire, so it can go there
	b.Write(raw)
	return b.String()
}

func (p *topologySpread) PreFilter(c *Cycle) *Status {
	s := &spreading{constraints: parseSpread(c.Pod, corev1.DoNotSchedule)}
	if len(s.constraints) == 0 {
		return verdict(Skip)
	}
	for i := range s.constraints {
		self := 0
		if s.constraints[i].selector.Matches(labels.Set(c.Pod.Labels)) {
			self = 1
		}
		s.self = append(s.self, self)
	}
	s.sums = c.tally(spreadKey(c.Pod, s.constraints, false), len(s.constraints), count(c.Pod, s.constraints, false)).sums
	note(c, "PodTopologySpread", s)
	return nil
}

func (p *topologySpread) Filter(c *Cycle, n *NodeInfo) *Status {
	s := noted[*spreading](c, "PodTopologySpread")
	for i := range s.constraints {
		sc, domains := &s.constraints[i], s.sums[i].domains[s.constraints[i].key]
		value, ok := n.Node.Labels[sc.key]
		if !ok {
			return verdict(Unresolvable, "node(s) didn't match pod topology spread constraints (missing required label)")
		}
		fewest := 0 // while there are fewer domains than there shall be
		if len(domains) >= int(sc.minDomains) {
			fewest = s.sums[i].fewest()
		}
		if domains[value].n+s.self[i]-fewest > int(sc.maxSkew) {
			return verdict(Unschedulable, "node(s) didn't match pod topology spread constraints")
		}
	}
	return nil
}

func (p *topologySpread) PreScore(c *Cycle, nodes []*NodeInfo) *Status {
	s := &spreading{constraints: parseSpread(c.Pod, corev1.ScheduleAnyway), ignored: map[*NodeInfo]bool{}}
	defaults := len(c.Pod.Spec.TopologySpreadConstraints) == 0
	if defaults {
		s.constraints = p.defaultConstraints(c.Pod)
	}
	if len(s.constraints) == 0 {
		return verdict(Skip)
	}
	for i := range s.constraints {
		s.constraints[i].perNode = s.constraints[i].key == corev1.LabelHostname
	}
	for _, n := range nodes {
		if !defaults && !hasAll(s.constraints, n) {
			s.ignored[n] = true
		}
	}
	s.sums = c.Snapshot.tally(spreadKey(c.Pod, s.constraints, defaults), len(s.constraints), count(c.Pod, s.constraints, defaults)).sums
	for i := range s.constraints {
		// The more domains there are, the less one pod more or less in one means.
		s.weights = append(s.weights, math.Log(float64(s.domains(&s.constraints[i], nodes)+2)))
	}
	note(c, "PodTopologySpread/score", s)
	return nil
}

// domains is how many domains the candidates are in. Under the default constraints
// the nodes without the label are one, too.
func (s *spreading) domains(c *spreadConstraint, nodes []*NodeInfo) int {
	if c.perNode {
		return len(nodes) - len(s.ignored)
	}
	seen := map[string]bool{}
	for _, n := range nodes {
		if !s.ignored[n] {
			seen[c.domain(n)] = true
		}
	}
	return len(seen)
}

func (p *topologySpread) Score(c *Cycle, n *NodeInfo) int64 {
	s := noted[*spreading](c, "PodTopologySpread/score")
	if s.ignored[n] {
		return 0
	}
	var score float64
	for i := range s.constraints {
		sc := &s.constraints[i]
		if _, ok := n.Node.Labels[sc.key]; ok {
			score += float64(s.sums[i].domains[sc.key][sc.domain(n)].n)*s.weights[i] + float64(sc.maxSkew-1)
		}
	}
	return int64(math.Round(score))
}

// Normalize turns fewer pods into better scores. Nodes that lack a label get 0.
func (p *topologySpread) Normalize(c *Cycle, scores []NodeScore) {
	s := noted[*spreading](c, "PodTopologySpread/score")
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
