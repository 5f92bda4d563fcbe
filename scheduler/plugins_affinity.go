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
	weight      int32
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
			out = append(out, parse(&terms[i], hardAffinityWeight))
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
	attracted *sum // pods that all of the pod's own affinity terms select
	repelled  *sum // pods that its anti-affinity terms select
	unwelcome *sum // pods whose anti-affinity terms select it
}

func (p *interPodAffinity) PreFilter(c *Cycle) *Status {
	m := &podMeeting{&sum{}, &sum{}, &sum{}}
	own, others := len(c.terms.affinity)+len(c.terms.anti) > 0, c.Snapshot.withAnti > 0
	if own {
		t := c.tally("InterPodAffinity/own/"+termsKey(c.Pod), 2, p.own(c.terms))
		m.attracted, m.repelled = &t.sums[0], &t.sums[1]
	}
	if others {
		m.unwelcome = &c.tally("InterPodAffinity/others/"+labelsKey(c.Pod), 1, p.others(c.Pod)).sums[0]
	}
	if !own && !others {
		return verdict(Skip)
	}
	note(c, "InterPodAffinity", m)
	return nil
}

// termsKey says all that a pod's own terms depend on, labelsKey all that the terms
// of others look at.
func termsKey(pod *corev1.Pod) string {
	terms, _ := pod.Spec.Affinity.Marshal() // it came over the wire, so it can go there
	return pod.Namespace + "/" + string(terms)
}

func labelsKey(pod *corev1.Pod) string { return pod.Namespace + "/" + labels.FormatLabels(pod.Labels) }

// own counts the pods of a node that the terms of the incoming pod select.
func (p *interPodAffinity) own(terms affinityTerms) func(*NodeInfo) shares {
	return func(n *NodeInfo) (out shares) {
		for _, other := range n.Pods {
			ns := p.namespaceLabels(other.Pod.Namespace)
			if selectedByAll(terms.affinity, other.Pod, ns) {
				out.weigh(0, n, terms.affinity, 1, other.Pod, ns)
			}
			out.weigh(1, n, terms.anti, 1, other.Pod, ns)
		}
		return out
	}
}

// others counts the anti-affinity terms on a node that select the incoming pod.
func (p *interPodAffinity) others(pod *corev1.Pod) func(*NodeInfo) shares {
	return func(n *NodeInfo) (out shares) {
		if n.withAnti > 0 {
			ns := p.namespaceLabels(pod.Namespace)
			for _, other := range n.Pods {
				out.weigh(0, n, other.terms.anti, 1, pod, ns)
			}
		}
		return out
	}
}

// weigh adds the weights of those terms that select a pod.
func (s *shares) weigh(sum int, n *NodeInfo, terms []affinityTerm, sign int, pod *corev1.Pod, ns labels.Set) {
	for i := range terms {
		if v, ok := n.Node.Labels[terms[i].topologyKey]; ok && terms[i].selects(pod, ns) {
			s.add(sum, terms[i].topologyKey, v, sign*int(terms[i].weight))
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

func (p *interPodAffinity) Filter(c *Cycle, n *NodeInfo) *Status {
	m := noted[*podMeeting](c, "InterPodAffinity")
	switch {
	case !p.affinityHolds(c, m, n):
		return verdict(Unresolvable, "node(s) didn't match pod affinity rules")
	case m.repelled.at(n.Node.Labels) > 0:
		return verdict(Unschedulable, "node(s) didn't match pod anti-affinity rules")
	case m.unwelcome.at(n.Node.Labels) > 0:
		return verdict(Unschedulable, "node(s) didn't satisfy existing pods anti-affinity rules")
	}
	return nil
}

// affinityHolds also lets the first pod of a group in that wants to be near its
// own kind: there is nobody yet to be near.
func (p *interPodAffinity) affinityHolds(c *Cycle, m *podMeeting, n *NodeInfo) bool {
	near := true
	for i := range c.terms.affinity {
		key := c.terms.affinity[i].topologyKey
		v, ok := n.Node.Labels[key]
		if !ok {
			return false
		}
		near = near && m.attracted.domains[key][v].n > 0
	}
	return near || len(m.attracted.domains) == 0 && selectedByAll(c.terms.affinity, c.Pod, p.namespaceLabels(c.Pod.Namespace))
}

// hardAffinityWeight is what a required affinity of a pod that is there adds to
// the score of places near it.
const hardAffinityWeight = 1

func (p *interPodAffinity) PreScore(c *Cycle, _ []*NodeInfo) *Status {
	var wishes []*sum
	ask := func(key string, f func(*NodeInfo) shares) {
		if s := &c.Snapshot.tally(key, 1, f).sums[0]; len(s.domains) > 0 {
			wishes = append(wishes, s)
		}
	}
	if len(c.terms.preferredAffinity)+len(c.terms.preferredAnti) > 0 {
		ask("InterPodAffinity/own wishes/"+termsKey(c.Pod), p.ownWishes(c.terms))
	}
	if c.Snapshot.withAffinity > 0 {
		ask("InterPodAffinity/wishes of others/"+labelsKey(c.Pod), p.othersWishes(c.Pod))
	}
	if len(wishes) == 0 {
		return verdict(Skip)
	}
	note(c, "InterPodAffinity/score", wishes)
	return nil
}

// ownWishes weighs the pods of a node by the preferences of the incoming pod.
func (p *interPodAffinity) ownWishes(terms affinityTerms) func(*NodeInfo) shares {
	return func(n *NodeInfo) (out shares) {
		for _, other := range n.Pods {
			ns := p.namespaceLabels(other.Pod.Namespace)
			out.weigh(0, n, terms.preferredAffinity, 1, other.Pod, ns)
			out.weigh(0, n, terms.preferredAnti, -1, other.Pod, ns)
		}
		return out
	}
}

// othersWishes weighs the incoming pod by the terms of the pods on a node.
func (p *interPodAffinity) othersWishes(pod *corev1.Pod) func(*NodeInfo) shares {
	return func(n *NodeInfo) (out shares) {
		if n.withAffinity > 0 {
			ns := p.namespaceLabels(pod.Namespace)
			for _, other := range n.Pods {
				out.weigh(0, n, other.terms.affinity, 1, pod, ns)
				out.weigh(0, n, other.terms.preferredAffinity, 1, pod, ns)
				out.weigh(0, n, other.terms.preferredAnti, -1, pod, ns)
			}
		}
		return out
	}
}

func (*interPodAffinity) Score(c *Cycle, n *NodeInfo) (score int64) {
	for _, s := range noted[[]*sum](c, "InterPodAffinity/score") {
		score += int64(s.at(n.Node.Labels))
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
