package compare

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"orrery/test/peers"
)

// The flags that both managers get: a dead node is seen after 8 s, and autoscalers look each second and wait for six.
var flags = []string{"--node-monitor-period=1s", "--node-monitor-grace-period=8s", "--node-startup-grace-period=8s",
	"--horizontal-pod-autoscaler-sync-period=1s", "--horizontal-pod-autoscaler-downscale-stabilization=6s"}

const (
	leaseEvery = time.Second // how often a kubelet of the stage renews
	tolerated  = 6           // seconds that pods bear a dead node
)

// stage is an API server with a controller manager on it, and everybody else
// played: kubelets that say what the image's name tells them to, and a scheduler
// that fills the nodes in turn.
type stage struct {
	*kubernetes.Clientset
	t    *testing.T
	ctx  context.Context
	rec  *recording
	core informers.SharedInformerFactory

	mu    sync.Mutex
	late  time.Duration // how late the clockwork of the stage was at most since the play began
	dead  map[string]bool
	bound map[types.UID]string // where the stage has put pods
	seen  map[string]time.Time // by the UID of a pod: when its kubelet first saw it; by "end " and the UID: when it was to end
}

// set builds the stage of a script with its nodes in zones: the letter of a name is its zone.
func set(t *testing.T, side peers.Side, sc script) *stage {
	t.Helper()
	c := peers.New(t)
	c.StartAPIServer(peers.Ours)
	s := &stage{Clientset: c.Admin(), t: t, dead: map[string]bool{}, bound: map[types.UID]string{}, seen: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s.ctx, s.rec = ctx, newRecording()
	s.core = informers.NewSharedInformerFactory(s.Clientset, 0)
	s.rec.follow(s.core)
	s.core.StartWithContext(ctx)
	s.core.WaitForCacheSyncWithContext(ctx)
	for _, n := range sc.nodes {
		s.must(s.register(n))
	}
	wg.Go(func() { s.every(leaseEvery, s.beat) })
	wg.Go(func() { s.every(50*time.Millisecond, s.playKubelets) })
	wg.Go(func() { s.every(50*time.Millisecond, s.bind) })
	t.Cleanup(func() { cancel(); wg.Wait(); s.core.Shutdown() })
	c.StartControllerManager(side, append(slices.Clone(flags), "--node-eviction-rate="+sc.evictions)...)
	s.eventually("nodes are welcome", func() error {
		for _, n := range s.nodes() {
			if len(n.Spec.Taints) > 0 {
				return fmt.Errorf("%s has taints %v", n.Name, n.Spec.Taints)
			}
		}
		_, err := s.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return s
}

// every does something again and again, and notes how late it was done.
func (s *stage) every(d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for due := time.Now().Add(d); ; due = time.Now().Add(d) {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			f()
		}
		s.mu.Lock()
		s.late = max(s.late, time.Since(due))
		s.mu.Unlock()
	}
}

// beginning is the first step of a play.
const beginning = "begin"

// begin is where times are counted from.
func (s *stage) begin() {
	s.rec.step(beginning)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = 0
}

// lateness is how late the stage was at most since the play began.
func (s *stage) lateness() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.late
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits until there is no error.
func (s *stage) eventually(what string, try func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// lull waits for a time: scripts say in seconds when the next thing happens.
func (s *stage) lull(d time.Duration) {
	select {
	case <-s.ctx.Done():
	case <-time.After(d):
	}
}

func (s *stage) nodes() []*corev1.Node {
	list, _ := s.core.Core().V1().Nodes().Lister().List(labels.Everything())
	slices.SortFunc(list, func(a, b *corev1.Node) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return list
}

func (s *stage) allPods() []*corev1.Pod {
	list, _ := s.core.Core().V1().Pods().Lister().List(labels.Everything())
	slices.SortFunc(list, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.Name), []byte(b.Name))
	})
	return list
}

func conditions(status corev1.ConditionStatus) []corev1.NodeCondition {
	now := metav1.Now()
	out := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: "KubeletReady", Message: "kubelet is posting ready status", LastHeartbeatTime: now, LastTransitionTime: now}}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		out = append(out, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficient", LastHeartbeatTime: now, LastTransitionTime: now})
	}
	return out
}

func (s *stage) register(name string) error {
	has := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110")}
	_, err := s.CoreV1().Nodes().Create(s.ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: name[:1], corev1.LabelTopologyRegion: "r"}},
		Status:     corev1.NodeStatus{Capacity: has, Allocatable: has, Conditions: conditions(corev1.ConditionTrue)},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	seconds, now := int32(40), metav1.NowMicro()
	_, err = s.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(s.ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// kill lets nodes fall silent at once, right after a renewal, so that all
// timelines begin alike.
func (s *stage) kill(names ...string) {
	s.rec.step(fmt.Sprint("kill ", names))
	s.beat()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.dead[n] = true
	}
}

// revive has nodes post their status and go on, as a kubelet does at its start.
func (s *stage) revive(names ...string) {
	s.rec.step(fmt.Sprint("revive ", names))
	s.mu.Lock()
	for _, n := range names {
		delete(s.dead, n)
	}
	s.mu.Unlock()
	s.beat()
	for _, name := range names {
		s.eventually("status of "+name, func() error {
			n, err := s.CoreV1().Nodes().Get(s.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			n.Status.Conditions = conditions(corev1.ConditionTrue)
			_, err = s.CoreV1().Nodes().UpdateStatus(s.ctx, n, metav1.UpdateOptions{})
			return err
		})
	}
}

func (s *stage) alive(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dead[node]
}

func (s *stage) beat() {
	for _, n := range s.nodes() {
		if !s.alive(n.Name) {
			continue
		}
		lease, err := s.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(s.ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			continue // the node has just gone
		}
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		_, _ = s.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(s.ctx, lease, metav1.UpdateOptions{})
	}
}

// bind puts each pod on the node with the fewest pods that takes it; of equals, the
// first. Where it has put a pod it knows before it sees it there.
func (s *stage) bind() {
	load := map[string]int{}
	for _, p := range s.allPods() {
		load[cmp.Or(p.Spec.NodeName, s.bound[p.UID])]++
	}
	for _, p := range s.allPods() {
		if cmp.Or(p.Spec.NodeName, s.bound[p.UID]) != "" || p.DeletionTimestamp != nil {
			continue
		}
		best := ""
		for _, n := range s.nodes() {
			if len(n.Spec.Taints) == 0 && !n.Spec.Unschedulable && s.alive(n.Name) && wanted(p, n.Name) && (best == "" || load[n.Name] < load[best]) {
				best = n.Name
			}
		}
		if best == "" {
			continue
		}
		err := s.CoreV1().Pods(p.Namespace).Bind(s.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Target: corev1.ObjectReference{Kind: "Node", Name: best}}, metav1.CreateOptions{})
		if err == nil {
			load[best]++
			s.bound[p.UID] = best
		}
	}
}

// wanted says whether the pod of a DaemonSet, if it is one, is for this node.
func wanted(p *corev1.Pod, node string) bool {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	for _, f := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields {
		if !slices.Contains(f.Values, node) {
			return false
		}
	}
	return true
}

// startsWithin is how long a pod of the stage takes from its kubelet to Ready,
// endsWithin from its deletion to its end.
const (
	startsWithin = 300 * time.Millisecond
	endsWithin   = 600 * time.Millisecond
)

// playKubelets says of every pod on a node that lives what its image's name asks
// for: "bad" never gets ready, "fails" ends with 1, "done" ends well; of "odd" every
// second index fails and the others end well, of "leader" only the first ends; "crashes"
// is restarted every three seconds.
func (s *stage) playKubelets() {
	for _, p := range s.allPods() {
		if p.Spec.NodeName == "" || !s.alive(p.Spec.NodeName) {
			continue
		}
		if p.DeletionTimestamp != nil {
			if _, ok := s.seen["end "+string(p.UID)]; !ok {
				s.seen["end "+string(p.UID)] = time.Now()
			}
			if time.Since(s.seen["end "+string(p.UID)]) < endsWithin {
				continue
			}
			_ = s.CoreV1().Pods(p.Namespace).Delete(s.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &p.UID}})
			continue
		}
		first, ok := s.seen[string(p.UID)]
		if !ok {
			s.seen[string(p.UID)] = time.Now()
			continue
		}
		if p.Status.Phase == corev1.PodPending && time.Since(first) > startsWithin {
			p = p.DeepCopy()
			run(p)
			_, _ = s.CoreV1().Pods(p.Namespace).UpdateStatus(s.ctx, p, metav1.UpdateOptions{})
		}
		if p.Spec.Containers[0].Image == "crashes" && p.Status.Phase == corev1.PodRunning {
			if n := int32(time.Since(first) / (3 * time.Second)); n > p.Status.ContainerStatuses[0].RestartCount {
				p = p.DeepCopy()
				p.Status.ContainerStatuses[0].RestartCount = n
				_, _ = s.CoreV1().Pods(p.Namespace).UpdateStatus(s.ctx, p, metav1.UpdateOptions{})
			}
		}
		// A node that came back finds its containers as they were.
		if c := podCondition(p, corev1.PodReady); p.Status.Phase == corev1.PodRunning && c != nil && c.Status == corev1.ConditionFalse && p.Spec.Containers[0].Image != "bad" {
			p = p.DeepCopy()
			run(p)
			_, _ = s.CoreV1().Pods(p.Namespace).UpdateStatus(s.ctx, p, metav1.UpdateOptions{})
		}
	}
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func run(p *corev1.Pod) {
	now := metav1.Now()
	st, ready := &p.Status, corev1.ConditionTrue
	st.Phase, st.PodIP = corev1.PodRunning, fmt.Sprintf("10.244.0.%d", 1+int(p.UID[0])%200)
	st.PodIPs = []corev1.PodIP{{IP: st.PodIP}}
	if st.StartTime == nil {
		st.StartTime = &now
	}
	ctr := corev1.ContainerStatus{Name: "c", Image: p.Spec.Containers[0].Image, ContainerID: "stage://" + string(p.UID), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}
	end := func(phase corev1.PodPhase, code int32, reason string) {
		st.Phase, ready = phase, corev1.ConditionFalse
		ctr.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: now, FinishedAt: now}}
	}
	image := p.Spec.Containers[0].Image
	switch index := p.Labels[batchv1.JobCompletionIndexAnnotation]; {
	case image == "odd" && (index == "1" || index == "3"):
		image = "fails"
	case image == "odd", image == "leader" && index == "0":
		image = "done"
	}
	switch image {
	case "bad":
		ready = corev1.ConditionFalse
	case "fails":
		end(corev1.PodFailed, 1, "Error")
	case "done":
		end(corev1.PodSucceeded, 0, "Completed")
	}
	ctr.Ready = ready == corev1.ConditionTrue
	st.ContainerStatuses = []corev1.ContainerStatus{ctr}
	st.Conditions = slices.DeleteFunc(st.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady || c.Type == corev1.ContainersReady })
	for _, t := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		st.Conditions = append(st.Conditions, corev1.PodCondition{Type: t, Status: ready, LastTransitionTime: now})
	}
}
