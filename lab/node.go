package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"orrery/deploy/images"
)

// bootTimeout bounds the wait for a node's containerd after its container started.
const bootTimeout = 60 * time.Second

// stopTimeout is how long a node may take to shut down before it is cut off, in seconds.
const stopTimeout = "10"

// apiPort is where the API server listens in the control-plane node.
const apiPort = 6443

// ensureNetwork makes the cluster's network, and returns its subnet. The nodes' addresses are chosen from it and
// not by Docker, which gives them out anew in the order in which containers start.
func (c *Cluster) ensureNetwork(ctx context.Context) (netip.Prefix, error) {
	found, err := c.Docker.Ask(ctx, "network", "ls", "--quiet", "--filter", "label="+labelProfile+"="+c.Name)
	if err != nil {
		return netip.Prefix{}, err
	}
	if found != "" {
		subnet, err := c.Docker.Ask(ctx, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", c.Name)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.ParsePrefix(subnet)
	}
	create := []string{"network", "create", "--driver", "bridge", "--label", labelProfile + "=" + c.Name}
	// A network of one's own does not inherit the engine's MTU, and packets that are too long vanish.
	mtu, err := c.Docker.Ask(ctx, "network", "inspect", "--format", `{{index .Options "com.docker.network.driver.mtu"}}`, "bridge")
	if err != nil {
		return netip.Prefix{}, err
	}
	if mtu != "" && mtu != "1500" {
		create = append(create, "--opt", "com.docker.network.driver.mtu="+mtu)
	}
	for third := range 256 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(third), 0}), 24)
		err = c.Docker.Do(ctx, append(create, "--subnet", subnet.String(), c.Name)...)
		if err == nil || !strings.Contains(err.Error(), "overlap") {
			return subnet, err
		}
	}
	return netip.Prefix{}, err
}

// address is the address of the i-th node: the network's gateway has .1, the first node .2.
func address(subnet netip.Prefix, i int) netip.Addr {
	a := subnet.Addr().As4()
	a[3] += byte(i + 1)
	return netip.AddrFrom4(a)
}

// The component images that a node's first boot imports: fewer of them boot sooner.
const (
	workerImages = images.EveryNode
	allImages    = images.ControlPlane + " " + images.EveryNode
)

// createNode starts a container that is a machine. Each flag is there because something failed without it.
func (c *Cluster) createNode(ctx context.Context, image string, n Node, imports string) error {
	args := []string{
		"run", "--detach", "--tty", "--name", n.Name, "--hostname", n.Name,
		"--label", labelProfile + "=" + c.Name,
		"--label", labelIP + "=" + n.IP.String(),
		"--label", labelRole + "=" + n.Role,
		"--env", "ORRERY_IMAGES=" + imports,
		"--network", c.Name, "--ip", n.IP.String(),
		// All that --privileged gives, except what fails where the engine itself lacks CAP_SYS_RESOURCE.
		"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
		"--device-cgroup-rule", "a *:* rwm", // a privileged pod's own devices
		"--device", "/dev/kmsg", // a kubelet reads the kernel's OOM kills there
		"--cgroupns", "private", // the node's cgroups begin at its own root
		"--tmpfs", "/run", "--tmpfs", "/tmp", // systemd wants them empty at boot
		"--volume", "/var", // else containerd's overlays would stand on Docker's
	}
	if n.TimeScale != 0 {
		// systemd hands the variable on to the kubelet: see its unit.
		scale := fmt.Sprint(n.TimeScale)
		args = append(args, "--label", labelScale+"="+scale, "--env", "KUBELET_EXTRA_ARGS=--time-scale="+scale)
	}
	if n.Port != 0 {
		args = append(args, "--label", labelPort+"="+strconv.Itoa(n.Port), "--publish", fmt.Sprintf("127.0.0.1:%d:%d", n.Port, apiPort))
	}
	return portError(c.Docker.Do(ctx, append(args, image)...), n.Port)
}

// waitBooted waits for the node's containerd, the last thing that its boot starts before the kubelet.
func (c *Cluster) waitBooted(ctx context.Context, n Node) error {
	return c.until(ctx, n, bootTimeout, "it has not booted", "systemctl is-active --quiet containerd")
}

// until waits in the node for a shell condition. The limit holds in the node, where a docker that is interrupted
// would leave the loop running.
func (c *Cluster) until(ctx context.Context, n Node, limit time.Duration, otherwise, condition string) error {
	err := c.Docker.Do(ctx, "exec", n.Name, "timeout", fmt.Sprint(limit.Seconds()), "sh", "-c", "until "+condition+"; do sleep 0.1; done")
	var command *CommandError
	if errors.As(err, &command) && command.Code == 124 {
		return fmt.Errorf("%s after %s: see `orrery logs%s --node %s`", otherwise, limit, c.profileFlag(), n.Name)
	}
	return err
}

// StartNode starts a stopped node and waits until it has booted. Its name, address and disk are as they were.
func (c *Cluster) StartNode(ctx context.Context, n Node) error {
	if err := portError(c.Docker.Do(ctx, "start", n.Name), n.Port); err != nil {
		return err
	}
	return c.waitBooted(ctx, n)
}

// StopNode shuts a node down as a machine is shut down: its systemd is told to, and is cut off if it takes too long.
func (c *Cluster) StopNode(ctx context.Context, n Node) error {
	return c.Docker.Do(ctx, "stop", "-t", stopTimeout, n.Name)
}

// DeleteNode takes a node out of its cluster, and removes its container and its disk. The control plane is not
// one that a cluster can do without.
func (c *Cluster) DeleteNode(ctx context.Context, n Node) error {
	if n.IsControlPlane() {
		return errors.New("this node runs the control plane: to remove the whole cluster use `orrery delete" + c.profileFlag() + "`")
	}
	head, err := c.Node(ctx, "")
	if err != nil {
		return err
	}
	if head.Running && c.hasKubernetes(ctx, head) {
		if err := c.kubectl(ctx, head, "delete", "node", n.Name, "--ignore-not-found"); err != nil {
			return err
		}
	}
	return c.Docker.Do(ctx, "rm", "--force", "--volumes", n.Name)
}

// hasKubernetes says whether kubeadm has made the node a member of a cluster.
func (c *Cluster) hasKubernetes(ctx context.Context, n Node) bool {
	_, err := c.Docker.Ask(ctx, "exec", n.Name, "test", "-e", "/etc/kubernetes/kubelet.conf")
	return err == nil
}

// kubectl runs kubectl in the control-plane node, as its administrator.
func (c *Cluster) kubectl(ctx context.Context, n Node, args ...string) error {
	return c.Docker.Do(ctx, append([]string{"exec", n.Name, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)...)
}
