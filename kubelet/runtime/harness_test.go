package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// These tests run on a containerd of their own. Where there is none, or no root, they say so and skip.

const (
	pauseImage = "docker.io/orrery/pause:test"
	appImage   = "docker.io/orrery/app:test"
)

// machine is a node: one containerd, and the folders of one CRI service.
type machine struct {
	t      *testing.T
	dir    string
	cfg    Config
	daemon *exec.Cmd
	cgroup string
}

// shared is built once: the test app and the logger.
var shared struct {
	once     sync.Once
	app, log string
	err      error
}

func builtBinaries(t *testing.T) (app, log string) {
	t.Helper()
	shared.once.Do(func() {
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("orrery-cri-bin-%d", os.Getpid()))
		shared.app, shared.log = filepath.Join(dir, "app"), filepath.Join(dir, "cri-logger")
		for out, pkg := range map[string]string{shared.app: "./testdata/app", shared.log: "orrery/cmd/cri-logger"} {
			cmd := exec.Command("go", "build", "-o", out, pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if b, err := cmd.CombinedOutput(); err != nil {
				shared.err = fmt.Errorf("building %s: %w\n%s", pkg, err, b)
			}
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.app, shared.log
}

// childConfig, when set, makes this binary a CRI service and nothing else: one that can be killed.
const childConfig = "CRI_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childConfig); text != "" {
		var cfg Config
		err := json.Unmarshal([]byte(text), &cfg)
		if err == nil {
			var service *Service
			if service, err = New(cfg); err == nil {
				err = service.Run(context.Background())
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if shared.app != "" {
		os.RemoveAll(filepath.Dir(shared.app))
	}
	os.Exit(code)
}

// newMachine starts containerd with the two images in it.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for containerd")
	}
	for _, binary := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(binary); err != nil {
			t.Skipf("needs %s: %v", binary, err)
		}
	}
	app, log := builtBinaries(t)
	dir, err := os.MkdirTemp("", "cri") // t.TempDir's names are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, cgroup: "/orrery-test-" + filepath.Base(dir)}
	m.cfg = Config{Address: filepath.Join(dir, "c.sock"), Socket: filepath.Join(dir, "cri.sock"), StateDir: filepath.Join(dir, "state"),
		RunDir: filepath.Join(dir, "run"), NetNSDir: filepath.Join(dir, "netns"), CNIConfDir: filepath.Join(dir, "net.d"),
		CNIBinDirs: []string{filepath.Join(dir, "cni")}, CNICacheDir: filepath.Join(dir, "cnicache"),
		SandboxImage: pauseImage, Snapshotter: "overlayfs", LoggerPath: log}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n"+
		"[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\nrestrict_oom_score_adj = true\n"+
		"[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "d"), m.cfg.Address, filepath.Join(dir, "opt"))
	m.write("config.toml", config)
	t.Cleanup(m.remove)
	m.startContainerd()
	m.importImage(pauseImage, app, []string{"/app", "pause"}, nil, "")
	m.importImage(appImage, app, []string{"/app"}, []string{"COLOUR=from-image", "PATH=/"}, "")
	return m
}

func (m *machine) write(name, content string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) startContainerd() {
	m.t.Helper()
	log, err := os.OpenFile(filepath.Join(m.dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.daemon = exec.Command("containerd", "--config", filepath.Join(m.dir, "config.toml"))
	m.daemon.Stdout, m.daemon.Stderr = log, log
	m.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.daemon.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.until("containerd serves", func() bool {
		c, err := containerd.New(m.cfg.Address, containerd.WithTimeout(time.Second))
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Version(context.Background())
		return err == nil
	})
}

func (m *machine) stopContainerd() {
	m.daemon.Process.Kill()
	m.daemon.Wait()
}

// remove kills what is left, whatever the test did.
func (m *machine) remove() {
	if c, err := containerd.New(m.cfg.Address, containerd.WithTimeout(5*time.Second)); err == nil {
		ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "k8s.io"), time.Minute)
		defer cancel()
		all, _ := c.Containers(ctx)
		for _, container := range all {
			if task, err := container.Task(ctx, nil); err == nil {
				task.Delete(ctx, containerd.WithProcessKill)
			}
			container.Delete(ctx, containerd.WithSnapshotCleanup)
		}
		c.Close()
	}
	m.stopContainerd()
	if m.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(m.dir, "containerd.log"))
		m.t.Logf("containerd's log ends:\n%s", log[max(0, len(log)-3000):])
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if where := strings.Fields(line)[1]; strings.HasPrefix(where, m.dir) {
			syscall.Unmount(where, syscall.MNT_DETACH)
		}
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.t.Errorf("leaving files: %v", err)
	}
	for _, pattern := range []string{"*" + m.cgroup + "/*", "*" + m.cgroup, m.cgroup + "/*", m.cgroup} {
		dirs, _ := filepath.Glob(filepath.Join(cgroupRoot, pattern))
		for _, d := range dirs {
			os.Remove(d) // the kernel's files in it do not count
		}
	}
}

// until waits for a condition, half a minute at most.
func (m *machine) until(what string, done func() bool) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if done() {
			return
		}
	}
	m.t.Fatalf("waited in vain: %s", what)
}

// importImage loads an image of one layer with one file, /app, and /etc/passwd.
func (m *machine) importImage(name, binary string, entrypoint, env []string, user string) {
	m.t.Helper()
	c, err := containerd.New(m.cfg.Address)
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	imported, err := c.Import(ctx, bytes.NewReader(m.archive(name, binary, entrypoint, env, user)))
	if err != nil {
		m.t.Fatalf("importing %s: %v", name, err)
	}
	if len(imported) != 1 || imported[0].Name != name {
		m.t.Fatalf("imported %v", imported)
	}
}

// archive is an image as `docker save` writes it.
func (m *machine) archive(name, binary string, entrypoint, env []string, user string) []byte {
	m.t.Helper()
	app, err := os.ReadFile(binary)
	if err != nil {
		m.t.Fatal(err)
	}
	layer := tarball(m.t, map[string][]byte{"app": app, "etc/passwd": []byte("root:x:0:0::/:/app\nada:x:1815:1852::/:/app\n"),
		"etc/group": []byte("root:x:0:\nada:x:1852:\nengine:x:1843:ada\n"), "tmp/keep": nil})
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": entrypoint, "Env": env, "User": user},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}}})
	if err != nil {
		m.t.Fatal(err)
	}
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, strings.TrimPrefix(name, "docker.io/"))
	return tarball(m.t, map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": []byte(manifest)})
}

func tarball(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// withCNI writes a configuration with a plugin that gives every pod the same address and notes what it is asked.
func (m *machine) withCNI() {
	m.write("cni/toy", fmt.Sprintf("#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS >> %s/cni.log\n"+
		`[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],`+
		`"ips":[{"address":"10.244.7.9/24","interface":0}]}'`+"\nexit 0\n", m.dir))
	m.write("net.d/10-toy.conflist", `{"cniVersion":"1.0.0","name":"toy","plugins":[{"type":"toy"}]}`)
}

// node is one life of a CRI service on a machine, with a client.
type node struct {
	*machine
	ctx     context.Context
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	stop    func()
}

// boot starts a CRI service; stop ends it in order, and the machine goes on.
func (m *machine) boot() *node {
	m.t.Helper()
	service, err := New(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	return m.connect(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				m.t.Errorf("Run ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			m.t.Error("Run does not end")
		}
	})
}

// bootChild starts a CRI service in a process of its own; stop is kill -9.
func (m *machine) bootChild() *node {
	m.t.Helper()
	cfg, err := json.Marshal(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childConfig+"="+string(cfg))
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		m.t.Fatal(err)
	}
	return m.connect(func() {
		child.Process.Kill()
		child.Wait()
	})
}

func (m *machine) connect(stopService func()) *node {
	m.t.Helper()
	conn, err := grpc.NewClient("unix://"+m.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		conn.Close()
		stopService()
	})
	m.t.Cleanup(stop)
	n := &node{m, m.t.Context(), cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn), stop}
	m.until("CRI serves", func() bool {
		_, err := n.runtime.Version(n.ctx, &cri.VersionRequest{})
		return err == nil
	})
	return n
}

func (n *node) sandboxConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname:     name,
		LogDirectory: filepath.Join(n.dir, "logs"),
		Labels:       map[string]string{"io.kubernetes.pod.name": name, "app": name},
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: n.cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
}

func (n *node) runSandbox(config *cri.PodSandboxConfig) string {
	n.t.Helper()
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		n.t.Fatal(err)
	}
	resp, err := n.runtime.RunPodSandbox(n.ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		n.t.Fatalf("RunPodSandbox: %v", err)
	}
	return resp.PodSandboxId
}

// container is a config that runs the test app with args; change may alter it.
func container(name string, change func(*cri.ContainerConfig), args ...string) *cri.ContainerConfig {
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: appImage},
		Args:     args,
		Labels:   map[string]string{"io.kubernetes.container.name": name},
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}}},
	}
	if change != nil {
		change(config)
	}
	return config
}

func (n *node) create(sandbox string, config *cri.ContainerConfig) string {
	n.t.Helper()
	resp, err := n.runtime.CreateContainer(n.ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: config})
	if err != nil {
		n.t.Fatalf("CreateContainer: %v", err)
	}
	return resp.ContainerId
}

func (n *node) start(sandbox string, config *cri.ContainerConfig) string {
	n.t.Helper()
	id := n.create(sandbox, config)
	if _, err := n.runtime.StartContainer(n.ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatalf("StartContainer: %v", err)
	}
	return id
}

func (n *node) status(id string) *cri.ContainerStatus {
	n.t.Helper()
	resp, err := n.runtime.ContainerStatus(n.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatalf("ContainerStatus: %v", err)
	}
	return resp.Status
}

func (n *node) exited(id string) *cri.ContainerStatus {
	n.t.Helper()
	n.until("the container has exited", func() bool { return n.status(id).State == cri.ContainerState_CONTAINER_EXITED })
	return n.status(id)
}

// log reads a container's log.
func (n *node) log(id string) string {
	b, _ := os.ReadFile(n.status(id).LogPath)
	return string(b)
}

// lines are the log's contents without time.
func (n *node) lines(id string) (out []string) {
	for line := range strings.Lines(n.log(id)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		out = append(out, rest)
	}
	return out
}

func (n *node) ctr(args ...string) string {
	n.t.Helper()
	b, err := exec.Command("ctr", append([]string{"--address", n.cfg.Address, "-n", "k8s.io"}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ctr %v: %v\n%s", args, err, b)
	}
	return string(b)
}
