package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

var (
	largeNodes = flag.Int("nodes", 20, "nodes of the large cluster")
	largePods  = flag.Int("pods", 100, "pods of the large cluster, in ten Deployments")
	steady     = flag.Duration("steady", 15*time.Second, "for how long the large cluster is watched when all of its pods run")
)

// TestALargeClusterHolds fills a cluster with pods and then watches it in peace:
// every pod comes to run, no node is ever not ready, and every lease is renewed.
// What it took is only told (with -v):
//
//	make sim-1000
func TestALargeClusterHolds(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	began := time.Now()
	s, err := New(Config{Nodes: *largeNodes, Dir: folder(t), Address: "127.0.0.1:0", Version: "v1.36.3+test", SandboxDelay: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes are ready after %v", *largeNodes, time.Since(began).Round(time.Millisecond))
	l := &large{t: t, ctx: ctx}
	access, err := client.LoadKubeconfig(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if l.api, err = client.New(access); err != nil {
		t.Fatal(err)
	}
	defer l.api.Close()
	defer l.watch(running)()
	began = time.Now()
	for i := range 10 {
		l.deploy(fmt.Sprintf("app-%d", i), int32(*largePods/10))
	}
	l.until(fmt.Sprintf("%d pods run", *largePods), func() bool { return l.up() == *largePods })
	t.Logf("%d pods run after %v", *largePods, time.Since(began).Round(time.Second))
	leases := l.leases()
	for end := time.Now().Add(*steady); time.Now().Before(end); {
		l.report()
	}
	for name, before := range leases {
		if now := l.leases()[name]; !now.After(before) {
			t.Errorf("the lease of %s has not been renewed since %v", name, before)
		}
	}
	if n := l.notReady.Load(); n != 0 {
		t.Errorf("nodes were not ready %d times", n)
	}
	if n := l.up(); n != *largePods {
		t.Errorf("%d pods run in the end, not %d", n, *largePods)
	}
}

// large is eyes on the cluster, from outside.
type large struct {
	t        *testing.T
	ctx      context.Context
	api      *client.Client
	pods     *client.Informer[*corev1.Pod]
	nodes    *client.Informer[*corev1.Node]
	notReady atomic.Int64
	began    time.Time
}

// watch follows pods and nodes until the func that it returns is called.
func (l *large) watch(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.began = time.Now()
	l.pods = client.NewInformer(client.For[*corev1.Pod](l.api), "default", metav1.ListOptions{})
	l.nodes = client.NewInformer(client.For[*corev1.Node](l.api), "", metav1.ListOptions{})
	l.nodes.AddHandler(client.HandlerFunc(func(n *corev1.Node) {
		if unready(n) && ctx.Err() == nil {
			l.notReady.Add(1)
		}
	}))
	var g errgroup.Group
	for _, run := range []func(context.Context) error{l.pods.Run, l.nodes.Run} {
		g.Go(func() error { return run(ctx) })
	}
	<-l.pods.Synced()
	<-l.nodes.Synced()
	return func() {
		cancel()
		_ = g.Wait() // informers do not fail
	}
}

func (l *large) deploy(name string, replicas int32) {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "demo/app:1"}}}}}}
	if _, err := client.For[*appsv1.Deployment](l.api).Create(l.ctx, d); err != nil {
		l.t.Fatal(err)
	}
}

func (l *large) up() (n int) {
	for _, p := range l.pods.List() {
		if p.Status.Phase == corev1.PodRunning {
			n++
		}
	}
	return n
}

func (l *large) leases() map[string]time.Time {
	list, err := client.For[*coordinationv1.Lease](l.api).List(l.ctx, corev1.NamespaceNodeLease, metav1.ListOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	out := map[string]time.Time{}
	for _, lease := range list.Items {
		out[lease.Name] = lease.Spec.RenewTime.Time
	}
	return out
}

// until waits for a condition and tells on the way how it goes.
func (l *large) until(what string, cond func() bool) {
	for !cond() {
		l.report()
		if l.ctx.Err() != nil {
			l.t.Fatalf("%s: not in half an hour", what)
		}
	}
}

// report tells, five seconds later, how the cluster is and how fast it answers.
func (l *large) report() {
	if !client.Sleep(l.ctx, 5*time.Second) {
		return
	}
	asked := time.Now()
	_, err := client.For[*corev1.Pod](l.api).List(l.ctx, "default", metav1.ListOptions{Limit: 500})
	took := time.Since(asked)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	l.t.Logf("%4.0fs: %5d of %5d pods run, %d goroutines, %d MB in use, %d MB of the system; 500 pods listed in %v %v", time.Since(l.began).Seconds(),
		l.up(), len(l.pods.List()), runtime.NumGoroutine(), m.HeapInuse>>20, m.Sys>>20, took.Round(time.Millisecond), err)
}
