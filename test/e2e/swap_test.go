package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// side is who wrote a component.
type side string

const (
	ours     side = "ours"
	upstream side = "upstream"
)

// The CRI services of a node.
const (
	ourCRI        = "unix:///run/orrery/cri.sock"
	containerdCRI = "unix:///run/containerd/containerd.sock"
)

// needSwap skips a test that puts upstream's programs in the place of ours when
// there are none, or when the other end-to-end tests run, which would take too long with it.
func needSwap(t *testing.T, programs ...string) {
	t.Helper()
	need(t)
	if os.Getenv("ORRERY_E2E_SWAP") == "" {
		t.Skip("puts upstream's programs on the nodes: run make swap-nodes")
	}
	for _, name := range programs {
		if _, err := os.Stat(built(upstream, name)); err != nil {
			t.Skipf("bin/upstream has no %s: run make upstream first", name)
		}
	}
}

// built is where a program lies on this machine.
func built(by side, name string) string {
	if by == upstream {
		return filepath.Join(bin, "upstream", name)
	}
	return filepath.Join(bin, name)
}

// putProgram puts a program of either side into a node's path.
func putProgram(t *testing.T, node string, by side, name string) {
	t.Helper()
	// A program that runs cannot be written to, only replaced.
	orrery(t, "cp", built(by, name), node+":/usr/bin/"+name+".new")
	inNode(t, node, "mv /usr/bin/"+name+".new /usr/bin/"+name)
}

// putKubelet replaces the program behind kubelet.service, under its running pods.
func putKubelet(t *testing.T, node string, by side) {
	t.Helper()
	inNode(t, node, "systemctl stop kubelet")
	putProgram(t, node, by, "kubelet")
	inNode(t, node, "systemctl start kubelet")
}

// serveCRI stops the kubelet and serves our runtime without it.
func serveCRI(t *testing.T, node string) {
	t.Helper()
	inNode(t, node, "systemctl stop kubelet")
	putProgram(t, node, ours, "orrery-cri")
	inNode(t, node, "systemd-run --unit orrery-cri --property Restart=always orrery-cri")
}

// leave takes a node out of the cluster with the kubeadm that is in its path, and
// removes what kubeadm reset leaves to its user: the bridge has an address of a range that will be another node's.
func leave(t *testing.T, node string, flags ...string) string {
	t.Helper()
	out := inNode(t, node, strings.Join(append([]string{"kubeadm reset --force"}, flags...), " "))
	inNode(t, node, "rm -rf /etc/cni/net.d/* /var/lib/cni; ip link delete cni0 2>/dev/null || true")
	kubectl(t, "delete", "node", node, "--ignore-not-found")
	return out
}

// joinCommand is what the control plane's kubeadm tells new nodes to run.
func joinCommand(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(inNode(t, head, "kubeadm token create --print-join-command"))
}

// join makes a node a member again and waits until it is Ready.
func join(t *testing.T, node string, flags ...string) string {
	t.Helper()
	out, err := command(3*time.Minute, "docker", "exec", node, "bash", "-c", strings.Join(append([]string{joinCommand(t)}, flags...), " "))
	must(t, err)
	ready(t, node)
	return out
}

// overlook is what upstream's kubeadm must be told not to mind: this machine's cgroup v1, swap and kernel configuration.
const overlook = "--ignore-preflight-errors=SystemVerification,Swap"

func ready(t *testing.T, node string) {
	t.Helper()
	eventually(t, 2*time.Minute, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", node))
}

// putBack makes a node ours again, whatever a test has left.
func putBack(t *testing.T, node string) {
	t.Helper()
	inNode(t, node, "systemctl stop kubelet; systemctl stop orrery-cri 2>/dev/null || true")
	for _, name := range []string{"kubelet", "kubeadm"} {
		putProgram(t, node, ours, name)
	}
	leave(t, node)
	join(t, node)
}

// daemons waits for the pods that every node has.
func daemons(t *testing.T, node string) {
	t.Helper()
	eventually(t, 2*time.Minute, func() error {
		out, err := tryKubectl("get", "pods", "-A", "--no-headers", "--field-selector", "spec.nodeName="+node)
		if err != nil {
			return err
		}
		for _, name := range []string{"kube-proxy-", "kube-orrery-cni-ds-", "orrery-ingress-"} {
			found := false
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				found = found || len(f) > 3 && strings.HasPrefix(f[1], name) && f[2] == "1/1" && f[3] == "Running"
			}
			if !found {
				return fmt.Errorf("no pod %s* runs on %s:\n%s", name, node, out)
			}
		}
		return nil
	})
}

// keepSysctls puts the machine's settings back that upstream's kubelet changes:
// they are of the one kernel that all nodes have.
func keepSysctls(t *testing.T, node string) {
	t.Helper()
	before := strings.Fields(inNode(t, node, "sysctl -n vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"))
	t.Cleanup(func() {
		for i, name := range []string{"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes"} {
			if _, err := tryInNode(node, "sysctl -qw "+name+"="+before[i]); err != nil {
				t.Log(err)
			}
		}
	})
}
