package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestContainers shows what one container may ask for; a single machine serves all.
func TestContainers(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	n := m.boot()
	sandbox := n.runSandbox(n.sandboxConfig("web"))
	security := func(c *cri.ContainerConfig) *cri.LinuxContainerSecurityContext { return c.Linux.SecurityContext }

	t.Run("stops at SIGTERM at once", func(t *testing.T) {
		id := n.start(sandbox, container("a", nil, "pause"))
		n.until("it listens to signals", func() bool { return len(n.lines(id)) == 1 })
		began := time.Now()
		if _, err := n.runtime.StopContainer(n.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if got := n.status(id); got.State != cri.ContainerState_CONTAINER_EXITED {
			t.Errorf("it is %v", got)
		}
	})
	t.Run("is killed when deaf to SIGTERM", func(t *testing.T) {
		id := n.start(sandbox, container("b", nil, "deaf"))
		n.until("it is deaf", func() bool { return len(n.lines(id)) == 1 })
		began := time.Now()
		if _, err := n.runtime.StopContainer(n.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
			t.Fatal(err)
		}
		if got := n.status(id); got.ExitCode != 137 || got.Reason != "Error" || time.Since(began) < time.Second {
			t.Errorf("after %v it is %v", time.Since(began), got)
		}
	})
	t.Run("that cannot start ends with 128 and StartError", func(t *testing.T) {
		id := n.create(sandbox, container("c", func(c *cri.ContainerConfig) { c.Command = []string{"/nonsense"} }))
		_, err := n.runtime.StartContainer(n.ctx, &cri.StartContainerRequest{ContainerId: id})
		if err == nil || !strings.Contains(err.Error(), `exec: "/nonsense": stat /nonsense: no such file or directory`) {
			t.Errorf("error is %v", err)
		}
		if got := n.status(id); got.ExitCode != 128 || got.Reason != "StartError" || !strings.Contains(got.Message, "/nonsense") {
			t.Errorf("it is %v", got)
		}
	})
	t.Run("out of memory is OOMKilled", func(t *testing.T) {
		id := n.start(sandbox, container("d", func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
		}, "eat"))
		if got := n.exited(id); got.ExitCode != 137 || got.Reason != "OOMKilled" {
			t.Errorf("it is %v", got)
		}
	})
	t.Run("has the pod's name, environment, user and folder", func(t *testing.T) {
		id := n.start(sandbox, container("e", func(c *cri.ContainerConfig) {
			c.Envs = []*cri.KeyValue{{Key: "COLOUR", Value: []byte("from-pod")}, {Key: "SHAPE", Value: []byte("round")}}
			c.WorkingDir = "/tmp"
			security(c).RunAsUsername = "ada"
			security(c).SupplementalGroups = []int64{4242}
		}, "who"))
		n.exited(id)
		log := strings.Join(n.lines(id), "\n")
		for _, want := range []string{"uid 1815 gid 1852 groups [1843 1852 4242] host web wd /tmp pid 1", "env COLOUR=from-pod", "env SHAPE=round", "env HOSTNAME=web"} {
			if !strings.Contains(log, want) && !strings.Contains(log, strings.Replace(want, "[1843 1852 4242]", "[1852 1843 4242]", 1)) {
				t.Errorf("%q is missing in\n%s", want, log)
			}
		}
		if user := n.status(id).User.GetLinux(); user.GetUid() != 1815 || user.GetGid() != 1852 {
			t.Errorf("status says %v", user)
		}
	})
	t.Run("sees the pod's resolv.conf and its mounts", func(t *testing.T) {
		m.write("vol/file", "from the host")
		id := n.start(sandbox, container("f", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: filepath.Join(m.dir, "vol"), ContainerPath: "/data", Readonly: true}}
		}, "files", "/etc/resolv.conf", "/etc/hostname", "/data/file"))
		n.exited(id)
		want := []string{"stdout F /etc/resolv.conf: search default.svc.cluster.local", "stdout F nameserver 10.96.0.10",
			"stdout F options ndots:5 <nil>", "stdout F /etc/hostname: web <nil>", "stdout F /data/file: from the host <nil>"}
		if got := n.lines(id); !slices.Equal(got, want) {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("cannot write what is read-only", func(t *testing.T) {
		m.write("vol/file", "from the host")
		for _, path := range []string{"/data/file", "/file", "/proc/sys/kernel/hostname"} {
			id := n.start(sandbox, container("g", func(c *cri.ContainerConfig) {
				security(c).ReadonlyRootfs = true
				security(c).ReadonlyPaths = []string{"/proc/sys"}
				c.Mounts = []*cri.Mount{{HostPath: filepath.Join(m.dir, "vol"), ContainerPath: "/data", Readonly: true}}
			}, "write", path, "x"))
			if got := n.exited(id); got.ExitCode != 1 || !strings.Contains(n.log(id), "read-only file system") {
				t.Errorf("%s: %v, %s", path, got.ExitCode, n.log(id))
			}
		}
	})
	t.Run("has the capabilities, privileges and seccomp that it is given", func(t *testing.T) {
		for name, check := range map[string]struct {
			change func(*cri.LinuxContainerSecurityContext)
			want   []string
		}{
			"default": {func(*cri.LinuxContainerSecurityContext) {}, []string{"CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t2"}},
			"none but": {func(s *cri.LinuxContainerSecurityContext) {
				s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
			}, []string{"CapEff:\t0000000000001000"}},
			"no new": {func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = true }, []string{"NoNewPrivs:\t1"}},
			"unconfined": {func(s *cri.LinuxContainerSecurityContext) {
				s.Seccomp.ProfileType = cri.SecurityProfile_Unconfined
			}, []string{"Seccomp:\t0"}},
		} {
			id := n.start(sandbox, container("h", func(c *cri.ContainerConfig) { check.change(security(c)) }, "files", "/proc/self/status"))
			n.exited(id)
			for _, want := range check.want {
				if !strings.Contains(n.log(id), want) {
					t.Errorf("%s: %q is missing in\n%s", name, want, n.log(id))
				}
			}
		}
	})
	t.Run("privileged starts, with our capabilities", func(t *testing.T) {
		own, _ := os.ReadFile("/proc/self/status")
		_, mine, _ := strings.Cut(string(own), "CapEff:\t")
		id := n.start(sandbox, container("i", func(c *cri.ContainerConfig) { security(c).Privileged = true }, "files", "/proc/self/status"))
		n.exited(id)
		if !strings.Contains(n.log(id), "CapEff:\t"+mine[:16]) {
			t.Errorf("want %s in\n%s", mine[:16], n.log(id))
		}
	})
	t.Run("has its limits, and new ones while it runs", func(t *testing.T) {
		id := n.start(sandbox, container("j", func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 102, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999}
		}, "count"))
		if cgroup2() {
			t.Skip("files below are those of cgroup v1")
		}
		dir := m.cgroup + "/" + id
		if v, _ := readCgroup(cgroupDir(dir, "cpu"), "cpu.cfs_quota_us", ""); v != 20000 {
			t.Errorf("quota is %d", v)
		}
		_, err := n.runtime.UpdateContainerResources(n.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id,
			Linux: &cri.LinuxContainerResources{CpuShares: 102, CpuQuota: 30000, CpuPeriod: 100000, MemoryLimitInBytes: 96 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := readCgroup(cgroupDir(dir, "memory"), "memory.limit_in_bytes", ""); v != 96<<20 {
			t.Errorf("limit is %d", v)
		}
		if got := n.status(id).Resources.Linux; got.CpuQuota != 30000 || got.MemoryLimitInBytes != 96<<20 || got.OomScoreAdj != 999 {
			t.Errorf("status says %v", got)
		}
		stats, err := n.runtime.ContainerStats(n.ctx, &cri.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.Stats.Cpu.UsageCoreNanoSeconds.Value == 0 || stats.Stats.Memory.WorkingSetBytes.Value == 0 || stats.Stats.WritableLayer.UsedBytes.Value == 0 {
			t.Errorf("stats are %v, %v", stats, err)
		}
		pod, err := n.runtime.PodSandboxStats(n.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: sandbox})
		if err != nil || pod.Stats.Linux.Cpu.UsageCoreNanoSeconds.Value == 0 || len(pod.Stats.Linux.Containers) == 0 {
			t.Errorf("pod's stats are %v, %v", pod, err)
		}
	})
	t.Run("goes on in a new log after a rotation", func(t *testing.T) {
		id := n.start(sandbox, container("k", nil, "count"))
		n.until("it counts", func() bool { return len(n.lines(id)) > 2 })
		path := n.status(id).LogPath
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.runtime.ReopenContainerLog(n.ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		n.until("it counts on", func() bool { return len(n.lines(id)) > 2 })
		old, _ := os.ReadFile(path + ".1")
		if strings.Count(string(old), "\n") == 0 || strings.Contains(n.log(id), " line 0\n") {
			t.Error("the lines are not in two files")
		}
	})
	t.Run("is found by the beginning of its id", func(t *testing.T) {
		id := n.start(sandbox, container("l", nil, "pause"))
		if got := n.status(id[:13]); got.Id != id {
			t.Errorf("found %v", got)
		}
	})
	t.Run("that is gone is NotFound, and no error to stop or remove", func(t *testing.T) {
		_, err := n.runtime.ContainerStatus(n.ctx, &cri.ContainerStatusRequest{ContainerId: newID()})
		if status.Code(err) != codes.NotFound {
			t.Errorf("error is %v", err)
		}
		if _, err := n.runtime.StopContainer(n.ctx, &cri.StopContainerRequest{ContainerId: newID()}); err != nil {
			t.Error(err)
		}
		if _, err := n.runtime.RemoveContainer(n.ctx, &cri.RemoveContainerRequest{ContainerId: newID()}); err != nil {
			t.Error(err)
		}
	})
	t.Run("shares processes where the pod wants it", func(t *testing.T) {
		id := n.start(sandbox, container("m", func(c *cri.ContainerConfig) {
			security(c).NamespaceOptions.Pid = cri.NamespaceMode_POD
		}, "who"))
		n.exited(id)
		if strings.Contains(n.log(id), "pid 1\n") || !strings.Contains(n.log(id), "pid ") {
			t.Errorf("it says %s", n.log(id))
		}
	})
}
