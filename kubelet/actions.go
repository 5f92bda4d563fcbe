package kubelet

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// actions is what has to be done to bring a pod nearer to its spec, in this
// order: kill the pod or some containers, create a sandbox, start containers.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go, podActions.
type actions struct {
	killPod       bool
	createSandbox bool
	sandboxID     string // of the sandbox that is there, sound or not
	attempt       uint32 // of the sandbox to create
	kill          []killing
	start         []*corev1.Container // init containers first
}

// killing is a container to be killed and why.
type killing struct {
	container *container
	message   string
}

// health is what the probes say about a container's newest run.
type health struct {
	livenessFailed, startupFailed bool
	started                       bool // the startup probe succeeded, or there is none
}

// isSidecar says whether an init container is one that keeps running beside the others.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// computeActions decides what to do from what is wanted and what is there. It is
// pure: the whole of a pod's life on one screen.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go, computePodActions.
// Left out: in-place resize, container restart rules.
func computeActions(pod *corev1.Pod, s *podState, probes func(c *container) health) actions {
	a := sandboxActions(pod, s)
	if a.createSandbox {
		return newSandboxActions(pod, s, a)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if s.find(c.Name) == nil {
			a.start = append(a.start, &c)
		}
	}
	if !initActions(pod, s, probes, &a) {
		return a
	}
	keep := 0
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		now := s.find(c.Name)
		if !now.running() {
			if shouldRestart(pod, c, now) {
				if now != nil && now.state == cri.ContainerState_CONTAINER_UNKNOWN {
					a.kill = append(a.kill, killing{now, fmt.Sprintf("Container %s is in unknown state, try killing it before starting a new one", c.Name)})
				}
				a.start = append(a.start, c)
			}
			continue
		}
		why := sick(c, now, probes(now))
		if why == "" {
			keep++
			continue
		}
		// A changed definition is acted on whatever the restart policy says.
		if now.hash != containerHash(c) || pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
			why += ", will be restarted"
			a.start = append(a.start, c)
		}
		a.kill = append(a.kill, killing{now, why})
	}
	if keep == 0 && len(a.start) == 0 {
		a.killPod = true // nothing runs and nothing will
		a.kill = nil
	}
	return a
}

// sick says why a running container has to be killed, or "".
func sick(c *corev1.Container, now *container, h health) string {
	switch {
	case now.hash != containerHash(c):
		return fmt.Sprintf("Container %s definition changed", c.Name)
	case h.livenessFailed:
		return fmt.Sprintf("Container %s failed liveness probe", c.Name)
	case h.startupFailed:
		return fmt.Sprintf("Container %s failed startup probe", c.Name)
	}
	return ""
}

// sandboxActions asks whether the sandbox that is there will do.
//
// Upstream: pkg/kubelet/kuberuntime/util/util.go, PodSandboxChanged.
func sandboxActions(pod *corev1.Pod, s *podState) actions {
	if len(s.sandboxes) == 0 {
		return actions{createSandbox: true, killPod: true}
	}
	ready := 0
	for _, b := range s.sandboxes {
		if b.State == cri.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	newest := s.sandboxes[0]
	onHost := newest.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE
	changed := ready != 1 || newest.State != cri.PodSandboxState_SANDBOX_READY ||
		onHost != pod.Spec.HostNetwork || !pod.Spec.HostNetwork && newest.GetNetwork().GetIp() == ""
	a := actions{sandboxID: newest.Id, createSandbox: changed, killPod: changed}
	if changed {
		a.attempt = newest.GetMetadata().GetAttempt() + 1
	}
	return a
}

// newSandboxActions begins the pod afresh, from its first init container, unless
// it has nothing left to do.
func newSandboxActions(pod *corev1.Pod, s *podState, a actions) actions {
	if pod.Spec.RestartPolicy == corev1.RestartPolicyNever && a.attempt != 0 && len(s.containers) != 0 {
		a.createSandbox = false
		return a
	}
	var todo []*corev1.Container
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if now := s.find(c.Name); pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && now.exited() && now.exitCode == 0 {
			continue
		}
		todo = append(todo, c)
	}
	switch {
	case len(todo) == 0:
		a.createSandbox = false
	case len(pod.Spec.InitContainers) > 0:
		a.start = []*corev1.Container{&pod.Spec.InitContainers[0]}
	default:
		a.start = todo
	}
	return a
}

// initActions goes through the init containers in their order and says whether
// the main containers may start.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go, computeInitContainerActions.
func initActions(pod *corev1.Pod, s *podState, probes func(c *container) health, a *actions) bool {
	initialized := false // a main container ran in this sandbox: only sidecars still matter
	for i := range pod.Spec.Containers {
		if now := s.find(pod.Spec.Containers[i].Name); now != nil && now.sandboxID == a.sandboxID {
			initialized = true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		now := s.find(c.Name)
		if now != nil && now.sandboxID != a.sandboxID {
			now = nil // that was before the sandbox changed: begin again
		}
		if isSidecar(c) {
			if !sidecarActions(c, now, probes, a) && !initialized {
				return false
			}
			continue
		}
		switch {
		case initialized:
		case now == nil || now.state == cri.ContainerState_CONTAINER_UNKNOWN || now.state == cri.ContainerState_CONTAINER_CREATED:
			a.start = append(a.start, c)
			return false
		case now.running():
			if why := sick(c, now, health{}); why != "" {
				a.kill = append(a.kill, killing{now, why + ", will be restarted"})
				a.start = append(a.start, c)
			}
			return false
		case now.exitCode != 0:
			if pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
				a.killPod = true
			} else {
				a.start = append(a.start, c)
			}
			return false
		}
	}
	return true
}

// sidecarActions says whether the sidecar is up, and starts it if not.
func sidecarActions(c *corev1.Container, now *container, probes func(c *container) health, a *actions) bool {
	if !now.running() {
		a.start = append(a.start, c)
		return false
	}
	h := probes(now)
	if why := sick(c, now, h); why != "" {
		a.kill = append(a.kill, killing{now, why + ", will be restarted"})
		a.start = append(a.start, c)
		return false
	}
	return h.started
}

// shouldRestart is the restart policy.
//
// Upstream: pkg/kubelet/container/helpers.go, ShouldContainerBeRestarted.
func shouldRestart(pod *corev1.Pod, c *corev1.Container, now *container) bool {
	switch {
	case pod.DeletionTimestamp != nil:
		return false
	case now == nil:
		return true
	case now.running():
		return false
	case !now.exited(): // created and never started, or lost
		return true
	case isSidecar(c):
		return true
	case pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
		return false
	case pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure:
		return now.exitCode != 0
	}
	return true
}
