// Package scheduling runs the real scheduler against the real API server in fake
// time: what a user sees of it on pods and in events.
package scheduling

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
	"orrery/controllers"
	"orrery/scheduler"
	"orrery/test/cluster"
)

// world is an API server with a scheduler.
type world struct {
	t   *testing.T
	ctx context.Context
	c   *client.Client
}

// run runs f in a bubble, with the named controllers beside the scheduler.
func run(t *testing.T, selected []string, f func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		api := cluster.Start(t)
		c, err := client.New(api.Config.As("test"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the server creates its own objects
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
		if _, err := client.For[*corev1.ServiceAccount](c).Create(ctx, account); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		defer func() {
			cancel()
			wg.Wait()
			c.Close()
		}()
		recorder := client.NewRecorder(c, scheduler.DefaultName, "")
		wg.Go(func() { recorder.Run(ctx) })
		wg.Go(func() { scheduler.New(scheduler.Config{Client: c, Recorder: recorder}).Run(ctx) })
		if selected != nil {
			cfg := controllers.DefaultConfig()
			cfg.Client, cfg.Controllers, cfg.LeaderElect = api.Config.As("manager"), selected, false
			wg.Go(func() { controllers.Run(ctx, cfg) })
		}
		f(&world{t, ctx, c})
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node(name, cpu string, taints ...corev1.Taint) {
	w.t.Helper()
	_, err := client.For[*corev1.Node](w.c).Create(w.ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")},
		},
	})
	w.must(err)
	// A new node is born with the taint not-ready, which the node lifecycle
	// controller takes away.
	w.patchNode(name, map[string]any{"taints": taints})
}

func (w *world) patchNode(name string, spec map[string]any) {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"spec": spec})
	w.must(err)
	_, err = client.For[*corev1.Node](w.c).Patch(w.ctx, "", name, types.MergePatchType, body)
	w.must(err)
	synctest.Wait() // the scheduler hears of nodes and of pods on two watches: it has heard of this one
}

func (w *world) pod(name, cpu string, change ...func(*corev1.Pod)) {
	w.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: "default", AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
	}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	for _, f := range change {
		f(p)
	}
	_, err := client.For[*corev1.Pod](w.c).Create(w.ctx, p)
	w.must(err)
}

func (w *world) get(name string) *corev1.Pod {
	w.t.Helper()
	p, err := client.For[*corev1.Pod](w.c).Get(w.ctx, "default", name)
	w.must(err)
	return p
}

// placed fails unless a pod is on a node ("" for none).
func (w *world) placed(pod, node string) {
	w.t.Helper()
	if got := w.get(pod).Spec.NodeName; got != node {
		w.t.Errorf("%s is on %q, want %q", pod, got, node)
	}
}

// events are the texts of a pod's events, with their counts.
func (w *world) events(pod string) string {
	w.t.Helper()
	list, err := client.For[*corev1.Event](w.c).List(w.ctx, "default", metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	w.must(err)
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s x%d: %s", e.Type, e.Reason, e.Count, e.Message))
	}
	return strings.Join(out, "\n")
}

func taint(key string) corev1.Taint {
	return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}
}

// A pod that fits nowhere says why, on itself and in an event, and goes to its
// node as soon as something changes that helps it.
func TestPendingPodSaysWhyAndIsPlacedWhenItCanBe(t *testing.T) {
	run(t, nil, func(w *world) {
		w.node("small", "1")
		w.node("closed", "8", taint("maintenance"))
		w.pod("p", "2")
		time.Sleep(time.Second)
		const why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
		p := w.get("p")
		if p.Spec.NodeName != "" || len(p.Status.Conditions) != 1 {
			t.Fatalf("node %q, conditions %+v", p.Spec.NodeName, p.Status.Conditions)
		}
		if c := p.Status.Conditions[0]; c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" || c.Message != why {
			t.Errorf("condition %+v", c)
		}
		if got := w.events("p"); got != "Warning FailedScheduling x1: "+why {
			t.Errorf("events: %s", got)
		}
		time.Sleep(time.Minute)
		w.patchNode("closed", map[string]any{"taints": nil})
		time.Sleep(time.Second)
		w.placed("p", "closed")
		if got := w.events("p"); !strings.Contains(got, "Normal Scheduled x1: Successfully assigned default/p to closed") {
			t.Errorf("events: %s", got)
		}
	})
}

// Pods that wait while no node is up all go to the first that returns.
func TestWaitingPodsAllLandOnTheFirstNode(t *testing.T) {
	run(t, nil, func(w *world) {
		for i := range 5 {
			w.pod(fmt.Sprint("p", i), "100m")
		}
		time.Sleep(time.Minute)
		w.node("first", "4")
		time.Sleep(time.Second)
		w.node("second", "4")
		time.Sleep(10 * time.Minute)
		for i := range 5 {
			w.placed(fmt.Sprint("p", i), "first")
		}
	})
}

func TestGatedPodWaits(t *testing.T) {
	run(t, nil, func(w *world) {
		w.node("n", "4")
		w.pod("p", "", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/gate"}} })
		time.Sleep(10 * time.Minute)
		w.placed("p", "")
		_, err := client.For[*corev1.Pod](w.c).Patch(w.ctx, "default", "p", types.MergePatchType, []byte(`{"spec":{"schedulingGates":null}}`))
		w.must(err)
		time.Sleep(time.Second)
		w.placed("p", "n")
	})
}

// A pod of higher priority takes the place of a lower one: the victim is told,
// and the pod is bound when it is gone.
func TestPreemption(t *testing.T) {
	run(t, nil, func(w *world) {
		_, err := client.For[*schedulingv1.PriorityClass](w.c).Create(w.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})
		w.must(err)
		w.node("n", "2")
		w.pod("low", "2")
		time.Sleep(time.Second)
		w.placed("low", "n")
		w.pod("high", "2", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })
		time.Sleep(time.Second)
		victim := w.get("low")
		if victim.DeletionTimestamp == nil || !hasCondition(victim, corev1.DisruptionTarget, "PreemptionByScheduler") {
			t.Fatalf("the victim: deletion %v, conditions %+v", victim.DeletionTimestamp, victim.Status.Conditions)
		}
		if got := w.events("low"); !strings.Contains(got, "Normal Preempted x1: Preempted by pod "+string(w.get("high").UID)+" on node n") {
			t.Errorf("events of the victim: %s", got)
		}
		if got := w.get("high").Status.NominatedNodeName; got != "n" {
			t.Errorf("nominated node %q", got)
		}
		w.placed("high", "")
		w.must(client.For[*corev1.Pod](w.c).Delete(w.ctx, "default", "low", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		time.Sleep(11 * time.Second)
		w.placed("high", "n")
	})
}

// Many pods that have to preempt at once empty hardly more nodes than hold all of
// them: most find the room that others' victims have left. A few nodes are emptied at
// a time, and not one after the other.
func TestABurstOfPreemptorsEmptiesFewNodes(t *testing.T) {
	run(t, nil, func(w *world) {
		_, err := client.For[*schedulingv1.PriorityClass](w.c).Create(w.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})
		w.must(err)
		const nodes, burst, enough = 60, 120, 30 // four of the burst fit on a node
		atOnce := func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(0)) }
		for i := range nodes {
			w.node(fmt.Sprint("n", i), "4")
			w.pod(fmt.Sprint("low-", i), "3500m", atOnce)
		}
		time.Sleep(10 * time.Second)
		var wg sync.WaitGroup
		for i := range burst {
			wg.Go(func() { w.pod(fmt.Sprint("high-", i), "1", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }) })
		}
		wg.Wait()
		time.Sleep(30 * time.Second)
		list, err := client.For[*corev1.Pod](w.c).List(w.ctx, "default", metav1.ListOptions{})
		w.must(err)
		low, placed := 0, 0
		for _, p := range list.Items {
			if strings.HasPrefix(p.Name, "low-") {
				low++
			} else if p.Spec.NodeName != "" {
				placed++
			}
		}
		if placed != burst {
			t.Errorf("%d of %d pods are placed", placed, burst)
		}
		if ended := nodes - low; ended < enough || ended > enough+10 {
			t.Errorf("%d pods had to go, the places of %d do", ended, enough)
		}
	})
}

func hasCondition(p *corev1.Pod, kind corev1.PodConditionType, reason string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue && c.Reason == reason {
			return true
		}
	}
	return false
}

// A pod that asks for it carries the working of its placement.
func TestWorkingIsWrittenOnRequest(t *testing.T) {
	run(t, nil, func(w *world) {
		w.node("a", "4", taint("closed"))
		w.node("b", "4")
		w.pod("p", "1", func(p *corev1.Pod) { p.Annotations = map[string]string{scheduler.AnnotationExplain: "true"} })
		time.Sleep(time.Second)
		w.placed("p", "b")
		var working struct {
			Chosen string
			Nodes  map[string]struct {
				Rejected map[string]string
				Scores   map[string]int64
				Total    int64
			}
		}
		w.must(json.Unmarshal([]byte(w.get("p").Annotations[scheduler.AnnotationWorking]), &working))
		if working.Chosen != "b" || working.Nodes["a"].Rejected["TaintToleration"] != "node(s) had untolerated taint(s)" ||
			working.Nodes["b"].Scores["TaintToleration"] != 100 || working.Nodes["b"].Total < 300 {
			t.Errorf("%+v", working)
		}
	})
}

// A claim whose class waits for its first consumer and a volume that only one
// node can use bring the pod to that node; a bound claim keeps it there.
func TestVolumesAndPodsFindOneNode(t *testing.T) {
	run(t, []string{"persistentvolume-binder-controller"}, func(w *world) {
		w.node("a", "4")
		w.node("b", "1") // without the volume, the worse choice
		_, err := client.For[*storagev1.StorageClass](w.c).Create(w.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"},
			Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer)})
		w.must(err)
		_, err = client.For[*corev1.PersistentVolumeClaim](w.c).Create(w.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("local"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}})
		w.must(err)
		useClaim := func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		}
		w.pod("p", "", useClaim)
		time.Sleep(2 * time.Second)
		w.placed("p", "")
		if got := w.events("p"); !strings.Contains(got, "2 node(s) didn't find available persistent volumes to bind") {
			t.Errorf("events: %s", got)
		}
		_, err = client.For[*corev1.PersistentVolume](w.c).Create(w.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk-of-b"},
			Spec: corev1.PersistentVolumeSpec{StorageClassName: "local", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/disk"}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}}})
		w.must(err)
		time.Sleep(30 * time.Second)
		w.placed("p", "b")
		claim, err := client.For[*corev1.PersistentVolumeClaim](w.c).Get(w.ctx, "default", "data")
		w.must(err)
		if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName != "disk-of-b" {
			t.Errorf("the claim is %s with volume %q", claim.Status.Phase, claim.Spec.VolumeName)
		}
		w.pod("second", "", useClaim)
		time.Sleep(2 * time.Second)
		w.placed("second", "b")
		w.pod("too-large", "3", useClaim)
		time.Sleep(2 * time.Second)
		if got := w.events("too-large"); !strings.Contains(got, "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match PersistentVolume's node affinity.") {
			t.Errorf("events: %s", got)
		}
	})
}

// A claim that only one pod may use keeps the second waiting, wherever it would go,
// until the first is gone.
func TestClaimForOnePod(t *testing.T) {
	run(t, []string{"persistentvolume-binder-controller"}, func(w *world) {
		w.node("a", "4")
		w.node("b", "4")
		_, err := client.For[*storagev1.StorageClass](w.c).Create(w.ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: "kubernetes.io/no-provisioner"})
		w.must(err)
		one := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		_, err = client.For[*corev1.PersistentVolume](w.c).Create(w.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "disks", AccessModes: one, Capacity: size, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/disk"}}}})
		w.must(err)
		_, err = client.For[*corev1.PersistentVolumeClaim](w.c).Create(w.ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("disks"), AccessModes: one, Resources: corev1.VolumeResourceRequirements{Requests: size}}})
		w.must(err)
		time.Sleep(30 * time.Second) // the claim is bound
		useClaim := func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			p.Spec.TerminationGracePeriodSeconds = new(int64(0))
		}
		w.pod("first", "", useClaim, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} })
		time.Sleep(time.Second)
		w.placed("first", "a")
		w.pod("second", "", useClaim, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"} })
		time.Sleep(time.Second)
		w.placed("second", "")
		if got := w.events("second"); !strings.Contains(got, "1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod") {
			t.Errorf("events: %s", got)
		}
		w.must(client.For[*corev1.Pod](w.c).Delete(w.ctx, "default", "first", metav1.DeleteOptions{}))
		time.Sleep(15 * time.Second)
		w.placed("second", "b")
	})
}
