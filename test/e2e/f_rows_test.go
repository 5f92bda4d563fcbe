package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What else can break on a real node, beside a whole machine: each test is a row of
// docs/failures.md at true speed, and mends what it broke.

// between is an error unless a time is in a range.
func between(what string, took, least, most time.Duration) error {
	if took < least || took > most {
		return fmt.Errorf("%s after %v, want %v to %v", what, took.Round(100*time.Millisecond), least, most)
	}
	return nil
}

// nodeReady is the status and reason of a node's condition Ready.
func nodeReady(want, node string) func() error {
	return is(want, `{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].reason}`, "node", node)
}

// untainted is an error while a node has taints that its condition has put there.
func untainted(node string) func() error {
	return func() error {
		taints, err := jsonPath("{.spec.taints[*].key}", "node", node)
		if err == nil && strings.Contains(taints, "node.kubernetes.io/") {
			err = fmt.Errorf("%s is tainted: %s", node, taints)
		}
		return err
	}
}

func TestContainerdIsDown(t *testing.T) {
	need(t)
	stopped := time.Now()
	inNode(t, worker3, "systemctl stop containerd")
	eventually(t, time.Minute, nodeReady("False KubeletNotReady", worker3))
	must(t, between("NotReady", time.Since(stopped), 25*time.Second, 47*time.Second))
	must(t, contains(kubectl(t, "describe", "node", worker3), "container runtime is down"))
	eventually(t, 10*time.Second, func() error {
		return contains(kubectl(t, "describe", "node", worker3), "node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule")
	})
	inNode(t, worker3, "systemctl start containerd")
	eventually(t, time.Minute, nodeReady("True KubeletReady", worker3))
	eventually(t, 10*time.Second, untainted(worker3))
}

// Rules stay as they are when nobody writes them any more.
func TestKubeProxyIsGone(t *testing.T) {
	need(t)
	ip := eventuallyGet(t, "{.spec.clusterIP}", "service", "hello")
	pods := func() []string {
		out, err := jsonPath("{.items[*].status.podIP}", "pods", "-l", "app=hello", "--field-selector", "status.phase=Running")
		must(t, err)
		return strings.Fields(out)
	}
	rules := func(node string) string { return inNode(t, node, "iptables-save -t nat | grep default/hello") }
	const avoid = `{"spec":{"template":{"spec":{"affinity":%s}}}}`
	kubectl(t, "patch", "daemonset", "kube-proxy", "-n", "kube-system", "-p", fmt.Sprintf(avoid,
		`{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["`+worker3+`"]}]}]}}}`))
	kubectl(t, "rollout", "status", "daemonset", "kube-proxy", "-n", "kube-system", "--timeout=90s")
	eventually(t, time.Minute, is("", "{.items[*].metadata.name}", "pods", "-n", "kube-system", "-l", "k8s-app=kube-proxy", "--field-selector", "spec.nodeName="+worker3))
	before := pods()
	_, err := hostname(worker3, "http://"+ip)
	must(t, err)

	kubectl(t, "scale", "deployment", "hello-world", "--replicas=3")
	kubectl(t, "rollout", "status", "deployment", "hello-world", "--timeout=60s")
	after := pods()
	added := slices.DeleteFunc(after, func(ip string) bool { return slices.Contains(before, ip) })
	if len(added) != 1 {
		t.Fatalf("the pods were %v, and %v came", before, added)
	}
	eventually(t, 20*time.Second, func() error { return contains(rules(worker2), added[0]) })
	must(t, contains(rules(worker3), before...))
	if now := rules(worker3); strings.Contains(now, added[0]) {
		t.Errorf("without kube-proxy there is a rule for the new pod %s:\n%s", added[0], now)
	}

	kubectl(t, "patch", "daemonset", "kube-proxy", "-n", "kube-system", "-p", fmt.Sprintf(avoid, "null"))
	eventually(t, time.Minute, func() error { return contains(rules(worker3), added[0]) })
	kubectl(t, "rollout", "status", "daemonset", "kube-proxy", "-n", "kube-system", "--timeout=90s")
	kubectl(t, "scale", "deployment", "hello-world", "--replicas=2")
}

// A worker that is cut off from the control plane goes on. When its pod is
// replaced, there are two of it, and both answer.
func TestWorkerIsCutOff(t *testing.T) {
	need(t)
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: twice}
spec:
  selector: {matchLabels: {app: twice}}
  template:
    metadata: {labels: {app: twice}}
    spec:
      affinity:
        nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchFields: [{key: metadata.name, operator: In, values: [`+worker3+`]}]}}]}
      tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
      containers: [{name: c, image: `+podinfo+`}]
`)
	kubectl(t, "rollout", "status", "deployment", "twice", "--timeout=60s")
	here := func(node string) []string {
		return []string{"pods", "-l", "app=twice", "--field-selector", "spec.nodeName=" + node}
	}
	old := eventuallyGet(t, "{.items[0].metadata.name}", here(worker3)...)
	oldIP := eventuallyGet(t, "{.status.podIP}", "pod", old)
	control := addresses(t)[head]

	cut := time.Now()
	inNode(t, worker3, "iptables -I INPUT -s "+control+" -j DROP; iptables -I OUTPUT -d "+control+" -j DROP")
	mend := func() {
		inNode(t, worker3, "iptables -D INPUT -s "+control+" -j DROP; iptables -D OUTPUT -d "+control+" -j DROP")
	}
	defer func() {
		if t.Failed() {
			mend()
		}
	}()
	eventually(t, 70*time.Second, nodeReady("Unknown NodeStatusUnknown", worker3))
	must(t, between("Unknown", time.Since(cut), 35*time.Second, 57*time.Second))
	next := eventuallyGet(t, "{.items[0].metadata.name}", here(worker2)...)
	eventually(t, 30*time.Second, is("true", "{.status.containerStatuses[0].ready}", "pod", next))
	must(t, contains(kubectl(t, "get", "pod", old, "--no-headers"), "1/1", "Terminating"))
	for _, pod := range []struct{ name, ip string }{{old, oldIP}, {next, eventuallyGet(t, "{.status.podIP}", "pod", next)}} {
		who, err := hostname(worker2, "http://"+pod.ip+":9898")
		must(t, err)
		if who != pod.name {
			t.Errorf("%s answers at the address of %s", who, pod.name)
		}
	}

	mend()
	eventually(t, time.Minute, nodeReady("True KubeletReady", worker3))
	eventually(t, 45*time.Second, func() error {
		if out, err := tryKubectl("get", "pod", old); err == nil {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
	eventually(t, 10*time.Second, untainted(worker3))
	kubectl(t, "delete", "deployment", "twice")
}

// away takes the manifest of a part of the control plane away until back is called.
func away(t *testing.T, part string) (back func()) {
	t.Helper()
	file := "/etc/kubernetes/manifests/" + part + ".yaml"
	inNode(t, head, "mv "+file+" /root/")
	eventually(t, time.Minute, func() error {
		out, err := tryInNode(head, "crictl ps -q --name "+part)
		if err == nil && out != "" {
			err = fmt.Errorf("%s still runs", part)
		}
		return err
	})
	back = func() { inNode(t, head, "test -e "+file+" || mv /root/"+part+".yaml "+file) }
	t.Cleanup(back) // also when the test fails
	return back
}

// Without a scheduler pods stay Pending, without controllers there are no pods; all
// else goes on, and so do they when they come back.
func TestSchedulerAndControllersAreAway(t *testing.T) {
	need(t)
	schedules := away(t, "kube-scheduler")
	kubectl(t, "create", "deployment", "waits", "--image="+podinfo)
	pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app=waits")
	controls := away(t, "kube-controller-manager")
	kubectl(t, "scale", "deployment", "waits", "--replicas=2")
	must(t, is("Pending", "{.status.phase} {.spec.nodeName}", "pod", pod)())
	began := time.Now()
	schedules()
	took := eventually(t, time.Minute, is("Running", "{.status.phase}", "pod", pod))
	t.Logf("the pod runs %v after the scheduler came back", took.Round(100*time.Millisecond))
	must(t, is("1", "{.status.replicas}", "deployment", "waits")())
	controls()
	eventually(t, time.Minute, is("2", "{.status.readyReplicas}", "deployment", "waits"))
	t.Logf("both run %v after that", time.Since(began).Round(100*time.Millisecond))
	kubectl(t, "delete", "deployment", "waits")
}

// The API server is away for longer than a leader may miss it: scheduler and
// controller manager give up and are started again, the application goes on.
func TestAPIServerIsAway(t *testing.T) {
	need(t)
	leaders := []string{"kube-scheduler", "kube-controller-manager"}
	restarts := func(part string) int {
		n, err := strconv.Atoi(eventuallyGet(t, "{.status.containerStatuses[0].restartCount}", "pod", part+"-"+head, "-n", "kube-system"))
		must(t, err)
		return n
	}
	running := func(part string) string { return inNode(t, head, "crictl ps -q --name "+part) }
	before, containers := map[string]int{}, map[string]string{}
	for _, part := range leaders {
		before[part], containers[part] = restarts(part), running(part)
	}
	address := addresses(t)[worker2]
	back := away(t, "kube-apiserver")
	gone := time.Now()
	for _, part := range leaders { // the runtime knows what the API cannot tell
		eventually(t, 30*time.Second, func() error {
			if running(part) == containers[part] {
				return fmt.Errorf("%s still runs", part)
			}
			return nil
		})
	}
	must(t, between("leaders gave up", time.Since(gone), 5*time.Second, 25*time.Second))
	if _, err := hostname(worker2, "http://"+address+"/"); err != nil {
		t.Errorf("the application: %v", err)
	}
	back()
	eventually(t, 90*time.Second, func() error { _, err := tryKubectl("get", "--raw", "/readyz"); return err })
	returned := time.Now()
	for _, part := range leaders {
		eventually(t, time.Minute, func() error {
			if n := restarts(part); n <= before[part] {
				return fmt.Errorf("%s has been restarted %d times, as before", part, n)
			}
			return is("1 Error", "{.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.reason}",
				"pod", part+"-"+head, "-n", "kube-system")()
		})
	}
	kubectl(t, "scale", "deployment", "hello-world", "--replicas=3")
	eventually(t, followed, is("3", "{.status.readyReplicas}", "deployment", "hello-world"))
	t.Logf("controllers and scheduler work %v after the API server came back", time.Since(returned).Round(100*time.Millisecond))
	kubectl(t, "scale", "deployment", "hello-world", "--replicas=2")
}

// A container that fails is started again at once, then after 10 and 20 s; one whose
// liveness probe fails is killed at the third failure in a row.
func TestContainersThatFail(t *testing.T) {
	need(t)
	apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec:
  nodeName: `+worker3+`
  containers: [{name: c, image: `+podinfo+`, command: [/usr/local/bin/podinfo, --get, "http://127.0.0.1:1/"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: unwell}
spec:
  nodeName: `+worker3+`
  containers: [{name: c, image: `+podinfo+`, livenessProbe: {httpGet: {path: /nowhere, port: 9898}, periodSeconds: 10}}]
`)
	starts := func() (at []float64) { // in seconds
		for line := range strings.Lines(inNode(t, worker3, `journalctl -u kubelet -o short-unix --no-pager | grep 'Container started' | grep crashes_default || true`)) {
			seconds, _, _ := strings.Cut(line, " ")
			n, err := strconv.ParseFloat(seconds, 64)
			must(t, err)
			at = append(at, n)
		}
		return at
	}
	eventually(t, 90*time.Second, func() error {
		if at := starts(); len(at) < 4 {
			return fmt.Errorf("started at %v", at)
		}
		return nil
	})
	at := starts()
	for i, least := range []float64{0, 10, 20} {
		// Jitter may lengthen a wait by half; then the next relist has to see it, and a busy node has to start it.
		if gap := at[i+1] - at[i]; gap < least || gap > 1.5*least+4 {
			t.Errorf("start %d came %.1f s after the one before, want %v to %v s", i+2, gap, least, 1.5*least)
		}
	}
	must(t, contains(kubectl(t, "describe", "pod", "crashes"), "Back-off restarting failed container c in pod crashes_default", "Exit Code:    1"))

	eventually(t, 60*time.Second, is("1", "{.status.containerStatuses[0].restartCount}", "pod", "unwell"))
	must(t, contains(kubectl(t, "describe", "pod", "unwell"), "Liveness probe failed: HTTP probe failed with statuscode: 404", "Container c failed liveness probe, will be restarted"))
	times, err := jsonPath("{.status.containerStatuses[0].lastState.terminated.startedAt} {.status.containerStatuses[0].lastState.terminated.finishedAt}", "pod", "unwell")
	must(t, err)
	from, to, _ := strings.Cut(times, " ")
	began, err := time.Parse(time.RFC3339, from)
	must(t, err)
	ended, err := time.Parse(time.RFC3339, to)
	must(t, err)
	must(t, between("killed", ended.Sub(began), 19*time.Second, 33*time.Second))
	kubectl(t, "delete", "pod", "crashes", "unwell", "--now")
}

// What the API shows of a static pod is a mirror: it comes back, and the container
// does not notice.
func TestMirrorPodIsDeleted(t *testing.T) {
	need(t)
	mirror := []string{"pod", "kube-scheduler-" + head, "-n", "kube-system"}
	const path = "{.metadata.uid} {.status.containerStatuses[0].containerID}"
	uid, container, _ := strings.Cut(eventuallyGet(t, path, mirror...), " ")
	kubectl(t, append([]string{"delete"}, mirror...)...)
	eventually(t, time.Minute, func() error {
		out, err := jsonPath(path, mirror...)
		if err != nil {
			return err
		}
		if now, same, _ := strings.Cut(out, " "); now == uid || same != container {
			return fmt.Errorf("%s with %q, was %s with %q", now, same, uid, container)
		}
		return nil
	})
}

// A drain asks for each pod, and waits where a budget says no.
func TestDrainWaitsForTheBudget(t *testing.T) {
	need(t)
	kubectl(t, "rollout", "restart", "deployment", "hello-world") // one on each worker again
	kubectl(t, "rollout", "status", "deployment", "hello-world", "--timeout=60s")
	kubectl(t, "cordon", worker3)
	kubectl(t, "rollout", "restart", "deployment", "hello-world") // and both on one
	kubectl(t, "rollout", "status", "deployment", "hello-world", "--timeout=60s")
	kubectl(t, "uncordon", worker3)
	kubectl(t, "create", "poddisruptionbudget", "hello", "--selector=app=hello", "--min-available=1")
	eventually(t, 10*time.Second, is("1", "{.status.disruptionsAllowed}", "poddisruptionbudget", "hello"))
	out := kubectl(t, "drain", worker2, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
	must(t, contains(out, "node/"+worker2+" cordoned", "pod/hello-world-",
		"(will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget.", "node/"+worker2+" drained"))
	must(t, is("true", `{.spec.unschedulable}`, "node", worker2)())
	kubectl(t, "uncordon", worker2)
	kubectl(t, "delete", "poddisruptionbudget", "hello")
	kubectl(t, "rollout", "restart", "deployment", "hello-world")
	kubectl(t, "rollout", "status", "deployment", "hello-world", "--timeout=60s")
}
