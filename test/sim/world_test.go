// Package sim tests whole clusters in fake time: every component as it is, the
// kubelet too, on nodes whose containers are made up (orrery/lab/sim).
package sim

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/lab/sim"
	"orrery/test/cluster"
)

// world is a cluster in a bubble, and eyes on it.
type world struct {
	t     *testing.T
	ctx   context.Context
	sim   *sim.Sim
	api   *client.Client
	began time.Time

	nodes   *eyes[*corev1.Node]
	pods    *eyes[*corev1.Pod]
	sets    *eyes[*appsv1.ReplicaSet]
	budgets *eyes[*policyv1.PodDisruptionBudget]
	leases  *eyes[*coordinationv1.Lease] // of the control plane
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(cluster.Strict{})) // every component writes there
	debug.SetGCPercent(400)                     // hundreds of short-lived clusters: memory for time
	os.Exit(m.Run())
}

// inCluster runs f in a bubble with a cluster that is ready.
func inCluster(t *testing.T, cfg sim.Config, f func(w *world)) {
	t.Helper()
	cfg.Dir, cfg.Version, cfg.Plain, cfg.SandboxDelay = t.TempDir(), "v1.36.3+test", true, 200*time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := sim.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() { // also when f fails
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		w := &world{t: t, ctx: ctx, sim: s, api: s.Client(), began: time.Now()}
		if err := s.AwaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		w.nodes, w.pods = newEyes[*corev1.Node](w.api, ""), newEyes[*corev1.Pod](w.api, "")
		w.sets, w.budgets = newEyes[*appsv1.ReplicaSet](w.api, ""), newEyes[*policyv1.PodDisruptionBudget](w.api, "")
		w.leases = newEyes[*coordinationv1.Lease](w.api, "kube-system")
		var watching sync.WaitGroup
		for _, run := range []func(context.Context){w.nodes.run, w.pods.run, w.sets.run, w.budgets.run, w.leases.run} {
			watching.Go(func() { run(ctx) })
		}
		defer func() {
			cancel()
			watching.Wait()
		}()
		for _, synced := range []chan struct{}{w.nodes.synced, w.pods.synced, w.sets.synced, w.budgets.synced, w.leases.synced} {
			<-synced
		}
		f(w)
	})
}

// at says where on the clock of the bubble we are.
func (w *world) at() time.Duration { return time.Since(w.began) }

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// until waits for a condition, to a tenth of a second, and says when it came true.
func (w *world) until(what string, within time.Duration, cond func() bool) time.Duration {
	w.t.Helper()
	for end := w.at() + within; ; w.pass(100 * time.Millisecond) {
		if cond() {
			return w.at()
		}
		if w.at() > end {
			w.t.Fatalf("%s: not within %v; %s", what, within, w.sight())
		}
	}
}

// sight is the cluster in a few lines, for messages.
func (w *world) sight() string {
	var b strings.Builder
	fmt.Fprintf(&b, "at %v:\n", w.at())
	for _, n := range w.nodes.List() {
		fmt.Fprintf(&b, "  node %s Ready=%s %v, %s\n", n.Name, ready(n), taints(n), w.sim.Node(n.Name).State())
	}
	for _, p := range w.pods.List() {
		fmt.Fprintf(&b, "  pod %s on %q %s ready=%v deleting=%v\n", p.Name, p.Spec.NodeName, p.Status.Phase, isReady(p), p.DeletionTimestamp != nil)
	}
	sets, err := client.For[*appsv1.ReplicaSet](w.api).List(w.ctx, "", metav1.ListOptions{})
	if err != nil {
		fmt.Fprintf(&b, "  %v\n", err)
	}
	for _, rs := range sets.Items {
		fmt.Fprintf(&b, "  replicaset %s wants %d %s\n", rs.Name, *rs.Spec.Replicas, rs.Status.String())
	}
	events, _ := client.For[*corev1.Event](w.api).List(w.ctx, "", metav1.ListOptions{})
	for _, e := range events.Items {
		if time.Since(e.LastTimestamp.Time) < time.Minute && e.Type != "" {
			fmt.Fprintf(&b, "  %v %s/%s %s: %s\n", e.LastTimestamp.Sub(w.began), e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return b.String()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) do(line string) {
	w.t.Helper()
	_, err := w.sim.Do(line)
	w.must(err)
}

func (w *world) node(name string) *corev1.Node {
	w.t.Helper()
	n, ok := w.nodes.Get("", name)
	if !ok {
		w.t.Fatalf("no node %s", name)
	}
	return n
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return "?"
}

func taints(n *corev1.Node) (out []string) {
	for _, t := range n.Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return out
}

func tainted(n *corev1.Node, effect corev1.TaintEffect) bool {
	return slices.Contains(taints(n), "unreachable:"+string(effect))
}

// podTemplate is that of the pods of an app.
func podTemplate(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "app", Image: "demo/app:1"}}}}
}

// deploy makes a Deployment; edit may change it before.
func (w *world) deploy(name string, replicas int32, edit func(*appsv1.Deployment)) {
	w.t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: podTemplate(name)}}
	if edit != nil {
		edit(d)
	}
	_, err := client.For[*appsv1.Deployment](w.api).Create(w.ctx, d)
	w.must(err)
}

func (w *world) scale(name string, n int32) {
	w.t.Helper()
	_, err := client.For[*appsv1.Deployment](w.api).Patch(w.ctx, "default", name, types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)))
	w.must(err)
}

// find is the pods that a function wants.
func (w *world) find(want func(p *corev1.Pod) bool) (out []*corev1.Pod) {
	for _, p := range w.pods.List() {
		if want(p) {
			out = append(out, p)
		}
	}
	return out
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// about checks a time to the tenth of a second that until has.
func (w *world) about(what string, got, want time.Duration) {
	w.t.Helper()
	if d := got - want; d < -200*time.Millisecond || d > 200*time.Millisecond {
		w.t.Errorf("%s: after %v, want %v", what, got, want)
	}
}

// office is who leads the controllers, since when, and when they last said so.
func (w *world) office() (leader string, since, renewed time.Duration) {
	l, ok := w.leases.Get("kube-system", sim.ControllerManager)
	if !ok || l.Spec.HolderIdentity == nil || l.Spec.AcquireTime == nil || l.Spec.RenewTime == nil {
		return "", 0, 0
	}
	return *l.Spec.HolderIdentity, l.Spec.AcquireTime.Sub(w.began), l.Spec.RenewTime.Sub(w.began)
}
