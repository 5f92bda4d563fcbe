package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
	"orrery/kubelet/server"
)

func TestNodeRegistersWithWhatItHas(t *testing.T) {
	onNode(t, nil, func(n *node) {
		node := n.node()
		if got := n.ready(); got.Status != corev1.ConditionTrue || got.Reason != "KubeletReady" || got.Message != "kubelet is posting ready status" {
			t.Errorf("Ready is %+v", got)
		}
		// The figures of a recorded kubeadm v1.36.3 node of this size.
		for name, want := range map[corev1.ResourceName]string{"cpu": "2", "memory": "24581684Ki", "ephemeral-storage": "243497856212", "pods": "110", "hugepages-2Mi": "0"} {
			q := node.Status.Allocatable[name]
			if q.String() != want {
				t.Errorf("allocatable %s = %s, want %s", name, q.String(), want)
			}
		}
		var kinds []corev1.NodeConditionType
		for _, c := range node.Status.Conditions {
			kinds = append(kinds, c.Type)
		}
		if d := cmp.Diff([]corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"}, kinds); d != "" {
			t.Error(d)
		}
		if node.Labels["kubernetes.io/hostname"] != "w1" || node.Labels["beta.kubernetes.io/arch"] != "amd64" {
			t.Errorf("labels are %v", node.Labels)
		}
		if node.Status.NodeInfo.ContainerRuntimeVersion != "containerd://1.7.24" {
			t.Errorf("runtime is %q", node.Status.NodeInfo.ContainerRuntimeVersion)
		}
		n.hasEvent("w1", "Normal Starting: Starting kubelet.")
		n.hasEvent("w1", "Normal NodeHasSufficientMemory: Node w1 status is now: NodeHasSufficientMemory")
	})
}

func TestLeaseIsRenewedEveryTenSeconds(t *testing.T) {
	onNode(t, nil, func(n *node) {
		leases := client.For[*coordinationv1.Lease](n.api)
		var last time.Time
		renewals := 0
		for range 100 {
			n.settle(time.Second)
			lease, err := leases.Get(n.ctx, "kube-node-lease", "w1")
			if err != nil {
				t.Fatal(err)
			}
			if *lease.Spec.LeaseDurationSeconds != 40 || len(lease.OwnerReferences) != 1 {
				t.Fatalf("lease is %+v", lease)
			}
			if now := lease.Spec.RenewTime.Time; now != last {
				if gap := now.Sub(last); !last.IsZero() && (gap < 10*time.Second || gap > 10400*time.Millisecond) {
					t.Errorf("renewed after %v", gap)
				}
				last = now
				renewals++
			}
		}
		if renewals < 9 || renewals > 11 {
			t.Errorf("%d renewals in 100 s", renewals)
		}
	})
}

func TestStatusIsSentEachFiveMinutesWhenNothingChanges(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.settle(30 * time.Second)
		heard := n.ready().LastHeartbeatTime
		n.settle(4 * time.Minute)
		if now := n.ready().LastHeartbeatTime; !now.Equal(&heard) {
			t.Errorf("sent again after %v although nothing has changed", now.Sub(heard.Time))
		}
		n.settle(90 * time.Second)
		if now := n.ready().LastHeartbeatTime; now.Equal(&heard) {
			t.Error("not sent for more than five minutes")
		}
	})
}

func TestRuntimeThatIsSilentMakesTheNodeNotReady(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.down = true
		n.runtime.mu.Unlock()
		n.settle(24 * time.Second) // the last answer is up to 5 s old
		if n.ready().Status != corev1.ConditionTrue {
			t.Error("not ready too early")
		}
		n.settle(12 * time.Second)
		if c := n.ready(); c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != "container runtime is down" {
			t.Errorf("Ready is %+v", c)
		}
		n.runtime.mu.Lock()
		n.runtime.down = false
		n.runtime.mu.Unlock()
		n.settle(6 * time.Second)
		if n.ready().Status != corev1.ConditionTrue {
			t.Error("not ready again")
		}
		n.hasEvent("w1", "Normal NodeNotReady: Node w1 status is now: NodeNotReady")
		n.hasEvent("w1", "Normal NodeReady: Node w1 status is now: NodeReady")
	})
}

func TestPodsWaitForTheNetworkUnlessTheyUseTheHosts(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.noNetwork = true
		n.runtime.mu.Unlock()
		n.settle(11 * time.Second)
		const message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
		if c := n.ready(); c.Status != corev1.ConditionFalse || c.Message != message {
			t.Errorf("Ready is %+v", c)
		}
		n.create("web", nil)
		n.create("proxy", func(p *corev1.Pod) { p.Spec.HostNetwork = true })
		n.settle(4 * time.Second)
		if st := status(n.pod("web"), "app"); st.State.Waiting == nil || st.State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("web is %+v", st.State)
		}
		if st := status(n.pod("proxy"), "app"); st.State.Running == nil {
			t.Errorf("proxy is %+v", st.State)
		}
		n.hasEvent("web", "Warning NetworkNotReady: network is not ready: "+message)
		n.runtime.mu.Lock()
		n.runtime.noNetwork = false
		n.runtime.mu.Unlock()
		n.settle(8 * time.Second)
		if st := status(n.pod("web"), "app"); st.State.Running == nil {
			t.Errorf("web is %+v", st.State)
		}
	})
}

func TestPodRuns(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", nil)
		n.settle(2 * time.Second)
		st := n.pod("web").Status
		if st.Phase != corev1.PodRunning || st.PodIP == "" || st.HostIP != "172.30.0.3" || st.QOSClass != corev1.PodQOSBestEffort || st.StartTime == nil || st.ObservedGeneration != 1 {
			t.Errorf("status is %+v", st)
		}
		var lines []string
		for _, c := range st.Conditions {
			lines = append(lines, fmt.Sprintf("%s=%s gen %d", c.Type, c.Status, c.ObservedGeneration))
		}
		want := []string{"PodReadyToStartContainers=True gen 1", "Initialized=True gen 1", "Ready=True gen 1", "ContainersReady=True gen 1", "PodScheduled=True gen 1"}
		if d := cmp.Diff(want, lines); d != "" {
			t.Error(d)
		}
		wantEvents := []string{
			`Normal Pulled: Container image "docker.io/demo/app:1" already present on machine and can be accessed by the pod`,
			"Normal Created: Container created",
			"Normal Started: Container started",
		}
		if d := cmp.Diff(wantEvents, n.events("web"), cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
			t.Error(d)
		}
	})
}

// A pod tells that it has sandbox and network while its containers are still made.
func TestASandboxIsShownBeforeTheContainersStart(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.takes = time.Minute
		n.runtime.mu.Unlock()
		n.create("web", nil)
		n.settle(500 * time.Millisecond)
		st := n.pod("web").Status
		i := slices.IndexFunc(st.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReadyToStartContainers })
		if i < 0 || st.Conditions[i].Status != corev1.ConditionTrue || status(n.pod("web"), "app").State.Waiting == nil {
			t.Errorf("status is %+v", st)
		}
		n.settle(2 * time.Minute)
	})
}

// Row 28 of the failure table: at once, then after 10, 20, 40, 80, 160, 300, 300 s
// since the end, each looked at up to half as long later, but at most each 90 s.
func TestCrashLoopBacksOff(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.ends["app"], n.runtime.codes["app"] = time.Second, 3
		n.runtime.mu.Unlock()
		began := time.Now()
		n.create("web", nil)
		n.settle(25 * time.Minute)
		starts := n.runtime.startsOf("app", began)
		if len(starts) < 8 {
			t.Fatalf("only %d starts: %v", len(starts), starts)
		}
		waited(t, starts, 0, 10, 20, 40, 80, 160, 300)
		pod := n.pod("web")
		st := status(pod, "app")
		want := "back-off 5m0s restarting failed container=app pod=" + podName(pod)
		if st.State.Waiting == nil || st.State.Waiting.Reason != "CrashLoopBackOff" || st.State.Waiting.Message != want {
			t.Errorf("state is %+v", st.State)
		}
		if last := st.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
			t.Errorf("last state is %+v", st.LastTerminationState)
		}
		if int(st.RestartCount) != len(n.runtime.startsOf("app", began))-1 {
			t.Errorf("restartCount is %d", st.RestartCount)
		}
		if pod.Status.Phase != corev1.PodRunning {
			t.Errorf("phase is %s", pod.Status.Phase)
		}
		n.hasEvent("web", "Warning BackOff: Back-off restarting failed container app in pod "+podName(pod))
	})
}

// waited holds the waits before each restart of a container that ran for a second to what they should be, in seconds.
func waited(t *testing.T, starts []time.Duration, waits ...time.Duration) {
	t.Helper()
	for i, least := range waits {
		least *= time.Second
		gap := starts[i+1] - starts[i] - time.Second
		most := least + min(least/2, 90*time.Second) + 3*time.Second
		if gap < least || gap > most {
			t.Errorf("restart %d came %v after the end, want %v to %v", i+1, gap, least, most)
		}
	}
}

// With the time scale 10 a container waits 1, 2, 4 ... 30 s, and the lease says 4 s and is renewed each second.
func TestTimeScaleSpeedsTheKubeletUp(t *testing.T) {
	onNode(t, func(cfg *Config) { cfg.TimeScale = 10 }, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.ends["app"], n.runtime.codes["app"] = time.Second, 3
		n.runtime.mu.Unlock()
		began := time.Now()
		n.create("web", nil)
		n.settle(5 * time.Minute)
		starts := n.runtime.startsOf("app", began)
		if len(starts) < 9 {
			t.Fatalf("only %d starts: %v", len(starts), starts)
		}
		waited(t, starts, 0, 1, 2, 4, 8, 16, 30, 30)
		lease, err := client.For[*coordinationv1.Lease](n.api).Get(n.ctx, corev1.NamespaceNodeLease, "w1")
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(lease.Spec.RenewTime.Time); *lease.Spec.LeaseDurationSeconds != 4 || age > 1100*time.Millisecond {
			t.Errorf("the lease lasts %d s and is %v old", *lease.Spec.LeaseDurationSeconds, age)
		}
	})
}

// With the time scale 10 a silent runtime makes the node NotReady after 3 s.
func TestTimeScaleShortensThePatienceWithTheRuntime(t *testing.T) {
	onNode(t, func(cfg *Config) { cfg.TimeScale = 10 }, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.down = true
		n.runtime.mu.Unlock()
		n.settle(2400 * time.Millisecond) // the last answer is up to half a second old
		if n.ready().Status != corev1.ConditionTrue {
			t.Error("not ready too early")
		}
		n.settle(2100 * time.Millisecond) // and the node's status is written each second
		if c := n.ready(); c.Status != corev1.ConditionFalse || c.Message != "container runtime is down" {
			t.Errorf("Ready is %+v", c)
		}
	})
}

// A node may cap the back-off, to less than its first step too.
func TestMaxContainerRestartPeriodCapsTheBackOff(t *testing.T) {
	onNode(t, func(cfg *Config) {
		cfg.Settings.CrashLoopBackOff.MaxContainerRestartPeriod = &metav1.Duration{Duration: 5 * time.Second}
	}, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.ends["app"], n.runtime.codes["app"] = time.Second, 3
		n.runtime.mu.Unlock()
		began := time.Now()
		n.create("web", nil)
		n.settle(time.Minute)
		starts := n.runtime.startsOf("app", began)
		if len(starts) < 5 {
			t.Fatalf("only %d starts: %v", len(starts), starts)
		}
		waited(t, starts, 0, 5, 5, 5)
	})
	for _, bad := range []time.Duration{-time.Second, time.Millisecond, time.Hour} {
		cfg := Config{NodeName: "w1", Runtime: newFakeRuntime(), Images: newFakeRuntime()}
		cfg.Settings.CrashLoopBackOff.MaxContainerRestartPeriod = &metav1.Duration{Duration: bad}
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "must be set between 1s and 300s") {
			t.Errorf("%v: error is %v", bad, err)
		}
	}
}

func TestTenMinutesOfHealthEndTheBackOff(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", nil)
		n.settle(2 * time.Second)
		for range 3 {
			n.runtime.kill("app", 1)
			n.settle(100 * time.Second) // long enough for each of the first waits
		}
		n.settle(11 * time.Minute)
		n.runtime.kill("app", 1)
		at := time.Now()
		n.settle(3 * time.Second)
		starts := n.runtime.startsOf("app", at)
		if last := starts[len(starts)-1]; last < 0 || last > 2*time.Second {
			t.Errorf("restarted %v after the end, want at once", last)
		}
	})
}

// kubectl shows these words behind "unable to upgrade connection: ".
func TestExecWhereNothingRuns(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.noImage["docker.io/demo/app:1"] = true
		n.runtime.mu.Unlock()
		n.create("web", nil)
		n.settle(3 * time.Second)
		exec := func(pod string) error {
			_, err := n.kubelet.Exec(n.ctx, "default", pod, "app", []string{"ls"}, server.Streams{Stdout: true})
			return err
		}
		log := func(pod string) error {
			_, _, err := n.kubelet.Log(n.ctx, "default", pod, "app", false)
			return err
		}
		for _, c := range []struct {
			err  error
			want string
			gone bool
		}{
			{exec("nope"), "pod does not exist", true},
			{log("nope"), `pod "nope" does not exist`, true},
			{exec("web"), `container not found ("app")`, true},
			{log("web"), `container "app" in pod "web" is waiting to start: image can't be pulled`, false},
		} {
			if _, gone := errors.AsType[server.NotFound](c.err); c.err == nil || c.err.Error() != c.want || gone != c.gone {
				t.Errorf("%v, want %s", c.err, c.want)
			}
		}
	})
}

func TestImagePullBacksOff(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.noImage["docker.io/demo/app:1"] = true
		n.runtime.mu.Unlock()
		n.create("web", nil)
		n.settle(200 * time.Millisecond)
		n.settle(30 * time.Minute)
		n.runtime.mu.Lock()
		pulls := slices.Clone(n.runtime.pulls)
		n.runtime.mu.Unlock()
		for i, least := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			least *= time.Second
			if gap := pulls[i+1].Sub(pulls[i]); gap < least || gap > least+92*time.Second {
				t.Errorf("pull %d came after %v, want at least %v", i+1, gap, least)
			}
		}
		st := status(n.pod("web"), "app")
		want := `Back-off pulling image "docker.io/demo/app:1": ErrImagePull: no such host`
		if w := st.State.Waiting; w == nil || w.Reason != "ImagePullBackOff" && w.Reason != "ErrImagePull" || w.Reason == "ImagePullBackOff" && w.Message != want {
			t.Errorf("state is %+v", st.State.Waiting)
		}
		for _, e := range []string{
			`Normal Pulling: Pulling image "docker.io/demo/app:1"`,
			`Warning Failed: Failed to pull image "docker.io/demo/app:1": no such host`,
			"Warning Failed: Error: ErrImagePull",
			`Normal BackOff: Back-off pulling image "docker.io/demo/app:1"`,
			"Warning Failed: Error: ImagePullBackOff",
		} {
			n.hasEvent("web", e)
		}
	})
}

func TestDeletedPodGetsItsGraceAndThenGoes(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.stubborn["app"] = true
		n.runtime.mu.Unlock()
		n.create("web", nil)
		n.settle(2 * time.Second)
		pods := client.For[*corev1.Pod](n.api)
		if err := pods.Delete(n.ctx, "default", "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		n.settle(29 * time.Second)
		if pod := n.pod("web"); pod.DeletionTimestamp == nil || pod.Status.Phase != corev1.PodRunning {
			t.Errorf("before its grace is over the pod is %s", pod.Status.Phase)
		}
		n.settle(2 * time.Second)
		if _, err := pods.Get(n.ctx, "default", "web"); !apierrors.IsNotFound(err) {
			t.Errorf("after its grace: %v", err)
		}
		n.hasEvent("web", "Normal Killing: Stopping container app")
		n.settle(5 * time.Second)
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		if len(n.runtime.sandboxes) != 0 || len(n.runtime.containers) != 0 {
			t.Errorf("left behind: %v %v", n.runtime.sandboxes, n.runtime.containers)
		}
		if entries, _ := os.ReadDir(filepath.Join(n.dir, "kubelet", "pods")); len(entries) != 0 {
			t.Errorf("left behind: %v", entries)
		}
	})
}

func TestShortenedGraceIsHonoured(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.stubborn["app"] = true
		n.runtime.mu.Unlock()
		n.create("web", nil)
		n.settle(2 * time.Second)
		pods := client.For[*corev1.Pod](n.api)
		pods.Delete(n.ctx, "default", "web", metav1.DeleteOptions{})
		n.settle(5 * time.Second)
		three := int64(3)
		if err := pods.Delete(n.ctx, "default", "web", metav1.DeleteOptions{GracePeriodSeconds: &three}); err != nil {
			t.Fatal(err)
		}
		n.settle(6 * time.Second)
		if _, err := pods.Get(n.ctx, "default", "web"); !apierrors.IsNotFound(err) {
			t.Errorf("still there: %v", err)
		}
	})
}

func TestKubeletThatRestartsTouchesNothing(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		})
		n.settle(15 * time.Second)
		before := n.pod("web")
		if !status(before, "app").Ready {
			t.Fatalf("not ready: %+v", before.Status)
		}
		n.stop()
		n.settle(20 * time.Second)
		n.start()
		for range 30 {
			n.settle(time.Second)
			if after := n.pod("web"); after.ResourceVersion != before.ResourceVersion {
				t.Fatalf("the pod has changed:\n%s", cmp.Diff(before.Status, after.Status))
			}
		}
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		if len(n.runtime.starts) != 1 || len(n.runtime.stops) != 0 {
			t.Errorf("starts %v, stops %v", n.runtime.starts, n.runtime.stops)
		}
	})
}

func TestPodDeletedWhileNoKubeletRanIsStopped(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", nil)
		n.settle(3 * time.Second)
		n.stop()
		zero := int64(0)
		if err := client.For[*corev1.Pod](n.api).Delete(n.ctx, "default", "web", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.settle(10 * time.Second)
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		if len(n.runtime.sandboxes) != 0 {
			t.Errorf("still there: %v", n.runtime.sandboxes)
		}
	})
}

func TestSandboxThatDiesIsMadeAgain(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", nil)
		n.settle(2 * time.Second)
		was := n.pod("web").Status.PodIP
		n.runtime.mu.Lock()
		for _, b := range n.runtime.sandboxes {
			b.State = cri.PodSandboxState_SANDBOX_NOTREADY
		}
		n.runtime.mu.Unlock()
		n.runtime.kill("app", 255)
		n.settle(4 * time.Second)
		pod := n.pod("web")
		st := status(pod, "app")
		if st.State.Running == nil || st.RestartCount != 1 || pod.Status.PodIP == was {
			t.Errorf("after: %+v at %s", st, pod.Status.PodIP)
		}
		n.hasEvent("web", "Normal SandboxChanged: Pod sandbox changed, it will be killed and re-created.")
	})
}

func TestInitContainersRunInOrderBeforeTheRest(t *testing.T) {
	onNode(t, nil, func(n *node) {
		always := corev1.ContainerRestartPolicyAlways
		n.runtime.mu.Lock()
		n.runtime.ends["one"], n.runtime.ends["two"] = 3*time.Second, 3*time.Second
		n.runtime.mu.Unlock()
		n.create("web", func(p *corev1.Pod) {
			image := "docker.io/demo/app:1"
			p.Spec.InitContainers = []corev1.Container{{Name: "one", Image: image}, {Name: "side", Image: image, RestartPolicy: &always}, {Name: "two", Image: image}}
		})
		n.settle(2 * time.Second)
		pod := n.pod("web")
		if st := status(pod, "app"); st.State.Waiting == nil || st.State.Waiting.Reason != "PodInitializing" {
			t.Errorf("app is %+v", st.State)
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodInitialized && (c.Status != corev1.ConditionFalse || c.Message != "containers with incomplete status: [one side two]") {
				t.Errorf("Initialized is %+v", c)
			}
		}
		n.settle(10 * time.Second)
		n.runtime.mu.Lock()
		var order []string
		for _, s := range n.runtime.starts {
			order = append(order, s.name)
		}
		n.runtime.mu.Unlock()
		if got := strings.Join(order, " "); got != "one side two app" {
			t.Errorf("started %s", got)
		}
		if n.pod("web").Status.Phase != corev1.PodRunning {
			t.Errorf("phase is %s", n.pod("web").Status.Phase)
		}
		client.For[*corev1.Pod](n.api).Delete(n.ctx, "default", "web", metav1.DeleteOptions{})
		n.settle(5 * time.Second)
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		if got := strings.Join(n.runtime.stops, " "); got != "app side" {
			t.Errorf("stopped %s", got)
		}
	})
}

func TestJobPodSucceeds(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.runtime.mu.Lock()
		n.runtime.ends["app"] = 5 * time.Second
		n.runtime.mu.Unlock()
		n.create("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
		n.settle(10 * time.Second)
		pod := n.pod("job")
		if pod.Status.Phase != corev1.PodSucceeded || pod.Status.PodIP == "" {
			t.Errorf("status is %+v", pod.Status)
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && (c.Status != corev1.ConditionFalse || c.Reason != "PodCompleted") {
				t.Errorf("Ready is %+v", c)
			}
		}
		n.stop()
		n.start()
		n.settle(90 * time.Second)
		if after := n.pod("job"); after.ResourceVersion != pod.ResourceVersion {
			t.Errorf("a kubelet that restarts changed it:\n%s", cmp.Diff(pod.Status, after.Status))
		}
	})
}

func TestLivenessProbeRestartsTheContainer(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}}
		})
		n.settle(15 * time.Second)
		n.runtime.mu.Lock()
		first := n.runtime.starts[0]
		sick := ""
		for id := range n.runtime.containers {
			sick = id
		}
		n.runtime.probe = func(id string) int32 {
			if id == sick {
				return 1
			}
			return 0
		}
		n.runtime.mu.Unlock()
		hung := time.Now()
		n.settle(40 * time.Second)
		st := status(n.pod("web"), "app")
		if st.RestartCount != 1 || st.State.Running == nil {
			t.Fatalf("status is %+v", st)
		}
		starts := n.runtime.startsOf("app", hung)
		if after := starts[1]; after < 20*time.Second || after > 32*time.Second {
			t.Errorf("restarted %v after it hung, want 20 to 31 s (first start %v)", after, first)
		}
		n.hasEvent("web", "Normal Killing: Container app failed liveness probe, will be restarted")
		n.hasEvent("web", "Warning Unhealthy: Liveness probe failed: ")
	})
}

func TestPodThatDoesNotFitIsRejected(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("big", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity("3")}
		})
		n.settle(3 * time.Second)
		st := n.pod("big").Status
		want := "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
		if st.Phase != corev1.PodFailed || st.Reason != "OutOfcpu" || st.Message != want {
			t.Errorf("status is %s %s %q", st.Phase, st.Reason, st.Message)
		}
	})
}

func TestControllersWordsAreCorrected(t *testing.T) {
	onNode(t, nil, func(n *node) {
		n.create("web", nil)
		n.settle(3 * time.Second)
		// As the node lifecycle controller does when it has heard nothing for too long.
		patch := []byte(`{"status":{"conditions":[{"type":"Ready","status":"False"},{"type":"DisruptionTarget","status":"True","reason":"DeletionByTaintManager"}]}}`)
		if _, err := client.For[*corev1.Pod](n.api).Patch(n.ctx, "default", "web", types.StrategicMergePatchType, patch, "status"); err != nil {
			t.Fatal(err)
		}
		n.settle(time.Second)
		pod := n.pod("web")
		if condition(pod, corev1.PodReady) != corev1.ConditionTrue || condition(pod, corev1.DisruptionTarget) != corev1.ConditionTrue {
			t.Errorf("conditions are %+v", pod.Status.Conditions)
		}
	})
}
