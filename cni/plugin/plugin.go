package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"orrery/cni/ipam"
)

// timeout bounds one run of the plugin; the runtime gives up later than that.
const timeout = 60 * time.Second

// Main runs the command that the environment asks for and prints its result or
// its error on stdout, as the CNI specification says. It exits the process on error.
func Main(ctx context.Context, about string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	bind := func(f func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error { return f(ctx, args) }
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: bind(add), Del: bind(del), Check: bind(check), GC: bind(gc), Status: bind(status),
	}, version.All, about)
}

// add gives the pod its interface, address, routes and host ports.
func add(ctx context.Context, args *skel.CmdArgs) (err error) {
	conf, store, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	spaces, err := openNamespaces(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("failed to open netns %q", args.Netns), err.Error())
	}
	defer spaces.close()

	addr, err := store.Reserve(args.ContainerID, args.IfName)
	if err != nil {
		return types.NewError(types.ErrTryAgainLater, "failed to allocate an address", err.Error())
	}
	defer func() {
		if err == nil {
			return
		}
		if again := undo(ctx, conf, store, args); again != nil {
			err = errors.Join(err, again)
		}
	}()

	bridge, err := spaces.ensureBridge(conf.Bridge, conf.MTU, netip.PrefixFrom(store.Gateway(), store.Subnet().Bits()))
	if err != nil {
		return types.NewError(types.ErrIOFailure, "failed to set up bridge "+conf.Bridge, err.Error())
	}
	result, err := spaces.connect(bridge, args, conf.MTU, addr, store.Gateway())
	if err != nil {
		return types.NewError(types.ErrIOFailure, "failed to connect the pod to bridge "+conf.Bridge, err.Error())
	}
	if err := mapPorts(ctx, conf, args.ContainerID, addr); err != nil {
		return types.NewError(types.ErrIOFailure, "failed to map host ports", err.Error())
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// del takes everything back. The namespace may be gone, and with it the veth pair.
func del(ctx context.Context, args *skel.CmdArgs) error {
	conf, store, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return undo(ctx, conf, store, args)
}

// undo goes on after an error, so that one thing that cannot be removed does
// not keep an address for ever.
func undo(ctx context.Context, conf *Config, store *ipam.Store, args *skel.CmdArgs) error {
	return errors.Join(
		unmapPorts(ctx, conf, args.ContainerID),
		deleteVeth(vethName(args.ContainerID, args.IfName)),
		store.Release(args.ContainerID, args.IfName),
	)
}

// check says whether what add made is still there.
func check(_ context.Context, args *skel.CmdArgs) error {
	conf, store, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	addr, ok := store.Lookup(args.ContainerID, args.IfName)
	if !ok {
		return types.NewError(types.ErrUnknownContainer, "no address is reserved for this container", args.ContainerID)
	}
	spaces, err := openNamespaces(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("failed to open netns %q", args.Netns), err.Error())
	}
	defer spaces.close()
	if err := spaces.verify(conf.Bridge, args, addr); err != nil {
		return types.NewError(types.ErrInternal, "the pod's interface is not as it was made", err.Error())
	}
	return nil
}

// gc releases the addresses and interfaces of attachments that the runtime no
// longer knows.
func gc(ctx context.Context, args *skel.CmdArgs) error {
	conf, store, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid := map[types.GCAttachment]bool{}
	for _, a := range conf.ValidAttachments {
		valid[a] = true
	}
	var errs []error
	err = store.Keep(func(containerID, ifname string) bool {
		if valid[types.GCAttachment{ContainerID: containerID, IfName: ifname}] {
			return true
		}
		errs = append(errs, unmapPorts(ctx, conf, containerID), deleteVeth(vethName(containerID, ifname)))
		return false
	})
	return errors.Join(append(errs, err)...)
}

// status says whether add could work now.
func status(_ context.Context, args *skel.CmdArgs) error {
	_, _, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		return types.NewError(errPluginNotAvailable, "host ports need iptables", err.Error())
	}
	if _, err := os.Stat("/proc/sys/net/ipv4/ip_forward"); err != nil {
		return types.NewError(errPluginNotAvailable, "no IPv4 forwarding", err.Error())
	}
	return nil
}

// errPluginNotAvailable is the specification's code for "cannot service ADD".
const errPluginNotAvailable uint = 50

// describe makes the result: interface 0 is the bridge, 1 the node's end of the
// pair and 2 the pod's, which has the address.
func describe(interfaces []*current.Interface, addr, gateway netip.Addr) *current.Result {
	return &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: interfaces,
		IPs: []*current.IPConfig{{
			Interface: current.Int(2),
			Address:   *hostNet(addr),
			Gateway:   gateway.AsSlice(),
		}},
		Routes: []*types.Route{{Dst: *everything(), GW: gateway.AsSlice()}},
	}
}
