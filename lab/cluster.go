package lab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// DefaultProfile is the cluster's name when none is given: its nodes are orrery, orrery-m02, orrery-m03.
const DefaultProfile = "orrery"

// The labels are the only state that the lab keeps.
const (
	labelProfile = "orrery.profile" // on networks, containers: which cluster they belong to
	labelIP      = "orrery.ip"      // on containers: the node's address
	labelRole    = "orrery.role"    // on containers: one of the roles below
	labelPort    = "orrery.port"    // on the control plane: the port of the API server on the user's machine
	labelScale   = "orrery.scale"   // on containers: how many times as fast the cluster's clockwork goes, if not once
)

const (
	roleControlPlane = "control-plane"
	roleWorker       = "worker"
)

// Cluster is a set of nodes under one name, minikube's profile.
type Cluster struct {
	// Name is the profile, the name of the first node and of the Docker network.
	Name string
	// Docker is where it lives.
	Docker *Docker
	// Out is told what is being done.
	Out io.Writer
	// Home is the folder that keeps the clusters' kubeconfig files.
	Home string
	// Bin is the folder of this program and of the kubectl that was built with it.
	Bin string
	// NodeBin is the folder of the programs for Linux, from which the node image is made.
	NodeBin string
}

// Node is one machine.
type Node struct {
	Name    string
	IP      netip.Addr
	Role    string
	Running bool
	// Port is where the API server is found on the user's machine's loopback; 0 for a worker.
	Port int
	// TimeScale speeds up what the node's kubelet and control plane do by the clock; 0 is true time.
	TimeScale float64
}

// IsControlPlane says whether the node is the one that runs the control plane.
func (n Node) IsControlPlane() bool { return n.Role == roleControlPlane }

// NodeName is the name of a cluster's i-th node, counted from 1.
func (c *Cluster) NodeName(i int) string {
	if i == 1 {
		return c.Name
	}
	return fmt.Sprintf("%s-m%02d", c.Name, i)
}

// Nodes lists the cluster's nodes in the order of their names: the control plane first.
func (c *Cluster) Nodes(ctx context.Context) ([]Node, error) {
	format := "{{.Names}}\t{{.State}}"
	for _, label := range []string{labelIP, labelRole, labelPort, labelScale} {
		format += fmt.Sprintf("\t{{.Label %q}}", label)
	}
	lines, err := c.Docker.Lines(ctx, "ps", "--all", "--filter", "label="+labelProfile+"="+c.Name, "--format", format)
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for _, line := range lines {
		f := strings.Split(line+"\t\t", "\t")
		ip, err := netip.ParseAddr(f[2])
		if err != nil {
			return nil, fmt.Errorf("container %s has the label %s but no address in %s", f[0], labelProfile, labelIP)
		}
		port, _ := strconv.Atoi(f[4])
		scale, _ := strconv.ParseFloat(f[5], 64)
		nodes = append(nodes, Node{Name: f[0], Running: f[1] == "running", IP: ip, Role: f[3], Port: port, TimeScale: scale})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

// Node finds one node by its name; no name is the control plane. The short form m02 will do as well.
func (c *Cluster) Node(ctx context.Context, name string) (Node, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	if len(nodes) == 0 {
		return Node{}, c.absent()
	}
	var names []string
	for _, n := range nodes {
		if n.Name == name || n.Name == c.Name+"-"+name || name == "" && n.IsControlPlane() {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Node{}, fmt.Errorf("there is no node %q: the nodes are %s", name, strings.Join(names, ", "))
}

func (c *Cluster) absent() error {
	return fmt.Errorf("there is no cluster %q: create it with `orrery start%s`", c.Name, c.profileFlag())
}

// profileFlag is what a command that is printed for the user needs to reach this cluster.
func (c *Cluster) profileFlag() string {
	if c.Name == DefaultProfile {
		return ""
	}
	return " --profile " + c.Name
}

// Kubeconfig is the path of the copy of the cluster's kubeconfig on the user's machine.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Home, c.Name, "kubeconfig") }

// DefaultHome is where kubeconfig files are kept: $ORRERY_HOME, else .orrery in the checkout that the program was
// built in, else the place that the XDG convention gives to data.
func DefaultHome(bin string) (string, error) {
	if home := os.Getenv("ORRERY_HOME"); home != "" {
		return filepath.Abs(home)
	}
	checkout := filepath.Dir(bin)
	if _, err := os.Stat(filepath.Join(checkout, "go.mod")); err == nil {
		return filepath.Join(checkout, ".orrery"), nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "orrery"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "orrery"), err
}
