package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A worker of any kubelet on any CRI service is a worker, and whose kubeadm made it one is of no account.
func TestSwapKubeletAndRuntime(t *testing.T) {
	needSwap(t, "kubelet", "kubeadm")
	keepSysctls(t, worker2)
	t.Cleanup(func() { putBack(t, worker2) })
	for _, with := range []struct {
		kubeadm, kubelet side
		endpoint         string
		stop             bool // and the machine stops and starts
	}{
		{ours, ours, ourCRI, false}, // the scenarios ask for nothing that an ordinary worker does not do
		{ours, ours, containerdCRI, true},
		{ours, upstream, containerdCRI, false},
		{upstream, upstream, containerdCRI, true}, // all that makes a worker
	} {
		runtime := map[string]side{ourCRI: ours, containerdCRI: upstream}[with.endpoint]
		if !t.Run(fmt.Sprintf("kubeadm=%s,kubelet=%s,cri=%s", with.kubeadm, with.kubelet, runtime), func(t *testing.T) {
			leave(t, worker2)
			putProgram(t, worker2, with.kubeadm, "kubeadm")
			putProgram(t, worker2, with.kubelet, "kubelet")
			join(t, worker2, "--cri-socket", with.endpoint, overlook)
			must(t, is(kubeletVersion(with.kubelet), "{.status.nodeInfo.kubeletVersion}", "node", worker2)())
			worksAsNode(t, worker2, with.endpoint)
			if with.stop {
				t.Run("the machine stops and starts", func(t *testing.T) { survivesStop(t, worker2) })
			}
		}) {
			return
		}
	}
}

// kubeletVersion is what a node says of its kubelet.
func kubeletVersion(by side) string {
	if by == upstream {
		return "v1.36.3"
	}
	return "v1.36.3+orrery"
}

// survivesStop switches a node off and on: the cluster notices in upstream's time, and the node's pods come back.
func survivesStop(t *testing.T, node string) {
	const name = "stays-on"
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: `+name+`}
spec:
  selector: {matchLabels: {app: `+name+`}}
  template:
    metadata: {labels: {app: `+name+`}}
    spec:
      nodeSelector: {kubernetes.io/hostname: `+node+`}
      containers: [{name: c, image: `+podinfo+`, readinessProbe: {httpGet: {path: /readyz, port: 9898}, periodSeconds: 1}}]
`)
	defer kubectl(t, "delete", "deployment", name)
	kubectl(t, "rollout", "status", "deployment/"+name, "--timeout=60s")
	pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app="+name)

	stopUntilUnknown(t, node)
	eventually(t, 5*time.Second, func() error {
		taints, err := jsonPath("{.spec.taints[*]}", "node", node)
		if err != nil {
			return err
		}
		return contains(taints, `"effect":"NoExecute","key":"node.kubernetes.io/unreachable"`)
	})
	eventually(t, 5*time.Second, is("False", `{.status.conditions[?(@.type=="Ready")].status}`, "pod", pod))
	must(t, contains(kubectl(t, "get", "pod", pod, "--no-headers"), "1/1", "Running"))

	orrery(t, "node", "start", node)
	ready(t, node)
	eventually(t, 2*time.Minute, is("1 true", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}", "pod", pod))
	daemons(t, node)
}

// One kubelet takes a node over from the other under running pods: what has been started stays, with its
// restarts, logs and probes.
func TestSwapKubeletUnderRunningPods(t *testing.T) {
	needSwap(t, "kubelet")
	keepSysctls(t, worker3)
	t.Cleanup(func() {
		inNode(t, worker3, "systemctl stop kubelet; systemctl stop orrery-cri || true")
		putKubelet(t, worker3, ours)
		ready(t, worker3)
	})
	const name = "stays"
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: `+name+`}
spec:
  selector: {matchLabels: {app: `+name+`}}
  template:
    metadata: {labels: {app: `+name+`}}
    spec:
      nodeSelector: {kubernetes.io/hostname: `+worker3+`}
      initContainers: [{name: first, image: `+busybox+`, command: [sh, -c, "echo first"]}]
      containers: [{name: c, image: `+podinfo+`, livenessProbe: {httpGet: {path: /healthz, port: 9898}, periodSeconds: 1}}]
`)
	t.Cleanup(func() { kubectl(t, "delete", "deployment", name) })
	kubectl(t, "rollout", "status", "deployment/"+name, "--timeout=60s")
	pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app="+name)
	running := func() string {
		t.Helper()
		list := `{range .items[*]}{.metadata.name}{range .status.containerStatuses[*]} {.containerID} {.restartCount}{end}{"\n"}{end}`
		out, err := jsonPath(list, "pods", "-A", "--field-selector", "spec.nodeName="+worker3)
		must(t, err)
		return out
	}
	before := running()
	must(t, contains(before, pod+" containerd://", "kube-proxy-", "kube-orrery-cni-ds-"))

	for _, by := range []side{upstream, ours} {
		t.Run("to "+string(by), func(t *testing.T) {
			if by == upstream {
				serveCRI(t, worker3)
			} else { // which serves its runtime itself
				inNode(t, worker3, "systemctl stop kubelet orrery-cri")
			}
			putKubelet(t, worker3, by)
			eventually(t, time.Minute, is(kubeletVersion(by), "{.status.nodeInfo.kubeletVersion}", "node", worker3))
			ready(t, worker3)
			eventually(t, 30*time.Second, func() error { // as soon as it knows the pod
				out, err := tryKubectl("exec", pod, "-c", "c", "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/")
				if err != nil {
					return err
				}
				return contains(out, pod)
			})
			must(t, contains(kubectl(t, "logs", pod, "-c", "c"), "listening"))
			worksAsNode(t, worker3, ourCRI)
			if now := running(); now != before {
				t.Errorf("the pods were\n%s\nand are\n%s", before, now)
			}
		})
	}
	must(t, contains(strings.Join(strings.Fields(kubectl(t, "get", "pod", pod, "--no-headers")), " "), fmt.Sprintf("%s 1/1 Running 0 ", pod)))
}
