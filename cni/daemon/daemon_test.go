package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orrery/test/netns"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const template = `{"cniVersion":"1.0.0","name":"orrery","plugins":[
	{"type":"orrery-cni","bridge":"cni0","capabilities":{"portMappings":true}},{"type":"tuning"}]}`

func node(name, podCIDR, ip string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podCIDR}}
	if ip != "" {
		n.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	}
	return n
}

func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// onNode runs f in a network namespace with eth0 172.30.99.2/24, on a thread
// that is thrown away afterwards.
func onNode(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("orrerycnid-%d", os.Getpid())
	sh(t, "ip", "netns", "add", name)
	defer sh(t, "ip", "netns", "del", name)
	sh(t, "ip", "-n", name, "link", "set", "lo", "up")
	sh(t, "ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	sh(t, "ip", "-n", name, "link", "set", "eth1", "up")
	sh(t, "ip", "-n", name, "addr", "add", "172.30.99.2/24", "dev", "eth0")
	sh(t, "ip", "-n", name, "link", "set", "eth0", "up")
	netns.Within(t, name, f)
}

func newDaemon(t *testing.T) *Daemon {
	return &Daemon{cfg: Config{
		NodeName: "orrery", Network: netip.MustParsePrefix("10.244.0.0/16"),
		Template: []byte(template), ConfigDir: filepath.Join(t.TempDir(), "net.d"),
	}, log: slog.New(slog.DiscardHandler)}
}

func TestTheKernelFollowsTheNodes(t *testing.T) {
	onNode(t, func() {
		d := newDaemon(t)
		m02, m03 := node("orrery-m02", "10.244.1.0/24", "172.30.99.3"), node("orrery-m03", "10.244.2.0/24", "172.30.99.4")
		self := node("orrery", "10.244.0.0/24", "172.30.99.2")
		sh(t, "ip", "route", "add", "192.0.2.0/24", "via", "172.30.99.9") // not ours

		steps := []struct {
			name   string
			do     func()
			nodes  []*corev1.Node
			routes string
		}{
			{"three nodes", nil, []*corev1.Node{self, m02, m03},
				"10.244.1.0/24 via 172.30.99.3 dev eth0 \n10.244.2.0/24 via 172.30.99.4 dev eth0 \n"},
			{"a route deleted by hand", func() { sh(t, "ip", "route", "del", "10.244.1.0/24") }, []*corev1.Node{self, m02, m03},
				"10.244.1.0/24 via 172.30.99.3 dev eth0 \n10.244.2.0/24 via 172.30.99.4 dev eth0 \n"},
			{"a node that came back with another address", nil, []*corev1.Node{self, node("orrery-m02", "10.244.1.0/24", "172.30.99.7"), m03},
				"10.244.1.0/24 via 172.30.99.7 dev eth0 \n10.244.2.0/24 via 172.30.99.4 dev eth0 \n"},
			{"a deleted node", nil, []*corev1.Node{self, m03}, "10.244.2.0/24 via 172.30.99.4 dev eth0 \n"},
			{"a node without a range yet", nil, []*corev1.Node{self, m03, node("orrery-m04", "", "172.30.99.5")},
				"10.244.2.0/24 via 172.30.99.4 dev eth0 \n"},
		}
		for _, step := range steps {
			if step.do != nil {
				step.do()
			}
			if err := d.sync(t.Context(), step.nodes); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			if got := sh(t, "ip", "route", "show", "proto", "111"); got != step.routes {
				t.Errorf("%s: routes are\n%swant\n%s", step.name, got, step.routes)
			}
		}
		if got := sh(t, "ip", "route", "show", "192.0.2.0/24"); got == "" {
			t.Error("a route that is not ours was removed")
		}
	})
}

func TestPodsAreMasqueradedOutsideTheClusterOnlyAndOnlyOnce(t *testing.T) {
	onNode(t, func() {
		d := newDaemon(t)
		for range 2 {
			if err := d.sync(t.Context(), []*corev1.Node{node("orrery", "10.244.0.0/24", "172.30.99.2")}); err != nil {
				t.Fatal(err)
			}
		}
		nat := `-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N ORRERY-POSTRTG
-A POSTROUTING -m comment --comment "orrery masq" -j ORRERY-POSTRTG
-A ORRERY-POSTRTG -s 10.244.0.0/24 -d 10.244.0.0/16 -m comment --comment "pod to pod" -j RETURN
-A ORRERY-POSTRTG -s 10.244.0.0/24 ! -d 224.0.0.0/4 -m comment --comment "pod to outside" -j MASQUERADE --random-fully
`
		if got := sh(t, "iptables", "-t", "nat", "-S"); got != nat {
			t.Errorf("nat:\n%swant\n%s", got, nat)
		}
		filter := `-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N ORRERY-FWD
-A FORWARD -m comment --comment "orrery forward" -j ORRERY-FWD
-A ORRERY-FWD -s 10.244.0.0/16 -m comment --comment "from pods" -j ACCEPT
-A ORRERY-FWD -d 10.244.0.0/16 -m comment --comment "to pods" -j ACCEPT
`
		if got := sh(t, "iptables", "-S"); got != filter {
			t.Errorf("filter:\n%swant\n%s", got, filter)
		}
	})
}

func TestNoConfigurationBeforeTheNodeHasItsRange(t *testing.T) {
	onNode(t, func() {
		d := newDaemon(t)
		path := filepath.Join(d.cfg.ConfigDir, ConfigName)
		err := d.sync(t.Context(), []*corev1.Node{node("orrery", "", "172.30.99.2")})
		if err == nil || err.Error() != `node "orrery" has no podCIDR yet` {
			t.Errorf("sync: %v", err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the configuration was written without a range")
		}
		if err := d.sync(t.Context(), []*corev1.Node{node("orrery", "10.244.0.0/24", "172.30.99.2")}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(got), `"subnet": "10.244.0.0/24"`) || !strings.Contains(string(got), `"tuning"`) {
			t.Errorf("%s: %v: %s", ConfigName, err, got)
		}
		entries, _ := os.ReadDir(d.cfg.ConfigDir)
		if len(entries) != 1 {
			t.Errorf("%d files in the configuration folder, want 1", len(entries))
		}
	})
}

func TestThePluginIsInstalledOverARunningOne(t *testing.T) {
	src, dst := filepath.Join(t.TempDir(), "orrery-cni"), filepath.Join(t.TempDir(), "bin")
	for _, content := range []string{"one", "two"} {
		if err := os.WriteFile(src, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := install(src, dst); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dst, "orrery-cni"))
		info, _ := os.Stat(filepath.Join(dst, "orrery-cni"))
		if err != nil || string(got) != content || info.Mode().Perm() != 0o755 {
			t.Errorf("installed %q, mode %v, %v", got, info.Mode(), err)
		}
	}
}

func TestATemplateWithoutOurPluginIsRefused(t *testing.T) {
	_, err := render([]byte(`{"plugins":[{"type":"bridge"}]}`), netip.MustParsePrefix("10.244.0.0/24"))
	if err == nil || err.Error() != "cni-conf.json: no plugin of type orrery-cni" {
		t.Errorf("render: %v", err)
	}
	if _, err := ParseNetConf([]byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)); err == nil {
		t.Error("vxlan was accepted")
	}
}
