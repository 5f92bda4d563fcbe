package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// errNoCNI is the whole reason why a fresh node is NotReady.
// Upstream: containerd go-cni, errors.go, ErrCNINotInitialized.
var errNoCNI = errors.New("cni plugin not initialized")

// loadCNI reads the configuration that is there now; of several, the first by name counts.
// It is read each time, so that a configuration works as soon as it is written.
// Left out: single-plugin files (.conf, .json), which CNI has given up.
func (s *Service) loadCNI() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(s.cfg.CNIConfDir, []string{".conflist"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCNI, err)
	}
	slices.Sort(files)
	for _, file := range files {
		list, err := libcni.NetworkConfFromFile(file)
		if err == nil && len(list.Plugins) > 0 {
			return list, nil
		}
		s.log.Warn("CNI configuration is not usable", "key", file, "err", err)
	}
	return nil, errNoCNI
}

func (s *Service) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(s.cfg.CNIBinDirs, s.cfg.CNICacheDir, nil)
}

// addNetwork has the CNI plugins join a sandbox to the pod network and returns its addresses, the main one first.
// Upstream: containerd pkg/cri/server/sandbox_run.go, setupPodNetwork.
func (s *Service) addNetwork(ctx context.Context, id, netns string, config *cri.PodSandboxConfig) ([]string, error) {
	list, err := s.loadCNI()
	if err != nil {
		return nil, err
	}
	meta := config.GetMetadata()
	var ports []map[string]any
	for _, p := range config.PortMappings {
		if p.HostPort > 0 {
			ports = append(ports, map[string]any{"hostPort": p.HostPort, "containerPort": p.ContainerPort,
				"protocol": strings.ToLower(p.Protocol.String()), "hostIP": p.HostIp})
		}
	}
	result, err := s.cni().AddNetworkList(ctx, list, &libcni.RuntimeConf{
		ContainerID: id,
		NetNS:       netns,
		IfName:      "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", meta.GetNamespace()},
			{"K8S_POD_NAME", meta.GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", id},
			{"K8S_POD_UID", meta.GetUid()},
		},
		CapabilityArgs: map[string]any{"portMappings": ports},
	})
	if err != nil {
		return nil, err
	}
	got, err := types100.GetResult(result)
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, ip := range got.IPs {
		if ip.Interface == nil || *ip.Interface >= len(got.Interfaces) || got.Interfaces[*ip.Interface].Sandbox != "" {
			ips = append(ips, ip.Address.IP.String())
		}
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("failed to find network info for sandbox %q", id)
	}
	return ips, nil
}

// delNetwork undoes addNetwork with the configuration that was used then, which may be gone from the folder by now.
func (s *Service) delNetwork(ctx context.Context, id string) error {
	attachments, err := s.cni().GetCachedAttachments(id)
	if err != nil {
		return err
	}
	for _, a := range attachments {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			return err
		}
		netns := a.NetNS
		if _, err := os.Stat(netns); err != nil {
			netns = "" // gone with a reboot; plugins then only give the address back
		}
		err = s.cni().DelNetworkList(ctx, list, &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: a.IfName,
			Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs})
		if err != nil {
			return err
		}
	}
	return nil
}
