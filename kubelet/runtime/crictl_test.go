package runtime

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCrictl walks through what the course does on a node with the real crictl.
func TestCrictl(t *testing.T) {
	crictl, err := exec.LookPath("crictl")
	if err != nil {
		if crictl, err = exec.LookPath("../../bin/crictl"); err != nil {
			t.Skip("needs crictl, which make build puts into bin")
		}
	}
	m := newMachine(t)
	m.withCNI()
	n := m.boot()
	sandbox := n.runSandbox(n.sandboxConfig("web"))
	id := n.start(sandbox, container("app", func(c *cri.ContainerConfig) {
		c.Labels["io.kubernetes.pod.name"], c.Labels["io.kubernetes.pod.namespace"] = "web", "default" // as the kubelet does
	}, "count"))
	config := m.write("crictl.yaml", "runtime-endpoint: unix://"+m.cfg.Socket+"\nimage-endpoint: unix://"+m.cfg.Socket+"\n")
	run := func(args ...string) string {
		t.Helper()
		b, err := exec.Command(crictl, append([]string{"--config", config}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("crictl %v: %v\n%s", args, err, b)
		}
		return string(b)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"version"}, []string{"RuntimeName:  containerd"}},
		{[]string{"info"}, []string{`"RuntimeReady"`, `"NetworkReady"`}},
		{[]string{"pods"}, []string{sandbox[:13], "Ready", "web", "default"}},
		{[]string{"ps"}, []string{id[:13], "Running", "app", sandbox[:13], "web"}},
		{[]string{"images"}, []string{"docker.io/orrery/pause", "docker.io/orrery/app"}},
		{[]string{"inspect", id[:13]}, []string{`"state": "CONTAINER_RUNNING"`, `"pid": `}},
		{[]string{"inspectp", sandbox[:13]}, []string{`"ip": "10.244.7.9"`, `"state": "SANDBOX_READY"`}},
		{[]string{"inspecti", "orrery/app:test"}, []string{`"docker.io/orrery/app:test"`}},
		{[]string{"exec", id[:13], "/app", "say", "hello"}, []string{"hello"}},
		{[]string{"exec", "-s", id[:13], "/app", "say", "hello"}, []string{"hello"}},
		{[]string{"logs", "--tail", "3", id[:13]}, []string{"line "}},
		{[]string{"stats"}, []string{id[:13], "app"}},
		{[]string{"statsp"}, []string{sandbox[:13], "web"}},
		{[]string{"imagefsinfo"}, []string{"overlayfs"}},
		{[]string{"stop", id[:13]}, []string{id[:13]}},
		{[]string{"ps", "-a"}, []string{"Exited"}},
		{[]string{"rm", id[:13]}, []string{id[:13]}},
		{[]string{"stopp", sandbox[:13]}, []string{sandbox[:13]}},
		{[]string{"rmp", sandbox[:13]}, []string{sandbox[:13]}},
	} {
		out := run(c.args...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("crictl %v: %q is missing in\n%s", c.args, want, out)
			}
		}
	}
	left, err := n.runtime.ListPodSandbox(n.ctx, &cri.ListPodSandboxRequest{})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if state, _ := filepath.Glob(filepath.Join(m.cfg.StateDir, "sandboxes", "*")); len(state) > 0 {
		t.Errorf("left: %v", state)
	}
}
