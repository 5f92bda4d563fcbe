package plugin

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"orrery/cni/ipam"
)

// Type is the plugin's name in a configuration and the name of its binary.
const Type = "orrery-cni"

// Config is what stands in the configuration file for this plugin, together
// with what the runtime adds for one pod.
type Config struct {
	types.PluginConf

	// Bridge is the name of the node's bridge, cni0 by default.
	Bridge string `json:"bridge"`
	// MTU of the pod's interface in bytes; 0 leaves the kernel's default.
	MTU int `json:"mtu"`
	// IPAM says where addresses come from. It shadows the field of PluginConf,
	// which only knows the type.
	IPAM IPAM `json:"ipam"`
	// RuntimeConfig carries what the runtime knows of the pod.
	RuntimeConfig struct {
		PortMappings []PortMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig,omitempty"`
}

// IPAM is the address part of a configuration, worded as host-local's.
type IPAM struct {
	// Subnet is the node's range of pod addresses, spec.podCIDR of its Node.
	Subnet string `json:"subnet"`
	// DataDir holds the folder with one file per address; ipam.DefaultDir by default.
	DataDir string `json:"dataDir,omitempty"`
}

// PortMapping asks for a port of the node to lead to a port of the pod.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// parse reads a configuration and opens its address store. Errors are CNI
// errors: the runtime shows their message in the pod's events.
func parse(stdin []byte) (*Config, *ipam.Store, error) {
	conf := &Config{Bridge: "cni0"}
	if err := json.Unmarshal(stdin, conf); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "failed to load netconf", err.Error())
	}
	subnet, err := netip.ParsePrefix(conf.IPAM.Subnet)
	if err != nil {
		return nil, nil, types.NewError(types.ErrInvalidNetworkConfig, "invalid ipam.subnet", err.Error())
	}
	if conf.IPAM.DataDir == "" {
		conf.IPAM.DataDir = ipam.DefaultDir
	}
	store, err := ipam.Open(conf.IPAM.DataDir, conf.Name, subnet)
	if err != nil {
		return nil, nil, types.NewError(types.ErrIOFailure, fmt.Sprintf("failed to open the address store of %q", conf.Name), err.Error())
	}
	return conf, store, nil
}
