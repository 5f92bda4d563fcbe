package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"

	"orrery/client/timing"
)

// Config is what a Proxy needs to know.
type Config struct {
	// Options for the rules; Zone and NodeIP are learned from the Node object.
	Options
	// Kubeconfig is the path of the kubeconfig; empty inside a pod.
	Kubeconfig string
	// MinSyncPeriod is the least time between two changes of the rules: what
	// comes in between goes together.
	MinSyncPeriod time.Duration
	// SyncPeriod is how often the rules are put back though nothing changed.
	SyncPeriod time.Duration
	// HealthzAddress and MetricsAddress are host:port; empty for none.
	HealthzAddress, MetricsAddress string
	// NodePortAddresses narrows the addresses that take node ports to these
	// ranges, or to "primary"; empty for all addresses.
	NodePortAddresses []string
}

// LoadConfig reads a KubeProxyConfiguration file and fills in the defaults;
// with an empty path there are only the defaults.
//
// Upstream: pkg/proxy/apis/config/v1alpha1/defaults.go, SetDefaults_KubeProxyConfiguration.
// Left out: strict decoding, conntrack and logging settings, feature gates.
func LoadConfig(path string) (Config, error) {
	file := v1alpha1.KubeProxyConfiguration{}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return Config{}, err
		}
		if err := yaml.Unmarshal(data, &file); err != nil {
			return Config{}, fmt.Errorf("%s: %w", path, err)
		}
		if file.APIVersion != v1alpha1.SchemeGroupVersion.String() || file.Kind != "KubeProxyConfiguration" {
			return Config{}, fmt.Errorf("%s: no kind %q is registered for version %q", path, file.Kind, file.APIVersion)
		}
	}
	bit := deref(file.IPTables.MasqueradeBit, 14)
	if bit < 0 || bit > 31 {
		return Config{}, errors.New("iptables.masqueradeBit: must be within the range [0, 31]")
	}
	c := Config{
		Options: Options{
			Node: file.HostnameOverride, ClusterCIDR: file.ClusterCIDR,
			MasqueradeMark: 1 << bit, MasqueradeAll: file.IPTables.MasqueradeAll,
			LocalhostNodePorts: deref(file.IPTables.LocalhostNodePorts, true),
		},
		Kubeconfig:        file.ClientConnection.Kubeconfig,
		MinSyncPeriod:     cmp.Or(file.IPTables.MinSyncPeriod.Duration, timing.ProxyMinSyncPeriod),
		SyncPeriod:        cmp.Or(file.IPTables.SyncPeriod.Duration, timing.ProxySyncPeriod),
		HealthzAddress:    cmp.Or(file.HealthzBindAddress, "0.0.0.0:10256"),
		MetricsAddress:    cmp.Or(file.MetricsBindAddress, "127.0.0.1:10249"),
		NodePortAddresses: file.NodePortAddresses,
	}
	return c, CheckMode(string(file.Mode))
}

// CheckMode accepts the modes that are here.
func CheckMode(mode string) error {
	switch mode {
	case "", "iptables":
		return nil
	case "nftables", "ipvs":
		return fmt.Errorf("proxy mode %q is not supported, only \"iptables\" is", mode)
	}
	return fmt.Errorf("unknown proxy mode %q", mode)
}

// nodePortIPs are the addresses that take node ports; nil for all.
func (c Config) nodePortIPs(nodeIP netip.Addr) ([]netip.Addr, error) {
	if len(c.NodePortAddresses) == 0 {
		return nil, nil
	}
	out := []netip.Addr{}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, want := range c.NodePortAddresses {
		if want == "primary" {
			out = append(out, nodeIP)
			continue
		}
		prefix, err := netip.ParsePrefix(want)
		if err != nil {
			return nil, fmt.Errorf("nodePortAddresses: %w", err)
		}
		if prefix.Bits() == 0 && prefix.Addr().Is4() {
			return nil, nil
		}
		for _, a := range own {
			if p, err := netip.ParsePrefix(a.String()); err == nil && prefix.Contains(p.Addr()) {
				out = append(out, p.Addr())
			}
		}
	}
	return out, nil
}
