package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// lab is one pod with one container, whose answers a test decides.
type lab struct {
	m       *Manager
	pod     *corev1.Pod
	answer  func(kind Kind, at time.Duration) bool
	began   time.Time
	mu      sync.Mutex // for the three workers of one container
	asked   map[Kind][]time.Duration
	changed []time.Duration
	events  []string
}

func inLab(t *testing.T, container corev1.Container, answer func(kind Kind, at time.Duration) bool, f func(l *lab), tune ...func(*Manager)) {
	synctest.Test(t, func(t *testing.T) {
		container.Name = "app"
		l := &lab{answer: answer, asked: map[Kind][]time.Duration{},
			pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}}
		kinds := map[*corev1.Probe]Kind{container.StartupProbe: Startup, container.LivenessProbe: Liveness, container.ReadinessProbe: Readiness}
		l.m = &Manager{
			Ask: func(_ context.Context, target Target) (bool, string, error) {
				kind := kinds[target.Probe]
				at := time.Since(l.began)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.asked[kind] = append(l.asked[kind], at)
				if l.answer(kind, at) {
					return true, "", nil
				}
				return false, "no", nil
			},
			Changed: func(types.UID) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.changed = append(l.changed, time.Since(l.began))
			},
			Event: func(_ *corev1.Pod, _, message string) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.events = append(l.events, message)
			},
		}
		for _, change := range tune {
			change(l.m)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l.m.Start(ctx)
		time.Sleep(time.Hour) // the kubelet has been up for long: no random delay
		l.began = time.Now()
		l.runs("id1")
		f(l)
		cancel()
		l.m.Wait()
	})
}

// runs tells the manager that the container runs under an id since now.
func (l *lab) runs(id string) {
	l.m.Update(l.pod, corev1.PodStatus{PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: id,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}})
}

func (l *lab) until(at time.Duration) {
	l.mu.Lock() // what the test has read so far was read before the workers write again
	wait := time.Until(l.began.Add(at))
	l.mu.Unlock()
	time.Sleep(wait)
	synctest.Wait()
}

func probe(period, failures, successes, delay int32) *corev1.Probe {
	return &corev1.Probe{PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: successes, InitialDelaySeconds: delay, TimeoutSeconds: 1}
}

func seconds(n ...int) (out []time.Duration) {
	for _, s := range n {
		out = append(out, time.Duration(s)*time.Second)
	}
	return out
}

func yes(Kind, time.Duration) bool { return true }

func TestProbesAskAtTheirPeriod(t *testing.T) {
	inLab(t, corev1.Container{LivenessProbe: probe(10, 3, 1, 0)}, yes, func(l *lab) {
		l.until(35 * time.Second)
		if want := seconds(0, 10, 20, 30); !slices.Equal(l.asked[Liveness], want) {
			t.Errorf("asked at %v, want %v", l.asked[Liveness], want)
		}
		if len(l.changed) != 1 || len(l.events) != 0 {
			t.Errorf("changes %v, events %v", l.changed, l.events)
		}
	})
}

func TestInitialDelayIsKept(t *testing.T) {
	inLab(t, corev1.Container{LivenessProbe: probe(10, 3, 1, 15)}, yes, func(l *lab) {
		l.until(35 * time.Second)
		if want := seconds(20, 30); !slices.Equal(l.asked[Liveness], want) {
			t.Errorf("asked at %v, want %v", l.asked[Liveness], want)
		}
	})
}

func TestTimeScaleSpeedsProbesUp(t *testing.T) {
	inLab(t, corev1.Container{LivenessProbe: probe(100, 3, 1, 150)}, yes, func(l *lab) {
		l.until(35 * time.Second)
		if want := seconds(20, 30); !slices.Equal(l.asked[Liveness], want) {
			t.Errorf("asked at %v, want %v", l.asked[Liveness], want)
		}
	}, func(m *Manager) { m.TimeScale = 10 })
}

// A container that hangs right after it was asked is condemned 30 s later, at the
// third bad answer; and then it is left in peace until it runs again.
func TestThreeFailuresCondemn(t *testing.T) {
	inLab(t, corev1.Container{LivenessProbe: probe(10, 3, 1, 0)}, func(_ Kind, at time.Duration) bool { return at < 5*time.Second }, func(l *lab) {
		l.until(29 * time.Second)
		if failed, _ := l.m.Failed("u", "app", "id1"); failed {
			t.Error("condemned before the third failure")
		}
		l.until(30 * time.Second)
		if failed, _ := l.m.Failed("u", "app", "id1"); !failed {
			t.Error("not condemned by the third failure")
		}
		l.until(65 * time.Second)
		if n := len(l.asked[Liveness]); n != 4 {
			t.Errorf("asked %d times: a condemned container is not asked", n)
		}
		if want := "Liveness probe failed: no"; len(l.events) != 3 || l.events[0] != want {
			t.Errorf("events are %q", l.events)
		}
		l.answer = yes
		l.runs("id2")
		l.until(75 * time.Second)
		if failed, _ := l.m.Failed("u", "app", "id2"); failed || len(l.asked[Liveness]) != 5 {
			t.Errorf("the next run is not judged afresh: %v", l.asked[Liveness])
		}
	})
}

// A container that runs and is not ready is asked whenever its pod is looked at, and the next run of one that was ready too.
func TestReadinessIsAskedAtOnceOfANewRun(t *testing.T) {
	inLab(t, corev1.Container{ReadinessProbe: probe(10, 3, 1, 0)}, yes, func(l *lab) {
		l.until(13 * time.Second)
		l.runs("id2")
		l.until(14 * time.Second)
		l.runs("id2") // ready since: nothing to ask
		l.until(25 * time.Second)
		if want := seconds(0, 10, 13, 20); !slices.Equal(l.asked[Readiness], want) {
			t.Errorf("asked at %v, want %v", l.asked[Readiness], want)
		}
	})
}

// What has been ready, or had to be alive, and ends is told at the next tick, once.
func TestContainerThatHasEndedCountsAsFailed(t *testing.T) {
	for _, test := range []struct {
		container corev1.Container
		ok        bool
		want      []time.Duration // when a change is told
	}{
		{corev1.Container{LivenessProbe: probe(10, 3, 1, 0)}, true, seconds(0, 20)},
		{corev1.Container{ReadinessProbe: probe(10, 3, 1, 0)}, true, seconds(0, 20)},
		{corev1.Container{ReadinessProbe: probe(10, 3, 1, 0)}, false, nil},
	} {
		inLab(t, test.container, func(Kind, time.Duration) bool { return test.ok }, func(l *lab) {
			l.until(14 * time.Second)
			l.m.Update(l.pod, corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "id1",
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}})
			l.until(45 * time.Second)
			if !slices.Equal(l.changed, test.want) {
				t.Errorf("told at %v, want %v", l.changed, test.want)
			}
		})
	}
}

func TestReadinessWantsItsThresholdsBothWays(t *testing.T) {
	up := map[int]bool{0: true, 1: true, 2: false, 3: false, 4: true, 5: true, 6: true}
	inLab(t, corev1.Container{ReadinessProbe: probe(1, 2, 2, 0)}, func(_ Kind, at time.Duration) bool { return up[int(at/time.Second)] }, func(l *lab) {
		var ready []bool
		for s := range 7 {
			l.until(time.Duration(s) * time.Second)
			_, r := l.m.Result(l.pod, &l.pod.Spec.Containers[0], "id1", time.Now(), corev1.PodStatus{})
			ready = append(ready, r)
		}
		if want := []bool{false, true, true, false, false, true, true}; !slices.Equal(ready, want) {
			t.Errorf("ready %v, want %v", ready, want)
		}
	})
}

func TestStartupHoldsBackTheOthers(t *testing.T) {
	c := corev1.Container{StartupProbe: probe(10, 30, 1, 0), LivenessProbe: probe(10, 3, 1, 0), ReadinessProbe: probe(10, 3, 1, 0)}
	inLab(t, c, func(kind Kind, at time.Duration) bool { return kind != Startup || at >= 40*time.Second }, func(l *lab) {
		l.until(39 * time.Second)
		if len(l.asked[Liveness]) != 0 || len(l.asked[Readiness]) != 0 {
			t.Errorf("asked too early: %v", l.asked)
		}
		l.until(65 * time.Second)
		if want := seconds(0, 10, 20, 30, 40); !slices.Equal(l.asked[Startup], want) {
			t.Errorf("startup asked at %v, want %v", l.asked[Startup], want)
		}
		if len(l.asked[Liveness]) < 2 || l.asked[Liveness][0] < 40*time.Second {
			t.Errorf("liveness asked at %v", l.asked[Liveness])
		}
	})
}

func TestReadinessOutlivesTheKubelet(t *testing.T) {
	inLab(t, corev1.Container{ReadinessProbe: probe(10, 3, 1, 600)}, yes, func(l *lab) {
		old := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "id1", Ready: true}}}
		c := &l.pod.Spec.Containers[0]
		if _, ready := l.m.Result(l.pod, c, "id1", l.began.Add(-2*time.Hour), old); !ready {
			t.Error("a container from before this kubelet has lost its readiness")
		}
		if _, ready := l.m.Result(l.pod, c, "id1", time.Now(), old); ready {
			t.Error("a container of this kubelet is ready without having been asked")
		}
	})
}

func TestRemovedPodIsNotAsked(t *testing.T) {
	inLab(t, corev1.Container{LivenessProbe: probe(10, 3, 1, 0)}, yes, func(l *lab) {
		l.until(15 * time.Second)
		l.m.Remove("u")
		l.until(time.Minute)
		if n := len(l.asked[Liveness]); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestHTTPProbe(t *testing.T) {
	var agent string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		switch r.URL.Path {
		case "/ok":
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	port, _ := strconv.Atoi(u.Port())
	p := &Prober{UserAgent: "kube-probe/1.36"}
	container := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	ask := func(path string, port intstr.IntOrString) (bool, string, error) {
		return p.Ask(t.Context(), Target{Pod: &corev1.Pod{}, Container: container, PodIP: u.Hostname(),
			Probe: &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: port, Scheme: "HTTP"}}}})
	}
	for path, want := range map[string]string{"/ok": "true ", "/moved": "true ", "/bad": "false HTTP probe failed with statuscode: 500"} {
		ok, output, err := ask(path, intstr.FromString("web"))
		if got := fmt.Sprint(ok, " ", output); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", path, got, err, want)
		}
	}
	if agent != "kube-probe/1.36" {
		t.Errorf("the user agent is %q", agent)
	}
	if _, _, err := ask("/ok", intstr.FromString("nope")); err == nil {
		t.Error("an unknown port has a number")
	}
	srv.Close()
	ok, output, err := ask("/ok", intstr.FromInt(port))
	if want := fmt.Sprintf("Get \"%s/ok\": dial tcp %s: connect: connection refused", srv.URL, u.Host); ok || err != nil || output != want {
		t.Errorf("nobody listens: %v %q %v, want %q", ok, output, err, want)
	}
}

func TestTCPAndExecProbes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	target := func(h corev1.ProbeHandler) Target {
		return Target{Pod: &corev1.Pod{}, Container: &corev1.Container{}, ContainerID: "containerd://abc", PodIP: "127.0.0.1", Probe: &corev1.Probe{TimeoutSeconds: 2, ProbeHandler: h}}
	}
	tcp := target(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}})
	p := &Prober{Exec: func(_ context.Context, id string, command []string, timeout time.Duration) ([]byte, int32, bool, error) {
		if id != "abc" || timeout != 2*time.Second {
			t.Errorf("asked of %s with %v", id, timeout)
		}
		return []byte("out"), int32(len(command) - 1), command[0] == "slow", nil
	}}
	if ok, _, err := p.Ask(t.Context(), tcp); !ok || err != nil {
		t.Errorf("somebody listens: %v %v", ok, err)
	}
	l.Close()
	if ok, _, err := p.Ask(t.Context(), tcp); ok || err != nil {
		t.Errorf("nobody listens: %v %v", ok, err)
	}
	for _, test := range []struct {
		command []string
		want    string
	}{
		{[]string{"true"}, "true out"},
		{[]string{"false", "x"}, "false out"},
		{[]string{"slow", "x"}, `false command timed out: "slow x" timed out after 2s`},
	} {
		ok, output, err := p.Ask(t.Context(), target(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: test.command}}))
		if got := fmt.Sprint(ok, " ", output); got != test.want || err != nil {
			t.Errorf("%v: %s, %v", test.command, got, err)
		}
	}
}
