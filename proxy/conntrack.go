package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// forgetStale makes the kernel forget UDP conversations with Services whose
// endpoint is gone. The rules only see the first packet of a conversation; UDP
// has no end, so without this a client that goes on sending, such as a
// resolver, would send to a dead pod for ever. TCP notices by itself.
//
// Upstream: pkg/proxy/conntrack/cleanup.go, CleanStaleEntries.
func forgetStale(ports []*servicePort) error {
	filter := staleFlows{byAddr: map[netip.AddrPort]map[netip.AddrPort]bool{}, byPort: map[uint16]map[netip.AddrPort]bool{}}
	for _, sp := range ports {
		if sp.protocol != "udp" {
			continue
		}
		live := map[netip.AddrPort]bool{}
		for _, e := range sp.endpoints {
			if e.serving {
				live[e.addr] = true
			}
		}
		for _, ip := range append(append([]netip.Addr{sp.clusterIP}, sp.externalIPs...), sp.loadBalancerIPs...) {
			filter.byAddr[netip.AddrPortFrom(ip, uint16(sp.port))] = live
		}
		if sp.nodePort != 0 {
			filter.byPort[uint16(sp.nodePort)] = live
		}
	}
	if len(filter.byAddr) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, syscall.AF_INET, filter)
	if err != nil {
		return fmt.Errorf("forgetting stale UDP conversations: %w", err)
	}
	return nil
}

// staleFlows matches conversations with a Service that are not answered by one
// of its endpoints.
type staleFlows struct {
	byAddr map[netip.AddrPort]map[netip.AddrPort]bool
	byPort map[uint16]map[netip.AddrPort]bool // node ports, on whatever address
}

// MatchConntrackFlow says whether the kernel should forget a conversation.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != syscall.IPPROTO_UDP {
		return false
	}
	live, ok := s.byAddr[addrPort(flow.Forward.DstIP, flow.Forward.DstPort)]
	if !ok {
		live, ok = s.byPort[flow.Forward.DstPort]
	}
	return ok && !live[addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)]
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
