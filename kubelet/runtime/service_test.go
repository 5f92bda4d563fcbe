package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPodRunsFromSandboxToRemoval(t *testing.T) {
	m := newMachine(t)
	m.withCNI()
	n := m.boot()

	sandbox := n.runSandbox(n.sandboxConfig("web"))
	status, err := n.runtime.PodSandboxStatus(n.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if status.Status.State != cri.PodSandboxState_SANDBOX_READY || status.Status.Network.Ip != "10.244.7.9" {
		t.Errorf("sandbox is %v", status.Status)
	}
	id := n.create(sandbox, container("app", nil, "say", "hello", ":2sorry"))
	if got := n.status(id); got.State != cri.ContainerState_CONTAINER_CREATED || got.StartedAt != 0 {
		t.Errorf("created container is %v", got)
	}
	if _, err := n.runtime.StartContainer(n.ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	end := n.exited(id)
	if end.ExitCode != 0 || end.Reason != "Completed" || end.StartedAt == 0 || end.FinishedAt < end.StartedAt {
		t.Errorf("ended container is %v", end)
	}
	lines := n.lines(id)
	slices.Sort(lines)
	if want := []string{"stderr F sorry", "stdout F hello"}; !slices.Equal(lines, want) {
		t.Errorf("log is %q, want %q", lines, want)
	}
	if _, err := time.Parse(time.RFC3339Nano, strings.Fields(n.log(id))[0]); err != nil {
		t.Errorf("log's time: %v", err)
	}
	if failed := n.exited(n.start(sandbox, container("bad", nil, "exit", "3"))); failed.ExitCode != 3 || failed.Reason != "Error" {
		t.Errorf("failed container is %v", failed)
	}

	list, err := n.runtime.ListContainers(n.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: sandbox}})
	if err != nil || len(list.Containers) != 2 {
		t.Errorf("list is %v, %v", list, err)
	}
	if _, err := n.runtime.StopPodSandbox(n.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	pods, err := n.runtime.ListPodSandbox(n.ctx, &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pods are %v, %v", pods, err)
	}
	for range 2 { // a second time is no error
		if _, err := n.runtime.RemovePodSandbox(n.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
			t.Fatal(err)
		}
	}
	if left := n.ctr("containers", "ls", "-q") + n.ctr("tasks", "ls", "-q"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	for _, dir := range []string{m.cfg.NetNSDir, filepath.Join(m.cfg.StateDir, "sandboxes"), m.cfg.RunDir} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left behind in %s: %v", dir, left)
		}
	}
	asked, _ := os.ReadFile(filepath.Join(m.dir, "cni.log"))
	if !strings.Contains(string(asked), "ADD "+sandbox) || !strings.Contains(string(asked), "DEL "+sandbox) ||
		!strings.Contains(string(asked), "K8S_POD_NAME=web") {
		t.Errorf("CNI was asked:\n%s", asked)
	}
}
