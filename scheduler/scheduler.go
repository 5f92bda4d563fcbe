package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
)

// DefaultName is the schedulerName of pods that name none.
const DefaultName = corev1.DefaultSchedulerName

// Config is what a Scheduler needs.
type Config struct {
	Client   *client.Client
	Recorder *client.Recorder
	// Name is the spec.schedulerName that it serves; DefaultName if empty.
	Name string
	// Explain writes the working of every decision to its pod, not only for the
	// pods that ask for it (see AnnotationExplain).
	Explain bool
}

// Scheduler gives pods nodes.
//
// Upstream: pkg/scheduler/scheduler.go, Scheduler.
type Scheduler struct {
	cfg       Config
	cache     *Cache
	queue     *Queue
	framework *Framework
	informers *client.Informers

	pods        *client.Informer[*corev1.Pod]
	namespaces  *client.Informer[*corev1.Namespace]
	services    *client.Informer[*corev1.Service]
	controllers *client.Informer[*corev1.ReplicationController]
	replicaSets *client.Informer[*appsv1.ReplicaSet]
	stateful    *client.Informer[*appsv1.StatefulSet]
	budgets     *client.Informer[*policyv1.PodDisruptionBudget]

	nominated nominator
	// start is where the next cycle begins to look for nodes, so that over time
	// all nodes are looked at; only the cycle's goroutine uses it.
	start int
	wg    sync.WaitGroup // binding cycles and status writes
}

// New makes a Scheduler.
func New(cfg Config) *Scheduler {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	inf := client.NewInformers(cfg.Client)
	s := &Scheduler{
		cfg: cfg, cache: NewCache(), informers: inf,
		pods: client.InformerWith[*corev1.Pod](inf, metav1.ListOptions{
			FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}),
		namespaces:  client.InformerFor[*corev1.Namespace](inf),
		services:    client.InformerFor[*corev1.Service](inf),
		controllers: client.InformerFor[*corev1.ReplicationController](inf),
		replicaSets: client.InformerFor[*appsv1.ReplicaSet](inf),
		stateful:    client.InformerFor[*appsv1.StatefulSet](inf),
		budgets:     client.InformerFor[*policyv1.PodDisruptionBudget](inf),
	}
	s.framework = &Framework{
		// The order of filters is upstream's: cheap and decisive first. The first
		// that says no is the reason that users see.
		plugins: []Plugin{
			schedulingGates{}, nodeUnschedulable{}, nodeName{}, taintToleration{}, nodeAffinity{}, nodePorts{}, resourcesFit{},
			newVolumeBinding(inf, func() { s.queue.Happened(ClusterEvent{Storage: true}) }),
			&topologySpread{defaultSelector: s.defaultSelector}, &interPodAffinity{namespaceLabels: s.namespaceLabels},
			balancedAllocation{}, imageLocality{},
		},
		weights: map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2},
	}
	s.queue = newQueue(s.framework)
	s.watch()
	return s
}

func (s *Scheduler) namespaceLabels(name string) labels.Set {
	if ns, ok := s.namespaces.Get("", name); ok {
		return ns.Labels
	}
	return nil
}

// Run schedules until the context ends.
func (s *Scheduler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.informers.Run(ctx) })
	g.Go(func() error {
		if err := s.informers.WaitForSync(ctx); err != nil {
			return nil // the context ended
		}
		g.Go(func() error {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
					s.queue.flush()
				}
			}
		})
		for {
			p := s.queue.Pop(ctx)
			if p == nil {
				s.wg.Wait()
				return nil
			}
			s.scheduleOne(ctx, p)
		}
	})
	return g.Wait()
}

// scheduleOne is the scheduling cycle of one pod; it ends by starting the
// binding cycle or by putting the pod back.
//
// Upstream: pkg/scheduler/schedule_one.go, Scheduler.ScheduleOne.
func (s *Scheduler) scheduleOne(ctx context.Context, p *queued) {
	if s.cache.Has(p.pod.UID) || p.pod.DeletionTimestamp != nil {
		s.queue.Done(p)
		return
	}
	c := newCycle(p.pod, s.cache.Snapshot())
	var why *working
	if s.explains(p.pod) {
		why = s.work(c)
	}
	node, fit := s.choose(c)
	if fit != nil {
		s.reject(ctx, p, c, fit, why)
		return
	}
	if st := s.framework.reserve(c, node); !st.OK() {
		s.reject(ctx, p, c, &fitError{total: len(c.Snapshot.Nodes), whole: st}, why)
		return
	}
	s.cache.Assume(p.pod, node)
	s.wg.Go(func() { s.bind(ctx, p, c, node, why) })
}

// choose names the best node for the cycle's pod.
func (s *Scheduler) choose(c *Cycle) (string, *fitError) {
	fit := &fitError{total: len(c.Snapshot.Nodes), verdicts: map[string]*Status{}}
	if st := s.framework.preFilter(c); !st.OK() {
		fit.whole = st
		return "", fit
	}
	feasible := s.feasible(c, fit)
	switch len(feasible) {
	case 0:
		return "", fit
	case 1:
		return feasible[0].Name(), nil
	}
	scores, st := s.framework.score(c, feasible, nil)
	if !st.OK() {
		fit.whole = st
		return "", fit
	}
	return best(scores), nil
}

// feasible finds nodes that pass all filters: all of them in a small cluster,
// enough of them in a large one. A nominated node is asked first and suffices.
func (s *Scheduler) feasible(c *Cycle, fit *fitError) []*NodeInfo {
	if name := s.nominated.of(c.Pod); name != "" {
		for _, n := range c.Snapshot.Nodes {
			if n.Name() == name && s.filter(c, n).OK() {
				return []*NodeInfo{n}
			}
		}
	}
	nodes := c.Snapshot.Nodes
	want := enough(len(nodes))
	var found []*NodeInfo
	looked := 0
	for ; looked < len(nodes) && len(found) < want; looked++ {
		n := nodes[(s.start+looked)%len(nodes)]
		if st := s.filter(c, n); st.OK() {
			found = append(found, n)
		} else {
			fit.verdicts[n.Name()] = st
		}
	}
	if len(nodes) > 0 {
		s.start = (s.start + looked) % len(nodes)
	}
	return found
}

// enough is how many feasible nodes are looked for: all up to 100 nodes, then a
// share that shrinks from 50% to 5%, never below 100.
//
// Upstream: pkg/scheduler/schedule_one.go, numFeasibleNodesToFind.
func enough(nodes int) int {
	if nodes < 100 {
		return nodes
	}
	percent := max(5, 50-nodes/125)
	return max(100, nodes*percent/100)
}

// filter asks the filters about a node, with the pods counted in that a
// preemption made room for and that must not lose it again.
func (s *Scheduler) filter(c *Cycle, n *NodeInfo) *Status {
	if with := s.nominated.addTo(n, c.Pod); with != n {
		if st := s.framework.filter(c, with); !st.OK() {
			return st
		}
	}
	return s.framework.filter(c, n)
}

// best picks the node with the highest score, at random among equals.
func best(scores []NodeScore) string {
	pick, equals := 0, 1
	for i := 1; i < len(scores); i++ {
		switch {
		case scores[i].Score > scores[pick].Score:
			pick, equals = i, 1
		case scores[i].Score == scores[pick].Score:
			if equals++; rand.IntN(equals) == 0 {
				pick = i
			}
		}
	}
	return scores[pick].Node.Name()
}

// bind is the binding cycle.
func (s *Scheduler) bind(ctx context.Context, p *queued, c *Cycle, node string, why *working) {
	st := s.framework.prepareBinding(ctx, c, node)
	if st.OK() {
		p.writing <- struct{}{}
		if why != nil {
			s.explain(ctx, p.pod, why, node)
		}
		binding := &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.pod.Namespace, Name: p.pod.Name, UID: p.pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: node},
		}
		if err := client.For[*corev1.Pod](s.cfg.Client).Post(ctx, p.pod.Namespace, p.pod.Name, "binding", binding, nil); err != nil {
			st = failed(fmt.Errorf("binding rejected: %w", err))
		}
		<-p.writing
	}
	if !st.OK() {
		s.framework.unreserve(c, node)
		s.cache.Forget(p.pod.UID)
		s.queue.Happened(ClusterEvent{PodGone: p.pod}) // others may have its room
		s.reject(ctx, p, c, &fitError{total: len(c.Snapshot.Nodes), whole: st}, nil)
		return
	}
	s.queue.Done(p)
	s.nominated.remove(p.pod.UID)
	slog.Info("bound pod to node", "component", "scheduler", "pod", client.Key(p.pod), "node", node)
	s.cfg.Recorder.Eventf(p.pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", p.pod.Namespace, p.pod.Name, node)
}

// fitError says why a pod has no node.
//
// Upstream: pkg/scheduler/framework/types.go, FitError.
type fitError struct {
	total    int
	verdicts map[string]*Status // by node
	whole    *Status            // for all nodes at once, or an error
	post     string             // what preemption had to say
}

// internal says whether an error, and no verdict, is the cause.
func (f *fitError) internal() bool { return f.whole != nil && f.whole.Code == Failed }

// Error is the text that users read in the event FailedScheduling.
func (f *fitError) Error() string {
	switch {
	case f.internal():
		return f.whole.Message()
	case f.total == 0:
		return "no nodes available to schedule pods"
	}
	var reasons []string
	if f.whole != nil {
		reasons = []string{f.whole.Message()}
	} else {
		reasons = histogram(f.verdicts)
	}
	msg := fmt.Sprintf("0/%d nodes are available: %s.", f.total, strings.Join(reasons, ", "))
	if f.post != "" {
		msg += " " + f.post
	}
	return msg
}

// histogram counts reasons over nodes: "2 Insufficient cpu".
func histogram(verdicts map[string]*Status) []string {
	counts := map[string]int{}
	for _, st := range verdicts {
		for _, r := range st.Reasons {
			counts[r]++
		}
	}
	out := make([]string, 0, len(counts))
	for r, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, r))
	}
	sort.Strings(out)
	return out
}

func (f *fitError) plugins() map[string]bool {
	if f.internal() {
		return nil
	}
	names := map[string]bool{}
	if f.whole != nil {
		names[f.whole.Plugin] = true
	}
	for _, st := range f.verdicts {
		names[st.Plugin] = true
	}
	if len(names) == 0 { // there were no nodes: only a node can help
		names[nodeUnschedulable{}.Name()] = true
	}
	return names
}

// reject puts a pod back, tries to make room for it by preemption, and says why
// on the pod and in an event.
func (s *Scheduler) reject(ctx context.Context, p *queued, c *Cycle, fit *fitError, why *working) {
	nominee := ""
	if !fit.internal() {
		nominee, fit.post = s.preempt(ctx, c, fit)
	}
	pod := p.pod
	p.writing <- struct{}{} // before the queue may hand it out again
	s.queue.Failed(p, fit.plugins())
	if _, ok := s.pods.Get(pod.Namespace, pod.Name); !ok {
		<-p.writing
		s.queue.Delete(pod.UID) // it went while it was being tried
		return
	}
	reason := corev1.PodReasonUnschedulable
	if fit.internal() {
		reason = corev1.PodReasonSchedulerError
	}
	message := fit.Error()
	s.cfg.Recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	s.wg.Go(func() {
		defer func() { <-p.writing }()
		if why != nil {
			s.explain(ctx, pod, why, "")
		}
		s.writeCondition(ctx, pod, reason, message, nominee)
	})
}
