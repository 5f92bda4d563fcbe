// Package failure holds the behaviour of a cluster that fails, second by second,
// against the in-process control plane: a real API server on the memory store, the
// real controllers, and kubelets that are played by a few lines.
package failure

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orrery/client"
	"orrery/controllers"
	"orrery/test/cluster"
)

// world is a cluster in a bubble.
type world struct {
	t      *testing.T
	ctx    context.Context
	client *client.Client
	config client.Config
	wg     sync.WaitGroup
	began  time.Time

	stopManager context.CancelFunc
	managerDone chan struct{}

	mu    sync.Mutex
	nodes map[string]*fakeNode
	lines []string // the recording
	ips   int
	fresh int
	conns []net.Conn // all connections to the API server that were ever made
}

// fakeNode plays a kubelet.
type fakeNode struct {
	name string
	stop context.CancelFunc
	done chan struct{}
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(cluster.Strict{})) // the controllers write there
	os.Exit(m.Run())
}

// inCluster runs f in a bubble with an API server and a controller manager.
func inCluster(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := cluster.Start(t)
		w := &world{t: t, ctx: ctx, nodes: map[string]*fakeNode{}, began: time.Now(), config: c.Config}
		w.config.UserAgent = "kube-controller-manager/test"
		w.config.Dial = w.dialer(c.Config.Dial)
		var err error
		if w.client, err = client.New(w.config); err != nil {
			t.Fatal(err)
		}
		w.until(time.Second)
		w.startManager()
		w.wg.Go(func() { w.schedule() })
		defer func() { // also when f fails
			w.stopController()
			for _, n := range w.nodes {
				n.stop()
				<-n.done
			}
			cancel()
			w.client.Close()
			w.wg.Wait()
		}()
		f(w)
	})
}

// dialer notes connections, so that they can be cut.
func (w *world) dialer(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			w.mu.Lock()
			w.conns = append(w.conns, conn)
			w.mu.Unlock()
		}
		return conn, err
	}
}

// cut breaks every connection to the API server, watches included.
func (w *world) cut() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (w *world) startManager() {
	cfg := controllers.DefaultConfig()
	cfg.Client, cfg.LeaderElect = w.config, false
	cfg.AllocateNodeCIDRs, cfg.ClusterCIDR = true, netip.MustParsePrefix("10.244.0.0/16")
	cfg.RootCA = []byte("a CA")
	cfg.LoadBalancerPool = []netip.Prefix{netip.MustParsePrefix("172.30.0.200/30")}
	ctx, cancel := context.WithCancel(w.ctx)
	w.stopManager, w.managerDone = cancel, make(chan struct{})
	go func() {
		defer close(w.managerDone)
		if err := controllers.Run(ctx, cfg); err != nil {
			w.t.Error(err)
		}
	}()
}

func (w *world) stopController() {
	w.stopManager()
	<-w.managerDone
}

// at says where on the clock of the bubble we are.
func (w *world) at() time.Duration { return time.Since(w.began) }

// until sleeps to a point of the bubble's clock and lets everything settle.
func (w *world) until(at time.Duration) {
	time.Sleep(time.Until(w.began.Add(at)))
	synctest.Wait()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// startNode registers a node if need be and keeps its lease and its pods.
func (w *world) startNode(name, zone string) {
	w.t.Helper()
	nodes := client.For[*corev1.Node](w.client)
	conditions := func() []corev1.NodeCondition {
		now := metav1.Now()
		return []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", LastHeartbeatTime: now, LastTransitionTime: now},
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now},
		}
	}
	node, err := nodes.Get(w.ctx, "", name)
	if err != nil {
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
		if zone != "" {
			node.Labels[corev1.LabelTopologyZone] = zone
		}
		if name == "cp" {
			node.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
		}
		node.Status.Conditions = conditions()
		_, err = nodes.Create(w.ctx, node)
		w.must(err)
	} else {
		node.Status.Conditions = conditions()
		_, err = nodes.UpdateStatus(w.ctx, node)
		w.must(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	n := &fakeNode{name: name, stop: cancel, done: make(chan struct{})}
	w.nodes[name] = n
	go func() {
		defer close(n.done)
		w.kubelet(ctx, name)
	}()
}

// stopNode is a power cut.
func (w *world) stopNode(name string) {
	n := w.nodes[name]
	n.stop()
	<-n.done
}

// kubelet renews the lease at 10, 20, 30 ... s, starts pods and ends them.
func (w *world) kubelet(ctx context.Context, name string) {
	leases := client.For[*coordinationv1.Lease](w.client)
	pods := client.NewInformer(client.For[*corev1.Pod](w.client), "", metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	loop := client.NewController("kubelet "+name, func(ctx context.Context, key string) (client.Result, error) {
		if p, ok := pods.GetKey(key); ok {
			return client.Result{}, w.runPod(ctx, p.DeepCopy())
		}
		return client.Result{}, nil
	})
	pods.AddHandler(client.On[*corev1.Pod](loop))
	var wg sync.WaitGroup
	wg.Go(func() { pods.Run(ctx) })
	wg.Go(func() { loop.Run(ctx) })
	defer wg.Wait()
	for {
		now := metav1.NowMicro()
		lease, err := leases.Get(ctx, "kube-node-lease", name)
		if err != nil {
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: name}}
			lease.Spec.RenewTime, lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &now, &name, new(int32(40))
			leases.Create(ctx, lease)
		} else {
			lease.Spec.RenewTime = &now
			leases.Update(ctx, lease)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10*time.Second - w.at()%(10*time.Second)):
		}
	}
}

// runPod starts a pod at once; a pod that is being deleted ends after a second.
func (w *world) runPod(ctx context.Context, p *corev1.Pod) (err error) {
	pods := client.For[*corev1.Pod](w.client)
	switch {
	case p.DeletionTimestamp != nil:
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			err = pods.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		}
	case p.Status.Phase == corev1.PodPending:
		w.mu.Lock()
		w.ips++
		ip := fmt.Sprintf("10.244.1.%d", w.ips)
		w.mu.Unlock()
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		p.Status.StartTime = new(metav1.Now())
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		_, err = pods.UpdateStatus(ctx, p)
	case p.Status.Phase == corev1.PodRunning:
		for i := range p.Status.Conditions { // somebody said otherwise while we were away
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
				c.Status, c.LastTransitionTime = corev1.ConditionTrue, metav1.Now()
				_, err = pods.UpdateStatus(ctx, p)
			}
		}
	}
	return err
}

// schedule binds pods to the node without taints that has fewest.
func (w *world) schedule() {
	api := client.For[*corev1.Pod](w.client)
	pods := client.NewInformer(api, "", metav1.ListOptions{})
	nodes := client.NewInformer(client.For[*corev1.Node](w.client), "", metav1.ListOptions{})
	assumed := map[types.UID]string{} // what the cache may not show yet
	loop := client.NewController("scheduler", func(ctx context.Context, _ string) (client.Result, error) {
		count := map[string]int{}
		list := pods.List()
		slices.SortFunc(list, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		for _, p := range list {
			if p.Spec.NodeName != "" {
				assumed[p.UID] = p.Spec.NodeName
			}
			count[assumed[p.UID]]++
		}
		free := slices.DeleteFunc(nodes.List(), func(n *corev1.Node) bool { return len(n.Spec.Taints) > 0 || n.Spec.Unschedulable })
		for _, p := range list {
			if assumed[p.UID] != "" || len(free) == 0 || p.DeletionTimestamp != nil {
				continue
			}
			best := slices.MinFunc(free, func(a, b *corev1.Node) int {
				if c := count[a.Name] - count[b.Name]; c != 0 {
					return c
				}
				return strings.Compare(a.Name, b.Name)
			})
			count[best.Name]++
			assumed[p.UID] = best.Name
			binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: best.Name}}
			if err := api.Post(ctx, p.Namespace, p.Name, "binding", binding, nil); err != nil {
				delete(assumed, p.UID)
				return client.Result{}, err
			}
		}
		return client.Result{}, nil
	})
	loop.Workers = 1
	pods.AddHandler(client.HandlerFunc(func(*corev1.Pod) { loop.Queue.Add("all") }))
	nodes.AddHandler(client.HandlerFunc(func(*corev1.Node) { loop.Queue.Add("all") }))
	w.wg.Go(func() { pods.Run(w.ctx) })
	w.wg.Go(func() { nodes.Run(w.ctx) })
	loop.Run(w.ctx)
}

// deploy makes the course's Deployment and Service.
func (w *world) deploy(name string, replicas int32) *appsv1.Deployment {
	w.t.Helper()
	labels := map[string]string{"app": name}
	d, err := client.For[*appsv1.Deployment](w.client).Create(w.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "docker.io/demo/app:1", Ports: []corev1.ContainerPort{{ContainerPort: 9898}}}}},
		}},
	})
	w.must(err)
	_, err = client.For[*corev1.Service](w.client).Create(w.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(9898)}}},
	})
	w.must(err)
	return d
}

func (w *world) pods(selector string) []*corev1.Pod {
	w.t.Helper()
	list, err := client.For[*corev1.Pod](w.client).List(w.ctx, "default", metav1.ListOptions{LabelSelector: selector})
	w.must(err)
	return list.Items
}

func (w *world) node(name string) *corev1.Node {
	w.t.Helper()
	n, err := client.For[*corev1.Node](w.client).Get(w.ctx, "", name)
	w.must(err)
	return n
}

func (w *world) tryScale(name string, n int32) error {
	_, err := client.For[*appsv1.Deployment](w.client).Patch(w.ctx, "default", name, types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)))
	return err
}

func (w *world) trySetImage(name, image string) error {
	_, err := client.For[*appsv1.Deployment](w.client).Patch(w.ctx, "default", name, types.StrategicMergePatchType,
		[]byte(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":%q}]}}}}`, image)))
	return err
}

func (w *world) statefulSet(name string, replicas int32) {
	w.t.Helper()
	labels := map[string]string{"app": name}
	_, err := client.For[*appsv1.StatefulSet](w.client).Create(w.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: name, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "docker.io/demo/db:1"}}},
		}},
	})
	w.must(err)
}

// nodeState is a node's Ready status and its taints.
func nodeState(n *corev1.Node) string {
	s := "?"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			s = string(c.Status)
		}
	}
	var taints []string
	for _, t := range n.Spec.Taints {
		taints = append(taints, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(taints)
	return fmt.Sprintf("Ready=%s taints=%v", s, taints)
}

// podState is what the recordings show of a pod.
func podState(p *corev1.Pod) string {
	var b strings.Builder
	b.WriteString(string(p.Status.Phase))
	if p.DeletionTimestamp != nil {
		fmt.Fprintf(&b, " Terminating(grace=%d)", *p.DeletionGracePeriodSeconds)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady || c.Type == corev1.DisruptionTarget {
			fmt.Fprintf(&b, " %s=%s(%s)", c.Type, c.Status, c.Reason)
		}
	}
	return b.String()
}

func sliceState(s *discoveryv1.EndpointSlice) string {
	var parts []string
	for _, e := range s.Endpoints {
		parts = append(parts, fmt.Sprintf("ready=%v,serving=%v,term=%v", *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// record notes changes of nodes, pods, endpoint slices and events as the
// recordings of the real cluster do.
func (w *world) record() {
	note := func(what, key, state string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lines = append(w.lines, fmt.Sprintf("%.2f %s/%s %s", w.at().Seconds(), what, key, state))
	}
	last := map[string]string{}
	var mu sync.Mutex
	changed := func(key, state string) bool {
		mu.Lock()
		defer mu.Unlock()
		if last[key] == state {
			return false
		}
		last[key] = state
		return true
	}
	watch(w, func(n *corev1.Node, gone bool) {
		if s := nodeState(n); changed("node/"+n.Name, s) {
			note("node", n.Name, s)
		}
	})
	watch(w, func(p *corev1.Pod, gone bool) {
		s := podState(p)
		if gone {
			s = "DELETED"
		}
		if changed("pod/"+p.Name, s) {
			note("pod", p.Name, s)
		}
	})
	watch(w, func(s *discoveryv1.EndpointSlice, gone bool) {
		if s.Labels[discoveryv1.LabelServiceName] == "kubernetes" {
			return
		}
		if v := sliceState(s); changed("slice/"+s.Name, v) {
			note("endpointslice", s.Labels[discoveryv1.LabelServiceName], v)
		}
	})
	watch(w, func(e *corev1.Event, gone bool) {
		note("event", e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name, fmt.Sprintf("%s %s: %s (%s)", e.Type, e.Reason, e.Message, e.Source.Component))
	})
	synctest.Wait()
	w.mu.Lock()
	w.lines = nil // what was there before
	w.mu.Unlock()
}

func watch[T client.Object](w *world, f func(obj T, gone bool)) {
	inf := client.NewInformer(client.For[T](w.client), "", metav1.ListOptions{})
	inf.AddHandler(client.Handler[T]{
		Add: func(o T) { f(o, false) }, Update: func(_, o T) { f(o, false) }, Delete: func(o T) { f(o, true) },
	})
	w.wg.Go(func() { inf.Run(w.ctx) })
}

var podName = regexp.MustCompile(`[a-z-]+-[0-9a-f]{8,10}-[a-z0-9]{5}|(ReplicaSet/[a-z-]+)-[0-9a-f]{8,10}\b`)

// recorded is what was recorded since the last call, with the names of pods
// replaced by those of known, or new-1, new-2 ... in order.
func (w *world) recorded(known map[string]string) []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.lines
	w.lines = nil
	for i := range out {
		out[i] = podName.ReplaceAllStringFunc(out[i], func(name string) string {
			if rs, _, ok := strings.Cut(name, "/"); ok {
				return rs
			}
			if known[name] == "" {
				w.fresh++
				known[name] = fmt.Sprintf("new-%d", w.fresh)
			}
			return known[name]
		})
	}
	return out
}

// sequences compares, object by object, what was recorded with what should be:
// all changes of each object that want names, in order, to the hundredth of a
// second. Between objects there is no order within an instant.
func sequences(t *testing.T, got []string, want ...string) {
	t.Helper()
	group := func(lines []string) map[string][]string {
		m := map[string][]string{}
		for _, l := range lines {
			object := strings.Fields(l)[1]
			m[object] = append(m[object], l)
		}
		return m
	}
	seen := group(got)
	for object, lines := range group(want) {
		if !slices.Equal(seen[object], lines) {
			t.Errorf("%s:\n got  %s\n want %s", object, strings.Join(seen[object], "\n      "), strings.Join(lines, "\n      "))
		}
	}
}
