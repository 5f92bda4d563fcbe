package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// affinityTerm is a parsed PodAffinityTerm: pods that it selects, and the
// topology in which they count.
type affinityTerm struct {
	namespaces  []string
	nsSelector  labels.Selector // nil selects none
	selector    labels.Selector
	topologyKey string
	weight      int32 // of preferred terms
}

// affinityTerms are a pod's inter-pod rules.
type affinityTerms struct {
	affinity, anti                   []affinityTerm // required
	preferredAffinity, preferredAnti []affinityTerm
}

func (t *affinityTerms) any() bool {
	return len(t.affinity)+len(t.anti)+len(t.preferredAffinity)+len(t.preferredAnti) > 0
}

// parseAffinity parses a pod's terms. A selector that does not parse selects
// nothing; validation has let none pass.
func parseAffinity(pod *corev1.Pod) (t affinityTerms) {
	a := pod.Spec.Affinity
	if a == nil {
		return t
	}
	parse := func(term *corev1.PodAffinityTerm, weight int32) affinityTerm {
		out := affinityTerm{namespaces: term.Namespaces, topologyKey: term.TopologyKey, weight: weight}
		if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
			out.namespaces = []string{pod.Namespace}
		}
		if term.NamespaceSelector != nil {
			out.nsSelector = selectorOrNothing(term.NamespaceSelector)
		}
		out.selector = selectorOrNothing(term.LabelSelector)
		return out
	}
	required := func(terms []corev1.PodAffinityTerm) (out []affinityTerm) {
		for i := range terms {
			out = append(out, parse(&terms[i], 0))
		}
		return out
	}
	preferred := func(terms []corev1.WeightedPodAffinityTerm) (out []affinityTerm) {
		for i := range terms {
			out = append(out, parse(&terms[i].PodAffinityTerm, terms[i].Weight))
		}
		return out
	}
	if p := a.PodAffinity; p != nil {
		t.affinity, t.preferredAffinity = required(p.RequiredDuringSchedulingIgnoredDuringExecution), preferred(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		t.anti, t.preferredAnti = required(p.RequiredDuringSchedulingIgnoredDuringExecution), preferred(p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return t
}

func selectorOrNothing(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

// selects says whether the term speaks of a pod.
func (t *affinityTerm) selects(pod *corev1.Pod, nsLabels labels.Set) bool {
	inNamespace := slices.Contains(t.namespaces, pod.Namespace) || t.nsSelector != nil && t.nsSelector.Matches(nsLabels)
	return inNamespace && t.selector.Matches(labels.Set(pod.Labels))
}

// topology is a label with its value: the place that pods share.
type topology struct{ key, value string }

// interPodAffinity keeps pods together and apart. A pod's own required terms
// must hold, and no pod that is there may be driven away by its anti-affinity.
//
// Upstream: pkg/scheduler/framework/plugins/interpodaffinity.
type interPodAffinity struct {
	// namespaceLabels are the labels of a namespace.
	namespaceLabels func(namespace string) labels.Set
}

func (*interPodAffinity) Name() string { return "InterPodAffinity" }

// podMeeting is what PreFilter finds: where pods are that attract or repel.
type podMeeting struct {
	terms     affinityTerms
	attracted map[topology]int // pods that all of the pod's own affinity terms select
	repelled  map[topology]int // pods that its anti-affinity terms select
	unwelcome map[topology]int // pods there that do not want it
}

func (p *interPodAffinity) PreFilter(c *Cycle) *Status {
	terms := parseAffinity(c.Pod)
	if len(terms.affinity) == 0 && len(terms.anti) == 0 && len(c.Snapshot.withAnti) == 0 {
		return verdict(Skip)
	}
	m := &podMeeting{terms, map[topology]int{}, map[topology]int{}, map[topology]int{}}
	own := p.namespaceLabels(c.Pod.Namespace)
	for _, n := range c.Snapshot.withAnti {
		for _, other := range n.Pods {
			for i := range other.terms.anti {
				if t := &other.terms.anti[i]; t.selects(c.Pod, own) {
					count(m.unwelcome, n, t.topologyKey)
				}
			}
		}
	}
	if len(terms.affinity)+len(terms.anti) > 0 {
		for _, n := range c.Snapshot.Nodes {
			for _, other := range n.Pods {
				p.meet(m, n, other.Pod)
			}
		}
	}
	note(c, "InterPodAffinity", m)
	return nil
}

// meet counts one pod that is there under the incoming pod's terms.
func (p *interPodAffinity) meet(m *podMeeting, n *NodeInfo, other *corev1.Pod) {
	ns := p.namespaceLabels(other.Namespace)
	if len(m.terms.affinity) > 0 && selectedByAll(m.terms.affinity, other, ns) {
		for i := range m.terms.affinity {
			count(m.attracted, n, m.terms.affinity[i].topologyKey)
		}
	}
	for i := range m.terms.anti {
		if t := &m.terms.anti[i]; t.selects(other, ns) {
			count(m.repelled, n, t.topologyKey)
		}
	}
}

func selectedByAll(terms []affinityTerm, pod *corev1.Pod, ns labels.Set) bool {
	for i := range terms {
		if !terms[i].selects(pod, ns) {
			return false
		}
	}
	return true
}

func count(m map[topology]int, n *NodeInfo, key string) {
	if v, ok := n.Node.Labels[key]; ok {
		m[topology{key, v}]++
	}
}

func (p *interPodAffinity) Filter(c *Cycle, n *NodeInfo) *Status {
	m := noted[*podMeeting](c, "InterPodAffinity")
	if !p.affinityHolds(c, m, n) {
		return verdict(Unresolvable, "node(s) didn't match pod affinity rules")
	}
	for i := range m.terms.anti {
		if v, ok := n.Node.Labels[m.terms.anti[i].topologyKey]; ok && m.repelled[topology{m.terms.anti[i].topologyKey, v}] > 0 {
			return verdict(Unschedulable, "node(s) didn't match pod anti-affinity rules")
		}
	}
	for key, v := range n.Node.Labels {
		if len(m.unwelcome) > 0 && m.unwelcome[topology{key, v}] > 0 {
			return verdict(Unschedulable, "node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return nil
}

// affinityHolds also lets the first pod of a group in that wants to be near its
// own kind: there is nobody yet to be near.
func (p *interPodAffinity) affinityHolds(c *Cycle, m *podMeeting, n *NodeInfo) bool {
	near := true
	for i := range m.terms.affinity {
		v, ok := n.Node.Labels[m.terms.affinity[i].topologyKey]
		if !ok {
			return false
		}
		near = near && m.attracted[topology{m.terms.affinity[i].topologyKey, v}] > 0
	}
	if near {
		return true
	}
	return len(m.attracted) == 0 && selectedByAll(m.terms.affinity, c.Pod, p.namespaceLabels(c.Pod.Namespace))
}

// hardAffinityWeight is what a required affinity of a pod that is there adds to
// the score of places near it.
const hardAffinityWeight = 1

func (p *interPodAffinity) PreScore(c *Cycle, nodes []*NodeInfo) *Status {
	terms := parseAffinity(c.Pod)
	own := len(terms.preferredAffinity)+len(terms.preferredAnti) > 0
	look := c.Snapshot.withAffinity
	if own {
		look = c.Snapshot.Nodes
	}
	if len(look) == 0 {
		return verdict(Skip)
	}
	sums := map[topology]int64{}
	add := func(ts []affinityTerm, pod *corev1.Pod, n *NodeInfo, sign int64) {
		ns := p.namespaceLabels(pod.Namespace)
		for i := range ts {
			if v, ok := n.Node.Labels[ts[i].topologyKey]; ok && ts[i].selects(pod, ns) {
				w := int64(ts[i].weight)
				if w == 0 {
					w = hardAffinityWeight
				}
				sums[topology{ts[i].topologyKey, v}] += sign * w
			}
		}
	}
	for _, n := range look {
		for _, other := range n.Pods {
			add(terms.preferredAffinity, other.Pod, n, 1)
			add(terms.preferredAnti, other.Pod, n, -1)
			add(other.terms.affinity, c.Pod, n, 1)
			add(other.terms.preferredAffinity, c.Pod, n, 1)
			add(other.terms.preferredAnti, c.Pod, n, -1)
		}
	}
	if len(sums) == 0 {
		return verdict(Skip)
	}
	note(c, "InterPodAffinity/score", sums)
	return nil
}

func (*interPodAffinity) Score(c *Cycle, n *NodeInfo) int64 {
	var score int64
	for t, w := range noted[map[topology]int64](c, "InterPodAffinity/score") {
		if n.Node.Labels[t.key] == t.value {
			score += w
		}
	}
	return score
}

// Normalize stretches the scores, which may be negative, to 0..MaxScore.
func (*interPodAffinity) Normalize(_ *Cycle, scores []NodeScore) {
	least, most := scores[0].Score, scores[0].Score
	for _, s := range scores {
		least, most = min(least, s.Score), max(most, s.Score)
	}
	for i := range scores {
		if most == least {
			scores[i].Score = 0
		} else {
			scores[i].Score = int64(MaxScore * (float64(scores[i].Score-least) / float64(most-least)))
		}
	}
}

func (p *interPodAffinity) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	return ev.Node != nil || ev.PodGone != nil || ev.PodChanged != nil
}
