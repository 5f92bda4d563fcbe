package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orrery/client"
	"orrery/client/timing"
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
	// TimeScale divides the waits of pods that did not fit, and for volumes: 10 is ten
	// times as fast, for drills in class; 0 counts as 1.
	TimeScale float64
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
	ending    *endings
	// snapshot is the cycles' view of the cache, awaiting has the pods nominated to each
	// of its nodes. start is where the next cycle begins to look for nodes, so that over
	// time all nodes are looked at. Only the cycles' goroutine uses them.
	snapshot *Snapshot
	awaiting []*nominees
	start    int
	// writing has an entry for each write that is under way.
	writing chan struct{}
	wg      sync.WaitGroup // binding cycles and status writes
}

// New makes a Scheduler.
func New(cfg Config) *Scheduler {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	inf := client.NewInformers(cfg.Client)
	s := &Scheduler{
		cfg: cfg, cache: NewCache(), snapshot: newSnapshot(), writing: make(chan struct{}, maxWrites), ending: newEndings(), informers: inf,
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
			&volumeRestrictions{claims: client.InformerFor[*corev1.PersistentVolumeClaim](inf)},
			newVolumeBinding(inf, func() { s.queue.Happened(ClusterEvent{Storage: true}) }, cfg.TimeScale), volumeZone{},
			&topologySpread{defaultSelector: s.defaultSelector}, &interPodAffinity{namespaceLabels: s.namespaceLabels},
			balancedAllocation{}, imageLocality{},
		},
		weights: map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2},
	}
	s.queue = newQueue(s.framework, s.stays, cfg.TimeScale)
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
			period := timing.QueueFlushPeriod
			timing.Scale(s.cfg.TimeScale, &period)
			tick := time.NewTicker(period)
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
			s.ending.few(ctx)
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
	pod := p.tried
	if s.cache.Has(pod.UID) || pod.DeletionTimestamp != nil {
		s.queue.Done(p)
		return
	}
	s.cache.Update(s.snapshot)
	c := newCycle(pod, s.snapshot)
	var why *working
	if s.explains(pod) {
		why = s.work(c)
	}
	node, fit := s.choose(c)
	if fit != nil {
		s.postFilter(c, fit)
		s.reject(ctx, p, fit, why)
		return
	}
	if st := s.framework.reserve(c, node); !st.OK() {
		s.reject(ctx, p, &fitError{total: 1, whole: st, nominee: new("")}, why)
		return
	}
	s.cache.Assume(c.PodInfo, node)
	s.nominated.remove(pod.UID) // it counts where it is assumed
	s.wg.Go(func() { s.bind(ctx, p, c, node, why) })
}

// choose names the best node for the cycle's pod.
func (s *Scheduler) choose(c *Cycle) (string, *fitError) {
	fit := &fitError{total: len(c.Snapshot.Nodes)}
	s.awaiting = s.nominated.places(s.awaiting, c.Snapshot)
	if fit.whole = s.framework.preFilter(c); fit.whole != nil {
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
	nodes := c.Snapshot.Nodes
	if i, ok := c.Snapshot.index[s.nominated.of(c.Pod)]; ok && s.filter(c, i, nodes[i]).OK() {
		return nodes[i : i+1]
	}
	look, at := len(nodes), func(k int) int { return (s.start + k) % len(nodes) }
	if c.only != nil {
		places := c.Snapshot.places(c.only)
		look, at = len(places), func(k int) int { return places[k] }
		fit.absent = &Status{Code: Unresolvable, Reasons: []string{"node(s) didn't satisfy plugin(s) [NodeAffinity]"}, Plugin: nodeAffinity{}.Name()}
	}
	want := enough(look)
	found := make([]*NodeInfo, 0, want)
	looked := 0
	for ; looked < look && len(found) < want; looked++ {
		i := at(looked)
		if st := s.filter(c, i, nodes[i]); st.OK() {
			found = append(found, nodes[i])
		} else {
			if fit.rejected == nil { // in a full cluster, all will be
				fit.rejected = make([]rejection, 0, look-looked)
			}
			fit.rejected = append(fit.rejected, rejection{i, st})
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

// filter asks the filters about a node of the snapshot, or what it would be, with
// the pods counted in that a preemption made room for and that must not lose it.
func (s *Scheduler) filter(c *Cycle, i int, n *NodeInfo) *Status {
	if with := s.nominated.addTo(n, c.Pod, s.awaiting[i]); with != n {
		if st := s.framework.filterAs(c, i, with); !st.OK() {
			return st
		}
	}
	if n != c.Snapshot.Nodes[i] {
		return s.framework.filterAs(c, i, n)
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
	pod := c.Pod
	st := s.framework.permit(ctx, c, node)
	if st.OK() {
		s.queue.Done(p) // from here on there are errors only, no verdicts
		st = s.framework.preBind(ctx, c, node)
	}
	if st.OK() {
		await(p.written)
		if why != nil {
			s.explain(ctx, pod, why, node)
		}
		st = s.post(ctx, pod, node)
	}
	if !st.OK() {
		s.framework.unreserve(c, node)
		s.cache.Forget(pod.UID)
		s.queue.Happened(ClusterEvent{PodGone: pod}) // others may have its room
		s.reject(ctx, p, &fitError{total: 1, whole: st, nominee: new("")}, nil)
		return
	}
	slog.Info("bound pod to node", "component", "scheduler", "pod", client.Key(pod), "node", node)
	s.cfg.Recorder.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
}

// post tells the API server where the pod is to run.
func (s *Scheduler) post(ctx context.Context, pod *corev1.Pod, node string) *Status {
	defer s.turn()()
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	if err := client.For[*corev1.Pod](s.cfg.Client).Post(ctx, pod.Namespace, pod.Name, "binding", binding, nil); err != nil {
		return failed(fmt.Errorf("binding rejected: %w", err))
	}
	return nil
}

// maxWrites is how many writes are under way at a time. An API server that is sent
// more than it takes tells the rest to come again in a second.
const maxWrites = 64

// turn waits until there are few enough writes for one more, which ends with done.
func (s *Scheduler) turn() (done func()) {
	s.writing <- struct{}{}
	return func() { <-s.writing }
}

// await waits for an earlier attempt's verdict, if there was one.
func await(written <-chan struct{}) {
	if written != nil {
		<-written
	}
}

// reject puts a pod back, says why on the pod and in an event, and ends the pods
// that shall make room for it.
//
// Upstream: pkg/scheduler/schedule_one.go, Scheduler.handleSchedulingFailure.
func (s *Scheduler) reject(ctx context.Context, p *queued, fit *fitError, why *working) {
	pod, before, written := p.tried, p.written, make(chan struct{})
	p.written, p.awaited = written, fit.victims
	if fit.nominee != nil { // at once: the next cycle shall not take the room
		s.nominated.nominate(pod, *fit.nominee)
	}
	s.queue.Failed(p, fit.plugins())
	cur, ok := s.pods.Get(pod.Namespace, pod.Name)
	if !ok || cur.UID != pod.UID || cur.Spec.NodeName != "" {
		s.queue.Delete(pod.UID) // it went, or was bound by somebody else, while it was being tried
		s.nominated.remove(pod.UID)
		close(written)
		return
	}
	s.queue.Add(cur) // what changed while it was being bound
	reason := corev1.PodReasonUnschedulable
	if fit.internal() {
		reason = corev1.PodReasonSchedulerError
	}
	message := fit.Error()
	s.cfg.Recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	s.wg.Go(func() {
		defer close(written)
		await(before)
		if why != nil {
			s.explain(ctx, pod, why, "")
		}
		s.writeCondition(ctx, pod, reason, message, fit.nominee)
	})
	if len(fit.victims) > 0 {
		outranked := s.nominated.outrank(*fit.nominee, pod)
		victims := s.ending.begin(fit.victims)
		s.wg.Go(func() { s.end(ctx, pod, *fit.nominee, victims, outranked) })
	}
}
