package compare

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// recording is what was seen of the objects.
type recording struct {
	mu    sync.Mutex
	at    string // the step of the script
	since time.Time
	by    map[string]*history // by kind and UID
	order []string
}

// history is the life of one object.
type history struct {
	class  string
	states []state
}

type state struct {
	text string
	step string
	at   time.Duration // since the step
}

func newRecording() *recording { return &recording{by: map[string]*history{}, since: time.Now()} }

// step says where in the script we are; times count from it.
func (r *recording) step(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.since = name, time.Now()
}

// note adds a state; last keeps no more than the last one.
func (r *recording) note(kind string, o metav1.Object, class, text string, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := kind + string(o.GetUID()) + class[:strings.IndexByte(class, ' ')]
	h := r.by[key]
	if h == nil {
		h = &history{}
		r.by[key] = h
		r.order = append(r.order, key)
	}
	// Where the stage puts a pod that takes the place of another depends on which of
	// several comes first.
	if kind == "pod" && len(h.states) > 0 && h.states[0].step != beginning {
		class = placed.ReplaceAllString(class, "")
	}
	h.class = class
	if n := len(h.states); n > 0 && h.states[n-1].text == text {
		return
	}
	st := state{text, r.at, time.Since(r.since)}
	if last {
		st.at = 0
		st.step = ""
		h.states = []state{st}
		return
	}
	// The taints of a node are set by loops beside each other, in whatever order;
	// what did not last was a step of one change.
	if n := len(h.states); kind == "node" && n > 1 && h.states[n-1].step == st.step && st.at-h.states[n-1].at < settles {
		h.states[n-1] = st
		return
	}
	// Pods that start together are ready one after the other: that there are enough of
	// them and not yet all may be seen or not.
	if n := len(h.states); kind == "deployment" && n > 1 && enough.MatchString(h.states[n-1].text) && strings.Contains(h.states[n-2].text, "Available=False") {
		h.states[n-1] = st
		return
	}
	h.states = append(h.states, st)
}

// enough is the state of a Deployment that has enough pods, but not all.
var enough = regexp.MustCompile(`Available=True.*/ReplicaSetUpdated/`)

// placed is the end of a pod's class that names its zone.
var placed = regexp.MustCompile(` in \w$`)

// count says how often an object of a class came into a state with a text in it.
func (r *recording) count(class, text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.by {
		for _, st := range h.states {
			if h.class == class && strings.Contains(st.text, text) {
				n++
			}
		}
	}
	return n
}

// settles is how long a state of a node must last to be one: a turn of the loop that
// looks after nodes, and a little.
const settles = 1500 * time.Millisecond

// describe turns an object into its class and state.
type describe[T metav1.Object] func(T) (class, text string)

func follow[T metav1.Object](r *recording, in cache.SharedIndexInformer, kind string, last bool, f describe[T]) {
	see := func(obj any) {
		o := obj.(T)
		if class, text := f(o); class != "" {
			r.note(kind, o, kind+" "+class, text, last)
		}
	}
	_, _ = in.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, o any) { see(o) }, DeleteFunc: func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		o := obj.(T)
		if class, _ := f(o); class != "" {
			r.note(kind, o, kind+" "+class, "gone", last)
		}
	}})
}

func (r *recording) follow(f informers.SharedInformerFactory) {
	follow(r, f.Core().V1().Nodes().Informer(), "node", false, nodeState)
	follow(r, f.Core().V1().Pods().Informer(), "pod", false, podState)
	follow(r, f.Core().V1().Namespaces().Informer(), "namespace", true, func(n *corev1.Namespace) (string, string) {
		return n.Name, string(n.Status.Phase)
	})
	follow(r, f.Apps().V1().Deployments().Informer(), "deployment", false, deploymentState)
	follow(r, f.Apps().V1().Deployments().Informer(), "deployment-end", true, func(d *appsv1.Deployment) (string, string) {
		s := d.Status
		s.Conditions = nil
		return d.Namespace + "/" + d.Name, fmt.Sprintf("%s revision=%s", counts(s.String()), d.Annotations["deployment.kubernetes.io/revision"])
	})
	follow(r, f.Apps().V1().ReplicaSets().Informer(), "replicaset-end", true, func(d *appsv1.ReplicaSet) (string, string) {
		s := d.Status
		return d.Namespace + "/" + owner(d) + " " + d.Spec.Template.Spec.Containers[0].Image, fmt.Sprintf("spec=%d %s revision=%s", *d.Spec.Replicas, counts(s.String()), d.Annotations["deployment.kubernetes.io/revision"])
	})
	follow(r, f.Apps().V1().StatefulSets().Informer(), "statefulset-end", true, func(d *appsv1.StatefulSet) (string, string) {
		s := d.Status
		return d.Namespace + "/" + d.Name, fmt.Sprintf("replicas=%d ready=%d current=%d updated=%d available=%d", s.Replicas, s.ReadyReplicas, s.CurrentReplicas, s.UpdatedReplicas, s.AvailableReplicas)
	})
	follow(r, f.Apps().V1().DaemonSets().Informer(), "daemonset-end", true, func(d *appsv1.DaemonSet) (string, string) {
		s := d.Status
		s.CollisionCount = nil
		return d.Namespace + "/" + d.Name, counts(s.String())
	})
	follow(r, f.Batch().V1().Jobs().Informer(), "job", false, jobState)
	follow(r, f.Autoscaling().V2().HorizontalPodAutoscalers().Informer(), "autoscaler", false, autoscalerState)
	follow(r, f.Autoscaling().V2().HorizontalPodAutoscalers().Informer(), "autoscaler-end", true, autoscalerEnd)
	follow(r, f.Policy().V1().PodDisruptionBudgets().Informer(), "budget-end", true, func(b *policyv1.PodDisruptionBudget) (string, string) {
		s := b.Status
		text := fmt.Sprintf("allowed=%d healthy=%d/%d of %d disrupted=%d", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, len(s.DisruptedPods))
		for _, c := range s.Conditions {
			text += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
		return b.Namespace + "/" + b.Name, text
	})
}

var nothing = regexp.MustCompile(`(\w+:(nil|0|\[\]),|ObservedGeneration:\d+,|CollisionCount:\S+,|Conditions:\[\][^,]*,)`)

// counts is a status as its String has it, without what is nought.
func counts(s string) string { return nothing.ReplaceAllString(s, "") }

func owner(o metav1.Object) string {
	if c := metav1.GetControllerOf(o); c != nil {
		return random.ReplaceAllString(c.Name, "")
	}
	return o.GetName()
}

// random are the parts of names that are drawn or hashed: those of a ReplicaSet, those of its pods.
var random = regexp.MustCompile(`(-[bcdfghjklmnpqrstvwxz0-9]{6,10})?(-[bcdfghjklmnpqrstvwxz2456789]{5})?$`)

func nodeState(n *corev1.Node) (class, text string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			text = fmt.Sprintf("Ready=%s/%s/%s", c.Status, c.Reason, c.Message)
		} else if c.Status == corev1.ConditionUnknown {
			text += fmt.Sprintf(" %s=Unknown/%s", c.Type, c.Reason)
		}
	}
	var taints []string
	for _, t := range n.Spec.Taints {
		taints = append(taints, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(taints)
	return "zone " + n.Name[:1], text + " " + fmt.Sprint(taints)
}

func podState(p *corev1.Pod) (class, text string) {
	text = string(p.Status.Phase)
	for _, t := range []corev1.PodConditionType{corev1.PodReady, corev1.DisruptionTarget} {
		if c := podCondition(p, t); c != nil {
			text += fmt.Sprintf(" %s=%s", t, c.Status)
			if c.Reason != "" || c.Message != "" {
				text += fmt.Sprintf("/%s/%s", c.Reason, c.Message)
			}
		}
	}
	if p.Spec.NodeName != "" {
		text += " bound"
	}
	if p.DeletionTimestamp != nil {
		text += fmt.Sprintf(" deleting(%ds)", *p.DeletionGracePeriodSeconds)
	}
	for _, f := range p.Finalizers {
		text += " " + f
	}
	for _, a := range []string{batchv1.JobCompletionIndexAnnotation, batchv1.JobIndexFailureCountAnnotation, batchv1.JobIndexIgnoredFailureCountAnnotation} {
		if v, ok := p.Annotations[a]; ok {
			text += fmt.Sprintf(" %s=%s", strings.TrimPrefix(a, "batch.kubernetes.io/"), v)
		}
	}
	zone := ""
	if strings.HasPrefix(p.Namespace, "zones") && p.Spec.NodeName != "" {
		zone = " in " + p.Spec.NodeName[:1]
	}
	return p.Namespace + "/" + owner(p) + " " + p.Spec.Containers[0].Image + zone, text
}

func deploymentState(d *appsv1.Deployment) (class, text string) {
	if d.Namespace == "elastic" {
		return "", "" // there the size is the point, and which steps to it are seen is chance
	}
	var all []string
	for _, c := range d.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s/%s/%s", c.Type, c.Status, c.Reason, plain(c.Message)))
	}
	slices.Sort(all)
	return d.Namespace + "/" + d.Name, strings.Join(all, " ")
}

func jobState(j *batchv1.Job) (class, text string) {
	text = fmt.Sprintf("failed=%d", j.Status.Failed)
	if lost := j.Status.FailedIndexes; lost != nil {
		text += " lost=" + *lost
	}
	for _, c := range j.Status.Conditions {
		text += fmt.Sprintf(" %s=%s/%s/%s", c.Type, c.Status, c.Reason, plain(c.Message))
	}
	return j.Namespace + "/" + j.Name, text
}

var (
	podName = regexp.MustCompile(`(-[bcdfghjklmnpqrstvwxz0-9]{6,10})?-[bcdfghjklmnpqrstvwxz2456789]{5}\b`)
	hash    = regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{8,10}\b`)
	uid     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

// plain is a text without what is drawn by lot.
func plain(s string) string {
	return hash.ReplaceAllString(podName.ReplaceAllString(uid.ReplaceAllString(s, "UID"), "-POD"), "-HASH")
}

// events are the texts of all events, each once.
func (s *stage) events() []string {
	list, err := s.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		s.t.Error(err)
		return nil
	}
	var out []string
	for _, e := range list.Items {
		o := e.InvolvedObject
		out = append(out, plain(fmt.Sprintf("event %s %s/%s: %s %s from %s: %s", o.Kind, o.Namespace, o.Name, e.Type, e.Reason, e.Source.Component, e.Message)))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// classes are the lives of all objects, those of a class together.
func (r *recording) classes() map[string][]*history {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]*history{}
	for _, key := range r.order {
		h := r.by[key]
		out[h.class] = append(out[h.class], h)
	}
	for _, list := range out {
		slices.SortStableFunc(list, func(a, b *history) int {
			if c := strings.Compare(a.texts(), b.texts()); c != 0 {
				return c
			}
			return int(a.sum() - b.sum())
		})
	}
	return out
}

// sum orders lives of the same states: those that went faster come first.
func (h *history) sum() (d time.Duration) {
	for _, s := range h.states {
		d += s.at
	}
	return d
}

func (h *history) texts() string {
	var out []string
	for _, s := range h.states {
		out = append(out, s.text)
	}
	return strings.Join(out, "\n")
}

func (h *history) String() string {
	var b strings.Builder
	for _, s := range h.states {
		fmt.Fprintf(&b, "\n      %-22s +%3.0fs  %s", s.step, s.at.Seconds(), s.text)
	}
	return b.String()
}

// slack is how far apart two times may be: a tick of each loop, and a busy machine.
const slack = 4 * time.Second

// gcPeriod is a tick of the pod garbage collector, which began to tick when its
// manager started.
const gcPeriod = 20 * time.Second

// chained are the classes whose namespaces play one change after the other, each
// when the one before is complete: the order of their states counts, and no time.
var chained = regexp.MustCompile(` (rollout|scale|drain|farewell|ordered|daemons|elastic)/`)

// apart says whether two lives of the same states have one that came at another time.
func apart(class string, ours, theirs *history) bool {
	room := slack
	for j, o := range ours.states {
		t := theirs.states[j]
		if o.step == "" && t.step == "" || chained.MatchString(class) {
			continue // while the stage was being built, or of no time
		}
		if strings.Contains(o.text, "PodGC") {
			room += gcPeriod
		}
		if d := o.at - t.at; o.step != t.step || d > room || d < -room {
			return true
		}
	}
	return false
}

// differences are between what ours did and what upstream's did.
func differences(ours, theirs *stage) (out []string) {
	a, b := ours.rec.classes(), theirs.rec.classes()
	names := map[string]bool{}
	for c := range a {
		names[c] = true
	}
	for c := range b {
		names[c] = true
	}
	for c := range names {
		out = append(out, classDifferences(c, a[c], b[c])...)
	}
	ea, eb := ours.events(), theirs.events()
	for _, e := range ea {
		if !slices.Contains(eb, e) {
			out = append(out, "only ours: "+e)
		}
	}
	for _, e := range eb {
		if !slices.Contains(ea, e) {
			out = append(out, "only upstream's: "+e)
		}
	}
	slices.Sort(out)
	return out
}

func classDifferences(class string, ours, theirs []*history) (out []string) {
	if len(ours) != len(theirs) {
		text := fmt.Sprintf("%s: ours had %d, upstream's %d", class, len(ours), len(theirs))
		for _, h := range ours {
			text += "\n    ours" + h.String()
		}
		for _, h := range theirs {
			text += "\n    upstream's" + h.String()
		}
		return []string{text}
	}
	for i, h := range ours {
		u := theirs[i]
		if h.texts() != u.texts() {
			out = append(out, fmt.Sprintf("%s:\n    ours%s\n    upstream's%s", class, h, u))
			continue
		}
		if apart(class, h, u) {
			out = append(out, fmt.Sprintf("%s, times:\n    ours%s\n    upstream's%s", class, h, u))
		}
	}
	return out
}

// show prints a recording.
func show(t *testing.T, s *stage) {
	for class, list := range s.rec.classes() {
		for _, h := range list {
			t.Logf("%s%s", class, h)
		}
	}
}
