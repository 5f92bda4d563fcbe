package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// needDisk is how much room three nodes and their image want where Docker keeps its data, in bytes.
const needDisk = 4 << 30

// preflight finds out, before anything is made, whether it can be, and says in one sentence why not.
func (c *Cluster) preflight(ctx context.Context) error {
	if c.Docker.DryRun != nil {
		return nil
	}
	root, err := c.Docker.Ask(ctx, "info", "--format", "{{.OSType}} {{.DockerRootDir}}")
	if err != nil {
		return err
	}
	osType, dir, _ := strings.Cut(root, " ")
	if osType != "linux" {
		return fmt.Errorf("the Docker engine runs %s containers, and the nodes are Linux: switch it over", osType)
	}
	var disk syscall.Statfs_t
	// On Docker Desktop that folder is inside a virtual machine, whose disk grows by itself.
	if syscall.Statfs(dir, &disk) == nil {
		if free := disk.Bavail * uint64(disk.Bsize); free < needDisk {
			return fmt.Errorf("too little disk: %s has %.1f GB free, and the nodes need %d GB (`docker system prune` frees some)",
				dir, float64(free)/(1<<30), needDisk>>30)
		}
	}
	return nil
}

// firstPort is where the search for the API server's port begins. It lies below the ports that Linux and macOS
// give to outgoing connections, so that it is still free when a stopped cluster is started.
const firstPort = 26443

// choosePort picks the port of the user's machine at which the API server will be found, for the cluster's life.
func (c *Cluster) choosePort(ctx context.Context) (int, error) {
	// A stopped cluster's port looks free.
	taken, err := c.Docker.Ask(ctx, "ps", "--all", "--filter", "label="+labelPort, "--format", fmt.Sprintf("{{.Label %q}}", labelPort))
	if err != nil {
		return 0, err
	}
	for port := firstPort; port < firstPort+100; port++ {
		if strings.Contains(" "+strings.ReplaceAll(taken, "\n", " ")+" ", fmt.Sprintf(" %d ", port)) {
			continue
		}
		if free(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port between %d and %d is free", firstPort, firstPort+99)
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// portError says what to do about a port that another program took; other errors it lets pass.
func portError(err error, port int) error {
	if err == nil || port == 0 {
		return err
	}
	for _, s := range []string{"port is already allocated", "address already in use", "ports are not available"} {
		if strings.Contains(err.Error(), s) {
			return fmt.Errorf("port %d is in use by another program, and the cluster's API server is published there: end that program, or start a cluster with another --apiserver-port", port)
		}
	}
	return err
}
