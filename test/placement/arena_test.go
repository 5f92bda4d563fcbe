package placement

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"orrery/scheduler"
	"orrery/test/peers"
)

// schedulers are the names that pods ask for.
var schedulers = map[peers.Side]string{peers.Ours: scheduler.DefaultName, peers.Upstream: "upstream"}

// profile gives upstream's scheduler its name.
//
// Upstream: staging/src/k8s.io/kube-scheduler/config/v1, KubeSchedulerConfiguration.
const profile = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 10000, burst: 10000}
leaderElection: {leaderElect: false}
profiles: [{schedulerName: %s}]
`

// arena is an API server with both schedulers.
type arena struct {
	*kubernetes.Clientset
	ctx    context.Context
	theirs *peers.Part
	read   int64 // how much of the log of theirs, in bytes
	eyes   *eyes
	// there are the pods of the state, by namespace and name, as they are put back.
	there map[string]*corev1.Pod
	// started counts pods, so that each has a start of its own: who ran longer must
	// not be chance.
	started int
}

func newArena(t *testing.T) *arena {
	t.Helper()
	c := peers.New(t)
	c.StartAPIServer(peers.Ours)
	a := &arena{Clientset: c.Admin(), ctx: t.Context(), eyes: open(t, c.Admin())}
	a.furnish(t)
	c.StartScheduler(peers.Ours, "--leader-elect=false", "--explain")
	config := filepath.Join(c.Dir, "scheduler.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, profile, c.Kubeconfig("system:kube-scheduler"), schedulers[peers.Upstream]), 0o600))
	a.theirs = c.StartScheduler(peers.Upstream, "--leader-elect=false", "--config="+config,
		// The scores are only in its log.
		"--vmodule=schedule_one=10",
		// It would place a pod that is like the one before by the scores of that one.
		"--feature-gates=OpportunisticBatching=false")
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load replaces the state by another, and returns when both schedulers know its nodes.
func (a *arena) load(t *testing.T, w *world) {
	t.Helper()
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	for _, ns := range namespaces {
		must(t, a.CoreV1().Pods(ns).DeleteCollection(a.ctx, now, metav1.ListOptions{}))
	}
	must(t, a.CoreV1().Nodes().DeleteCollection(a.ctx, now, metav1.ListOptions{}))
	a.eyes.forget()
	a.there = map[string]*corev1.Pod{}
	for i, want := range w.nodes {
		n, err := a.CoreV1().Nodes().Create(a.ctx, want, metav1.CreateOptions{})
		must(t, err)
		// A node is born with a taint, which the controller manager takes away.
		n.Spec.Taints = want.Spec.Taints
		if i == len(w.nodes)-1 {
			n.Labels[probed] = "true"
		}
		_, err = a.CoreV1().Nodes().Update(a.ctx, n, metav1.UpdateOptions{})
		must(t, err)
	}
	for _, side := range []peers.Side{peers.Ours, peers.Upstream} {
		a.probe(t, side)
	}
	for _, p := range w.there {
		a.put(t, p)
	}
}

// probed is the label of the node that came last.
const probed = "orrery.dev/probed"

// probe returns when a scheduler has seen the last node, and so all: it sent a pod there.
func (a *arena) probe(t *testing.T, side peers.Side) {
	t.Helper()
	p, err := a.CoreV1().Pods("default").Create(a.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "probe-" + string(side)}, Spec: corev1.PodSpec{
		SchedulerName: schedulers[side], NodeSelector: map[string]string{probed: "true"}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{Name: "c", Image: "probe"}}}}, metav1.CreateOptions{})
	must(t, err)
	a.eyes.await(t, "the probe of "+string(side), func(e *eyes) bool { return e.bound(p.UID) != "" })
	a.remove(t, p)
}

// put makes a pod that is on its node and has started.
func (a *arena) put(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if p.Status.StartTime == nil {
		p.Status.StartTime = &metav1.Time{Time: time.Now().Add(-24 * time.Hour).Add(time.Duration(a.started) * time.Minute).Truncate(time.Second)}
		a.started++
	}
	made, err := a.CoreV1().Pods(p.Namespace).Create(a.ctx, p, metav1.CreateOptions{})
	must(t, err)
	a.start(t, made, &p.Status)
	a.there[p.Namespace+"/"+p.Name] = p
	if p.Annotations[leaving] != "" {
		must(t, a.CoreV1().Pods(p.Namespace).Delete(a.ctx, p.Name, metav1.DeleteOptions{}))
	}
}

// start says that a pod runs, or has ended, as its kubelet would.
func (a *arena) start(t *testing.T, p *corev1.Pod, is *corev1.PodStatus) {
	t.Helper()
	p.Status.Phase, p.Status.StartTime, p.Status.ContainerStatuses = cmp.Or(is.Phase, corev1.PodRunning), is.StartTime, is.ContainerStatuses
	_, err := a.CoreV1().Pods(p.Namespace).UpdateStatus(a.ctx, p, metav1.UpdateOptions{})
	must(t, err)
}

func (a *arena) remove(t *testing.T, p *corev1.Pod) {
	t.Helper()
	err := a.CoreV1().Pods(p.Namespace).Delete(a.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if !apierrors.IsNotFound(err) {
		must(t, err)
	}
}

// outcome is what a scheduler made of a pod.
type outcome struct {
	asked *corev1.Pod // as it was given
	pod   *corev1.Pod // as it was last seen
	node  string      // where it is, if anywhere
	says  string      // its first FailedScheduling
	// nominee is the node that preemption chose, victims what was said to each pod
	// that had to go.
	nominee string
	victims map[string]string
	// scores are those of the plugins, weighted, for each node that passed the
	// filters; under "" is the sum.
	scores map[string]map[string]int64
}

// try gives a pod to a scheduler and waits for what becomes of it.
func (a *arena) try(t *testing.T, side peers.Side, pod *corev1.Pod) outcome {
	t.Helper()
	pod = pod.DeepCopy()
	pod.Name, pod.Spec.SchedulerName = pod.Name+"-"+string(side), schedulers[side]
	o := outcome{asked: pod, victims: map[string]string{}}
	pod, err := a.CoreV1().Pods(pod.Namespace).Create(a.ctx, pod, metav1.CreateOptions{})
	must(t, err)
	a.eyes.await(t, "the attempt of "+pod.Name, func(e *eyes) bool { return e.decided(pod.UID) })
	a.eyes.look(func(e *eyes) {
		o.pod, o.node, o.says, o.nominee = e.last(pod.UID), e.bound(pod.UID), e.message(pod.UID, "FailedScheduling"), e.nominee(pod.UID)
		for name := range a.there {
			if uid, gone := e.gone(name); gone {
				said := e.message(uid, "Preempted") + "; " + e.condition(uid, corev1.DisruptionTarget)
				o.victims[name] = strings.NewReplacer(string(pod.UID), "UID", schedulers[side], "SCHEDULER").Replace(said)
			}
		}
	})
	if side == peers.Ours {
		o.scores = working(t, o.pod)
	} else {
		log, err := a.theirs.Log(a.read)
		must(t, err)
		a.read += int64(len(log))
		o.scores = logScores(log, o.pod)
	}
	return o
}

// undo takes the pod away again, and puts back those that had to go for it.
func (a *arena) undo(t *testing.T, o outcome) {
	t.Helper()
	a.remove(t, o.pod)
	for _, name := range slices.Sorted(maps.Keys(o.victims)) {
		a.put(t, a.there[name])
	}
}

// keep makes what a scheduler did the state from now on.
func (a *arena) keep(t *testing.T, o outcome) {
	t.Helper()
	if o.node == "" {
		a.remove(t, o.pod)
		return
	}
	for name := range o.victims {
		delete(a.there, name)
	}
	a.remove(t, o.pod)
	o.asked.Spec.NodeName = o.node
	a.put(t, o.asked)
}

// eyes see what happens to pods, in order.
type eyes struct {
	mu sync.Mutex
	// states are what each pod has been, ended those that are gone, names the last
	// pod of each name, notes the events of each pod by their reason.
	states map[types.UID][]*corev1.Pod
	ended  map[types.UID]bool
	names  map[string]types.UID
	notes  map[types.UID]map[string]string
	change chan struct{} // closed at the next
}

func open(t *testing.T, c *kubernetes.Clientset) *eyes {
	e := &eyes{change: make(chan struct{})}
	e.forget()
	f := informers.NewSharedInformerFactory(c, 0)
	_, err := f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { e.see(o.(*corev1.Pod), false) }, UpdateFunc: func(_, o any) { e.see(o.(*corev1.Pod), false) },
		DeleteFunc: func(o any) { e.see(o.(*corev1.Pod), true) }})
	must(t, err)
	_, err = f.Core().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { e.hear(o.(*corev1.Event)) }})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	f.StartWithContext(ctx)
	f.WaitForCacheSyncWithContext(ctx)
	t.Cleanup(func() { cancel(); f.Shutdown() })
	return e
}

func (e *eyes) look(f func(*eyes)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e)
}

func (e *eyes) changed() { close(e.change); e.change = make(chan struct{}) }

func (e *eyes) forget() {
	e.look(func(e *eyes) {
		e.states, e.ended = map[types.UID][]*corev1.Pod{}, map[types.UID]bool{}
		e.names, e.notes = map[string]types.UID{}, map[types.UID]map[string]string{}
	})
}

func (e *eyes) see(p *corev1.Pod, gone bool) {
	e.look(func(e *eyes) {
		e.states[p.UID] = append(e.states[p.UID], p)
		e.ended[p.UID] = gone
		e.names[p.Namespace+"/"+p.Name] = p.UID
		e.changed()
	})
}

// hear keeps the first event of each reason.
func (e *eyes) hear(ev *corev1.Event) {
	e.look(func(e *eyes) {
		of := e.notes[ev.InvolvedObject.UID]
		if of == nil {
			of = map[string]string{}
			e.notes[ev.InvolvedObject.UID] = of
		}
		if of[ev.Reason] == "" {
			of[ev.Reason] = ev.Message
		}
		e.changed()
	})
}

// await waits until something is so; a minute is long, even on a busy machine.
func (e *eyes) await(t *testing.T, what string, so func(*eyes) bool) {
	t.Helper()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		var yes bool
		var change chan struct{}
		e.look(func(e *eyes) { yes, change = so(e), e.change })
		if yes {
			return
		}
		select {
		case <-change:
		case <-late.C:
			t.Fatalf("%s: nothing after a minute", what)
		}
	}
}

func (e *eyes) last(uid types.UID) *corev1.Pod {
	if all := e.states[uid]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

func (e *eyes) bound(uid types.UID) string {
	if p := e.last(uid); p != nil {
		return p.Spec.NodeName
	}
	return ""
}

// nominee is the first node that the pod was nominated to.
func (e *eyes) nominee(uid types.UID) string {
	for _, p := range e.states[uid] {
		if p.Status.NominatedNodeName != "" {
			return p.Status.NominatedNodeName
		}
	}
	return ""
}

func (e *eyes) message(uid types.UID, reason string) string { return e.notes[uid][reason] }

// condition is what the pod was last told.
func (e *eyes) condition(uid types.UID, kind corev1.PodConditionType) string {
	if p := e.last(uid); p != nil {
		for _, c := range p.Status.Conditions {
			if c.Type == kind {
				return fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
	return ""
}

// gone says of the last pod of a name whether it is no more.
func (e *eyes) gone(name string) (types.UID, bool) {
	uid := e.names[name]
	return uid, e.ended[uid]
}

// decided says whether a scheduler is done with a pod: it is on a node, and the
// events of those that went for it are there; or it is said in the status and in an
// event that there is no node, nor one to come.
func (e *eyes) decided(uid types.UID) bool {
	tried := e.message(uid, "FailedScheduling") != ""
	if e.bound(uid) == "" {
		return tried && e.nominee(uid) == "" && e.condition(uid, corev1.PodScheduled) != ""
	}
	if e.nominee(uid) == "" {
		return true
	}
	for victim, over := range e.ended {
		preempted := strings.Contains(e.condition(victim, corev1.DisruptionTarget), corev1.PodReasonPreemptionByScheduler)
		if over && preempted && e.message(victim, "Preempted") == "" {
			return false
		}
	}
	return tried
}
