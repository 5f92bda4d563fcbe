package failure

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

var (
	seeds = flag.Int("seeds", 8, "how many random histories to run")
	seed  = flag.Uint64("seed", 0, "run only this one")
)

// A random history of faults: nodes die and come back, the manager is restarted,
// connections break, people scale and roll out and delete. Bounds hold all the
// time, and when it is over, everything is as it should be.
func TestRandomHistoriesConverge(t *testing.T) {
	for i := range *seeds {
		n := uint64(i + 1)
		if *seed != 0 {
			n = *seed
		}
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) { inCluster(t, func(w *world) { w.history(n) }) })
		if *seed != 0 {
			return
		}
	}
}

// history runs one and checks it.
func (w *world) history(n uint64) {
	rng := rand.New(rand.NewPCG(n, 0))
	alive := map[string]bool{}
	nodes := []string{"w1", "w2", "w3", "w4"}
	for _, name := range nodes {
		w.startNode(name, "")
		alive[name] = true
	}
	w.until(5 * time.Second)
	w.deploy("hello-world", 3)
	w.statefulSet("db", 2)
	replicas, image := int32(3), "docker.io/demo/app:1"
	for range 40 {
		w.until(w.at().Truncate(time.Millisecond) + time.Duration(1+rng.IntN(60))*time.Second)
		w.bounds(5 + 2)
		name := nodes[rng.IntN(len(nodes))]
		switch rng.IntN(7) {
		case 0:
			if alive[name] {
				w.stopNode(name)
				alive[name] = false
			}
		case 1:
			if !alive[name] {
				w.startNode(name, "")
				alive[name] = true
			}
		case 2:
			w.stopController()
			w.startManager()
		case 3:
			w.cut()
		case 4:
			replicas = int32(1 + rng.IntN(5))
			w.retry(func() error { return w.tryScale("hello-world", replicas) })
		case 5:
			image = fmt.Sprintf("docker.io/demo/app:%d", 1+rng.IntN(3))
			w.retry(func() error { return w.trySetImage("hello-world", image) })
		case 6:
			if pods := w.pods("app=hello-world"); len(pods) > 0 {
				p := pods[rng.IntN(len(pods))]
				client.For[*corev1.Pod](w.client).Delete(w.ctx, p.Namespace, p.Name, metav1.DeleteOptions{})
			}
		}
	}
	for _, name := range nodes {
		if !alive[name] {
			w.startNode(name, "")
		}
	}
	w.until(w.at() + 15*time.Minute)
	w.settled(replicas, image)
}

// bounds are what may never happen.
func (w *world) bounds(most int) {
	w.t.Helper()
	active := 0
	for _, p := range w.pods("app=hello-world") {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
			active++
		}
	}
	if active > most {
		w.t.Errorf("at %v there are %d pods", w.at(), active)
	}
	if pods := w.pods("app=db"); len(pods) > 2 {
		w.t.Errorf("at %v the stateful set has %d pods", w.at(), len(pods))
	}
}

// settled is how it must be in the end.
func (w *world) settled(replicas int32, image string) {
	w.t.Helper()
	d, err := client.For[*appsv1.Deployment](w.client).Get(w.ctx, "default", "hello-world")
	w.must(err)
	if s := d.Status; s.Replicas != replicas || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas || s.ObservedGeneration != d.Generation {
		w.t.Errorf("want %d replicas: %+v", replicas, s)
	}
	var ips []string
	for _, p := range w.pods("app=hello-world") {
		if p.Spec.Containers[0].Image != image || !strings.HasPrefix(podState(p), "Running Ready=True") || p.DeletionTimestamp != nil {
			w.t.Errorf("%s %s, want %s: %s", p.Name, p.Spec.Containers[0].Image, image, podState(p))
		}
		ips = append(ips, p.Status.PodIP)
	}
	list, err := client.For[*discoveryv1.EndpointSlice](w.client).List(w.ctx, "default", metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=hello-world"})
	w.must(err)
	var endpoints []string
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			endpoints = append(endpoints, e.Addresses...)
		}
	}
	slices.Sort(ips)
	slices.Sort(endpoints)
	if !slices.Equal(ips, endpoints) {
		w.t.Errorf("pods at %v, endpoints %v", ips, endpoints)
	}
	s, err := client.For[*appsv1.StatefulSet](w.client).Get(w.ctx, "default", "db")
	w.must(err)
	if s.Status.AvailableReplicas != 2 || len(w.pods("app=db")) != 2 {
		w.t.Errorf("stateful set: %+v", s.Status)
	}
	all, err := client.For[*corev1.Node](w.client).List(w.ctx, "", metav1.ListOptions{})
	w.must(err)
	for _, n := range all.Items {
		if st := nodeState(n); st != "Ready=True taints=[]" {
			w.t.Errorf("%s: %s", n.Name, st)
		}
	}
	sets, err := client.For[*appsv1.ReplicaSet](w.client).List(w.ctx, "default", metav1.ListOptions{})
	w.must(err)
	for _, rs := range sets.Items {
		if !metav1.IsControlledBy(rs, d) {
			w.t.Errorf("%s is an orphan", rs.Name)
		}
	}
}

// retry does what a person does whose connection broke.
func (w *world) retry(f func() error) {
	w.t.Helper()
	var err error
	for range 5 {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}
