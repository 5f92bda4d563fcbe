package plugin

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"net/netip"

	"orrery/cni/kernel"
)

// Chains of the host ports, named as upstream's portmap plugin names them.
//
//	PREROUTING, OUTPUT ─► CNI-HOSTPORT-DNAT ─► CNI-DN-… (one per pod) ─► DNAT to the pod
//	POSTROUTING        ─► CNI-HOSTPORT-MASQ: what CNI-HOSTPORT-SETMARK marked is masqueraded
const (
	chainDNAT    = "CNI-HOSTPORT-DNAT"
	chainSetMark = "CNI-HOSTPORT-SETMARK"
	chainMasq    = "CNI-HOSTPORT-MASQ"
	markBit      = "0x2000/0x2000"
)

// mapPorts makes the pod's host ports lead to it.
//
// Upstream: containernetworking/plugins, plugins/meta/portmap, forwardPorts.
func mapPorts(ctx context.Context, conf *Config, containerID string, addr netip.Addr) error {
	ports := conf.RuntimeConfig.PortMappings
	if len(ports) == 0 {
		return nil
	}
	if err := ensurePortChains(ctx); err != nil {
		return err
	}
	name := podChain(conf.Name, containerID)
	if err := kernel.Restore(ctx, kernel.Chain{Table: "nat", Name: name, Rules: portRules(ports, addr)}); err != nil {
		return err
	}
	comment := fmt.Sprintf("dnat name: %q id: %q", conf.Name, containerID)
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		err := kernel.Jump(ctx, "nat", chainDNAT, "-p", protocol(p), "-m", "comment", "--comment", comment,
			"-m", "multiport", "--destination-ports", fmt.Sprint(p.HostPort), "-j", name)
		if err != nil {
			return err
		}
	}
	return nil
}

// portRules are the rules of one pod's chain. Traffic that comes from the pod
// itself or from the node's loopback would be answered past the node, so it is
// masqueraded.
func portRules(ports []PortMapping, addr netip.Addr) []string {
	var rules []string
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		match := fmt.Sprintf("-p %s", protocol(p))
		if ip, err := netip.ParseAddr(p.HostIP); err == nil && !ip.IsUnspecified() {
			match += fmt.Sprintf(" -d %s/32", ip)
		}
		port := fmt.Sprintf("-m %s --dport %d", protocol(p), p.HostPort)
		for _, source := range []string{addr.String(), "127.0.0.1"} {
			rules = append(rules, fmt.Sprintf("-s %s/32 %s %s -j %s", source, match, port, chainSetMark))
		}
		rules = append(rules, fmt.Sprintf("%s %s -j DNAT --to-destination %s:%d", match, port, addr, p.ContainerPort))
	}
	return rules
}

// ensurePortChains makes what all pods with host ports share.
func ensurePortChains(ctx context.Context) error {
	if err := kernel.EnsureChain(ctx, "nat", chainDNAT); err != nil {
		return err
	}
	err := kernel.Restore(ctx,
		kernel.Chain{Table: "nat", Name: chainSetMark, Rules: []string{
			`-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark ` + markBit}},
		kernel.Chain{Table: "nat", Name: chainMasq, Rules: []string{
			"-m mark --mark " + markBit + " -j MASQUERADE"}})
	if err != nil {
		return err
	}
	local := []string{"-m", "addrtype", "--dst-type", "LOCAL", "-j", chainDNAT}
	for chain, rule := range map[string][]string{
		"PREROUTING":  local,
		"OUTPUT":      local,
		"POSTROUTING": {"-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", chainMasq},
	} {
		if err := kernel.Jump(ctx, "nat", chain, rule...); err != nil {
			return err
		}
	}
	return nil
}

// unmapPorts removes the pod's chain, if it had one: what the runtime says about
// ports on DEL need not be what it said on ADD.
func unmapPorts(ctx context.Context, conf *Config, containerID string) error {
	return kernel.Delete(ctx, "nat", podChain(conf.Name, containerID))
}

// podChain is at most 28 bytes long, as iptables wants it.
func podChain(network, containerID string) string {
	sum := sha512.Sum512([]byte(network + containerID))
	return "CNI-DN-" + hex.EncodeToString(sum[:])[:21]
}

func protocol(p PortMapping) string {
	switch p.Protocol {
	case "UDP", "udp":
		return "udp"
	case "SCTP", "sctp":
		return "sctp"
	}
	return "tcp"
}
