package runtime

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func dialAndSay(t *testing.T, address, line string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, line)
	answer, _ := bufio.NewReader(c).ReadString('\n')
	return answer
}

func TestTheNetworkIsReadyOnceACNIConfigurationAppears(t *testing.T) {
	m := newMachine(t)
	n := m.boot()
	network := func() *cri.RuntimeCondition {
		resp, err := n.runtime.Status(n.ctx, &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.Status.Conditions {
			if c.Type == cri.NetworkReady {
				return c
			}
		}
		t.Fatal("no such condition")
		return nil
	}
	if got := network(); got.Status || got.Reason != "NetworkPluginNotReady" ||
		got.Message != "Network plugin returns error: cni plugin not initialized" {
		t.Errorf("without a configuration: %v", got)
	}
	config := n.sandboxConfig("early")
	_, err := n.runtime.RunPodSandbox(n.ctx, &cri.RunPodSandboxRequest{Config: config})
	if err == nil || !strings.Contains(err.Error(), "failed to setup network for sandbox") {
		t.Errorf("a pod too early: %v", err)
	}
	if left, _ := os.ReadDir(m.cfg.NetNSDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	n.runSandbox(onHostNetwork(n.sandboxConfig("host"))) // needs no plugin
	m.withCNI()
	if got := network(); !got.Status {
		t.Errorf("with a configuration: %v", got)
	}
	n.runSandbox(config)
}

func TestAPluginThatFailsLeavesNothing(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	m.write("cni/toy", "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\n"+`echo '{"cniVersion":"1.0.0","code":11,"msg":"no address is free"}'; exit 1`)
	n := m.boot()
	_, err := n.runtime.RunPodSandbox(n.ctx, &cri.RunPodSandboxRequest{Config: n.sandboxConfig("web")})
	if err == nil || !strings.Contains(err.Error(), `plugin type="toy" failed (add): no address is free`) {
		t.Errorf("error is %v", err)
	}
	if left := n.ctr("containers", "ls", "-q"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	if left, _ := os.ReadDir(m.cfg.NetNSDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestImages(t *testing.T) {
	m := newMachine(t)
	n := m.boot()
	get := func(name string) *cri.Image {
		resp, err := n.images.ImageStatus(n.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return resp.Image
	}
	app, _ := builtBinaries(t)
	m.importImage("docker.io/orrery/user:v1", app, []string{"/app"}, nil, "1815:1852")

	t.Run("are found by every name", func(t *testing.T) {
		image := get("orrery/user:v1")
		if image == nil {
			t.Fatal("not found")
		}
		if len(image.RepoTags) != 1 || image.RepoTags[0] != "docker.io/orrery/user:v1" || len(image.RepoDigests) != 1 ||
			!strings.HasPrefix(image.RepoDigests[0], "docker.io/orrery/user@sha256:") || image.Uid.GetValue() != 1815 || image.Size == 0 {
			t.Errorf("it is %v", image)
		}
		for _, name := range []string{"docker.io/orrery/user:v1", image.Id, strings.TrimPrefix(image.Id, "sha256:")[:13]} {
			if same := get(name); same == nil || same.Id != image.Id {
				t.Errorf("%s is %v", name, same)
			}
		}
		if none := get("orrery/nobody:v1"); none != nil {
			t.Errorf("nobody is %v", none)
		}
	})
	t.Run("are listed once, whatever their names", func(t *testing.T) {
		n.ctr("images", "tag", "docker.io/orrery/user:v1", "docker.io/orrery/other:v1")
		resp, err := n.images.ListImages(n.ctx, &cri.ListImagesRequest{})
		if err != nil || len(resp.Images) != 3 {
			t.Fatalf("%v, %v", resp, err)
		}
		if image := get("orrery/other:v1"); len(image.RepoTags) != 2 {
			t.Errorf("it is %v", image)
		}
		sandbox := n.runSandbox(onHostNetwork(n.sandboxConfig("names")))
		for _, name := range []string{"docker.io/orrery/other:v1", "docker.io/orrery/user:v1"} {
			id := n.create(sandbox, container("named", func(c *cri.ContainerConfig) {
				c.Image = &cri.ImageSpec{Image: get(name).Id, UserSpecifiedImage: strings.TrimPrefix(name, "docker.io/")}
			}, "pause"))
			if got := n.status(id).Image.Image; got != name {
				t.Errorf("image is called %s, want %s", got, name)
			}
		}
		if _, err := n.runtime.RemovePodSandbox(n.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
			t.Error(err)
		}
		if !get(pauseImage).Pinned {
			t.Error("pause is not pinned")
		}
	})
	t.Run("are pulled from a registry that answers", func(t *testing.T) {
		registry := httptest.NewServer(registryOf(t, m))
		defer registry.Close()
		name := strings.TrimPrefix(registry.URL, "http://") + "/orrery/user:v1"
		resp, err := n.images.PullImage(n.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
		if err != nil {
			t.Fatal(err)
		}
		if image := get(name); image == nil || image.Id != resp.ImageRef {
			t.Errorf("pulled %v, found %v", resp, image)
		}
		_, err = n.images.PullImage(n.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: strings.Replace(name, "user", "nobody", 1)}})
		if err == nil || !strings.Contains(err.Error(), "failed to pull and unpack image") || !strings.Contains(err.Error(), "not found") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("are not pulled from one that does not", func(t *testing.T) {
		_, err := n.images.PullImage(n.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "127.0.0.1:1/orrery/user:v1"}})
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("are removed with all their names", func(t *testing.T) {
		for range 2 {
			if _, err := n.images.RemoveImage(n.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "orrery/other:v1"}}); err != nil {
				t.Fatal(err)
			}
		}
		if image := get("orrery/user:v1"); image != nil {
			t.Errorf("it is %v", image)
		}
	})
	t.Run("take space once they are unpacked", func(t *testing.T) {
		n.runSandbox(onHostNetwork(n.sandboxConfig("web")))
		resp, err := n.images.ImageFsInfo(n.ctx, &cri.ImageFsInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		fs := resp.ImageFilesystems[0]
		if fs.UsedBytes.Value == 0 || fs.FsId.Mountpoint != filepath.Join(m.dir, "root/io.containerd.snapshotter.v1.overlayfs") {
			t.Errorf("they take %v", fs)
		}
	})
}

// registryOf serves what containerd's content store holds, as a registry would.
func registryOf(t *testing.T, m *machine) http.Handler {
	t.Helper()
	blobs := filepath.Join(m.dir, "root/io.containerd.content.v1.content/blobs/sha256")
	digest := strings.Fields(strings.Split((&node{machine: m}).ctr("images", "ls", "name==docker.io/orrery/user:v1"), "\n")[1])[2]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, found := strings.CutPrefix(r.URL.Path, "/v2/orrery/user/")
		wanted := path[strings.LastIndex(path, "/")+1:]
		if wanted == "v1" {
			wanted = digest
		}
		if !found {
			http.NotFound(w, r)
			return
		}
		if strings.HasPrefix(path, "manifests/") {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			w.Header().Set("Docker-Content-Digest", wanted)
		}
		http.ServeFile(w, r, filepath.Join(blobs, strings.TrimPrefix(wanted, "sha256:")))
	})
}

func TestEventsTellThePodsStory(t *testing.T) {
	m := newMachine(t)
	n := m.boot()
	stream, err := n.runtime.GetContainerEvents(n.ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan *cri.ContainerEventResponse, 100)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				close(heard)
				return
			}
			heard <- event
		}
	}()
	// The call is under way before the first pod only once its first event comes; so make pods until it does.
	var first *cri.ContainerEventResponse
	for first == nil {
		id := n.runSandbox(onHostNetwork(n.sandboxConfig("probe")))
		if _, err := n.runtime.RemovePodSandbox(n.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Fatal(err)
		}
		select {
		case first = <-heard:
		case <-time.After(100 * time.Millisecond):
		}
	}
	sandbox := n.runSandbox(onHostNetwork(n.sandboxConfig("web")))
	id := n.start(sandbox, container("app", nil, "exit", "3"))
	n.exited(id)
	if _, err := n.runtime.RemovePodSandbox(n.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	var story []string
	names := map[string]string{sandbox: "pod", id: "app"}
	timeout := time.After(30 * time.Second)
	for len(story) < 8 {
		select {
		case event := <-heard:
			name := names[event.ContainerId]
			if name == "" {
				continue
			}
			what := strings.TrimSuffix(strings.TrimPrefix(event.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
			story = append(story, name+" "+what)
			if what == "STOPPED" && name == "app" && event.ContainersStatuses[0].ExitCode != 3 {
				t.Errorf("event says %v", event)
			}
		case <-timeout:
			t.Fatalf("heard only %q", story)
		}
	}
	want := "pod CREATED, pod STARTED, app CREATED, app STARTED, app STOPPED, pod STOPPED, app DELETED, pod DELETED"
	if got := strings.Join(story, ", "); got != want {
		t.Errorf("heard %s, want %s", got, want)
	}
}
