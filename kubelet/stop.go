package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client/timing"
)

// killPod stops the containers of a pod, the main ones at once and then the
// sidecars one by one, last first, and then its sandboxes. The grace is the
// pod's own when it is nil.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go, killPodWithSyncResult.
func (k *Kubelet) killPod(ctx context.Context, pod *corev1.Pod, state *podState, grace *time.Duration) error {
	began := time.Now()
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		sidecars[pod.Spec.InitContainers[i].Name] = isSidecar(&pod.Spec.InitContainers[i])
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, c := range state.containers {
		if sidecars[c.name] || !c.running() && c.state != cri.ContainerState_CONTAINER_UNKNOWN {
			continue
		}
		wg.Go(func() {
			if err := k.killContainer(ctx, pod, c, "", grace); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		c := state.find(pod.Spec.InitContainers[i].Name)
		if !isSidecar(&pod.Spec.InitContainers[i]) || !c.running() {
			continue
		}
		left := grace
		if grace != nil {
			rest := max(*grace-time.Since(began), timing.MinimumGracePeriod)
			left = &rest
		}
		if err := k.killContainer(ctx, pod, c, "", left); err != nil {
			errs = append(errs, err)
		}
	}
	for _, b := range state.sandboxes {
		if _, err := k.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: b.Id}); err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("stopping sandbox: %w", err))
		}
	}
	return errors.Join(errs...)
}

// killContainer runs the preStop hook and has the runtime stop a container:
// SIGTERM, and SIGKILL when what is left of the grace is over.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go, killContainer.
func (k *Kubelet) killContainer(ctx context.Context, pod *corev1.Pod, c *container, message string, grace *time.Duration) error {
	left := gracePeriod(pod)
	if grace != nil {
		left = *grace
	}
	if message == "" {
		message = "Stopping container " + c.name
	}
	k.containerEvent(pod, c.name, corev1.EventTypeNormal, "Killing", message)
	if spec := findSpec(pod, c.name); spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && left > 0 {
		began := time.Now()
		hookCtx, cancel := context.WithTimeout(ctx, left)
		if err := k.runHook(hookCtx, pod, spec, c.id, spec.Lifecycle.PreStop); err != nil {
			k.containerEvent(pod, c.name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			k.log.Warn("PreStop hook failed", "pod", podName(pod), "container", c.name, "err", err)
		}
		cancel()
		left -= time.Since(began).Truncate(time.Second)
	}
	left = max(left, timing.MinimumGracePeriod)
	ctx, cancel := context.WithTimeout(ctx, left+k.cfg.Settings.RuntimeRequestTimeout.Duration)
	defer cancel()
	_, err := k.cri.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: int64(left / time.Second)})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("stopping container %s: %w", c.name, err)
	}
	return nil
}

// probeGrace is the grace of a container that its probes have condemned, if the
// probe sets one of its own.
func (k *Kubelet) probeGrace(pod *corev1.Pod, kill killing) *time.Duration {
	spec := findSpec(pod, kill.container.name)
	if spec == nil {
		return nil
	}
	h := k.health(pod)(kill.container)
	probe := spec.LivenessProbe
	if h.startupFailed {
		probe = spec.StartupProbe
	}
	if (!h.livenessFailed && !h.startupFailed) || probe == nil || probe.TerminationGracePeriodSeconds == nil {
		return nil
	}
	grace := time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	return &grace
}

// findSpec is the container of a name in a pod's spec, or nil.
func findSpec(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon); c.Name == name {
			return &c
		}
	}
	return nil
}

// removeRemains removes the sandboxes and containers of a pod that has ended.
func (k *Kubelet) removeRemains(ctx context.Context, uid types.UID) {
	state, err := k.readState(ctx, uid)
	if err != nil {
		return // the garbage collection will find them
	}
	for _, b := range state.sandboxes {
		if _, err := k.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: b.Id}); err != nil {
			k.log.Info("Sandbox not removed", "key", b.Id, "err", err)
		}
	}
}
