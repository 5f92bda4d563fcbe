package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
)

// Reasons of containers that wait, as kubectl shows them.
//
// Upstream: pkg/kubelet/images/types.go; pkg/kubelet/container/sync_result.go.
const (
	crashLoopBackOff  = "CrashLoopBackOff"
	errImagePull      = "ErrImagePull"
	imagePullBackOff  = "ImagePullBackOff"
	errImageNeverPull = "ErrImageNeverPull"
	errImageInspect   = "ImageInspectError"
	errInvalidImage   = "InvalidImageName"
	errConfig         = "CreateContainerConfigError"
	errCreate         = "CreateContainerError"
	errRun            = "RunContainerError"
	errPostStart      = "PostStartHookError"
)

// reasons remembers why containers do not run: it is what the status says until
// the next attempt succeeds.
//
// Upstream: pkg/kubelet/reason_cache.go, ReasonCache.
type reasons struct {
	mu    sync.Mutex
	byUID map[types.UID]map[string]waiting
}

func newReasons() *reasons { return &reasons{byUID: map[types.UID]map[string]waiting{}} }

func (r *reasons) set(uid types.UID, name string, w waiting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUID[uid] == nil {
		r.byUID[uid] = map[string]waiting{}
	}
	r.byUID[uid][name] = w
}

func (r *reasons) clear(uid types.UID, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byUID[uid], name)
}

func (r *reasons) forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byUID, uid)
}

// of is a copy of the reasons of a pod.
func (r *reasons) of(uid types.UID) map[string]waiting {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]waiting{}
	for name, w := range r.byUID[uid] {
		out[name] = w
	}
	return out
}

// createSandbox makes the pod's sandbox and returns its id and addresses.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go, createPodSandbox.
func (k *Kubelet) createSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) (string, []string, error) {
	config, err := k.sandboxConfig(pod, attempt)
	if err == nil {
		err = os.MkdirAll(config.LogDirectory, 0o755)
	}
	var resp *cri.RunPodSandboxResponse
	if err == nil {
		runCtx, cancel := context.WithTimeout(ctx, 2*k.cfg.Settings.RuntimeRequestTimeout.Duration)
		defer cancel()
		resp, err = k.cri.RunPodSandbox(runCtx, &cri.RunPodSandboxRequest{Config: config})
	}
	if err != nil {
		if ctx.Err() == nil {
			k.eventf(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		}
		return "", nil, fmt.Errorf("creating sandbox: %w", err)
	}
	st, err := k.cri.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: resp.PodSandboxId})
	if err != nil {
		return "", nil, fmt.Errorf("status of new sandbox: %w", err)
	}
	state := podState{sandboxes: []*cri.PodSandboxStatus{st.Status}}
	k.log.Info("Sandbox created", "pod", podName(pod), "ip", st.Status.GetNetwork().GetIp())
	return resp.PodSandboxId, state.ips(), nil
}

// startContainer brings one container up: back-off, image, create, start, postStart.
// Whatever goes wrong becomes the container's waiting reason.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go, startContainer.
func (k *Kubelet) startContainer(ctx context.Context, pod *corev1.Pod, c *corev1.Container, state *podState, sandboxID string, ips []string, volumes map[string]string) error {
	before := state.find(c.Name)
	if err := k.crashWait(pod, c, state.lastExited(c.Name)); err != nil {
		return err
	}
	fail := func(reason string, err error) error {
		if ctx.Err() != nil {
			return ctx.Err() // interrupted: nothing to tell
		}
		k.reasons.set(pod.UID, c.Name, waiting{reason, err.Error()})
		return err
	}
	image, reason, err := k.ensureImage(ctx, pod, c)
	if err != nil {
		if ctx.Err() == nil {
			k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+reason)
		}
		return fail(reason, err)
	}
	restarts := int32(0)
	if before != nil {
		restarts = before.restartCount + 1
	} else if old := oldStatus(k.status.get(pod), c.Name); old != nil && (old.State.Terminated != nil || old.LastTerminationState.Terminated != nil) {
		restarts = max(old.RestartCount, 1)
	}
	config, err := k.containerConfig(ctx, pod, c, image, restarts, ips, volumes)
	if err != nil {
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return fail(errConfig, err)
	}
	sandbox, err := k.sandboxConfig(pod, 0)
	if err != nil {
		return fail(errConfig, err)
	}
	made, err := k.cri.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		err = plain(err)
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return fail(errCreate, err)
	}
	k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if _, err := k.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		err = plain(err)
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return fail(errRun, err)
	}
	k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "Started", "Container started")
	k.log.Info("Container started", "pod", podName(pod), "container", c.Name)
	k.reasons.clear(pod.UID, c.Name)
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := k.runHook(ctx, pod, c, made.ContainerId, c.Lifecycle.PostStart); err != nil {
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		run := &container{id: made.ContainerId, name: c.Name}
		if err := k.killContainer(ctx, pod, run, "FailedPostStartHook", nil); err != nil {
			return err
		}
		return fail(errPostStart, err)
	}
	return nil
}

// crashWait holds back a container that has crashed, each time for longer.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go, doBackOff.
func (k *Kubelet) crashWait(pod *corev1.Pod, c *corev1.Container, before *container) error {
	if before == nil {
		return nil
	}
	key := string(pod.UID) + "/" + c.Name + "/" + containerHash(c)
	left, wait := k.crashes.remaining(key, before.finished)
	if left <= 0 {
		k.crashes.next(key, before.finished)
		return nil
	}
	k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "BackOff",
		fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, podName(pod)))
	err := fmt.Errorf("back-off %s restarting failed container=%s pod=%s", wait, c.Name, podName(pod))
	k.reasons.set(pod.UID, c.Name, waiting{crashLoopBackOff, err.Error()})
	return backOffError{err, before.finished.Add(wait)}
}

func oldStatus(st corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// plain is a CRI error without gRPC's preamble.
func plain(err error) error {
	if s, ok := grpcstatus.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}

func isNotFound(err error) bool { return err != nil && grpcstatus.Code(err) == codes.NotFound }

// logDir is the folder of a pod's container logs.
func (k *Kubelet) logDir(pod *corev1.Pod) string {
	return filepath.Join(k.cfg.Settings.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// logFile is a container's log relative to logDir.
func logFile(name string, restarts int32) string {
	return filepath.Join(name, strconv.Itoa(int(restarts))+".log")
}

// runHook runs a lifecycle hook to its end.
//
// Upstream: pkg/kubelet/lifecycle/handlers.go, handlerRunner.
func (k *Kubelet) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	switch {
	case hook.Exec != nil:
		resp, err := k.cri.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: hook.Exec.Command})
		if err != nil {
			return err
		}
		if resp.ExitCode != 0 {
			return fmt.Errorf("command %q exited with %d: %s%s", hook.Exec.Command, resp.ExitCode, resp.Stdout, resp.Stderr)
		}
	case hook.HTTPGet != nil:
		return k.probes.HTTPHook(ctx, hook.HTTPGet, c, k.status.get(pod).PodIP)
	case hook.Sleep != nil:
		if !client.Sleep(ctx, time.Duration(hook.Sleep.Seconds)*time.Second) {
			return ctx.Err()
		}
	}
	return nil
}
