package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What `orrery start` shows: named steps with their times, and what to do next.
func TestStartSaysWhatItDoes(t *testing.T) {
	need(t)
	must(t, contains(started.out, "kubeadm init", "kubeadm join", "export KUBECONFIG=", "kubectl apply -f deploy/demo/app.yaml"))
	t.Logf("orrery start --nodes 3 took %v", started.took.Round(100*time.Millisecond))
	again := orrery(t, "start", "--nodes", "3")
	must(t, contains(again, "is there already"))
}

func TestNodesAreReady(t *testing.T) {
	need(t)
	out := kubectl(t, "get", "nodes", "-o", "wide")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		t.Fatalf("want a header and three nodes:\n%s", out)
	}
	header := regexp.MustCompile(`^NAME +STATUS +ROLES +AGE +VERSION +INTERNAL-IP +EXTERNAL-IP +OS-IMAGE +KERNEL-VERSION +CONTAINER-RUNTIME$`)
	if !header.MatchString(strings.TrimSpace(lines[0])) {
		t.Errorf("header %q", lines[0])
	}
	for i, want := range []string{
		head + ` +Ready +control-plane +\S+ +v1\.36\.3\S* +[0-9.]+ +<none> +Debian GNU/Linux 13 \(trixie\) +\S+ \(\w+\) +containerd://1\.7\.\S+`,
		worker2 + ` +Ready +<none> +\S+ +v1\.36\.3`,
		worker3 + ` +Ready +<none> +\S+ +v1\.36\.3`,
	} {
		if !regexp.MustCompile("^" + want).MatchString(lines[i+1]) {
			t.Errorf("row %q does not match %q", lines[i+1], want)
		}
	}
	list := orrery(t, "node", "list")
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		must(t, contains(list, fields[0], fields[5]))
	}
}

// The control plane runs as static pods that show as mirror pods; kube-proxy and
// the network plugin run on every node.
func TestControlPlaneIsPods(t *testing.T) {
	need(t)
	eventually(t, 2*time.Minute, func() error {
		out, err := tryKubectl("get", "pods", "-A", "--no-headers")
		if err != nil {
			return err
		}
		for name, want := range map[string]int{"etcd-" + head: 1, "kube-apiserver-" + head: 1, "kube-controller-manager-" + head: 1, "kube-scheduler-" + head: 1, "kube-proxy-": 3, "cni": 3, "coredns-": 2} {
			running := regexp.MustCompile(`(?m)^\S+ +\S*`+regexp.QuoteMeta(name)+`\S* +1/1 +Running`).FindAllString(out, -1)
			if len(running) != want {
				return fmt.Errorf("%d pods of %q run, want %d:\n%s", len(running), name, want, out)
			}
		}
		return nil
	})
	must(t, is("Node", "{.metadata.ownerReferences[0].kind}", "pod", "-n", "kube-system", "kube-apiserver-"+head)())
	must(t, is("file", `{.metadata.annotations.kubernetes\.io/config\.source}`, "pod", "-n", "kube-system", "kube-apiserver-"+head)())
	for _, f := range []string{"admin.conf", "kubelet.conf", "manifests/kube-apiserver.yaml", "pki/ca.crt", "pki/etcd/healthcheck-client.crt", "pki/sa.key"} {
		inNode(t, head, "test -s /etc/kubernetes/"+f)
	}
}

// Nothing answers without credentials, but for what upstream shows to everybody.
func TestNoInsecureWayIn(t *testing.T) {
	need(t)
	ip := strings.TrimSpace(orrery(t, "ip"))
	out, err := tryInNode(head, `grep -o "https://[^ ]*" /etc/kubernetes/admin.conf`)
	must(t, err)
	api := strings.TrimSpace(out)
	must(t, contains(api, ip))
	must(t, contains(inNode(t, head, "curl -sk "+api+"/api/v1/pods"), `"code": 403`, `pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope`))
	must(t, contains(inNode(t, head, "curl -sk "+api+"/version"), `"gitVersion"`))
	must(t, contains(inNode(t, head, "curl -sk -H 'Authorization: Bearer nonsense' "+api+"/api/v1/pods"), "Unauthorized"))
	if out, err := tryInNode(head, "curl -s --max-time 5 https://"+ip+":2379/health --cacert /etc/kubernetes/pki/etcd/ca.crt"); err == nil {
		t.Errorf("etcd answers without a client certificate: %s", out)
	}
	if out, err := tryInNode(head, "curl -sk --max-time 5 -o /dev/null -w '%{http_code}' https://"+ip+":10250/pods"); err != nil || strings.TrimSpace(out) != "401" {
		t.Errorf("the kubelet answers an anonymous request with %q (%v), want 401", out, err)
	}
}

// The heartbeat of each node is a lease that is renewed every 10 s.
func TestHeartbeats(t *testing.T) {
	need(t)
	var leases struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct {
				RenewTime            time.Time
				LeaseDurationSeconds int
			}
		}
	}
	must(t, json.Unmarshal([]byte(kubectl(t, "get", "leases", "-n", "kube-node-lease", "-o", "json")), &leases))
	if len(leases.Items) != 3 {
		t.Fatalf("%d leases, want 3", len(leases.Items))
	}
	for _, l := range leases.Items {
		if age := time.Since(l.Spec.RenewTime); age > 15*time.Second || l.Spec.LeaseDurationSeconds != 40 {
			t.Errorf("lease of %s: %v old, for %d s", l.Metadata.Name, age, l.Spec.LeaseDurationSeconds)
		}
	}
}
