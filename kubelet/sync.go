package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podDir is the folder of all that belongs to a pod.
func (k *Kubelet) podDir(uid types.UID) string {
	return filepath.Join(k.cfg.RootDir, "pods", string(uid))
}

// syncPod is one pass over a pod that shall run: note its status, then do what
// is to be done next. It says whether the pod has come to its
// end by itself, and whether the runtime has been given something to do and did it.
//
// Upstream: pkg/kubelet/kubelet.go, SyncPod; pkg/kubelet/kuberuntime, SyncPod.
func (k *Kubelet) syncPod(ctx context.Context, w *worker, pod *corev1.Pod, state *podState) (done, did bool, err error) {
	if ok := k.admit(w, pod); !ok {
		return true, false, nil
	}
	st := k.makeStatus(pod, state, false)
	k.status.set(pod, st, mayRun)
	if isTerminal(st.Phase) {
		return true, false, nil
	}
	var mirrorErr error
	if isStatic(pod) { // a pod must run whether or not it can be shown
		if mirrorErr = k.syncMirror(ctx, pod); mirrorErr != nil {
			k.log.Info("Mirror pod is not in sync", "pod", podName(pod), "err", mirrorErr)
			mirrorErr = transientError{mirrorErr}
		}
	}
	if err := k.runtimeState.networkError(); err != nil && !pod.Spec.HostNetwork {
		k.eventf(pod, corev1.EventTypeWarning, "NetworkNotReady", "network is not ready: %v", err)
		return false, false, transientError{err}
	}
	for _, dir := range []string{"volumes", "plugins"} {
		if err := os.MkdirAll(filepath.Join(k.podDir(pod.UID), dir), 0o750); err != nil {
			return false, false, err
		}
	}
	if err := k.cgroups.ensurePod(pod); err != nil {
		return false, false, fmt.Errorf("pod cgroup: %w", err)
	}
	volumes, err := k.volumes.Setup(ctx, pod)
	if err != nil {
		k.eventf(pod, corev1.EventTypeWarning, "FailedMount", "%v", err)
		return false, false, transientError{err}
	}
	k.probes.Update(pod, st)
	if did, err = k.act(ctx, pod, state, volumes); err != nil {
		return false, false, err
	}
	return false, did, mirrorErr
}

// makeStatus is podStatus with all that this kubelet knows.
func (k *Kubelet) makeStatus(pod *corev1.Pod, state *podState, terminal bool) corev1.PodStatus {
	old := k.status.get(pod)
	return podStatus(statusInput{pod: pod, state: state, old: old, reasons: k.reasons.of(pod.UID), terminal: terminal,
		hostIP: k.cfg.NodeIP, runtime: k.runtimeState.runtimeName(),
		probed: func(c *container) probed {
			spec := findSpec(pod, c.name)
			if spec == nil {
				return probed{started: true, ready: true}
			}
			started, ready := k.probes.Result(pod, spec, k.runtimeState.id(c), c.started, old)
			return probed{started, ready}
		}})
}

// health is makeStatus's counterpart for the decision what to do.
func (k *Kubelet) health(pod *corev1.Pod) func(c *container) health {
	old := k.status.get(pod)
	return func(c *container) health {
		liveness, startup := k.probes.Failed(pod.UID, c.name, k.runtimeState.id(c))
		h := health{livenessFailed: liveness, startupFailed: startup, started: true}
		if spec := findSpec(pod, c.name); spec != nil {
			h.started, _ = k.probes.Result(pod, spec, k.runtimeState.id(c), c.started, old)
		}
		return h
	}
}

// act carries out what computeActions decides and says whether it did anything.
func (k *Kubelet) act(ctx context.Context, pod *corev1.Pod, state *podState, volumes map[string]string) (did bool, err error) {
	a := computeActions(pod, state, k.health(pod))
	if a.createSandbox && a.sandboxID != "" {
		k.eventf(pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	switch {
	case a.killPod:
		if len(state.sandboxes) > 0 {
			if err := k.killPod(ctx, pod, state, nil); err != nil {
				return true, err
			}
			did = true
		}
	default:
		for _, kill := range a.kill {
			if err := k.killContainer(ctx, pod, kill.container, kill.message, k.probeGrace(pod, kill)); err != nil {
				return true, err
			}
			did = true
		}
	}
	sandboxID, ips := a.sandboxID, state.ips()
	if a.createSandbox {
		if sandboxID, ips, err = k.createSandbox(ctx, pod, a.attempt); err != nil {
			return did, err
		}
		did = true
		k.status.set(pod, readyToStart(pod, k.status.get(pod)), mayRun)
	}
	var errs []error
	for _, c := range a.start {
		if err := k.startContainer(ctx, pod, c, state, sandboxID, ips, volumes); err != nil {
			errs = append(errs, err)
			continue
		}
		did = true
	}
	return did, firstToRetry(errs)
}

// firstToRetry is the error whose retry comes first.
func firstToRetry(errs []error) error {
	var best error
	var first time.Time
	for _, err := range errs {
		var wait backOffError
		if !errors.As(err, &wait) {
			if best == nil {
				best = err
			}
			continue
		}
		if first.IsZero() || wait.until.Before(first) {
			best, first = err, wait.until
		}
	}
	return best
}

// syncTerminating stops a pod's containers; when it succeeds, none runs.
//
// Upstream: pkg/kubelet/kubelet.go, SyncTerminatingPod.
func (k *Kubelet) syncTerminating(ctx context.Context, pod *corev1.Pod, state *podState, grace time.Duration) error {
	if old := k.status.get(pod); !isTerminal(old.Phase) {
		k.status.set(pod, k.makeStatus(pod, state, false), mayRun)
	}
	k.probes.StopRestarting(pod.UID)
	if state.anyRunning() {
		k.log.Info("Pod is being stopped", "pod", podName(pod), "grace", grace)
	}
	if err := k.killPod(ctx, pod, state, &grace); err != nil {
		return err
	}
	k.probes.Remove(pod.UID)
	state, err := k.readState(ctx, pod.UID)
	if err != nil {
		return err
	}
	if state.anyRunning() {
		return transientError{errors.New("containers still run")}
	}
	k.status.set(pod, k.makeStatus(pod, state, true), stopped)
	return nil
}

// syncTerminated removes what a stopped pod has left on the node. Its containers
// stay for kubectl logs until the garbage collection, unless the pod is going.
//
// Upstream: pkg/kubelet/kubelet.go, SyncTerminatedPod.
func (k *Kubelet) syncTerminated(ctx context.Context, pod *corev1.Pod) error {
	if err := k.volumes.Teardown(pod.UID); err != nil {
		return transientError{fmt.Errorf("unmounting volumes: %w", err)}
	}
	k.cgroups.removePod(pod)
	k.reasons.forget(pod.UID)
	k.status.set(pod, k.status.get(pod), cleanedUp)
	if k.pods.get(pod.UID) == nil || pod.DeletionTimestamp != nil {
		k.removeRemains(ctx, pod.UID)
	}
	return nil
}
