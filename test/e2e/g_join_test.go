package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A node leaves and joins again by hand, as in the course's second chapter, and
// a join that cannot be trusted is refused with upstream's words.
func TestJoinByHand(t *testing.T) {
	need(t)
	orrery(t, "node", "add")
	worker4 := profile + "-m04"
	defer orrery(t, "node", "delete", worker4)
	eventually(t, time.Minute, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", worker4))

	must(t, contains(inNode(t, worker4, "kubeadm reset --force"), "[reset] Stopping the kubelet service", "[reset] Deleting contents of directories"))
	must(t, contains(kubectl(t, "delete", "node", worker4), `node "`+worker4+`" deleted`))

	join := strings.Fields(inNode(t, head, "kubeadm token create --print-join-command"))
	if len(join) != 7 {
		t.Fatalf("join command %q", join)
	}
	endpoint, token, pin := join[2], join[4], join[6]
	// Discovery waits five minutes for a signature that may be late; five seconds
	// will do here.
	attempt := func(token, pin string) (string, error) {
		config := fmt.Sprintf("apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ntimeouts: {discovery: 5s}\n"+
			"discovery: {bootstrapToken: {token: %s, apiServerEndpoint: %q, caCertHashes: [%q]}}\n", token, endpoint, pin)
		return tryInNode(worker4, "cat > /tmp/join.yaml <<EOF\n"+config+"EOF\nkubeadm join --config /tmp/join.yaml")
	}
	expired := strings.TrimSpace(inNode(t, head, "kubeadm token create --ttl 1s"))
	// Until the signer has seen it go, discovery still trusts an expired token.
	eventually(t, 30*time.Second, func() error {
		signed, err := tryKubectl("get", "configmap", "cluster-info", "-n", "kube-public", "-o", "jsonpath={.data}")
		if err == nil && strings.Contains(signed, "jws-kubeconfig-"+expired[:6]) {
			err = fmt.Errorf("cluster-info still has a signature for %s", expired[:6])
		}
		return err
	})
	for name, tt := range map[string]struct{ token, pin, want string }{
		"wrong hash":    {token, "sha256:" + strings.Repeat("0", 64), "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys"},
		"wrong secret":  {token[:7] + "0000000000000000", pin, "failed to verify JWS signature of received cluster info object, can't trust this API Server"},
		"unknown token": {"zzzzzz.0123456789abcdef", pin, `could not find a JWS signature in the cluster-info ConfigMap for token ID "zzzzzz"`},
		"expired token": {expired, pin, fmt.Sprintf(`could not find a JWS signature in the cluster-info ConfigMap for token ID %q`, expired[:6])},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := attempt(tt.token, tt.pin)
			if err == nil {
				t.Fatalf("joined: %s", out)
			}
			must(t, contains(out, "error execution phase preflight: couldn't validate the identity of the API Server: ", tt.want))
			if _, err := tryInNode(worker4, "test -e /etc/kubernetes/kubelet.conf"); err == nil {
				t.Error("a refused join left a kubelet.conf")
			}
		})
	}
	must(t, contains(inNode(t, worker4, strings.Join(join, " ")), "This node has joined the cluster:", "Run 'kubectl get nodes' on the control-plane to see this node join the cluster."))
	eventually(t, time.Minute, is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "node", worker4))
	eventually(t, 20*time.Second, func() error {
		out, err := tryKubectl("get", "csr")
		if err != nil {
			return err
		}
		return contains(out, "kubernetes.io/kube-apiserver-client-kubelet", "system:bootstrap:"+token[:6], "Approved,Issued")
	})
	// Only now is the address of the network plugin's pods known to its peers.
	eventually(t, 30*time.Second, func() error {
		return contains(inNode(t, worker2, "ip route"), addresses(t)[worker4])
	})
}

// leftovers are what a deleted cluster must not leave behind.
func leftovers() error {
	for what, args := range map[string][]string{
		"containers": {"ps", "-a", "--filter", "name=" + profile, "-q"},
		"networks":   {"network", "ls", "--filter", "name=" + profile, "-q"},
		"volumes":    {"volume", "ls", "--filter", "name=" + profile, "-q"},
	} {
		out, err := command(time.Minute, "docker", args...)
		if err != nil {
			return err
		}
		if strings.TrimSpace(out) != "" {
			return fmt.Errorf("orrery delete left %s: %s", what, out)
		}
	}
	if dir := filepath.Dir(kubeconfig); kubeconfig != "" {
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("orrery delete left %s", dir)
		}
	}
	return nil
}
