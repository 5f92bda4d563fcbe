package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"orrery/cni/kernel"
)

// protocol marks the routes of this daemon in the kernel's table, so that it
// can tell them from all others. The number is free in /etc/iproute2/rt_protos.
const protocol = 111

// route leads to the pods of another node.
type route struct {
	dst netip.Prefix
	via netip.Addr
}

// change is one correction that was made.
type change struct {
	verb  string
	route route
}

// syncRoutes makes the routes of our protocol exactly those that are wanted,
// and says what it had to change.
func syncRoutes(want []route) (changed []change, err error) {
	missing, wanted := map[route]bool{}, map[netip.Prefix]bool{}
	for _, r := range want {
		missing[r], wanted[r.dst] = true, true
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range have {
		delete(missing, fromKernel(r))
	}
	var errs []error
	for r := range missing {
		// Replace, not add: a range that has moved to another node is never without a route.
		err := netlink.RouteReplace(&netlink.Route{Dst: kernel.IPNet(r.dst), Gw: r.via.AsSlice(), Protocol: protocol})
		if err != nil {
			errs = append(errs, fmt.Errorf("route to %s via %s: %w", r.dst, r.via, err))
			continue
		}
		changed = append(changed, change{"added", r})
	}
	for _, r := range have {
		got := fromKernel(r)
		if wanted[got.dst] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("removing route to %s: %w", got.dst, err))
			continue
		}
		changed = append(changed, change{"removed", got})
	}
	return changed, errors.Join(errs...)
}

func fromKernel(r netlink.Route) route {
	var out route
	if r.Dst != nil {
		addr, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		out.dst = netip.PrefixFrom(addr, bits)
	}
	out.via, _ = netip.AddrFromSlice(r.Gw.To4())
	return out
}

const (
	chainMasq    = "ORRERY-POSTRTG"
	chainForward = "ORRERY-FWD"
)

// syncRules replaces our two chains and sees to the jumps to them.
//
// Pods are known by their addresses inside the cluster; outside, nobody has a
// route back to them, so there they go by the node's. Multicast stays as it is.
func syncRules(ctx context.Context, own, network netip.Prefix) error {
	err := kernel.Restore(ctx,
		kernel.Chain{Table: "nat", Name: chainMasq, Rules: []string{
			fmt.Sprintf(`-s %s -d %s -m comment --comment "pod to pod" -j RETURN`, own, network),
			fmt.Sprintf(`-s %s ! -d 224.0.0.0/4 -m comment --comment "pod to outside" -j MASQUERADE --random-fully`, own),
		}},
		kernel.Chain{Table: "filter", Name: chainForward, Rules: []string{
			fmt.Sprintf(`-s %s -m comment --comment "from pods" -j ACCEPT`, network),
			fmt.Sprintf(`-d %s -m comment --comment "to pods" -j ACCEPT`, network),
		}})
	if err != nil {
		return err
	}
	return errors.Join(
		kernel.Jump(ctx, "nat", "POSTROUTING", "-m", "comment", "--comment", "orrery masq", "-j", chainMasq),
		kernel.Jump(ctx, "filter", "FORWARD", "-m", "comment", "--comment", "orrery forward", "-j", chainForward),
	)
}
