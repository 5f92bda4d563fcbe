package kubelet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// sequence is what kubectl get pods -w shows of a pod: a line for each change,
// with the seconds since the kubelet's start, if the watch began 3 s after that.
// The kubelet looks at the runtime, and at what is due, at each whole second, and
// its waits are the shortest.
type sequence struct {
	mu    sync.Mutex
	lines []string
}

// follow watches the pods of the node, the first of which is made at 3.1 s; its containers take 0.2 s to start.
func (n *node) follow() *sequence {
	n.runtime.mu.Lock()
	n.runtime.takes = 200 * time.Millisecond
	n.runtime.mu.Unlock()
	s := &sequence{}
	began := time.Now().Add(-3 * time.Second)
	note := func(what string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.lines) == 0 || s.lines[len(s.lines)-1][6:] != what {
			s.lines = append(s.lines, fmt.Sprintf("%5.1f %s", time.Since(began).Seconds(), what))
		}
	}
	pods := client.NewInformer(client.For[*corev1.Pod](n.api), "default", metav1.ListOptions{})
	pods.AddHandler(client.Handler[*corev1.Pod]{
		Add:    func(p *corev1.Pod) { note(sight(p)) },
		Update: func(_, p *corev1.Pod) { note(sight(p)) },
		Delete: func(*corev1.Pod) { note("gone") },
	})
	ctx, cancel := context.WithCancel(n.ctx)
	n.t.Cleanup(cancel)
	go pods.Run(ctx)
	n.settle(100 * time.Millisecond)
	return s
}

// label changes a pod a little, which wakes its worker.
func (n *node) label(name string) {
	n.t.Helper()
	patch := []byte(`{"metadata":{"labels":{"look":"again"}}}`)
	if _, err := client.For[*corev1.Pod](n.api).Patch(n.ctx, "default", name, types.MergePatchType, patch); err != nil {
		n.t.Fatal(err)
	}
}

// sight is a pod in a line: ready or not, phase, container state, restarts.
func sight(p *corev1.Pod) string {
	st := status(p, "app")
	state := "-"
	switch {
	case st.State.Waiting != nil:
		state = st.State.Waiting.Reason
	case st.State.Running != nil:
		state = "running"
	case st.State.Terminated != nil:
		state = st.State.Terminated.Reason
	}
	if p.DeletionTimestamp != nil {
		state += " Terminating"
	}
	ready := 0
	if condition(p, corev1.PodReady) == corev1.ConditionTrue {
		ready = 1
	}
	return fmt.Sprintf("%d/1 %s %s %d", ready, p.Status.Phase, state, st.RestartCount)
}

func (s *sequence) is(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := cmp.Diff(want, s.lines); d != "" {
		t.Errorf("what is shown, and when (-want +got):\n%s", d)
	}
}

// The container runs for 1.5 s and fails. Its end is seen at the next whole second and shown as
// Error; it waits since its end, and only when its pod is looked at again is that called CrashLoopBackOff.
func TestStatusesOfACrashLoop(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.crashes(1)
		shown := n.follow()
		n.create("web", nil)
		n.settle(163 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0",
			"  5.0 0/1 Running Error 0", // ended at 4.8; started again at once
			"  5.2 1/1 Running running 1",
			"  7.0 0/1 Running Error 1", // ended at 6.7: waits 10 s
			" 17.0 0/1 Running CrashLoopBackOff 1",
			" 17.2 1/1 Running running 2",
			" 19.0 0/1 Running Error 2", // 20 s
			" 39.0 0/1 Running CrashLoopBackOff 2",
			" 39.2 1/1 Running running 3",
			" 41.0 0/1 Running Error 3", // 40 s
			" 81.0 0/1 Running CrashLoopBackOff 3",
			" 81.2 1/1 Running running 4",
			" 83.0 0/1 Running Error 4",            // 80 s, but looked at after a minute
			"144.0 0/1 Running CrashLoopBackOff 4", // a second late: what is due at 143.0 is so after it
			"163.2 1/1 Running running 5",
			"165.0 0/1 Running Error 5",
		)
	})
}

// crashes has containers named app end, well or not, 1.5 s after their start.
func (f *fakeRuntime) crashes(code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends["app"], f.codes["app"] = 1500*time.Millisecond, code
}

// A probe finds at its next tick that the container does not run, which has the pod looked at before the wait is over.
func TestProbesHurryTheNameOfAWait(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.settle(20 * time.Second) // probes of a kubelet that has just started begin at random
		n.runtime.crashes(1)
		shown := n.follow()
		n.create("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 5, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		})
		n.settle(15 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0", // probed since 3.1, each 5 s
			"  5.0 0/1 Running Error 0",
			"  5.2 1/1 Running running 1",
			"  7.0 0/1 Running Error 1",
			"  8.1 0/1 Running CrashLoopBackOff 1",
			" 17.2 1/1 Running running 2",
		)
	})
}

// What ends well is Completed, and waits like what fails if it shall run always.
func TestStatusesOfACompletedContainer(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.crashes(0)
		shown := n.follow()
		n.create("web", nil)
		n.settle(15 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0",
			"  5.0 0/1 Running Completed 0",
			"  5.2 1/1 Running running 1",
			"  7.0 0/1 Running Completed 1",
			" 17.0 0/1 Running CrashLoopBackOff 1",
			" 17.2 1/1 Running running 2",
		)
	})
}

// A pod that has come to its end is Succeeded or Failed when it has been stopped, which takes another look at the runtime.
func TestPhaseOfAPodThatEndsWaitsUntilItIsStopped(t *testing.T) {
	for code, want := range []struct{ phase, reason string }{{"Succeeded", "Completed"}, {"Failed", "Error"}} {
		onNode(t, nil, func(n *node) {
			n.runtime.crashes(int32(code))
			shown := n.follow()
			n.create("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
			n.settle(15 * time.Second)
			shown.is(t,
				"  3.1 0/1 Pending - 0",
				"  3.1 0/1 Pending ContainerCreating 0",
				"  3.3 1/1 Running running 0",
				"  5.0 0/1 Running "+want.reason+" 0",
				"  6.0 0/1 "+want.phase+" "+want.reason+" 0",
			)
		})
	}
}

// ErrImagePull is shown when the relist has found the sandbox; by then the pod waits already, which is shown when it is
// looked at again. That is each 10 s, rounded up; a pull is tried if its wait is over at such a look.
func TestStatusesOfAnImageThatIsNotThere(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.noImage["docker.io/demo/app:1"] = true
		n.runtime.mu.Unlock()
		began := time.Now().Add(-3 * time.Second)
		shown := n.follow()
		n.create("web", nil)
		n.settle(400 * time.Millisecond)
		n.label("web") // which has the pod looked at after the next relist and not before
		n.settle(170 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  4.0 0/1 Pending ErrImagePull 0",
			" 15.0 0/1 Pending ImagePullBackOff 0",
			" 26.0 0/1 Pending ErrImagePull 0",
			" 37.0 0/1 Pending ImagePullBackOff 0",
			" 48.0 0/1 Pending ErrImagePull 0",
			" 59.0 0/1 Pending ImagePullBackOff 0",
			" 92.0 0/1 Pending ErrImagePull 0",
			"103.0 0/1 Pending ImagePullBackOff 0",
		)
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		var pulls []time.Duration
		for _, at := range n.runtime.pulls {
			pulls = append(pulls, at.Sub(began).Round(100*time.Millisecond))
		}
		want := []time.Duration{3100 * time.Millisecond, 15 * time.Second, 37 * time.Second, 81 * time.Second, 169 * time.Second}
		if !slices.Equal(pulls, want) {
			t.Errorf("pulled at %v, want %v", pulls, want)
		}
	})
}

// A pod's containers are stopped as soon as it is deleted; it goes when the next relist has shown that they have ended.
func TestDeletedPodGoesAfterTheNextRelist(t *testing.T) {
	onNode(t, nil, func(n *node) {
		shown := n.follow()
		n.create("web", nil)
		n.settle(10 * time.Second)
		if err := client.For[*corev1.Pod](n.api).Delete(n.ctx, "default", "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		n.settle(5 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0",
			" 13.1 1/1 Running running Terminating 0",
			" 13.1 0/1 Succeeded Completed Terminating 0",
			" 14.0 gone",
		)
		if left := n.kubelet.pleg.all(); len(left) != 0 {
			t.Errorf("still remembered: %v", left)
		}
	})
}

// What a probe finds is shown at once, although the pod's worker waits for a relist.
func TestReadinessIsShownAtOnce(t *testing.T) {
	onNode(t, nil, func(n *node) {
		shown := n.follow()
		n.create("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		})
		n.settle(5 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 0/1 Running running 0",
			"  3.5 1/1 Running running 0",
		)
	})
}

func TestWhatIsWorthALookAtAPod(t *testing.T) {
	was := sighting{"box": plegRunning, "up": plegRunning, "down": plegExited}
	with := func(id string, state plegState) sighting {
		s := sighting{"box": plegRunning, "up": plegRunning, "down": plegExited}
		if s[id] = state; state == plegNonExistent {
			delete(s, id)
		}
		return s
	}
	for _, test := range []struct {
		what string
		now  sighting
		want bool
	}{
		{"nothing", with("up", plegRunning), false},
		{"one has died", with("up", plegExited), true},
		{"one has started", with("new", plegRunning), true},
		{"one came and went", with("new", plegExited), true},
		{"one was made and not started", with("new", plegUnknown), false},
		{"one that ran is gone", with("up", plegNonExistent), true},
		{"one that was dead is gone", with("down", plegNonExistent), false},
		{"all are gone", sighting{}, true},
	} {
		if got := test.now.worthSync(was); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

// A pod of which the runtime suddenly knows nothing is made again.
func TestPodThatIsRemovedBehindTheKubeletsBack(t *testing.T) {
	onNode(t, nil, func(n *node) {
		shown := n.follow()
		n.create("web", nil)
		n.settle(5200 * time.Millisecond)
		n.runtime.mu.Lock()
		clear(n.runtime.sandboxes)
		clear(n.runtime.containers)
		n.runtime.mu.Unlock()
		n.settle(10 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0",
			"  9.0 0/1 Running ContainerCreating 1",
			"  9.2 1/1 Running running 1",
		)
	})
}

// A change that was listed and could not be read is read by a later relist; until then nothing is done to the pod.
func TestChangeThatCannotBeReadIsNotForgotten(t *testing.T) {
	onNode(t, nil, func(n *node) {
		shown := n.follow()
		n.create("web", nil)
		n.settle(5200 * time.Millisecond)
		readable := func(yes bool) {
			n.runtime.mu.Lock()
			defer n.runtime.mu.Unlock()
			n.runtime.unreadable = !yes
		}
		readable(false)
		n.runtime.kill("app", 1)
		n.settle(time.Second)
		n.label("web")
		n.settle(2 * time.Second)
		readable(true)
		n.settle(10 * time.Second)
		shown.is(t,
			"  3.1 0/1 Pending - 0",
			"  3.1 0/1 Pending ContainerCreating 0",
			"  3.3 1/1 Running running 0",
			" 12.0 0/1 Running Error 0", // ended at 8.3
			" 12.2 1/1 Running running 1",
		)
	})
}
