package proxy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// kubeadm writes every field, most of them empty.
const fromKubeadm = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
detectLocalMode: ""
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
kind: KubeProxyConfiguration
metricsBindAddress: ""
mode: ""
nodePortAddresses: null
`

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestTheConfigurationThatKubeadmWrites(t *testing.T) {
	got, err := load(t, fromKubeadm)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Options:    Options{ClusterCIDR: "10.244.0.0/16", MasqueradeMark: 0x4000, LocalhostNodePorts: true},
		Kubeconfig: "/var/lib/kube-proxy/kubeconfig.conf", MinSyncPeriod: time.Second, SyncPeriod: 30 * time.Second,
		HealthzAddress: "0.0.0.0:10256", MetricsAddress: "127.0.0.1:10249",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestConfigurationsThatAreRefusedSayWhy(t *testing.T) {
	for change, want := range map[string]string{
		`mode: "nftables"`: `proxy mode "nftables" is not supported, only "iptables" is`,
		`mode: "magic"`:    `unknown proxy mode "magic"`,
	} {
		if _, err := load(t, strings.Replace(fromKubeadm, `mode: ""`, change, 1)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", change, err, want)
		}
	}
	_, err := load(t, strings.Replace(fromKubeadm, "KubeProxyConfiguration", "KubeletConfiguration", 1))
	if err == nil || !strings.Contains(err.Error(), `no kind "KubeletConfiguration" is registered`) {
		t.Errorf("another kind: %v", err)
	}
}
