package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"orrery/cni/kernel"
)

// namespaces talks to the kernel about two network namespaces: the node's, in which
// the plugin runs, and the pod's. A netlink socket stays in the namespace it
// was opened in, so no code here ever changes its own.
type namespaces struct {
	ns   netns.NsHandle
	host *netlink.Handle
	pod  *netlink.Handle
}

func openNamespaces(path string) (*namespaces, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	host, err := netlink.NewHandle()
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	pod, err := netlink.NewHandleAt(ns)
	if err != nil {
		host.Close()
		return nil, errors.Join(err, ns.Close())
	}
	return &namespaces{ns: ns, host: host, pod: pod}, nil
}

func (l *namespaces) close() {
	l.pod.Close()
	l.host.Close()
	_ = l.ns.Close()
}

// ensureBridge makes the node's bridge with the gateway's address, or finds it.
func (l *namespaces) ensureBridge(name string, mtu int, gateway netip.Prefix) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	// Two first pods may race here: that the bridge exists is what both want.
	err := l.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("could not add %q: %w", name, err)
	}
	br, err := l.host.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("could not lookup %q: %w", name, err)
	}
	if br.Type() != "bridge" {
		return nil, fmt.Errorf("%q already exists but is not a bridge", name)
	}
	if err := l.ensureAddr(br, gateway); err != nil {
		return nil, err
	}
	// A bridge takes the lowest address of its ports until it is told one:
	// pods would have to learn the gateway's anew whenever one comes or goes.
	if err := l.host.LinkSetHardwareAddr(br, br.Attrs().HardwareAddr); err != nil {
		return nil, fmt.Errorf("could not fix the address of %q: %w", name, err)
	}
	if err := l.host.LinkSetUp(br); err != nil {
		return nil, err
	}
	// Pods talk to each other by way of the gateway though they sit on one
	// bridge. The kernel would redirect them to talk directly, past the rules.
	// A host port must be reachable at 127.0.0.1 too, which needs route_localnet.
	return br, errors.Join(
		kernel.Sysctl("net/ipv4/conf/all/send_redirects", "0"),
		kernel.Sysctl("net/ipv4/conf/"+name+"/send_redirects", "0"),
		kernel.Sysctl("net/ipv4/conf/"+name+"/route_localnet", "1"),
		kernel.Sysctl("net/ipv4/ip_forward", "1"),
	)
}

// ensureAddr refuses a bridge that carries another range: pods of that range
// would be cut off without a word.
func (l *namespaces) ensureAddr(br netlink.Link, gateway netip.Prefix) error {
	have, err := l.host.AddrList(br, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.IPNet.String() == gateway.String() {
			return nil
		}
	}
	if len(have) > 0 {
		return fmt.Errorf("%q already has an IP address different from %s", br.Attrs().Name, gateway)
	}
	addr := &netlink.Addr{IPNet: kernel.IPNet(gateway)}
	if err := l.host.AddrAdd(br, addr); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("could not add IP address to %q: %w", br.Attrs().Name, err)
	}
	return nil
}

// connect makes the veth pair and sets up the pod's end of it.
func (l *namespaces) connect(br netlink.Link, args *skel.CmdArgs, mtu int, addr, gateway netip.Addr) (*current.Result, error) {
	if lo, err := l.pod.LinkByName("lo"); err != nil {
		return nil, err
	} else if err := l.pod.LinkSetUp(lo); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = vethName(args.ContainerID, args.IfName), mtu, br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: args.IfName, PeerNamespace: netlink.NsFd(l.ns), PeerMTU: uint32(mtu)}
	if err := l.host.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("could not make the veth pair: %w", err)
	}
	if err := l.configurePod(args.IfName, addr, gateway); err != nil {
		return nil, err
	}
	// A pod that reaches itself by its Service's address comes back in at the
	// port that it went out of, which a bridge forbids unless hairpin is on.
	if err := l.host.LinkSetHairpin(veth, true); err != nil {
		return nil, fmt.Errorf("could not set hairpin mode: %w", err)
	}
	if err := l.host.LinkSetUp(veth); err != nil {
		return nil, err
	}
	return l.result(br, attrs.Name, args, addr, gateway)
}

func (l *namespaces) configurePod(ifname string, addr, gateway netip.Addr) error {
	eth, err := l.pod.LinkByName(ifname)
	if err != nil {
		return err
	}
	if err := l.pod.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(addr)}); err != nil {
		return fmt.Errorf("could not add %s to %s: %w", addr, ifname, err)
	}
	if err := l.pod.LinkSetUp(eth); err != nil {
		return err
	}
	// The gateway is on no range of the pod's interface: say first that it is on the link.
	for _, r := range []*netlink.Route{
		{LinkIndex: eth.Attrs().Index, Dst: hostNet(gateway), Scope: netlink.SCOPE_LINK},
		{LinkIndex: eth.Attrs().Index, Dst: everything(), Gw: gateway.AsSlice()},
	} {
		if err := l.pod.RouteAdd(r); err != nil {
			return fmt.Errorf("could not add route %s: %w", r.Dst, err)
		}
	}
	return nil
}

func (l *namespaces) result(br netlink.Link, veth string, args *skel.CmdArgs, addr, gateway netip.Addr) (*current.Result, error) {
	outer, err := l.host.LinkByName(veth)
	if err != nil {
		return nil, err
	}
	inner, err := l.pod.LinkByName(args.IfName)
	if err != nil {
		return nil, err
	}
	return describe([]*current.Interface{
		{Name: br.Attrs().Name, Mac: br.Attrs().HardwareAddr.String()},
		{Name: veth, Mac: outer.Attrs().HardwareAddr.String()},
		{Name: args.IfName, Mac: inner.Attrs().HardwareAddr.String(), Sandbox: args.Netns},
	}, addr, gateway), nil
}

// verify compares the kernel with what add made.
func (l *namespaces) verify(bridge string, args *skel.CmdArgs, addr netip.Addr) error {
	br, err := l.host.LinkByName(bridge)
	if err != nil {
		return err
	}
	outer, err := l.host.LinkByName(vethName(args.ContainerID, args.IfName))
	if err != nil {
		return err
	}
	if outer.Attrs().MasterIndex != br.Attrs().Index {
		return fmt.Errorf("%s is not on bridge %s", outer.Attrs().Name, bridge)
	}
	inner, err := l.pod.LinkByName(args.IfName)
	if err != nil {
		return err
	}
	addrs, err := l.pod.AddrList(inner, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.IPNet.String() == hostNet(addr).String() {
			return nil
		}
	}
	return fmt.Errorf("%s has not the address %s", args.IfName, addr)
}

// deleteVeth removes a pair by the node's end of it; the pod's end goes along.
func deleteVeth(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	return err
}

// vethName is the name of the node's end, at most 15 bytes as the kernel wants it.
func vethName(containerID, ifname string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifname))
	return "veth" + hex.EncodeToString(sum[:4])
}

func hostNet(addr netip.Addr) *net.IPNet { return kernel.IPNet(netip.PrefixFrom(addr, addr.BitLen())) }

func everything() *net.IPNet { return kernel.IPNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)) }
