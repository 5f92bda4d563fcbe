package scheduler

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"orrery/client/timing"
)

// ClusterEvent is a change that might make a pod schedulable: one of the fields
// is set.
//
// Upstream: staging/src/k8s.io/kube-scheduler/framework/types.go, ClusterEvent.
type ClusterEvent struct {
	Node       *corev1.Node // added, or changed in what scheduling looks at
	PodGone    *corev1.Pod  // a pod left its node, or may have become smaller
	PodChanged *corev1.Pod  // a pod came to a node, or its labels changed
	Storage    bool         // a claim, a volume or a storage class changed
}

// queued is a pod that waits, with the history of its attempts.
type queued struct {
	pod      *corev1.Pod
	tried    *corev1.Pod // the version that was tried last; pod may change meanwhile
	added    time.Time   // when it became ready to be tried
	attempts int
	failedAt time.Time
	// turnedAwayBy are the plugins whose verdicts it failed on last time; empty
	// after an error.
	turnedAwayBy map[string]bool
	// awaited are pods that make room for it. Until all of them are terminating, it
	// need not be tried; it would only have more of them ended.
	awaited []*PodInfo
	taken   int // how many of Queue.happened were there when it was taken
	index   int // in the active heap
	// written is closed when the verdict of the last attempt has been written to the
	// pod: what the next one writes must come after it. It is nil before the first.
	written chan struct{}
}

// backOff is how long a pod waits after its last failure: 1 s doubling to 10 s.
func (q *Queue) backOff(p *queued) time.Duration {
	d := q.initial
	for i := 1; i < p.attempts && d < q.most; i++ {
		d *= 2
	}
	return min(d, q.most)
}

// Queue holds the pods that want a node, in three parts: active (to be tried
// now, by priority), backing off (to be tried when their back-off is over, or
// before, when nobody else waits and they failed on a verdict and no error), and
// unschedulable (to be tried when something changes that may help, or after five
// minutes).
//
// Upstream: pkg/scheduler/backend/queue, PriorityQueue.
type Queue struct {
	helps func(ev ClusterEvent, pod *corev1.Pod, turnedAwayBy map[string]bool) bool
	gate  func(*corev1.Pod) *Status
	stays func(*corev1.Pod) bool // whether a pod is there and not terminating

	initial, most time.Duration // the bounds of a pod's back-off
	leftover      time.Duration // how long a pod may lie unschedulable

	mu            sync.Mutex
	active        activeHeap
	activeBy      map[types.UID]*queued
	backingOff    map[types.UID]*queued
	unschedulable map[types.UID]*queued
	gated         map[types.UID]*queued
	inFlight      map[types.UID]*queued
	// happened are the events since the oldest pod in flight was taken, so that
	// one that comes while a pod is being tried is not missed by it.
	happened []ClusterEvent
	wake     chan struct{}
}

func newQueue(f *Framework, stays func(*corev1.Pod) bool, timeScale float64) *Queue {
	q := &Queue{
		helps: f.helps, gate: f.preEnqueue, stays: stays, activeBy: map[types.UID]*queued{}, backingOff: map[types.UID]*queued{},
		unschedulable: map[types.UID]*queued{}, gated: map[types.UID]*queued{}, inFlight: map[types.UID]*queued{},
		wake:    make(chan struct{}, 1),
		initial: timing.PodInitialBackOff, most: timing.PodMaxBackOff, leftover: timing.UnschedulableFlush,
	}
	timing.Scale(timeScale, &q.initial, &q.most, &q.leftover)
	return q
}

// Add puts a new pod in the queue, or the new version of one that is there.
func (q *Queue) Add(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.find(pod.UID); p != nil {
		q.update(p, pod)
		return
	}
	q.enqueue(&queued{pod: pod})
}

// enqueue makes a pod active unless it is gated; the caller holds mu.
func (q *Queue) enqueue(p *queued) {
	if s := q.gate(p.pod); !s.OK() {
		q.gated[p.pod.UID] = p
		return
	}
	p.added = time.Now()
	heap.Push(&q.active, p)
	q.activeBy[p.pod.UID] = p
	q.signal()
}

func (q *Queue) find(uid types.UID) *queued {
	for _, m := range []map[types.UID]*queued{q.activeBy, q.backingOff, q.unschedulable, q.gated, q.inFlight} {
		if p := m[uid]; p != nil {
			return p
		}
	}
	return nil
}

// update takes a new version of a waiting pod. If its spec changed, what was
// said of the old one no longer counts.
func (q *Queue) update(p *queued, pod *corev1.Pod) {
	changed := p.pod.Generation != pod.Generation || len(p.pod.Spec.SchedulingGates) != len(pod.Spec.SchedulingGates)
	p.pod = pod
	uid := pod.UID
	if q.gated[uid] != nil {
		delete(q.gated, uid)
		q.enqueue(p)
	} else if q.unschedulable[uid] != nil && changed {
		delete(q.unschedulable, uid)
		q.ready(p)
	}
}

// Delete forgets a pod.
func (q *Queue) Delete(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.activeBy[uid]; p != nil {
		heap.Remove(&q.active, p.index)
	}
	delete(q.activeBy, uid)
	delete(q.backingOff, uid)
	delete(q.unschedulable, uid)
	delete(q.gated, uid)
}

// Pop waits for the next pod to try; nil when the context ends. Done or Failed
// must follow.
func (q *Queue) Pop(ctx context.Context) *queued {
	for {
		if p := q.take(); p != nil {
			return p
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
	}
}

func (q *Queue) take() *queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	var p *queued
	if len(q.active) > 0 {
		p = heap.Pop(&q.active).(*queued)
	} else if p = q.earliestBackingOff(); p == nil {
		return nil
	}
	uid := p.pod.UID
	delete(q.activeBy, uid)
	delete(q.backingOff, uid)
	p.attempts++
	p.tried, p.taken, q.inFlight[uid] = p.pod, len(q.happened), p
	return p
}

// earliestBackingOff is the pod whose back-off ends first, of those that an idle
// scheduler may try again at once. A pod that failed on an error is not among
// them: the API server may need the pause.
//
// Upstream: the feature SchedulerPopFromBackoffQ, on since v1.33.
func (q *Queue) earliestBackingOff() (first *queued) {
	end := func(p *queued) time.Time { return p.failedAt.Add(q.backOff(p)) }
	for _, p := range q.backingOff {
		if len(p.turnedAwayBy) > 0 && (first == nil || end(p).Before(end(first))) {
			first = p
		}
	}
	return first
}

// Done says that nothing that happens to the cluster concerns the pod any more: it
// is being bound, or gone. Should the binding fail, Failed puts it back all the same.
func (q *Queue) Done(p *queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(p)
}

// land takes a pod out of flight and returns the events since it was taken. Those
// that nobody in flight needs are dropped.
func (q *Queue) land(p *queued) (since []ClusterEvent) {
	if q.inFlight[p.pod.UID] == nil {
		return nil
	}
	since = q.happened[p.taken:]
	if delete(q.inFlight, p.pod.UID); len(q.inFlight) == 0 {
		q.happened = nil
	}
	return since
}

// Failed puts a pod back that found no node. turnedAwayBy are the plugins that
// said no; nil after an error, which is tried again after its back-off.
func (q *Queue) Failed(p *queued, turnedAwayBy map[string]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	since := q.land(p)
	if q.find(p.pod.UID) != nil {
		return // it changed while it was being bound, and was added anew
	}
	p.failedAt, p.turnedAwayBy = time.Now(), turnedAwayBy
	if len(turnedAwayBy) == 0 {
		q.ready(p)
		return
	}
	for _, ev := range since {
		if q.helped(p, ev) {
			q.ready(p)
			return
		}
	}
	q.unschedulable[p.pod.UID] = p
}

// helped says whether an event is a reason to try a pod again.
//
// Upstream: pkg/scheduler/framework/preemption/preemption.go, Evaluator.IsPodRunningPreemption.
func (q *Queue) helped(p *queued, ev ClusterEvent) bool {
	return q.helps(ev, p.pod, p.turnedAwayBy) && !slices.ContainsFunc(p.awaited, func(v *PodInfo) bool { return q.stays(v.Pod) })
}

// Stays says that a pod could not be ended: those that await its end are tried again.
func (q *Queue) Stays(victim types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for uid, p := range q.unschedulable {
		if slices.ContainsFunc(p.awaited, func(v *PodInfo) bool { return v.Pod.UID == victim }) {
			p.awaited = nil
			delete(q.unschedulable, uid)
			q.ready(p)
		}
	}
}

// ready makes a pod active, once its back-off is over; the caller holds mu.
func (q *Queue) ready(p *queued) {
	if left := q.backOff(p) - time.Since(p.failedAt); left > 0 && !p.failedAt.IsZero() {
		q.backingOff[p.pod.UID] = p
		q.signal()
		return
	}
	q.enqueue(p)
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Happened tells the queue of a change: pods that it may help are tried again.
func (q *Queue) Happened(ev ClusterEvent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.inFlight) > 0 {
		q.happened = append(q.happened, ev)
	}
	for uid, p := range q.unschedulable {
		if q.helped(p, ev) {
			delete(q.unschedulable, uid)
			q.ready(p)
		}
	}
}

// flush activates pods whose back-off is over and pods that lay unschedulable
// for too long; Run of the scheduler calls it each second, as upstream does.
func (q *Queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for uid, p := range q.backingOff {
		if time.Since(p.failedAt) >= q.backOff(p) {
			delete(q.backingOff, uid)
			q.enqueue(p)
		}
	}
	for uid, p := range q.unschedulable {
		if time.Since(p.failedAt) >= q.leftover {
			delete(q.unschedulable, uid)
			q.ready(p)
		}
	}
}

// activeHeap orders pods by priority, then by who came first (PrioritySort).
type activeHeap []*queued

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	a, b := corev1helpers.PodPriority(h[i].pod), corev1helpers.PodPriority(h[j].pod)
	if a != b {
		return a > b
	}
	return h[i].added.Before(h[j].added)
}
func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *activeHeap) Push(x any) {
	p := x.(*queued)
	p.index = len(*h)
	*h = append(*h, p)
}
func (h *activeHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	*h = old[:len(old)-1]
	return p
}
