package failure

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// threeNodes is the course's cluster with its application on both workers. All
// leases are renewed at 0, 10, 20 ... s; the manager, started a second after the
// API server, looks at the nodes at 1, 6, 11 ... s.
func threeNodes(w *world) (known map[string]string) {
	w.t.Helper()
	for _, n := range []string{"cp", "w1", "w2"} {
		w.startNode(n, "")
	}
	w.until(5 * time.Second)
	w.deploy("hello-world", 2)
	w.until(20500 * time.Millisecond)
	known = map[string]string{}
	for _, n := range []string{"w1", "w2"} {
		known[w.podOn(n).Name] = "app@" + n
	}
	w.record()
	return known
}

// podOn is the application's pod on a node.
func (w *world) podOn(node string) *corev1.Pod {
	w.t.Helper()
	for _, p := range w.pods("app=hello-world") {
		if p.Spec.NodeName == node {
			return p
		}
	}
	w.t.Fatalf("no pod on %s", node)
	return nil
}

func (w *world) deleteNode(name string) {
	w.t.Helper()
	w.must(client.For[*corev1.Node](w.client).Delete(w.ctx, "", name, metav1.DeleteOptions{}))
}

func (w *world) taint(name string, taint corev1.Taint) {
	w.t.Helper()
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": append(w.node(name).Spec.Taints, taint)}})
	w.must(err)
	_, err = client.For[*corev1.Node](w.client).Patch(w.ctx, "", name, types.StrategicMergePatchType, raw)
	w.must(err)
}

// The recording of a real cluster, whose lease was last seen 50 s before the
// first line, reads: 74.80 Unknown, 74.82 NoSchedule, 74.83 pod not ready, 74.84
// endpoint not ready, 74.89 NoExecute, 374.90 evicted, and so on.
func TestAWorkerIsStoppedAndComesBack(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w2") // its last renewal, at 20 s, was seen at 21 s
		w.until(370 * time.Second)
		sequences(t, w.recorded(known),
			"71.00 node/w2 Ready=Unknown taints=[]",
			"71.00 node/w2 Ready=Unknown taints=[unreachable:NoSchedule]",
			"71.10 node/w2 Ready=Unknown taints=[unreachable:NoExecute unreachable:NoSchedule]",
			"71.00 event/Node/w2 Normal NodeNotReady: Node w2 status is now: NodeNotReady (node-controller)",
			"71.00 pod/app@w2 Running Ready=False()",
			"71.00 event/Pod/app@w2 Warning NodeNotReady: Node is not ready (node-controller)",
			"71.00 endpointslice/hello-world ready=false,serving=false,term=false ready=true,serving=true,term=false",
		)
		w.until(440 * time.Second)
		sequences(t, w.recorded(known),
			"371.10 event/Pod/app@w2 Normal TaintManagerEviction: Marking for deletion Pod default/app@w2 (taint-eviction-controller)",
			"371.10 pod/app@w2 Running Ready=False() DisruptionTarget=True(DeletionByTaintManager)",
			"371.10 pod/app@w2 Running Terminating(grace=30) Ready=False() DisruptionTarget=True(DeletionByTaintManager)",
			"371.10 event/ReplicaSet Normal SuccessfulCreate: Created pod: new-1 (replicaset-controller)",
			"371.10 pod/new-1 Pending",
			"371.10 pod/new-1 Running Ready=True()",
			"371.10 endpointslice/hello-world ready=false,serving=false,term=true ready=true,serving=true,term=false",
			"371.10 endpointslice/hello-world ready=false,serving=false,term=true ready=true,serving=true,term=false ready=true,serving=true,term=false",
		)
		w.until(445 * time.Second)
		w.startNode("w2", "")
		w.until(460 * time.Second)
		sequences(t, w.recorded(known),
			"445.00 node/w2 Ready=True taints=[unreachable:NoExecute unreachable:NoSchedule]",
			"445.00 node/w2 Ready=True taints=[unreachable:NoExecute]",
			"446.00 node/w2 Ready=True taints=[]",
			"446.00 pod/app@w2 Running Terminating(grace=0) Ready=False() DisruptionTarget=True(DeletionByTaintManager)",
			"446.00 pod/app@w2 DELETED",
		)
		for _, p := range w.pods("app=hello-world") {
			if p.Spec.NodeName != "w1" {
				t.Errorf("%s is on %s: pods are not moved back", p.Name, p.Spec.NodeName)
			}
		}
	})
}

func TestAWorkerThatReturnsInTimeKeepsItsPods(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w2")
		w.until(300 * time.Second)
		w.recorded(known)
		w.startNode("w2", "")
		w.until(400 * time.Second)
		sequences(t, w.recorded(known),
			"300.00 node/w2 Ready=True taints=[unreachable:NoExecute unreachable:NoSchedule]",
			"300.00 node/w2 Ready=True taints=[unreachable:NoExecute]",
			"301.00 node/w2 Ready=True taints=[]",
			"301.00 event/Pod/app@w2 Normal TaintManagerEviction: Cancelling deletion of Pod default/app@w2 (taint-eviction-controller)",
		)
	})
}

func TestTheSecondDeadNodeIsTaintedTenSecondsLater(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w1")
		w.stopNode("w2")
		w.until(100 * time.Second)
		var at []string
		for _, l := range w.recorded(known) {
			if strings.Contains(l, "taints=[unreachable:NoExecute unreachable:NoSchedule]") {
				at = append(at, strings.Fields(l)[0])
			}
		}
		if !slices.Equal(at, []string{"71.10", "81.10"}) {
			t.Errorf("NoExecute taints at %v", at)
		}
	})
}

func TestADeadNodeThatIsDeletedLosesItsPods(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w2")
		w.until(100 * time.Second)
		w.recorded(known)
		w.deleteNode("w2") // pod GC looks at 101, 121, 141 s; the node must be missed for 40 s
		w.until(180 * time.Second)
		sequences(t, w.recorded(known),
			"101.00 event/Node/w2 Normal RemovingNode: Node w2 event: Removing Node w2 from Controller (node-controller)",
			"141.00 pod/app@w2 Failed Ready=False() DisruptionTarget=True(DeletionByPodGC)",
			"141.00 pod/app@w2 Failed Terminating(grace=0) Ready=False() DisruptionTarget=True(DeletionByPodGC)",
			"141.00 pod/app@w2 DELETED",
		)
	})
}

func TestAnOutOfServiceTaintFreesTerminatingPods(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w2")
		w.until(102 * time.Second)
		pod := w.podOn("w2")
		w.must(client.For[*corev1.Pod](w.client).Delete(w.ctx, "default", pod.Name, metav1.DeleteOptions{}))
		w.recorded(known)
		w.taint("w2", corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		w.until(130 * time.Second)
		got := w.recorded(known)
		if !slices.Contains(got, "121.00 pod/app@w2 DELETED") {
			t.Errorf("not deleted at the next look of pod GC:\n%s", strings.Join(got, "\n"))
		}
	})
}

// Three of four nodes of a zone are dead: too many to be a fault of theirs.
func TestAZoneWithMostNodesDeadIsNotEvicted(t *testing.T) {
	inCluster(t, func(w *world) {
		for _, n := range []string{"a1", "b1", "b2", "b3", "b4"} {
			w.startNode(n, n[:1])
		}
		w.until(20500 * time.Millisecond)
		for _, n := range []string{"b1", "b2", "b3"} {
			w.stopNode(n)
		}
		w.until(600 * time.Second)
		tainted := 0
		for _, n := range []string{"b1", "b2", "b3"} {
			s := nodeState(w.node(n))
			if !strings.Contains(s, "unreachable:NoSchedule") {
				t.Errorf("%s: %s", n, s)
			}
			if strings.Contains(s, "NoExecute") {
				tainted++
			}
		}
		if tainted > 1 {
			t.Errorf("%d nodes have NoExecute taints, at most the one of the race may", tainted)
		}
	})
}

func TestAZoneThatIsWhollyDeadIsEvictedIfAnotherLives(t *testing.T) {
	inCluster(t, func(w *world) {
		for _, n := range []string{"a1", "c1", "c2"} {
			w.startNode(n, n[:1])
		}
		w.until(20500 * time.Millisecond)
		w.stopNode("c1")
		w.stopNode("c2")
		w.until(82 * time.Second)
		for _, n := range []string{"c1", "c2"} {
			if s := nodeState(w.node(n)); !strings.Contains(s, "unreachable:NoExecute") {
				t.Errorf("%s: %s", n, s)
			}
		}
	})
}

// If no node answers, the fault is thought to be the control plane's.
func TestAllNodesDeadStopsEvictions(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		for _, n := range []string{"cp", "w1", "w2"} {
			w.stopNode(n)
		}
		w.until(90 * time.Second)
		executing := 0
		for _, n := range []string{"cp", "w1", "w2"} {
			s := nodeState(w.node(n))
			if !strings.Contains(s, "Ready=Unknown") || !strings.Contains(s, "unreachable:NoSchedule") {
				t.Errorf("%s: %s", n, s)
			}
			if strings.Contains(s, "NoExecute") {
				executing++
			}
		}
		if executing > 1 {
			t.Errorf("%d nodes have NoExecute taints", executing)
		}
		w.until(600 * time.Second)
		if p := w.podOn("w1"); p.DeletionTimestamp != nil && executing == 0 {
			t.Errorf("%s was evicted", p.Name)
		}
		w.recorded(known)
		w.startNode("w1", "") // seen at 601 s: every node gets 50 s of grace again
		w.until(660 * time.Second)
		got := w.recorded(known)
		for _, l := range got {
			if strings.Contains(l, "node/w2") && strings.Contains(l, "NoExecute") && strings.Fields(l)[0] < "601" {
				t.Errorf("too early: %s", l)
			}
		}
	})
}

// The timers of evictions are in the manager's memory: its restart starts them
// afresh.
func TestARestartedManagerStartsTheFiveMinutesAgain(t *testing.T) {
	inCluster(t, func(w *world) {
		known := threeNodes(w)
		w.until(25 * time.Second)
		w.stopNode("w2")
		w.until(200 * time.Second)
		w.stopController()
		w.recorded(known)
		w.startManager()
		w.until(499 * time.Second)
		if p := w.podOn("w2"); p.DeletionTimestamp != nil {
			t.Fatalf("evicted by the old clock: %s", podState(p))
		}
		w.until(501 * time.Second)
		if p := w.podOn("w2"); p.DeletionTimestamp == nil {
			t.Fatalf("not evicted 300 s after the restart: %s", podState(p))
		}
	})
}

// Daemon pods tolerate NoExecute without limit; a pod may also say a time of its own.
func TestAPodIsEvictedAfterItsOwnTolerationSeconds(t *testing.T) {
	inCluster(t, func(w *world) {
		threeNodes(w)
		pod := func(name string, seconds *int64) {
			_, err := client.For[*corev1.Pod](w.client).Create(w.ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: corev1.PodSpec{
					NodeName: "w2", Containers: []corev1.Container{{Name: "c", Image: "i"}},
					Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}},
				},
			})
			w.must(err)
		}
		pod("patient", nil)
		pod("hasty", new(int64(7)))
		w.until(25 * time.Second)
		w.stopNode("w2") // tainted at 71.1 s
		get := func(name string) *corev1.Pod {
			p, err := client.For[*corev1.Pod](w.client).Get(w.ctx, "default", name)
			w.must(err)
			return p
		}
		w.until(78 * time.Second)
		if p := get("hasty"); p.DeletionTimestamp != nil {
			t.Error("hasty was evicted before its 7 s")
		}
		w.until(78200 * time.Millisecond)
		if p := get("hasty"); p.DeletionTimestamp == nil {
			t.Error("hasty was not evicted after its 7 s")
		}
		w.until(1000 * time.Second)
		if p := get("patient"); p.DeletionTimestamp != nil {
			t.Error("patient was evicted")
		}
	})
}
