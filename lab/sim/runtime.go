package sim

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotations of a pod that tell its hollow containers how to behave. Without
// them a container runs until it is stopped, and exits with 0 when asked to.
const (
	// AnnotationExitAfter is a duration after its start at which a container exits.
	AnnotationExitAfter = "sim.orrery/exit-after"
	// AnnotationExitCode is with what, if not 0.
	AnnotationExitCode = "sim.orrery/exit-code"
	// AnnotationStopAfter is a duration that a container takes to end when it is asked to.
	AnnotationStopAfter = "sim.orrery/stop-after"
)

// missingTag marks images that no registry has.
const missingTag = ":missing"

// nothingRuns answers every call of CRI that the Runtime does not know.
type nothingRuns struct{}

func (nothingRuns) error() error {
	return grpcstatus.Error(codes.Unimplemented, "the node is hollow: its containers are made up and run no process")
}

// Invoke implements grpc.ClientConnInterface.
func (n nothingRuns) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return n.error()
}

// NewStream implements grpc.ClientConnInterface.
func (n nothingRuns) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, n.error()
}

// Runtime is a container runtime that only keeps the books: sandboxes get
// addresses of the node's pod CIDR, containers start, have a log of one line, and
// end. It outlives the kubelet, as a real one does.
//
// Left out: exec, attach, port-forward, statistics, container events (the
// kubelet's relist finds what has ended, within a second).
type Runtime struct {
	cri.RuntimeServiceClient // what is not below
	cri.ImageServiceClient

	// CIDR waits for the range that the node's pods have their addresses from.
	CIDR func(ctx context.Context) (netip.Prefix, error)
	// Delay is how long a sandbox takes to be there.
	Delay time.Duration

	mu         sync.Mutex
	serial     int
	sandboxes  map[string]*sandbox
	containers map[string]*hollow
	images     map[string]bool // by name
	last       netip.Addr      // given to a sandbox
	running    chan struct{}   // closed unless the machine is frozen
}

type sandbox struct {
	st     *cri.PodSandboxStatus
	config *cri.PodSandboxConfig
}

// hollow is a container in name only.
type hollow struct {
	st    *cri.ContainerStatus
	box   *sandbox
	timer *time.Timer
	ended chan struct{}
}

// NewRuntime makes one without containers or images.
func NewRuntime() *Runtime {
	r := &Runtime{RuntimeServiceClient: cri.NewRuntimeServiceClient(nothingRuns{}), ImageServiceClient: cri.NewImageServiceClient(nothingRuns{}),
		sandboxes: map[string]*sandbox{}, containers: map[string]*hollow{}, images: map[string]bool{}, running: make(chan struct{})}
	close(r.running)
	return r
}

// Freeze has every call wait until Thaw.
func (r *Runtime) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isClosed(r.running) {
		r.running = make(chan struct{})
	}
}

// Thaw lets calls go on.
func (r *Runtime) Thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !isClosed(r.running) {
		close(r.running)
	}
}

// Crash is a power cut: nothing runs any more, and nobody knows how it ended.
func (r *Runtime) Crash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.sandboxes {
		b.st.State = cri.PodSandboxState_SANDBOX_NOTREADY
	}
	for _, c := range r.containers {
		r.end(c, 255, "Unknown")
	}
}

// Exit has the running containers of a pod exit, all or those of one name, and
// says how many there were.
func (r *Runtime) Exit(namespace, pod, container string, code int32) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		m := c.box.config.Metadata
		if m.Namespace == namespace && m.Name == pod && (container == "" || container == c.st.Metadata.Name) && c.st.State == cri.ContainerState_CONTAINER_RUNNING {
			r.end(c, code, "")
			n++
		}
	}
	return n
}

// Running is the namespace/name of each pod of which a container runs, by the
// pod's UID.
func (r *Runtime) Running() map[types.UID]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[types.UID]string{}
	for _, c := range r.containers {
		if m := c.box.config.Metadata; c.st.State == cri.ContainerState_CONTAINER_RUNNING {
			out[types.UID(m.Uid)] = m.Namespace + "/" + m.Name
		}
	}
	return out
}

// lock takes the runtime's turn, once the machine is not frozen.
func (r *Runtime) lock(ctx context.Context) error {
	for {
		r.mu.Lock()
		if isClosed(r.running) {
			return nil
		}
		wait := r.running
		r.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return grpcstatus.FromContextError(ctx.Err()).Err()
		}
	}
}

func (r *Runtime) id() string {
	r.serial++
	return fmt.Sprintf("%064x", r.serial)
}

// Version implements cri.RuntimeServiceClient.
func (r *Runtime) Version(ctx context.Context, _ *cri.VersionRequest, _ ...grpc.CallOption) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "hollow", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status implements cri.RuntimeServiceClient.
func (r *Runtime) Status(ctx context.Context, _ *cri.StatusRequest, _ ...grpc.CallOption) (*cri.StatusResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}}}, nil
}

// RunPodSandbox implements cri.RuntimeServiceClient.
func (r *Runtime) RunPodSandbox(ctx context.Context, q *cri.RunPodSandboxRequest, _ ...grpc.CallOption) (*cri.RunPodSandboxResponse, error) {
	host := q.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == cri.NamespaceMode_NODE
	var cidr netip.Prefix
	if !host {
		var err error
		if cidr, err = r.CIDR(ctx); err != nil {
			return nil, grpcstatus.Errorf(codes.Unknown, "failed to setup network for sandbox: %v", err)
		}
	}
	t := time.NewTimer(r.Delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	}
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	st := &cri.PodSandboxStatus{Id: r.id(), Metadata: q.Config.Metadata, State: cri.PodSandboxState_SANDBOX_READY, CreatedAt: r.now(), Labels: q.Config.Labels,
		Network: &cri.PodSandboxNetworkStatus{}, Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: q.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()}}}
	if !host {
		ip, err := r.address(cidr)
		if err != nil {
			return nil, err
		}
		st.Network.Ip = ip.String()
	}
	r.sandboxes[st.Id] = &sandbox{st, q.Config}
	return &cri.RunPodSandboxResponse{PodSandboxId: st.Id}, nil
}

// now is the time, a little later at each call, so that what came later is newer.
func (r *Runtime) now() int64 { return time.Now().UnixNano() + int64(r.serial) }

// address is the next one of the range that no sandbox has; mu is held.
func (r *Runtime) address(cidr netip.Prefix) (netip.Addr, error) {
	used := map[string]bool{}
	for _, b := range r.sandboxes {
		used[b.st.Network.Ip] = true
	}
	for range 1 << (cidr.Addr().BitLen() - cidr.Bits()) {
		if r.last = r.last.Next(); !cidr.Contains(r.last) || !cidr.Contains(r.last.Next()) {
			r.last = cidr.Addr().Next().Next() // after the network's and the bridge's own
		}
		if !used[r.last.String()] {
			return r.last, nil
		}
	}
	return netip.Addr{}, grpcstatus.Errorf(codes.Unknown, "failed to setup network for sandbox: no IP addresses available in range set: %s", cidr)
}

// StopPodSandbox implements cri.RuntimeServiceClient.
func (r *Runtime) StopPodSandbox(ctx context.Context, q *cri.StopPodSandboxRequest, _ ...grpc.CallOption) (*cri.StopPodSandboxResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if b := r.sandboxes[q.PodSandboxId]; b != nil {
		b.st.State = cri.PodSandboxState_SANDBOX_NOTREADY
		for _, c := range r.containers {
			if c.box == b {
				r.end(c, 137, "")
			}
		}
	}
	return &cri.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements cri.RuntimeServiceClient.
func (r *Runtime) RemovePodSandbox(ctx context.Context, q *cri.RemovePodSandboxRequest, _ ...grpc.CallOption) (*cri.RemovePodSandboxResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.box.st.Id == q.PodSandboxId {
			r.end(c, 137, "")
			delete(r.containers, id)
		}
	}
	delete(r.sandboxes, q.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

func selected(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// ListPodSandbox implements cri.RuntimeServiceClient.
func (r *Runtime) ListPodSandbox(ctx context.Context, q *cri.ListPodSandboxRequest, _ ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, b := range r.sandboxes {
		if selected(q.GetFilter().GetLabelSelector(), b.st.Labels) {
			out.Items = append(out.Items, &cri.PodSandbox{Id: b.st.Id, Metadata: b.st.Metadata, State: b.st.State, CreatedAt: b.st.CreatedAt, Labels: b.st.Labels})
		}
	}
	return out, nil
}

// PodSandboxStatus implements cri.RuntimeServiceClient.
func (r *Runtime) PodSandboxStatus(ctx context.Context, q *cri.PodSandboxStatusRequest, _ ...grpc.CallOption) (*cri.PodSandboxStatusResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	b := r.sandboxes[q.PodSandboxId]
	if b == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "sandbox %q: not found", q.PodSandboxId)
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{Id: b.st.Id, Metadata: b.st.Metadata, State: b.st.State, CreatedAt: b.st.CreatedAt,
		Labels: b.st.Labels, Network: b.st.Network, Linux: b.st.Linux}}, nil
}

// CreateContainer implements cri.RuntimeServiceClient.
func (r *Runtime) CreateContainer(ctx context.Context, q *cri.CreateContainerRequest, _ ...grpc.CallOption) (*cri.CreateContainerResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	b := r.sandboxes[q.PodSandboxId]
	if b == nil {
		return nil, grpcstatus.Errorf(codes.NotFound, "sandbox %q: not found", q.PodSandboxId)
	}
	st := &cri.ContainerStatus{Id: r.id(), Metadata: q.Config.Metadata, State: cri.ContainerState_CONTAINER_CREATED, CreatedAt: r.now(),
		Image: &cri.ImageSpec{Image: q.Config.GetImage().GetUserSpecifiedImage()}, ImageRef: q.Config.GetImage().GetImage(), Labels: q.Config.Labels,
		Annotations: q.Config.Annotations, LogPath: filepath.Join(b.config.LogDirectory, q.Config.LogPath)}
	line := fmt.Sprintf("%s stdout F hollow container %q of image %q: nothing runs here\n", time.Now().UTC().Format(time.RFC3339Nano), st.Metadata.Name, st.Image.Image)
	if err := os.WriteFile(st.LogPath, []byte(line), 0o644); err != nil {
		return nil, grpcstatus.Errorf(codes.Unknown, "log of the container: %v", err)
	}
	r.containers[st.Id] = &hollow{st: st, box: b, ended: make(chan struct{})}
	return &cri.CreateContainerResponse{ContainerId: st.Id}, nil
}

// find is a container; mu is held.
func (r *Runtime) find(id string) (*hollow, error) {
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, grpcstatus.Errorf(codes.NotFound, "container %q: not found", id)
}

// behaviour is what the pod's annotations say: a duration, and whether it is there.
func (c *hollow) behaviour(annotation string) (time.Duration, bool) {
	d, err := time.ParseDuration(c.box.config.Annotations[annotation])
	return d, err == nil
}

// StartContainer implements cri.RuntimeServiceClient.
func (r *Runtime) StartContainer(ctx context.Context, q *cri.StartContainerRequest, _ ...grpc.CallOption) (*cri.StartContainerResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	c, err := r.find(q.ContainerId)
	if err != nil {
		return nil, err
	}
	c.st.State, c.st.StartedAt = cri.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	if d, ok := c.behaviour(AnnotationExitAfter); ok {
		code, _ := strconv.ParseInt(c.box.config.Annotations[AnnotationExitCode], 10, 32)
		c.timer = time.AfterFunc(d, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.end(c, int32(code), "")
		})
	}
	return &cri.StartContainerResponse{}, nil
}

// end makes a container have exited; mu is held. An empty reason is the usual one of the code.
func (r *Runtime) end(c *hollow, code int32, reason string) {
	if c.st.State == cri.ContainerState_CONTAINER_EXITED {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if reason == "" {
		if reason = "Error"; code == 0 {
			reason = "Completed"
		}
	}
	c.st.State, c.st.FinishedAt, c.st.ExitCode, c.st.Reason = cri.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), code, reason
	close(c.ended)
}

// StopContainer implements cri.RuntimeServiceClient.
func (r *Runtime) StopContainer(ctx context.Context, q *cri.StopContainerRequest, _ ...grpc.CallOption) (*cri.StopContainerResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	c, err := r.find(q.ContainerId)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	takes, _ := c.behaviour(AnnotationStopAfter)
	code, grace := int32(0), time.Duration(q.Timeout)*time.Second
	if takes > grace {
		code, takes = 137, grace
	}
	t := time.NewTimer(takes)
	defer t.Stop()
	select {
	case <-c.ended:
		return &cri.StopContainerResponse{}, nil
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	case <-t.C:
	}
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	r.end(c, code, "")
	return &cri.StopContainerResponse{}, nil
}

// RemoveContainer implements cri.RuntimeServiceClient.
func (r *Runtime) RemoveContainer(ctx context.Context, q *cri.RemoveContainerRequest, _ ...grpc.CallOption) (*cri.RemoveContainerResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if c := r.containers[q.ContainerId]; c != nil {
		r.end(c, 137, "")
		delete(r.containers, q.ContainerId)
	}
	return &cri.RemoveContainerResponse{}, nil
}

// ListContainers implements cri.RuntimeServiceClient.
func (r *Runtime) ListContainers(ctx context.Context, q *cri.ListContainersRequest, _ ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := &cri.ListContainersResponse{}
	for _, c := range r.containers {
		if selected(q.GetFilter().GetLabelSelector(), c.st.Labels) {
			out.Containers = append(out.Containers, &cri.Container{Id: c.st.Id, PodSandboxId: c.box.st.Id, Metadata: c.st.Metadata, State: c.st.State, Labels: c.st.Labels})
		}
	}
	return out, nil
}

// ContainerStatus implements cri.RuntimeServiceClient.
func (r *Runtime) ContainerStatus(ctx context.Context, q *cri.ContainerStatusRequest, _ ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	c, err := r.find(q.ContainerId)
	if err != nil {
		return nil, err
	}
	s := c.st
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Reason: s.Reason, Image: s.Image, ImageRef: s.ImageRef, Labels: s.Labels, Annotations: s.Annotations, LogPath: s.LogPath}}, nil
}

// ExecSync implements cri.RuntimeServiceClient: commands of probes and hooks succeed.
func (r *Runtime) ExecSync(ctx context.Context, q *cri.ExecSyncRequest, _ ...grpc.CallOption) (*cri.ExecSyncResponse, error) {
	return &cri.ExecSyncResponse{}, nil
}

// ListContainerStats implements cri.RuntimeServiceClient: nothing uses nothing.
func (r *Runtime) ListContainerStats(context.Context, *cri.ListContainerStatsRequest, ...grpc.CallOption) (*cri.ListContainerStatsResponse, error) {
	return &cri.ListContainerStatsResponse{}, nil
}

func image(name string) *cri.Image {
	return &cri.Image{Id: "hollow:" + name, RepoTags: []string{name}, Size: 1 << 20}
}

// ImageStatus implements cri.ImageServiceClient.
func (r *Runtime) ImageStatus(ctx context.Context, q *cri.ImageStatusRequest, _ ...grpc.CallOption) (*cri.ImageStatusResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if !r.images[q.Image.Image] {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: image(q.Image.Image)}, nil
}

// PullImage implements cri.ImageServiceClient: every image is there at once, but those with the tag "missing".
func (r *Runtime) PullImage(ctx context.Context, q *cri.PullImageRequest, _ ...grpc.CallOption) (*cri.PullImageResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	name := q.Image.Image
	if strings.HasSuffix(name, missingTag) {
		return nil, grpcstatus.Errorf(codes.NotFound, "failed to pull and unpack image %q: failed to resolve reference %q: %s: not found", name, name, name)
	}
	r.images[name] = true
	return &cri.PullImageResponse{ImageRef: image(name).Id}, nil
}

// ListImages implements cri.ImageServiceClient.
func (r *Runtime) ListImages(ctx context.Context, _ *cri.ListImagesRequest, _ ...grpc.CallOption) (*cri.ListImagesResponse, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	out := &cri.ListImagesResponse{}
	for name := range r.images {
		out.Images = append(out.Images, image(name))
	}
	return out, nil
}
