package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"sort"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/dump"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations on sandboxes and containers: all that a kubelet which
// has just started knows about what its predecessor left running.
//
// Upstream: pkg/kubelet/types/labels.go; pkg/kubelet/kuberuntime/labels.go.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annotationContainerHash      = "io.kubernetes.container.hash"
	annotationRestartCount       = "io.kubernetes.container.restartCount"
	annotationTerminationPath    = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy  = "io.kubernetes.container.terminationMessagePolicy"
	annotationPodTerminationTime = "io.kubernetes.pod.terminationGracePeriod"
)

// container is one run of a container as the runtime knows it.
type container struct {
	id, name, sandboxID, hash      string
	image, imageID                 string
	restartCount                   int32
	state                          cri.ContainerState
	created, started, finished     time.Time
	exitCode                       int32
	reason, message                string
	terminationPath, terminationBy string
	logPath                        string
}

func (c *container) running() bool {
	return c != nil && c.state == cri.ContainerState_CONTAINER_RUNNING
}
func (c *container) exited() bool {
	return c != nil && c.state == cri.ContainerState_CONTAINER_EXITED
}

// podState is a pod as the runtime knows it; each list is newest first.
//
// Upstream: pkg/kubelet/container/runtime.go, PodStatus.
type podState struct {
	uid        types.UID
	name       string
	namespace  string
	sandboxes  []*cri.PodSandboxStatus
	containers []*container
}

// find is the newest run of a container, or nil.
func (s *podState) find(name string) *container {
	for _, c := range s.containers {
		if c.name == name {
			return c
		}
	}
	return nil
}

// lastExited is the newest run of a container that has ended, or nil.
func (s *podState) lastExited(name string) *container {
	for _, c := range s.containers {
		if c.name == name && c.exited() {
			return c
		}
	}
	return nil
}

// sandbox is the newest sandbox if it is ready, else nil.
func (s *podState) sandbox() *cri.PodSandboxStatus {
	if len(s.sandboxes) > 0 && s.sandboxes[0].State == cri.PodSandboxState_SANDBOX_READY {
		return s.sandboxes[0]
	}
	return nil
}

// ips is the addresses of the newest sandbox that is ready.
func (s *podState) ips() []string {
	sandbox := s.sandbox()
	if sandbox == nil || sandbox.Network.GetIp() == "" {
		return nil
	}
	out := []string{sandbox.Network.Ip}
	for _, ip := range sandbox.Network.AdditionalIps {
		out = append(out, ip.Ip)
	}
	return out
}

func (s *podState) anyRunning() bool {
	for _, c := range s.containers {
		if c.running() {
			return true
		}
	}
	return false
}

// readState asks the runtime about one pod.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go, GetPodStatus.
func (k *Kubelet) readState(ctx context.Context, uid types.UID) (*podState, error) {
	selector := map[string]string{labelPodUID: string(uid)}
	s := &podState{uid: uid}
	boxes, err := k.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", err)
	}
	for _, b := range boxes.Items {
		st, err := k.cri.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: b.Id})
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of sandbox %s: %w", b.Id, err)
		}
		s.sandboxes = append(s.sandboxes, st.Status)
		s.name, s.namespace = b.GetMetadata().GetName(), b.GetMetadata().GetNamespace()
	}
	list, err := k.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	for _, item := range list.Containers {
		st, err := k.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: item.Id})
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of container %s: %w", item.Id, err)
		}
		s.containers = append(s.containers, k.fromCRI(ctx, uid, item, st.Status))
	}
	sort.SliceStable(s.sandboxes, func(i, j int) bool { return s.sandboxes[i].CreatedAt > s.sandboxes[j].CreatedAt })
	sort.SliceStable(s.containers, func(i, j int) bool { return s.containers[i].created.After(s.containers[j].created) })
	return s, nil
}

func (k *Kubelet) fromCRI(ctx context.Context, uid types.UID, item *cri.Container, st *cri.ContainerStatus) *container {
	restarts, _ := strconv.ParseInt(st.Annotations[annotationRestartCount], 10, 32)
	c := &container{
		id: st.Id, name: st.Labels[labelContainerName], sandboxID: item.PodSandboxId, hash: st.Annotations[annotationContainerHash],
		image: st.GetImage().GetImage(), imageID: st.ImageRef, restartCount: int32(restarts), state: st.State,
		created: fromNano(st.CreatedAt), started: fromNano(st.StartedAt), finished: fromNano(st.FinishedAt),
		exitCode: st.ExitCode, reason: st.Reason, message: st.Message, logPath: st.LogPath,
		terminationPath: st.Annotations[annotationTerminationPath], terminationBy: st.Annotations[annotationTerminationPolicy],
	}
	if st.ImageId != "" && c.imageID == "" {
		c.imageID = st.ImageId
	}
	if c.exited() {
		if message := k.terminationMessage(ctx, uid, c); message != "" {
			c.message = message
		}
	}
	return c
}

func fromNano(n int64) time.Time {
	if n <= 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// containerHash identifies what a container must be restarted for when it changes.
// It is upstream's number, so that either kubelet keeps the containers that the other has started.
//
// Upstream: pkg/kubelet/container/helpers.go, HashContainer.
func containerHash(c *corev1.Container) string {
	raw, _ := json.Marshal(map[string]string{"image": c.Image, "name": c.Name}) // strings always encode
	h := fnv.New32a()
	io.WriteString(h, dump.ForHash(raw))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
