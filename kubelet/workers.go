package kubelet

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
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
// There is no way back: a static pod whose manifest returns has a new worker.
//
// Upstream: pkg/kubelet/pod_workers.go, podWorkers.
type workers struct {
	k   *Kubelet
	ctx context.Context // Run's; set before the first pod comes
	wg  sync.WaitGroup

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

	mu        sync.Mutex
	pod       *corev1.Pod // as last seen; it outlives the pod in the API
	phase     workerPhase
	grace     time.Duration      // being granted while terminating
	interrupt context.CancelFunc // of the pass that is under way
	admitted  bool
	began     bool // a pass of syncing has begun
}

// changed tells a pod's worker that its pod, or what it runs, is not as it was.
func (ws *workers) changed(uid types.UID) {
	if uid == "" {
		return
	}
	pod := ws.k.pods.get(uid)
	ws.mu.Lock()
	w := ws.byUID[uid]
	if w == nil && pod != nil && ws.ctx.Err() == nil {
		w = &worker{uid: uid, wake: make(chan struct{}, 1), pod: pod}
		if isTerminal(pod.Status.Phase) {
			w.phase = terminating // it ended before we began; only leftovers can run
		}
		ws.byUID[uid] = w
		ws.wg.Go(func() { w.run(ws.ctx, ws.k) })
	}
	if w != nil && pod == nil && w.is(finished) {
		delete(ws.byUID, uid)
		ws.k.status.forget(uid)
	}
	ws.mu.Unlock()
	if w != nil {
		w.hurry(pod)
		w.poke()
	}
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
	for !w.is(finished) {
		delay, err := w.pass(ctx, k)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			k.log.Debug("Pod is not in sync", "pod", podName(w.pod), "err", err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	if k.pods.get(w.uid) == nil { // nobody will ask for it any more
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
	var err error
	next := phase
	switch phase {
	case syncing:
		if isStatic(pod) && k.workers.nameBusy(w, pod) {
			return time.Second, nil
		}
		w.mu.Lock()
		w.began = true
		w.mu.Unlock()
		var done bool
		if done, err = k.syncPod(ctx, w, pod); done {
			next = terminating
		}
	case terminating:
		if err = k.syncTerminating(ctx, pod, w.grace); err == nil {
			next = terminated
		}
	case terminated:
		if err = k.syncTerminated(ctx, pod); err == nil {
			next = finished
		}
	}
	if next != phase {
		w.mu.Lock()
		w.phase = next
		w.mu.Unlock()
		return 0, nil
	}
	return retryIn(err, k.cfg.Settings.SyncFrequency.Duration), err
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
	left time.Duration
}

// retryIn is when a pod is looked at again after a pass.
//
// Upstream: pkg/kubelet/pod_workers.go, completeWork.
func retryIn(err error, resync time.Duration) time.Duration {
	var wait backOffError
	var soon transientError
	switch {
	case err == nil:
		return jitter(resync)
	case errors.As(err, &wait):
		return jitter(min(max(wait.left, time.Millisecond), time.Minute))
	case errors.As(err, &soon):
		return jitter(timing.SandboxRetry)
	}
	return jitter(timing.PodWorkerBackOff)
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
