package kubelet

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/client/timing"
)

// workers runs one goroutine for each pod, so that a pod that hangs (a slow pull,
// a long grace) holds up no other. A worker is told that something changed and
// nothing more; it reads what is wanted and what is there by itself.
//
//	syncing ──deleted, evicted or done──▶ terminating ──containers stopped──▶ terminated ──cleaned up──▶ finished
//
// There is no way back: a static pod whose manifest returns has a new worker, when
// the old one has finished.
// Each pass waits until the pleg has looked at the pod since the pass before, so
// a step from one phase to the next takes up to a second.
//
// Upstream: pkg/kubelet/pod_workers.go, podWorkers.
type workers struct {
	k  *Kubelet
	wg sync.WaitGroup
	// jitter makes a wait longer by chance, so that pods do not move in step.
	jitter func(time.Duration) time.Duration

	// Run's, set before the first pod comes.
	ctx   context.Context
	began time.Time

	mu    sync.Mutex
	byUID map[types.UID]*worker
}

type workerPhase int

const (
	syncing workerPhase = iota
	terminating
	terminated
	finished
)

// worker is the life of one pod on this node.
type worker struct {
	uid  types.UID
	wake chan struct{} // one token: last writer wins
	last moment        // when the latest pass ended; run's own

	probed atomic.Bool // a probe has come to another result

	mu        sync.Mutex
	pod       *corev1.Pod // as last seen; it outlives the pod in the API
	phase     workerPhase
	grace     time.Duration      // being granted while terminating
	interrupt context.CancelFunc // of the pass that is under way
	admitted  bool
	began     bool // a pass of syncing has begun
	left      bool // the pod was taken away; another worker begins anew should it be back
}

// changed tells a pod's worker that its pod, or what it runs, is not as it was.
func (ws *workers) changed(uid types.UID) {
	if uid == "" {
		return
	}
	pod := ws.k.pods.get(uid)
	ws.mu.Lock()
	w := ws.byUID[uid]
	if w != nil && w.over(pod) {
		delete(ws.byUID, uid)
		ws.k.status.forget(uid)
		w = nil
	}
	if w == nil && pod != nil && ws.ctx.Err() == nil {
		w = &worker{uid: uid, wake: make(chan struct{}, 1), pod: pod}
		if isTerminal(pod.Status.Phase) {
			w.phase = terminating // it ended before we began; only leftovers can run
		}
		ws.byUID[uid] = w
		ws.wg.Go(func() { w.run(ws.ctx, ws.k) })
	}
	ws.mu.Unlock()
	if w != nil {
		w.hurry(pod)
		w.poke()
	}
}

// probed tells a pod's worker that a probe has come to another result.
func (ws *workers) probed(uid types.UID) {
	if w := ws.get(uid); w != nil {
		w.probed.Store(true)
	}
	ws.changed(uid)
}

// get is the worker of a pod, or nil.
func (ws *workers) get(uid types.UID) *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.byUID[uid]
}

// nameBusy says whether another pod of w's name is still on its way out.
func (ws *workers) nameBusy(w *worker, pod *corev1.Pod) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, other := range ws.byUID {
		if other != w && !other.is(finished) && other.named(pod) && other.started() {
			return true
		}
	}
	return false
}

// active is the pods that are admitted and have not ended.
func (ws *workers) active() []*corev1.Pod {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var out []*corev1.Pod
	for _, w := range ws.byUID {
		w.mu.Lock()
		if w.admitted && w.phase < terminated {
			out = append(out, w.pod)
		}
		w.mu.Unlock()
	}
	return out
}

func (w *worker) is(p workerPhase) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.phase == p
}

// over says that nothing more comes of the worker: it has finished with a pod that is
// no more, or is there again.
func (w *worker) over(pod *corev1.Pod) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.phase == finished && (pod == nil || w.left)
}

func (w *worker) started() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began
}

func (w *worker) named(pod *corev1.Pod) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return client.Key(w.pod) == client.Key(pod)
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// hurry cuts short a pass that the new state of the pod has overtaken: a pull for
// a pod that is to be deleted, a grace that was shortened.
func (w *worker) hurry(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = w.left || pod == nil
	if w.interrupt == nil {
		return
	}
	leaving := pod == nil || pod.DeletionTimestamp != nil
	if w.phase == syncing && leaving || w.phase == terminating && pod != nil && leaving && gracePeriod(pod) < w.grace {
		w.interrupt()
	}
}

// run works until the pod is finished or the kubelet ends. When the kubelet ends
// the containers stay.
func (w *worker) run(ctx context.Context, k *Kubelet) {
	var due <-chan time.Time
	for !w.is(finished) {
		select {
		case <-w.wake:
		case <-due:
		case <-ctx.Done():
			return
		}
		delay, err := w.pass(ctx, k)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			k.log.Debug("Pod is not in sync", "pod", podName(w.pod), "err", err)
		}
		due = time.After(delay)
	}
	if w.over(k.pods.get(w.uid)) { // nobody else will ask for it
		k.workers.changed(w.uid)
	}
}

// pass does one step of the pod's life and says when to look again unless something happens before.
func (w *worker) pass(ctx context.Context, k *Kubelet) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	wanted := k.pods.get(w.uid)
	if wanted != nil {
		w.pod = wanted
	}
	w.left = w.left || wanted == nil
	if w.phase == syncing && (wanted == nil || wanted.DeletionTimestamp != nil) {
		w.phase = terminating
	}
	pod, phase := w.pod, w.phase
	if phase == terminating {
		w.grace = gracePeriod(pod)
	}
	w.interrupt = cancel
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.interrupt = nil
		w.mu.Unlock()
	}()
	state, fresh, err := k.pleg.newerThan(w.uid, w.last)
	if probed := w.probed.Swap(false); !fresh {
		if probed && phase == syncing && w.last > 0 && err == nil { // it may be told before
			k.status.set(pod, k.makeStatus(pod, state, false), mayRun)
		}
		return k.cfg.Settings.SyncFrequency.Duration, nil
	}
	if err != nil {
		return k.workers.retryIn(err), err
	}
	next := phase
	switch phase {
	case syncing:
		if isStatic(pod) && k.workers.nameBusy(w, pod) {
			return time.Second, nil
		}
		w.mu.Lock()
		w.began = true
		w.mu.Unlock()
		var done, did bool
		if done, did, err = k.syncPod(ctx, w, pod, state); done {
			next = terminating
		}
		if did {
			defer k.pleg.requestRelist(w.uid)
		}
	case terminating:
		if err = k.syncTerminating(ctx, pod, state, w.grace); err == nil {
			next = terminated
		}
	case terminated:
		if err = k.syncTerminated(ctx, pod); err == nil {
			next = finished
		}
	}
	w.last = k.pleg.now()
	if next != phase {
		w.mu.Lock()
		w.phase = next
		w.mu.Unlock()
		return 0, nil
	}
	return k.workers.retryIn(err), err
}

// gracePeriod is how long a pod's containers may take to end, in whole seconds and at least one.
//
// Upstream: pkg/kubelet/pod_workers.go, calculateEffectiveGracePeriod.
func gracePeriod(pod *corev1.Pod) time.Duration {
	seconds := int64(timing.TerminationGracePeriod / time.Second)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionGracePeriodSeconds != nil {
		seconds = *pod.DeletionGracePeriodSeconds
	}
	return time.Duration(max(1, seconds)) * time.Second
}

// transientError is a failure that is likely to pass soon: no network yet, no volume yet.
type transientError struct{ error }

// backOffError says that a container has to wait.
type backOffError struct {
	error
	until time.Time
}

// retryIn is when a pod is looked at again after a pass.
//
// Upstream: pkg/kubelet/pod_workers.go, completeWork.
func (ws *workers) retryIn(err error) time.Duration {
	resync := ws.k.cfg.Settings.SyncFrequency.Duration
	transient, d := timing.TransientErrorBackOff, timing.PodWorkerBackOff
	timing.Scale(ws.k.cfg.TimeScale, &transient, &d)
	var wait backOffError
	var soon transientError
	switch {
	case err == nil:
		d = resync
	case errors.As(err, &wait):
		d = min(time.Until(wait.until), resync)
	case errors.As(err, &soon):
		d = transient
	}
	// Who is due is looked up once a second.
	since := time.Since(ws.began)
	return (since + ws.jitter(max(d, 0))).Truncate(time.Second) + time.Second - since
}

// jitter is d to one and a half times d, so that pods do not move in step.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*0.5*float64(d))
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
