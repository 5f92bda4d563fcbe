package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Upstream's kubeadm takes a node out and lets it join again, against a control
// plane that ours has made and with our kubelet; tokens of one are tokens of the other.
func TestSwapKubeadm(t *testing.T) {
	needSwap(t, "kubeadm")
	for _, node := range []string{head, worker3} {
		putProgram(t, node, upstream, "kubeadm")
	}
	t.Cleanup(func() {
		putProgram(t, head, ours, "kubeadm")
		putBack(t, worker3)
	})
	must(t, contains(inNode(t, head, "kubeadm version -o short"), "v1.36.3\n"))

	t.Run("tokens", func(t *testing.T) {
		token := strings.TrimSpace(inNode(t, head, "kubeadm token create --ttl 1h --description 'made by upstream'"))
		list := inNode(t, head, "kubeadm token list")
		must(t, contains(list, token, "made by upstream", "authentication,signing", "system:bootstrappers:kubeadm:default-node-token"))
		putProgram(t, head, ours, "kubeadm")
		// Only how much time is left may differ, by the second between the two.
		if own := inNode(t, head, "kubeadm token list"); columns(own) != columns(list) {
			t.Errorf("kubeadm token list of ours:\n%s\nupstream's:\n%s", own, list)
		}
		must(t, contains(inNode(t, head, "kubeadm token delete "+token), fmt.Sprintf("bootstrap token %q deleted", token[:6])))
		putProgram(t, head, upstream, "kubeadm")
		if list := inNode(t, head, "kubeadm token list"); strings.Contains(list, token) {
			t.Errorf("the deleted token is listed:\n%s", list)
		}
	})

	// There is no runtime before our kubelet brings it along.
	const overlook = overlook + ",CRI,ContainerRuntimeVersion"
	t.Run("reset", func(t *testing.T) {
		// It stops the kubelet, and with ours its runtime; so another has to be there to be asked for the pods.
		serveCRI(t, worker3)
		must(t, contains(leave(t, worker3, "--cri-socket", ourCRI), "[reset] Stopping the kubelet service", "[reset] Deleting contents of directories"))
		inNode(t, worker3, "systemctl stop orrery-cri")
		if left := inNode(t, worker3, "ctr -n k8s.io containers ls -q"); left != "" {
			t.Errorf("containers are left:\n%s", left)
		}
		if out, err := tryInNode(worker3, "test -e /etc/kubernetes/kubelet.conf"); err == nil {
			t.Errorf("kubelet.conf is still there: %s", out)
		}
	})
	t.Run("join with a wrong hash", func(t *testing.T) {
		f := strings.Fields(joinCommand(t))
		f[len(f)-1] = "sha256:" + strings.Repeat("0", 64)
		_, err := tryInNode(worker3, strings.Join(f, " ")+" --cri-socket "+ourCRI+" "+overlook)
		if err == nil {
			t.Fatal("joined")
		}
		must(t, contains(err.Error(), "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys"))
	})
	t.Run("join", func(t *testing.T) {
		out := join(t, worker3, "--cri-socket", ourCRI, overlook)
		must(t, contains(out, `Reading configuration from the "kubeadm-config" ConfigMap in namespace "kube-system"`,
			"This node has joined the cluster:", "The recommended value for \"bindAddress\" in \"KubeProxyConfiguration\""))
		if strings.Contains(out, "forbidden") || strings.Contains(out, "Unable to get") {
			t.Errorf("something that a join reads could not be read:\n%s", out)
		}
		must(t, is("v1.36.3+orrery", "{.status.nodeInfo.kubeletVersion}", "node", worker3)())
		eventually(t, 20*time.Second, func() error {
			out, err := tryKubectl("get", "csr")
			if err != nil {
				return err
			}
			return contains(out, "kubernetes.io/kube-apiserver-client-kubelet", "system:bootstrap:", "Approved,Issued")
		})
		worksAsNode(t, worker3, ourCRI)
	})
}

// columns is a list of tokens without the column TTL.
func columns(list string) string {
	var out strings.Builder
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) > 2 {
			f[1] = ""
		}
		fmt.Fprintln(&out, strings.Join(f, " "))
	}
	return out.String()
}
