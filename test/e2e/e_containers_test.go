package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// podOn is the application's pod on a node.
func podOn(t *testing.T, node string) string {
	t.Helper()
	return eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app=hello", "--field-selector", "spec.nodeName="+node+",status.phase=Running")
}

// The course's chapter 6: containers as containerd and crictl see them.
func TestContainersOfAWorker(t *testing.T) {
	need(t)
	pod := podOn(t, worker2)
	list := inNode(t, worker2, "ctr --namespace k8s.io container list")
	must(t, contains(list, "orrery/pause:", "orrery/podinfo:", "orrery/kube-proxy:"))
	must(t, contains(inNode(t, worker2, "crictl ps"), "podinfo", "kube-proxy", "Running", pod))
	must(t, contains(inNode(t, worker2, "crictl pods"), pod, "Ready"))
	id := strings.TrimSpace(inNode(t, worker2, "crictl ps -q --name podinfo | head -1"))
	must(t, contains(inNode(t, worker2, "crictl inspect "+id), `"io.kubernetes.pod.name": "`+pod+`"`))
	must(t, contains(inNode(t, worker2, "journalctl -u kubelet --no-pager | tail -500"), "kubelet"))
}

// A container that is killed is started again; the pod stays.
func TestKillTheApp(t *testing.T) {
	need(t)
	pod := podOn(t, worker2)
	id := strings.TrimSpace(inNode(t, worker2, "crictl ps -q --name podinfo | head -1"))
	inNode(t, worker2, "ctr -n k8s.io task kill --signal SIGKILL "+id)
	took := eventually(t, 30*time.Second, is("1 true", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", "pod", pod))
	t.Logf("running again %v after the kill", took.Round(100*time.Millisecond))
	must(t, contains(kubectl(t, "get", "pod", pod, "--no-headers"), "1/1", "Running", "1 ("))
	must(t, is("137", "{.status.containerStatuses[0].lastState.terminated.exitCode}", "pod", pod)())
}

// A pod whose pause container is killed gets a new sandbox, with a new address.
func TestKillThePause(t *testing.T) {
	need(t)
	pod := podOn(t, worker2)
	before := eventuallyGet(t, "{.status.podIP}", "pod", pod)
	restarts, err := strconv.Atoi(eventuallyGet(t, "{.status.containerStatuses[0].restartCount}", "pod", pod))
	must(t, err)
	sandbox := strings.TrimSpace(inNode(t, worker2, "crictl pods -q --name "+pod))
	inNode(t, worker2, "ctr -n k8s.io task kill --signal SIGKILL "+sandbox)
	eventually(t, time.Minute, func() error {
		now := strings.TrimSpace(inNode(t, worker2, "crictl pods -q --state ready --name "+pod))
		if now == "" || now == sandbox {
			return fmt.Errorf("the sandbox is %q, was %q", now, sandbox)
		}
		return is(fmt.Sprint(restarts+1, " true"), "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", "pod", pod)()
	})
	eventually(t, 30*time.Second, func() error {
		out, err := tryKubectl("describe", "pod", pod)
		if err != nil {
			return err
		}
		return contains(out, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	})
	after := eventuallyGet(t, "{.status.podIP}", "pod", pod)
	t.Logf("pod address %s -> %s", before, after)
	_, port := service(t)
	eventually(t, 20*time.Second, func() error { _, err := hostname(worker2, "http://127.0.0.1:"+port); return err })
}

// The kubelet may be killed; its containers do not notice.
func TestKillTheKubelet(t *testing.T) {
	need(t)
	pod := podOn(t, worker2)
	before := eventuallyGet(t, "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}", "pod", pod)
	pid := strings.TrimSpace(inNode(t, worker2, "systemctl show --property MainPID --value kubelet"))
	inNode(t, worker2, "kill -9 "+pid)
	eventually(t, 30*time.Second, func() error {
		out, err := tryInNode(worker2, "curl -sf http://127.0.0.1:10248/healthz && systemctl show --property MainPID --value kubelet")
		if err == nil && strings.Contains(out, pid) {
			err = fmt.Errorf("still process %s", pid)
		}
		return err
	})
	// Logs go on, exec works as soon as the kubelet has read its pods, nothing was restarted.
	eventually(t, 20*time.Second, func() error {
		out, err := tryKubectl("exec", pod, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/after-the-kill")
		if err != nil {
			return err
		}
		return contains(out, "404")
	})
	eventually(t, 20*time.Second, func() error { return contains(kubectl(t, "logs", pod, "--tail=5"), "/after-the-kill") })
	must(t, is(before, "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}", "pod", pod)())
	must(t, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", worker2)())
}

// containerd may be restarted under running pods.
func TestRestartContainerd(t *testing.T) {
	need(t)
	pod := podOn(t, worker2)
	before := eventuallyGet(t, "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}", "pod", pod)
	inNode(t, worker2, "systemctl restart containerd")
	eventually(t, 30*time.Second, func() error {
		out, err := tryInNode(worker2, "crictl ps")
		if err != nil {
			return err
		}
		return contains(out, "podinfo")
	})
	must(t, contains(kubectl(t, "exec", pod, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/"), pod))
	must(t, is(before, "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}", "pod", pod)())
}
