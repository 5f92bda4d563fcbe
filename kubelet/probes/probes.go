package probes

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client/timing"
)

// Kind is which of the three probes of a container is meant; its text begins the
// messages of events.
type Kind string

// The three kinds.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Target is what a probe is asked of.
type Target struct {
	Pod         *corev1.Pod
	Container   *corev1.Container
	ContainerID string // as in the status, with the runtime's scheme
	PodIP       string
	Probe       *corev1.Probe
}

// Manager runs the probes of all pods. Fill in the exported fields, then call
// Run, which owns all goroutines.
//
// Upstream: pkg/kubelet/prober/prober_manager.go, manager.
type Manager struct {
	// Ask asks once; the error is an answer that could not be had. Nil means Prober.Ask.
	Ask func(ctx context.Context, t Target) (ok bool, output string, err error)
	// Changed is called when a result has changed.
	Changed func(uid types.UID)
	// TimeScale divides periods and initial delays, for drills in class; 0 counts as 1.
	TimeScale float64
	// Event tells of a failed probe.
	Event func(pod *corev1.Pod, container, message string)
	Prober

	mu      sync.Mutex
	began   time.Time
	ctx     context.Context
	wg      sync.WaitGroup
	workers map[key]*worker
	results map[key]result
	pods    map[types.UID]snapshot
}

type key struct {
	uid       types.UID
	container string
	kind      Kind
}

type result struct {
	containerID string
	ok          bool
}

type snapshot struct {
	pod    *corev1.Pod
	status corev1.PodStatus
}

// Start makes the manager ready; workers that Update makes end with the context.
func (m *Manager) Start(ctx context.Context) {
	m.ctx, m.began = ctx, time.Now()
	m.workers, m.results, m.pods = map[key]*worker{}, map[key]result{}, map[types.UID]snapshot{}
	if m.Ask == nil {
		m.Ask = m.Prober.Ask
	}
}

// seconds are those of a probe's spec, by this kubelet's clockwork.
func (m *Manager) seconds(n int32) time.Duration {
	d := time.Duration(n) * time.Second
	timing.Scale(m.TimeScale, &d)
	return d
}

// Wait returns when all workers have ended.
func (m *Manager) Wait() { m.wg.Wait() }

// Update tells what a pod's status is now, and starts the workers that it lacks.
func (m *Manager) Update(pod *corev1.Pod, st corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	m.pods[pod.UID] = snapshot{pod, st}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			for kind, probe := range map[Kind]*corev1.Probe{Startup: c.StartupProbe, Liveness: c.LivenessProbe, Readiness: c.ReadinessProbe} {
				if probe != nil {
					m.ensure(key{pod.UID, c.Name, kind}, c, probe, find(st, c.Name))
				}
			}
		}
	}
}

// ensure starts a worker, or has the one that is there ask at once whether a
// container that runs has become ready; mu is held.
func (m *Manager) ensure(k key, c *corev1.Container, probe *corev1.Probe, st *corev1.ContainerStatus) {
	if w := m.workers[k]; w != nil {
		if k.kind == Readiness && st != nil && st.State.Running != nil && m.results[k] != (result{st.ContainerID, true}) {
			select {
			case w.now <- struct{}{}:
			default:
			}
		}
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	w := &worker{m: m, key: k, container: c, probe: probe, cancel: cancel, now: make(chan struct{}, 1)}
	m.workers[k] = w
	m.wg.Go(func() { w.run(ctx) })
}

// StopRestarting ends the probes that could restart containers of a pod: it is being stopped.
func (m *Manager) StopRestarting(uid types.UID) { m.stop(uid, Startup, Liveness) }

// Remove ends all probes of a pod and forgets it.
func (m *Manager) Remove(uid types.UID) {
	m.stop(uid, Startup, Liveness, Readiness)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	for k := range m.results {
		if k.uid == uid {
			delete(m.results, k)
		}
	}
}

func (m *Manager) stop(uid types.UID, kinds ...Kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, w := range m.workers {
		for _, kind := range kinds {
			if k.uid == uid && k.kind == kind {
				w.cancel()
				delete(m.workers, k)
			}
		}
	}
}

// Result says whether a running container has started, and whether it is ready,
// as far as its probes go. old is the pod's last known status.
func (m *Manager) Result(pod *corev1.Pod, c *corev1.Container, containerID string, startedAt time.Time, old corev1.PodStatus) (started, ready bool) {
	started, ready = c.StartupProbe == nil, c.ReadinessProbe == nil
	if started && ready {
		return true, true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var before *corev1.ContainerStatus
	if startedAt.Before(m.began) {
		for _, list := range [][]corev1.ContainerStatus{old.ContainerStatuses, old.InitContainerStatuses} {
			for i := range list {
				if list[i].ContainerID == containerID {
					before = &list[i]
				}
			}
		}
	}
	if !started {
		r, ok := m.results[key{pod.UID, c.Name, Startup}]
		switch {
		case ok && r.containerID == containerID:
			started = r.ok
		case before != nil:
			started = before.Started != nil && *before.Started
		}
	}
	if !ready {
		r, ok := m.results[key{pod.UID, c.Name, Readiness}]
		switch {
		case ok && r.containerID == containerID:
			ready = r.ok
		case before != nil:
			ready = before.Ready
		}
	}
	return started, ready
}

// Failed says which of the probes that restart a container have failed.
func (m *Manager) Failed(uid types.UID, container, containerID string) (liveness, startup bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	failed := func(kind Kind) bool {
		r, ok := m.results[key{uid, container, kind}]
		return ok && r.containerID == containerID && !r.ok
	}
	return failed(Liveness), failed(Startup)
}

// note keeps a result and says whether it is another than before.
func (m *Manager) note(k key, r result) {
	m.mu.Lock()
	before, had := m.results[k]
	m.results[k] = r
	m.mu.Unlock()
	if !had || before != r {
		m.Changed(k.uid)
	}
}

// worker asks one probe of one container, through all its runs.
//
// Upstream: pkg/kubelet/prober/worker.go, worker.
type worker struct {
	m         *Manager
	key       key
	container *corev1.Container
	probe     *corev1.Probe
	cancel    context.CancelFunc
	now       chan struct{} // ask without waiting for the tick

	// Only run's goroutine touches these.
	containerID string
	onHold      bool // failed: wait for the next run
	last        bool
	inARow      int32
}

func (w *worker) run(ctx context.Context) {
	period := w.m.seconds(max(1, w.probe.PeriodSeconds))
	if time.Since(w.m.began) < period { // the kubelet has just started: not all probes at once
		t := time.NewTimer(time.Duration(rand.Float64() * float64(period)))
		defer t.Stop()
		select {
		case <-ctx.Done():
			return
		case <-w.now:
		case <-t.C:
		}
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for w.ask(ctx) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-w.now:
		}
	}
}

// ask asks once, if this is the time for it, and says whether to go on.
func (w *worker) ask(ctx context.Context) bool {
	w.m.mu.Lock()
	snap, known := w.m.pods[w.key.uid]
	startup, hasStartup := w.m.results[key{w.key.uid, w.key.container, Startup}]
	before := w.m.results[w.key]
	w.m.mu.Unlock()
	if !known {
		return true
	}
	st := find(snap.status, w.key.container)
	if st == nil || st.ContainerID == "" {
		return true
	}
	if st.ContainerID != w.containerID {
		w.containerID, w.onHold, w.inARow = st.ContainerID, false, 0
	}
	if w.onHold {
		return true
	}
	if st.State.Running == nil {
		// That counts as failed, which has the pod looked at once more while its container waits.
		if w.key.kind != Readiness || before == (result{w.containerID, true}) {
			w.m.note(w.key, result{w.containerID, false})
		}
		return st.State.Terminated == nil || snap.pod.Spec.RestartPolicy != corev1.RestartPolicyNever
	}
	if time.Since(st.State.Running.StartedAt.Time) < w.m.seconds(w.probe.InitialDelaySeconds) {
		return true
	}
	started := w.container.StartupProbe == nil || hasStartup && startup.ok && startup.containerID == w.containerID ||
		!hasStartup && st.Started != nil && *st.Started
	if started == (w.key.kind == Startup) {
		return true
	}
	w.count(snap.pod, w.question(ctx, snap))
	return ctx.Err() == nil
}

func find(st corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

type answer struct{ ok, known bool }

// question puts the probe; a question that could not be put is put again twice.
func (w *worker) question(ctx context.Context, snap snapshot) answer {
	t := Target{Pod: snap.pod, Container: w.container, ContainerID: w.containerID, PodIP: snap.status.PodIP, Probe: w.probe}
	var err error
	for range 3 {
		var ok bool
		var output string
		if ok, output, err = w.m.Ask(ctx, t); err == nil {
			if !ok && ctx.Err() == nil {
				w.m.Event(snap.pod, w.key.container, string(w.key.kind)+" probe failed: "+output)
			}
			return answer{ok, ctx.Err() == nil}
		}
	}
	if ctx.Err() == nil {
		w.m.Event(snap.pod, w.key.container, string(w.key.kind)+" probe errored and resulted in unknown state: "+err.Error())
	}
	return answer{}
}

// count notes a result when as many equal answers have come as the probe wants.
func (w *worker) count(pod *corev1.Pod, a answer) {
	if !a.known {
		return
	}
	if w.inARow == 0 || a.ok != w.last {
		w.last, w.inARow = a.ok, 0
	}
	w.inARow++
	if a.ok && w.inARow < w.probe.SuccessThreshold || !a.ok && w.inARow < w.probe.FailureThreshold {
		return
	}
	w.m.note(w.key, result{w.containerID, a.ok})
	if !a.ok && w.key.kind != Readiness {
		w.onHold, w.inARow = true, 0
	}
}
