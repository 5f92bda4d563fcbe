package runtime

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/kubelet/runtime/logger"
)

func onHostNetwork(config *cri.PodSandboxConfig) *cri.PodSandboxConfig {
	config.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	return config
}

// counted checks that a log of the verb count has no gap, and returns how far it goes.
func counted(t *testing.T, lines []string) int {
	t.Helper()
	for i, line := range lines {
		if want := fmt.Sprintf("stdout F line %d", i); line != want {
			t.Fatalf("log's line is %q, want %q", line, want)
		}
	}
	return len(lines)
}

func TestContainersAndLogsSurviveWhenWeAreKilled(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	n := m.bootChild()
	sandbox := n.runSandbox(n.sandboxConfig("web"))
	running := n.start(sandbox, container("counts", nil, "count"))
	meanwhile := n.start(sandbox, container("ends", nil, "sleep", "500ms"))
	withStdin := n.start(sandbox, container("reads", func(c *cri.ContainerConfig) { c.Stdin = true }, "echo"))
	onTerminal := n.start(sandbox, container("tty", func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true }, "echo"))
	n.until("it counts", func() bool { return len(n.lines(running)) > 5 })
	log := n.status(running).LogPath
	n.stop()

	before, _ := os.ReadFile(log)
	m.until("it counts on without us", func() bool {
		now, _ := os.ReadFile(log)
		return strings.Count(string(now), "\n") > strings.Count(string(before), "\n")+80
	})

	n = m.boot()
	if got := n.status(running); got.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("it is %v", got)
	}
	counted(t, n.lines(running))
	if got := n.exited(meanwhile); got.ExitCode != 0 || got.Reason != "Completed" {
		t.Errorf("what ended meanwhile is %v", got)
	}
	status, err := n.runtime.PodSandboxStatus(n.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil || status.Status.State != cri.PodSandboxState_SANDBOX_READY || status.Status.Network.Ip != "10.244.7.9" {
		t.Errorf("sandbox is %v, %v", status, err)
	}
	// The one on a terminal has its logger too.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	view, err := logger.Attach(ctx, m.cfg.RunDir+"/"+onTerminal[:16]+"/log.sock")
	if err != nil {
		t.Fatal(err)
	}
	view.Close()
	// The one with pipes: write to its stdin as an attached client would.
	pipe, err := openForWriting(m.cfg.RunDir + "/" + withStdin[:16] + "/stdin")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	fmt.Fprintln(pipe, "you")
	n.until("its log goes on", func() bool { return strings.Contains(n.log(withStdin), "stdout F heard you\n") })
}

func TestContainersSurviveARestartOfContainerd(t *testing.T) {
	m := newMachine(t)
	n := m.boot()
	sandbox := n.runSandbox(onHostNetwork(n.sandboxConfig("web")))
	running := n.start(sandbox, container("counts", nil, "count"))
	meanwhile := n.start(sandbox, container("ends", nil, "sleep", "500ms"))
	n.until("it counts", func() bool { return len(n.lines(running)) > 5 })
	log := n.status(running).LogPath

	m.stopContainerd()
	if _, err := n.runtime.Status(n.ctx, &cri.StatusRequest{}); err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("status without containerd: %v", err)
	}
	before, _ := os.ReadFile(log)
	m.until("it counts on without containerd", func() bool {
		now, _ := os.ReadFile(log)
		return strings.Count(string(now), "\n") > strings.Count(string(before), "\n")+80
	})
	m.startContainerd()
	n.until("we are back", func() bool {
		_, err := n.runtime.Status(n.ctx, &cri.StatusRequest{})
		return err == nil
	})
	if got := n.status(running); got.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("it is %v", got)
	}
	counted(t, n.lines(running))
	// containerd 1.6 still knows how it ended; since 1.7 it throws such a shim away when it starts.
	if got := n.exited(meanwhile); (got.ExitCode != 0 || got.Reason != "Completed") && (got.ExitCode != 255 || got.Reason != "Unknown") {
		t.Errorf("what ended meanwhile is %v", got)
	}
	// Ends are noticed again.
	n.ctr("task", "kill", "-s", "KILL", running)
	if got := n.exited(running); got.ExitCode != 137 || got.Reason != "Error" {
		t.Errorf("killed container is %v", got)
	}
}

func TestKillingThePauseProcessMakesTheSandboxNotReady(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	n := m.boot()
	sandbox := n.runSandbox(n.sandboxConfig("web"))
	app := n.start(sandbox, container("app", nil, "count"))
	n.ctr("task", "kill", "-s", "KILL", sandbox)
	n.until("the sandbox is not ready", func() bool {
		pods, err := n.runtime.ListPodSandbox(n.ctx, &cri.ListPodSandboxRequest{})
		return err == nil && len(pods.Items) == 1 && pods.Items[0].State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	if got := n.status(app); got.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the app is %v", got)
	}
	// The kubelet's answer: stop all of it, and start anew.
	if _, err := n.runtime.StopPodSandbox(n.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	if got := n.exited(app); got.ExitCode != 137 {
		t.Errorf("the app is %v", got)
	}
	asked, _ := os.ReadFile(m.dir + "/cni.log")
	if !strings.Contains(string(asked), "DEL "+sandbox) {
		t.Errorf("the address was not given back:\n%s", asked)
	}
}

func TestARebootLeavesContainersEndedWithUnknown(t *testing.T) {
	m := newMachine(t)
	n := m.boot()
	sandbox := n.runSandbox(onHostNetwork(n.sandboxConfig("web")))
	app := n.start(sandbox, container("app", nil, "count"))
	n.stop()
	// What a reboot leaves: records and snapshots, and no process.
	m.stopContainerd()
	killShims(t, m.dir)
	if err := exec.Command("sh", "-c", "umount -l $(grep -o '"+m.dir+"/d/[^ ]*' /proc/mounts); rm -r "+m.dir+"/d").Run(); err != nil {
		t.Fatal(err)
	}
	m.startContainerd()
	n = m.boot()
	if got := n.exited(app); got.ExitCode != 255 || got.Reason != "Unknown" {
		t.Errorf("it is %v", got)
	}
	if _, err := n.runtime.RemovePodSandbox(n.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Error(err)
	}
}

// killShims kills the shims of the machine in dir, and their containers, whose cgroups it reads.
func killShims(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		cgroup, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		base := dir[strings.LastIndex(dir, "/")+1:]
		if strings.Contains(string(cmdline), dir+"/c.sock") || strings.Contains(string(cgroup), "/orrery-test-"+base+"/") {
			var pid int
			if _, err := fmt.Sscan(e.Name(), &pid); err == nil && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}
