package kubelet

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The table reads: what the pod is, what runs, what the probes say, and what is to be done.
func TestComputeActions(t *testing.T) {
	const (
		running = cri.ContainerState_CONTAINER_RUNNING
		exited  = cri.ContainerState_CONTAINER_EXITED
		unknown = cri.ContainerState_CONTAINER_UNKNOWN
	)
	always := corev1.ContainerRestartPolicyAlways
	plain := []corev1.Container{{Name: "a"}, {Name: "b"}}
	inits := []corev1.Container{{Name: "i1"}, {Name: "i2"}}
	sidecar := []corev1.Container{{Name: "s", RestartPolicy: &always}, {Name: "i2"}}
	run := func(name string, state cri.ContainerState, code int32) *container {
		return &container{id: name + "-id", name: name, sandboxID: "box", state: state, exitCode: code, hash: containerHash(&corev1.Container{Name: name})}
	}
	for _, test := range []struct {
		name      string
		policy    corev1.RestartPolicy
		inits     []corev1.Container
		deleted   bool
		sandboxes string // one letter each, newest first: R ready, N not
		runs      []*container
		health    map[string]health
		want      string
	}{
		{name: "a new pod", want: "kill pod, sandbox 0, start a b"},
		{name: "a new pod with init containers", inits: inits, want: "kill pod, sandbox 0, start i1"},
		{name: "all runs", sandboxes: "R", runs: []*container{run("a", running, 0), run("b", running, 0)}, want: ""},
		{name: "one has died", sandboxes: "R", runs: []*container{run("a", exited, 1), run("b", running, 0)}, want: "start a"},
		{name: "one has died and stays so", policy: "Never", sandboxes: "R", runs: []*container{run("a", exited, 1), run("b", running, 0)}, want: ""},
		{name: "one is done", policy: "OnFailure", sandboxes: "R", runs: []*container{run("a", exited, 0), run("b", running, 0)}, want: ""},
		{name: "all are done", policy: "OnFailure", sandboxes: "R", runs: []*container{run("a", exited, 0), run("b", exited, 0)}, want: "kill pod"},
		{name: "all have failed for good", policy: "Never", sandboxes: "R", runs: []*container{run("a", exited, 1), run("b", exited, 0)}, want: "kill pod"},
		{name: "nobody knows what became of one", sandboxes: "R", runs: []*container{run("a", unknown, 0), run("b", running, 0)},
			want: "kill a (Container a is in unknown state, try killing it before starting a new one), start a"},
		{name: "the sandbox died", sandboxes: "N", runs: []*container{run("a", exited, 255), run("b", exited, 255)}, want: "kill pod, sandbox 1, start a b"},
		{name: "the sandbox of a job died", policy: "Never", sandboxes: "N", runs: []*container{run("a", exited, 255), run("b", exited, 255)}, want: "kill pod"},
		{name: "two sandboxes", sandboxes: "RR", runs: []*container{run("a", running, 0), run("b", running, 0)}, want: "kill pod, sandbox 1, start a b"},
		{name: "liveness failed", sandboxes: "R", runs: []*container{run("a", running, 0), run("b", running, 0)}, health: map[string]health{"a": {livenessFailed: true}},
			want: "kill a (Container a failed liveness probe, will be restarted), start a"},
		{name: "startup failed and no restart", policy: "Never", sandboxes: "R", runs: []*container{run("a", running, 0), run("b", running, 0)},
			health: map[string]health{"a": {startupFailed: true}}, want: "kill a (Container a failed startup probe)"},
		{name: "another image", sandboxes: "R", runs: []*container{{id: "a-id", name: "a", sandboxID: "box", state: running, hash: "old"}, run("b", running, 0)},
			want: "kill a (Container a definition changed, will be restarted), start a"},
		{name: "the first init runs", inits: inits, sandboxes: "R", runs: []*container{run("i1", running, 0)}, want: ""},
		{name: "the first init is done", inits: inits, sandboxes: "R", runs: []*container{run("i1", exited, 0)}, want: "start i2"},
		{name: "an init failed", inits: inits, sandboxes: "R", runs: []*container{run("i1", exited, 1)}, want: "start i1"},
		{name: "an init of a job failed", policy: "Never", inits: inits, sandboxes: "R", runs: []*container{run("i1", exited, 1)}, want: "kill pod"},
		{name: "all inits are done", inits: inits, sandboxes: "R", runs: []*container{run("i1", exited, 0), run("i2", exited, 0)}, want: "start a b"},
		{name: "inits are not looked at again", inits: inits, sandboxes: "R", runs: []*container{run("a", exited, 1), run("b", running, 0)}, want: "start a"},
		{name: "a sidecar comes first", inits: sidecar, sandboxes: "R", want: "start s"},
		{name: "a sidecar that is not up holds back the rest", inits: sidecar, sandboxes: "R", runs: []*container{run("s", running, 0)}, want: ""},
		{name: "a sidecar is up", inits: sidecar, sandboxes: "R", runs: []*container{run("s", running, 0)}, health: map[string]health{"s": {started: true}}, want: "start i2"},
		{name: "a sidecar dies under running containers", inits: sidecar, sandboxes: "R",
			runs: []*container{run("s", exited, 0), run("i2", exited, 0), run("a", running, 0), run("b", running, 0)}, want: "start s"},
		{name: "only the sidecar of a job is left", policy: "Never", inits: sidecar, sandboxes: "R", health: map[string]health{"s": {started: true}},
			runs: []*container{run("s", running, 0), run("i2", exited, 0), run("a", exited, 0), run("b", exited, 0)}, want: "kill pod"},
		{name: "a pod on its way out starts nothing", deleted: true, sandboxes: "R", runs: []*container{run("a", exited, 1), run("b", running, 0)}, want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, InitContainers: test.inits, Containers: plain}}
			if test.policy != "" {
				pod.Spec.RestartPolicy = test.policy
			}
			if test.deleted {
				now := metav1.Now()
				pod.DeletionTimestamp = &now
			}
			s := &podState{containers: test.runs}
			for i, r := range test.sandboxes {
				b := &cri.PodSandboxStatus{Id: "box", Metadata: &cri.PodSandboxMetadata{}, Network: &cri.PodSandboxNetworkStatus{Ip: "10.244.1.2"}}
				if i > 0 {
					b.Id = fmt.Sprint("older", i)
				}
				if r == 'N' {
					b.State = cri.PodSandboxState_SANDBOX_NOTREADY
				}
				s.sandboxes = append(s.sandboxes, b)
			}
			got := computeActions(pod, s, func(c *container) health { return test.health[c.name] })
			if text := got.String(); text != test.want {
				t.Errorf("got  %q\nwant %q", text, test.want)
			}
		})
	}
}

// String is the actions in the words of the test's table.
func (a actions) String() string {
	var out []string
	if a.killPod {
		out = append(out, "kill pod")
	}
	for _, k := range a.kill {
		out = append(out, fmt.Sprintf("kill %s (%s)", k.container.name, k.message))
	}
	if a.createSandbox {
		out = append(out, fmt.Sprintf("sandbox %d", a.attempt))
	}
	if len(a.start) > 0 {
		var names []string
		for _, c := range a.start {
			names = append(names, c.Name)
		}
		out = append(out, "start "+strings.Join(names, " "))
	}
	return strings.Join(out, ", ")
}

func TestRetryIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := &workers{k: &Kubelet{}, began: time.Now(), jitter: func(d time.Duration) time.Duration { return d + d/10 }}
		ws.k.cfg.Settings.SyncFrequency.Duration = time.Minute
		ws.k.cfg.TimeScale = 1
		time.Sleep(300 * time.Millisecond)
		err, second := fmt.Errorf("it did not work"), func(n time.Duration) time.Time { return time.Now().Add(n * time.Second) }
		for _, test := range []struct {
			name string
			err  error
			due  time.Duration // in seconds since the start: looked up once a second
		}{
			{"fine", nil, 67},
			{"no network yet", transientError{err}, 2},
			{"a crash", backOffError{err, second(20)}, 23},
			{"a long wait is looked at in between", backOffError{err, second(300)}, 67},
			{"a wait that is over", backOffError{err, second(-1)}, 1},
			{"anything else", err, 12},
		} {
			if got, want := ws.retryIn(test.err), test.due*time.Second-300*time.Millisecond; got != want {
				t.Errorf("%s: %v, want %v", test.name, got, want)
			}
		}
		ws.k.cfg.TimeScale = 10
		for err, due := range map[error]time.Duration{transientError{err}: 1, err: 2} {
			if got, want := ws.retryIn(err), due*time.Second-300*time.Millisecond; got != want {
				t.Errorf("ten times as fast, %T: %v, want %v", err, got, want)
			}
		}
	})
	for range 1000 {
		if d := jitter(time.Minute); d < time.Minute || d > 90*time.Second {
			t.Fatalf("a minute with jitter is %v", d)
		}
	}
}
