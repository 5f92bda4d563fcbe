package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/kubelet/server"
)

var _ server.Host = (*Kubelet)(nil)

// Pods is the pods of this node with their newest status.
func (k *Kubelet) Pods() []*corev1.Pod {
	pods := k.pods.all()
	for i, pod := range pods {
		pods[i] = pod.DeepCopy()
		pods[i].Status = k.status.get(pod)
	}
	return pods
}

// Healthy is nil while the containers are listed regularly.
func (k *Kubelet) Healthy() error {
	k.runtimeState.mu.Lock()
	defer k.runtimeState.mu.Unlock()
	if last := k.runtimeState.lastRelist; !last.IsZero() && time.Since(last) > 10*time.Minute {
		return fmt.Errorf("sync Loop took longer than expected")
	}
	return nil
}

func (k *Kubelet) find(namespace, name string) (*corev1.Pod, error) {
	pod := k.pods.named(namespace, name)
	if pod == nil {
		return nil, server.NotFound("pod does not exist")
	}
	return pod, nil
}

// run finds a container by name; previous wants the run before the newest.
func (k *Kubelet) run(ctx context.Context, namespace, name, containerName string, previous bool) (*corev1.Pod, *container, error) {
	pod := k.pods.named(namespace, name)
	if pod == nil {
		return nil, nil, server.NotFound(fmt.Sprintf("pod %q does not exist", name))
	}
	if findSpec(pod, containerName) == nil {
		return nil, nil, server.NotFound(fmt.Sprintf("container %q in pod %q is not available", containerName, name))
	}
	state, err := k.readState(ctx, pod.UID)
	if err != nil {
		return nil, nil, err
	}
	var runs []*container
	for _, c := range state.containers {
		if c.name == containerName {
			runs = append(runs, c)
		}
	}
	waits := oldStatus(k.status.get(pod), containerName)
	switch {
	case previous && len(runs) > 0 && runs[0].exited() && waits != nil && waits.State.Waiting != nil:
		return pod, runs[0], nil // crashed, and not started again yet
	case previous && len(runs) > 1:
		return pod, runs[1], nil
	case previous:
		return nil, nil, fmt.Errorf("previous terminated container %q in pod %q not found", containerName, name)
	case len(runs) > 0 && (runs[0].running() || runs[0].exited()):
		return pod, runs[0], nil
	case len(runs) > 1:
		return pod, runs[1], nil
	}
	reason := "ContainerCreating"
	if waits != nil && waits.State.Waiting != nil {
		reason = waits.State.Waiting.Reason
		if message := waits.State.Waiting.Message; reason == imagePullBackOff || reason == errImagePull {
			return nil, nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", containerName, name, map[string]string{
				errImagePull: "image can't be pulled", imagePullBackOff: "trying and failing to pull image"}[reason])
		} else if message != "" && reason != crashLoopBackOff {
			reason = message
		}
	}
	return nil, nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", containerName, name, reason)
}

// Log is where a container's log lies, and whether it may still grow.
func (k *Kubelet) Log(ctx context.Context, namespace, name, containerName string, previous bool) (string, func() bool, error) {
	pod, c, err := k.run(ctx, namespace, name, containerName, previous)
	if err != nil {
		return "", nil, err
	}
	path := c.logPath
	if path == "" {
		path = filepath.Join(k.logDir(pod), logFile(c.name, c.restartCount))
	}
	return path, func() bool {
		st, err := k.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
		return err == nil && st.Status.State == cri.ContainerState_CONTAINER_RUNNING
	}, nil
}

// running finds a container that is alive.
func (k *Kubelet) running(ctx context.Context, namespace, name, containerName string) (*container, error) {
	pod, err := k.find(namespace, name)
	if err != nil {
		return nil, err
	}
	state, err := k.readState(ctx, pod.UID)
	if err != nil {
		return nil, err
	}
	for _, c := range state.containers {
		if c.name == containerName && c.running() {
			return c, nil
		}
	}
	return nil, server.NotFound(fmt.Sprintf("container not found (%q)", containerName))
}

// Exec prepares a process beside those of a container.
func (k *Kubelet) Exec(ctx context.Context, namespace, name, containerName string, command []string, s server.Streams) (*url.URL, error) {
	c, err := k.running(ctx, namespace, name, containerName)
	if err != nil {
		return nil, err
	}
	resp, err := k.cri.Exec(ctx, &cri.ExecRequest{ContainerId: c.id, Cmd: command, Tty: s.TTY, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr})
	if err != nil {
		return nil, plain(err)
	}
	return url.Parse(resp.Url)
}

// Attach prepares a connection to a container's own process.
func (k *Kubelet) Attach(ctx context.Context, namespace, name, containerName string, s server.Streams) (*url.URL, error) {
	c, err := k.running(ctx, namespace, name, containerName)
	if err != nil {
		return nil, err
	}
	pod := k.pods.named(namespace, name)
	if spec := findSpec(pod, containerName); spec != nil {
		s.TTY = spec.TTY // as the process has it, whatever is asked
	}
	resp, err := k.cri.Attach(ctx, &cri.AttachRequest{ContainerId: c.id, Tty: s.TTY, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr && !s.TTY})
	if err != nil {
		return nil, plain(err)
	}
	return url.Parse(resp.Url)
}

// PortForward prepares connections to ports inside a pod.
func (k *Kubelet) PortForward(ctx context.Context, namespace, name string, ports []int32) (*url.URL, error) {
	pod, err := k.find(namespace, name)
	if err != nil {
		return nil, err
	}
	state, err := k.readState(ctx, pod.UID)
	if err != nil {
		return nil, err
	}
	if state.sandbox() == nil {
		return nil, errors.New("pod sandbox is not running")
	}
	resp, err := k.cri.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: state.sandbox().Id, Port: ports})
	if err != nil {
		return nil, plain(err)
	}
	return url.Parse(resp.Url)
}
