package scheduler

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Code is a plugin's verdict.
//
// Upstream: staging/src/k8s.io/kube-scheduler/framework/interface.go, Code.
type Code int

// The verdicts. Unresolvable means that preempting pods would not help.
const (
	Success Code = iota
	Failed       // an internal error: try again with back-off
	Unschedulable
	Unresolvable
	Skip // of PreFilter and PreScore: leave this plugin out for this pod
)

// Status is a verdict with its reasons. A nil *Status is Success.
type Status struct {
	Code    Code
	Reasons []string
	// Plugin is who said so; the framework fills it in.
	Plugin string
}

func verdict(code Code, reasons ...string) *Status { return &Status{Code: code, Reasons: reasons} }
func failed(err error) *Status                     { return &Status{Code: Failed, Reasons: []string{err.Error()}} }

// OK says whether the verdict lets the pod pass.
func (s *Status) OK() bool { return s == nil || s.Code == Success }

// Rejected says whether the pod cannot go here, as opposed to an error.
func (s *Status) Rejected() bool {
	return s != nil && (s.Code == Unschedulable || s.Code == Unresolvable)
}

func (s *Status) skip() bool { return s != nil && s.Code == Skip }

// Message joins the reasons.
func (s *Status) Message() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.Reasons, ", ")
}

// MaxScore is the best score that a plugin gives a node; the worst is 0.
const MaxScore = 100

// Plugin is one rule about where pods may or should go. It takes part in the
// steps whose interfaces it has.
//
// Upstream: staging/src/k8s.io/kube-scheduler/framework/interface.go.
type Plugin interface{ Name() string }

type (
	// PreEnqueuer keeps pods out of the queue that must not be tried yet.
	PreEnqueuer interface {
		PreEnqueue(pod *corev1.Pod) *Status
	}
	// PreFilterer looks at the pod and all nodes once, before Filter. What it
	// finds out for Filter it keeps in the cycle.
	PreFilterer interface {
		PreFilter(c *Cycle) *Status
	}
	// Filterer says whether the pod can run on a node.
	Filterer interface {
		Plugin
		Filter(c *Cycle, node *NodeInfo) *Status
	}
	// PreScorer looks at the nodes that passed once, before Score.
	PreScorer interface {
		PreScore(c *Cycle, nodes []*NodeInfo) *Status
	}
	// Scorer says how good a node is; any range, Normalize brings it to 0..MaxScore.
	Scorer interface {
		Score(c *Cycle, node *NodeInfo) int64
		Normalize(c *Cycle, scores []NodeScore)
	}
	// Reserver holds something for a pod between the choice and the binding.
	// Unreserve must undo Reserve whether or not that succeeded.
	Reserver interface {
		Reserve(c *Cycle, node string) *Status
		Unreserve(c *Cycle, node string)
	}
	// Permitter may refuse a pod its node at the last moment, or wait: it blocks.
	Permitter interface {
		Permit(ctx context.Context, c *Cycle, node string) *Status
	}
	// PreBinder does what must be done before the binding.
	PreBinder interface {
		PreBind(ctx context.Context, c *Cycle, node string) *Status
	}
	// Hinter says which changes of the cluster may make a pod schedulable that
	// this plugin turned away.
	Hinter interface {
		Helps(ev ClusterEvent, pod *corev1.Pod) bool
	}
)

// NodeScore is a node and how good it is.
type NodeScore struct {
	Node  *NodeInfo
	Score int64
}

// Cycle is one attempt to schedule one pod: the pod, the nodes as they were at
// its start, and what plugins noted for themselves.
//
// Upstream: framework.CycleState, but with the pod and the snapshot in it.
type Cycle struct {
	*PodInfo
	scored   Resource // what it counts for in NodeResourcesFit
	Snapshot *Snapshot
	notes    map[string]any
	// only are the nodes, by name, to which a PreFilter confines the pod; nil is all.
	only []string
	// filters are those with something to say about this pod, tallies what their
	// PreFilters counted: see Framework.filterAs.
	filters []Filterer
	tallies []*tally
	// reasons is scratch memory of NodeResourcesFit, lacks its last verdict.
	reasons []string
	lacks   *Status
}

func newCycle(pod *corev1.Pod, snap *Snapshot) *Cycle {
	c := &Cycle{PodInfo: newPodInfo(pod), Snapshot: snap, notes: map[string]any{}}
	c.scored = c.NonZero
	if pod.Spec.Resources != nil {
		c.scored = scoredRequest(pod)
	}
	return c
}

// tally is Snapshot.tally for a PreFilter.
func (c *Cycle) tally(key string, sums int, ask func(*NodeInfo) shares) *tally {
	t := c.Snapshot.tally(key, sums, ask)
	c.tallies = append(c.tallies, t)
	return t
}

// note and noted keep a plugin's own finding for the later steps of the cycle.
func note[T any](c *Cycle, plugin string, v T) { c.notes[plugin] = v }

func noted[T any](c *Cycle, plugin string) (v T) {
	v, _ = c.notes[plugin].(T)
	return v
}

// Framework is the ordered set of plugins with their weights.
//
// Upstream: pkg/scheduler/framework/runtime/framework.go, frameworkImpl.
type Framework struct {
	plugins []Plugin
	weights map[string]int64
}

// preFilter runs all PreFilters. The first verdict against the pod counts for
// every node.
func (f *Framework) preFilter(c *Cycle) *Status {
	for _, p := range f.plugins {
		if pf, ok := p.(PreFilterer); ok {
			s := pf.PreFilter(c)
			if s.skip() {
				continue
			}
			if !s.OK() {
				s.Plugin = p.Name()
				return s
			}
		}
		if fl, ok := p.(Filterer); ok {
			c.filters = append(c.filters, fl)
		}
	}
	return nil
}

// filter asks the plugins about one node; the first that says no is heard.
func (f *Framework) filter(c *Cycle, node *NodeInfo) *Status {
	for _, p := range c.filters {
		if s := p.Filter(c, node); !s.OK() {
			s.Plugin = p.Name()
			return s
		}
	}
	return nil
}

// filterAs is filter for a node of the snapshot as it would be with other pods.
//
// Upstream: PreFilterExtensions, AddPod and RemovePod.
func (f *Framework) filterAs(c *Cycle, i int, node *NodeInfo) *Status {
	for _, t := range c.tallies {
		t.suppose(i, node)
		defer t.suppose(i, c.Snapshot.Nodes[i])
	}
	return f.filter(c, node)
}

// score ranks the nodes by the weighted sum of all plugins' scores. each, if not
// nil, is told every single score, for explanations.
func (f *Framework) score(c *Cycle, nodes []*NodeInfo, each func(plugin string, weight int64, scores []NodeScore)) ([]NodeScore, *Status) {
	total := make([]NodeScore, len(nodes))
	for i, n := range nodes {
		total[i].Node = n
	}
	scores := make([]NodeScore, len(nodes))
	for _, p := range f.plugins {
		sc, ok := p.(Scorer)
		if !ok {
			continue
		}
		if pre, ok := p.(PreScorer); ok {
			s := pre.PreScore(c, nodes)
			if s.skip() {
				continue
			}
			if !s.OK() {
				s.Plugin = p.Name()
				return nil, s
			}
		}
		for i, n := range nodes {
			scores[i] = NodeScore{n, sc.Score(c, n)}
		}
		sc.Normalize(c, scores)
		w := f.weight(p)
		for i := range scores {
			total[i].Score += scores[i].Score * w
		}
		if each != nil {
			each(p.Name(), w, scores)
		}
	}
	return total, nil
}

func (f *Framework) weight(p Plugin) int64 {
	if w, ok := f.weights[p.Name()]; ok {
		return w
	}
	return 1
}

func (f *Framework) preEnqueue(pod *corev1.Pod) *Status {
	for _, p := range f.plugins {
		if pe, ok := p.(PreEnqueuer); ok {
			if s := pe.PreEnqueue(pod); !s.OK() {
				s.Plugin = p.Name()
				return s
			}
		}
	}
	return nil
}

// reserve runs all Reserves; on a refusal those that ran are undone.
func (f *Framework) reserve(c *Cycle, node string) *Status {
	for _, p := range f.plugins {
		if r, ok := p.(Reserver); ok {
			if s := r.Reserve(c, node); !s.OK() {
				s.Plugin = p.Name()
				f.unreserve(c, node)
				return s
			}
		}
	}
	return nil
}

func (f *Framework) unreserve(c *Cycle, node string) {
	for _, p := range slices.Backward(f.plugins) {
		if r, ok := p.(Reserver); ok {
			r.Unreserve(c, node)
		}
	}
}

// permit runs all Permits.
func (f *Framework) permit(ctx context.Context, c *Cycle, node string) *Status {
	for _, p := range f.plugins {
		if pm, ok := p.(Permitter); ok {
			if s := pm.Permit(ctx, c, node); !s.OK() {
				s.Plugin = p.Name()
				return s
			}
		}
	}
	return nil
}

// preBind runs all PreBinds. What they say is an error, never a verdict.
func (f *Framework) preBind(ctx context.Context, c *Cycle, node string) *Status {
	for _, p := range f.plugins {
		if pb, ok := p.(PreBinder); ok {
			if s := pb.PreBind(ctx, c, node); !s.OK() {
				s.Plugin = p.Name()
				return s
			}
		}
	}
	return nil
}

// helps says whether an event may make a pod schedulable that the named plugins
// turned away.
func (f *Framework) helps(ev ClusterEvent, pod *corev1.Pod, turnedAwayBy map[string]bool) bool {
	if len(turnedAwayBy) == 0 {
		return true // an error, not a verdict: anything may help
	}
	for name := range turnedAwayBy {
		for _, p := range f.plugins {
			if h, ok := p.(Hinter); p.Name() == name && (!ok || h.Helps(ev, pod)) {
				return true
			}
		}
	}
	return false
}

// scaleToMax is the usual Normalize: the best raw score becomes MaxScore, or 0
// with reverse, where less is better.
func scaleToMax(scores []NodeScore, reverse bool) {
	var most int64
	for _, s := range scores {
		most = max(most, s.Score)
	}
	for i := range scores {
		if most == 0 {
			if reverse {
				scores[i].Score = MaxScore
			}
			continue
		}
		scores[i].Score = MaxScore * scores[i].Score / most
		if reverse {
			scores[i].Score = MaxScore - scores[i].Score
		}
	}
}
