package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
	"orrery/test/cluster"
)

// fakeRuntime is a container runtime in memory. Containers run for ever unless
// ends says otherwise; time is the bubble's.
type fakeRuntime struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient

	mu         sync.Mutex
	down       bool
	noNetwork  bool
	unreadable bool // containers are listed, and that is all
	serial     int
	sandboxes  map[string]*cri.PodSandboxStatus
	containers map[string]*fakeContainer
	starts     []start                  // of containers, in order
	stops      []string                 // names of containers that were stopped, in order
	ends       map[string]time.Duration // by container name: how long it runs
	codes      map[string]int32         // by container name: how it exits
	stubborn   map[string]bool          // by container name: SIGTERM does not impress it
	noImage    map[string]bool
	takes      time.Duration // how long it takes to start a container, or to run a command in it
	pulls      []time.Time
	probe      func(id string) int32 // exit code of ExecSync
}

type start struct {
	name string
	at   time.Time
}

type fakeContainer struct {
	st        *cri.ContainerStatus
	sandbox   string
	labels    map[string]string
	timer     *time.Timer
	onStopped chan struct{}
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{sandboxes: map[string]*cri.PodSandboxStatus{}, containers: map[string]*fakeContainer{}, ends: map[string]time.Duration{},
		codes: map[string]int32{}, stubborn: map[string]bool{}, noImage: map[string]bool{}, probe: func(string) int32 { return 0 }}
}

// turn locks, and fails while the runtime is down.
func (f *fakeRuntime) turn() (func(), error) {
	f.mu.Lock()
	if f.down {
		f.mu.Unlock()
		return nil, grpcstatus.Error(codes.Unavailable, "down")
	}
	return f.mu.Unlock, nil
}

func (f *fakeRuntime) id(kind string) string {
	f.serial++
	return fmt.Sprintf("%s-%d", kind, f.serial)
}

func (f *fakeRuntime) Version(context.Context, *cri.VersionRequest, ...grpc.CallOption) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "1.7.24"}, nil
}

func (f *fakeRuntime) Status(context.Context, *cri.StatusRequest, ...grpc.CallOption) (*cri.StatusResponse, error) {
	unlock, err := f.turn()
	if err != nil {
		return nil, err
	}
	defer unlock()
	network := &cri.RuntimeCondition{Type: "NetworkReady", Status: !f.noNetwork}
	if f.noNetwork {
		network.Reason, network.Message = "NetworkPluginNotReady", "Network plugin returns error: cni plugin not initialized"
	}
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: "RuntimeReady", Status: true}, network}}}, nil
}

func (f *fakeRuntime) RunPodSandbox(_ context.Context, r *cri.RunPodSandboxRequest, _ ...grpc.CallOption) (*cri.RunPodSandboxResponse, error) {
	unlock, err := f.turn()
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := f.id("sandbox")
	c := r.Config
	st := &cri.PodSandboxStatus{Id: id, Metadata: c.Metadata, State: cri.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(), Labels: c.Labels,
		Network: &cri.PodSandboxNetworkStatus{}, Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: c.Linux.SecurityContext.NamespaceOptions}}}
	if c.Linux.SecurityContext.NamespaceOptions.Network != cri.NamespaceMode_NODE {
		st.Network.Ip = fmt.Sprintf("10.244.1.%d", f.serial)
	}
	f.sandboxes[id] = st
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, r *cri.StopPodSandboxRequest, _ ...grpc.CallOption) (*cri.StopPodSandboxResponse, error) {
	unlock, err := f.turn()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b := f.sandboxes[r.PodSandboxId]; b != nil {
		b.State = cri.PodSandboxState_SANDBOX_NOTREADY
		for _, c := range f.containers {
			if c.sandbox == b.Id {
				f.end(c, 137)
			}
		}
	}
	return &cri.StopPodSandboxResponse{}, nil
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *cri.RemovePodSandboxRequest, _ ...grpc.CallOption) (*cri.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, r.PodSandboxId)
	for id, c := range f.containers {
		if c.sandbox == r.PodSandboxId {
			delete(f.containers, id)
		}
	}
	return &cri.RemovePodSandboxResponse{}, nil
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest, _ ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	unlock, err := f.turn()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, b := range f.sandboxes {
		if matches(r.GetFilter().GetLabelSelector(), b.Labels) {
			out.Items = append(out.Items, &cri.PodSandbox{Id: b.Id, Metadata: b.Metadata, State: b.State, CreatedAt: b.CreatedAt, Labels: b.Labels})
		}
	}
	return out, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, r *cri.PodSandboxStatusRequest, _ ...grpc.CallOption) (*cri.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.sandboxes[r.PodSandboxId]
	if b == nil {
		return nil, grpcstatus.Error(codes.NotFound, "no such sandbox")
	}
	return &cri.PodSandboxStatusResponse{Status: proto.Clone(b).(*cri.PodSandboxStatus)}, nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, r *cri.CreateContainerRequest, _ ...grpc.CallOption) (*cri.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id("container")
	f.containers[id] = &fakeContainer{sandbox: r.PodSandboxId, labels: r.Config.Labels, onStopped: make(chan struct{}), st: &cri.ContainerStatus{Id: id, Metadata: r.Config.Metadata,
		State: cri.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano() + int64(f.serial), Image: &cri.ImageSpec{Image: r.Config.Image.UserSpecifiedImage},
		ImageRef: "sha256:1", Labels: r.Config.Labels, Annotations: r.Config.Annotations}}
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, r *cri.StartContainerRequest, _ ...grpc.CallOption) (*cri.StartContainerResponse, error) {
	f.take()
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	name := c.st.Metadata.Name
	c.st.State, c.st.StartedAt = cri.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	f.starts = append(f.starts, start{name, time.Now()})
	if d, ok := f.ends[name]; ok {
		code := f.codes[name]
		c.timer = time.AfterFunc(d, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.end(c, code)
		})
	}
	return &cri.StartContainerResponse{}, nil
}

// take lets the time pass that a call takes.
func (f *fakeRuntime) take() {
	f.mu.Lock()
	d := f.takes
	f.mu.Unlock()
	time.Sleep(d)
}

// end makes a container exit; mu is held.
func (f *fakeRuntime) end(c *fakeContainer, code int32) {
	if c.st.State == cri.ContainerState_CONTAINER_EXITED {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.st.State, c.st.FinishedAt, c.st.ExitCode = cri.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), code
	c.st.Reason = "Error"
	if code == 0 {
		c.st.Reason = "Completed"
	}
	close(c.onStopped)
}

func (f *fakeRuntime) StopContainer(ctx context.Context, r *cri.StopContainerRequest, _ ...grpc.CallOption) (*cri.StopContainerResponse, error) {
	f.mu.Lock()
	c := f.containers[r.ContainerId]
	if c == nil {
		f.mu.Unlock()
		return nil, grpcstatus.Error(codes.NotFound, "no such container")
	}
	name := c.st.Metadata.Name
	f.stops = append(f.stops, name)
	if !f.stubborn[name] {
		f.end(c, 0)
	}
	f.mu.Unlock()
	select {
	case <-c.onStopped:
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	case <-time.After(time.Duration(r.Timeout) * time.Second):
		f.mu.Lock()
		f.end(c, 137)
		f.mu.Unlock()
	}
	return &cri.StopContainerResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *cri.RemoveContainerRequest, _ ...grpc.CallOption) (*cri.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, r.ContainerId)
	return &cri.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *cri.ListContainersRequest, _ ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	unlock, err := f.turn()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &cri.ListContainersResponse{}
	for _, c := range f.containers {
		if matches(r.GetFilter().GetLabelSelector(), c.labels) {
			out.Containers = append(out.Containers, &cri.Container{Id: c.st.Id, PodSandboxId: c.sandbox, Metadata: c.st.Metadata, State: c.st.State, Labels: c.labels})
		}
	}
	return out, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest, _ ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, grpcstatus.Error(codes.NotFound, "no such container")
	}
	if f.unreadable {
		return nil, grpcstatus.Error(codes.Unavailable, "not now")
	}
	return &cri.ContainerStatusResponse{Status: proto.Clone(c.st).(*cri.ContainerStatus)}, nil
}

// ReopenContainerLog begins a new file, as a container's logger does.
func (f *fakeRuntime) ReopenContainerLog(_ context.Context, r *cri.ReopenContainerLogRequest, _ ...grpc.CallOption) (*cri.ReopenContainerLogResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &cri.ReopenContainerLogResponse{}, os.WriteFile(f.containers[r.ContainerId].st.LogPath, nil, 0o600)
}

func (f *fakeRuntime) ExecSync(_ context.Context, r *cri.ExecSyncRequest, _ ...grpc.CallOption) (*cri.ExecSyncResponse, error) {
	f.take()
	f.mu.Lock()
	defer f.mu.Unlock()
	return &cri.ExecSyncResponse{ExitCode: f.probe(r.ContainerId)}, nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, r *cri.ImageStatusRequest, _ ...grpc.CallOption) (*cri.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noImage[r.Image.Image] {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: &cri.Image{Id: "sha256:1", Size: 1}}, nil
}

func (f *fakeRuntime) PullImage(_ context.Context, r *cri.PullImageRequest, _ ...grpc.CallOption) (*cri.PullImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pulls = append(f.pulls, time.Now())
	return nil, grpcstatus.Error(codes.Unknown, "no such host")
}

func (f *fakeRuntime) ListImages(context.Context, *cri.ListImagesRequest, ...grpc.CallOption) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{Images: []*cri.Image{{Id: "sha256:1", RepoTags: []string{"docker.io/demo/app:1"}, Size: 7}}}, nil
}

// kill makes a running container of a name exit from outside.
func (f *fakeRuntime) kill(name string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.st.Metadata.Name == name && c.st.State == cri.ContainerState_CONTAINER_RUNNING {
			f.end(c, code)
		}
	}
}

// startsOf is when containers of a name were started, since t.
func (f *fakeRuntime) startsOf(name string, since time.Time) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []time.Duration
	for _, s := range f.starts {
		if s.name == name {
			out = append(out, s.at.Sub(since))
		}
	}
	return out
}

// node is a node in a bubble: an API server on the memory store, a kubelet, a fake runtime.
type node struct {
	t       *testing.T
	ctx     context.Context
	api     *client.Client
	config  client.Config
	runtime *fakeRuntime
	dir     string
	began   time.Time
	kubelet *Kubelet
	stop    func() // ends the kubelet and waits for it
	tune    func(*Config)
}

// onNode runs f in a bubble with a node that is up.
func onNode(t *testing.T, tune func(*Config), f func(n *node)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server := cluster.Start(t)
		n := &node{t: t, ctx: ctx, runtime: newFakeRuntime(), dir: dir, tune: tune, began: time.Now(), config: server.Config}
		var err error
		if n.api, err = client.New(n.config); err != nil {
			t.Fatal(err)
		}
		n.start()
		defer func() {
			n.stop()
			cancel()
			n.api.Close()
			server.Stop()
		}()
		n.settle(3 * time.Second)
		f(n)
	})
}

// start starts a kubelet on the node.
func (n *node) start() {
	n.t.Helper()
	cfg := Config{NodeName: "w1", NodeIP: netip.MustParseAddr("172.30.0.3"), RootDir: n.dir + "/kubelet", Version: "v1.36.3", Client: n.api,
		Runtime: n.runtime, Images: n.runtime, NoCgroups: true, NoTmpfs: true,
		Machine: Machine{CPUs: 2, Memory: 24684084 << 10, Disk: 264212084 << 10, HugePages: map[string]int64{"1Gi": 0, "2Mi": 0},
			Info: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"}}}
	cfg.Settings.PodLogsDir = n.dir + "/logs"
	none := ""
	cfg.Settings.ResolverConfig = &none
	if n.tune != nil {
		n.tune(&cfg)
	}
	k, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	k.log = slog.New(slog.DiscardHandler)
	k.status.log = k.log
	k.workers.jitter = func(d time.Duration) time.Duration { return d } // every wait is its least
	ctx, cancel := context.WithCancel(n.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	n.kubelet = k
	n.stop = func() { cancel(); <-done }
}

// settle lets time pass.
func (n *node) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// create makes a pod that is bound to the node; edit may change it before.
func (n *node) create(name string, edit func(*corev1.Pod)) *corev1.Pod {
	n.t.Helper()
	no := false
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "w1", AutomountServiceAccountToken: &no,
		Containers: []corev1.Container{{Name: "app", Image: "docker.io/demo/app:1"}}}}
	if edit != nil {
		edit(pod)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	client.For[*corev1.ServiceAccount](n.api).Create(n.ctx, sa) // there is no controller to make it
	made, err := client.For[*corev1.Pod](n.api).Create(n.ctx, pod)
	if err != nil {
		n.t.Fatal(err)
	}
	return made
}

func (n *node) pod(name string) *corev1.Pod {
	n.t.Helper()
	pod, err := client.For[*corev1.Pod](n.api).Get(n.ctx, "default", name)
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}

func (n *node) node() *corev1.Node {
	n.t.Helper()
	node, err := client.For[*corev1.Node](n.api).Get(n.ctx, "", "w1")
	if err != nil {
		n.t.Fatal(err)
	}
	return node
}

func (n *node) ready() corev1.NodeCondition {
	n.t.Helper()
	for _, c := range n.node().Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// events is "Reason: message" of the events about an object, oldest first.
func (n *node) events(name string) []string {
	n.t.Helper()
	list, err := client.For[*corev1.Event](n.api).List(n.ctx, "default", metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		n.t.Fatal(err)
	}
	items := list.Items
	for i := range items { // few: insertion sort by first time
		for j := i; j > 0 && items[j].FirstTimestamp.Before(&items[j-1].FirstTimestamp); j-- {
			items[j], items[j-1] = items[j-1], items[j]
		}
	}
	var out []string
	for _, e := range items {
		out = append(out, e.Type+" "+e.Reason+": "+e.Message)
	}
	return out
}

func (n *node) hasEvent(name, want string) {
	n.t.Helper()
	for _, e := range n.events(name) {
		if e == want {
			return
		}
	}
	n.t.Errorf("no event %q of %s, but\n%s", want, name, strings.Join(n.events(name), "\n"))
}

func status(pod *corev1.Pod, name string) corev1.ContainerStatus {
	if st := oldStatus(pod.Status, name); st != nil {
		return *st
	}
	return corev1.ContainerStatus{}
}
