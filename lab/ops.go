package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// SSH opens a shell in a node as the user docker, who may sudo; or runs a command there through that user's login
// shell. A command that fails is an *exec.ExitError with its exit code.
func (c *Cluster) SSH(ctx context.Context, node string, command []string) error {
	n, err := c.runningNode(ctx, node)
	if err != nil {
		return err
	}
	args := []string{"exec", "--interactive"}
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		args = append(args, "--tty")
	}
	args = append(args, n.Name, "su", "--login", "docker")
	if len(command) > 0 {
		args = append(args, "--command", strings.Join(command, " "))
	}
	return c.Docker.Attach(ctx, args...)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (c *Cluster) runningNode(ctx context.Context, name string) (Node, error) {
	n, err := c.Node(ctx, name)
	if err == nil && !n.Running {
		return n, fmt.Errorf("the node %s is stopped: start it with `orrery node start%s %s`", n.Name, c.profileFlag(), n.Name)
	}
	return n, err
}

// Copy copies a file to or from a node. Either side may be NODE:PATH; a destination without a node is in the
// control-plane node unless the source is in one. It goes through the node and not through `docker cp`, which
// writes underneath what is mounted there, such as /tmp.
func (c *Cluster) Copy(ctx context.Context, from, to string) error {
	fromNode, fromPath, err := c.inNode(ctx, from)
	if err != nil {
		return err
	}
	if fromNode == "" && !strings.Contains(to, ":") {
		to = c.Name + ":" + to
	}
	toNode, toPath, err := c.inNode(ctx, to)
	if err != nil {
		return err
	}
	var content string
	mode := os.FileMode(0o644)
	if fromNode != "" {
		content, err = c.Docker.Read(ctx, "exec", fromNode, "cat", fromPath)
	} else {
		var raw []byte
		var info os.FileInfo
		if info, err = os.Stat(fromPath); err == nil {
			mode = info.Mode().Perm()
			raw, err = os.ReadFile(fromPath)
		}
		content = string(raw)
	}
	if err != nil {
		return err
	}
	if toNode == "" {
		if c.Docker.DryRun != nil {
			return nil
		}
		return os.WriteFile(toPath, []byte(content), mode)
	}
	return c.Docker.Feed(ctx, strings.NewReader(content), "exec", "--interactive", toNode,
		"sh", "-c", fmt.Sprintf("cat >%s && chmod %o %s", quote(toPath), mode, quote(toPath)))
}

// inNode splits NODE:PATH; without a node the path is the user's machine's.
func (c *Cluster) inNode(ctx context.Context, arg string) (node, path string, err error) {
	name, path, found := strings.Cut(arg, ":")
	if !found {
		return "", arg, nil
	}
	n, err := c.runningNode(ctx, name)
	if err == nil && !strings.HasPrefix(path, "/") {
		err = fmt.Errorf("%s is not an absolute path in the node", path)
	}
	return n.Name, path, err
}

// LoadImage brings an image, a name that Docker knows or a tar archive, into the containerd of every running node.
func (c *Cluster) LoadImage(ctx context.Context, image string) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return c.absent()
	}
	archive := image
	if _, err := os.Stat(image); err != nil {
		dir, err := os.MkdirTemp("", "orrery-image-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		archive = filepath.Join(dir, "image.tar")
		if err := c.Docker.Do(ctx, "save", "--output", archive, image); err != nil {
			return err
		}
	}
	return c.each(ctx, nodes, func(ctx context.Context, n Node) error {
		if !n.Running {
			return nil
		}
		in, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer in.Close()
		return c.Docker.Feed(ctx, in, "exec", "--interactive", n.Name, "ctr", "--namespace", "k8s.io", "images", "import", "--local", "-")
	})
}

// ListImages prints the images that a node's containerd holds.
func (c *Cluster) ListImages(ctx context.Context, node string) error {
	n, err := c.runningNode(ctx, node)
	if err != nil {
		return err
	}
	return c.Docker.Attach(ctx, "exec", n.Name, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
}

// Logs prints the last lines of the journal of a node's kubelet and containerd, and follows them if asked to.
func (c *Cluster) Logs(ctx context.Context, node string, lines int, follow bool) error {
	n, err := c.runningNode(ctx, node)
	if err != nil {
		return err
	}
	args := []string{"exec", n.Name, "journalctl", "--no-pager", "--output", "cat", "--unit", "kubelet", "--unit", "containerd", "--unit", "orrery-images", "--lines", fmt.Sprint(lines)}
	if follow {
		args = append(args, "--follow")
	}
	return c.Docker.Attach(ctx, args...)
}

// SaveLogs writes everything that the running nodes have logged into a folder: NODE/journal.txt, and
// NODE/pods.tar with the logs of every container.
func (c *Cluster) SaveLogs(ctx context.Context, dir string) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, nodes, func(ctx context.Context, n Node) error {
		if !n.Running {
			return nil
		}
		if err := os.MkdirAll(filepath.Join(dir, n.Name), 0o755); err != nil {
			return err
		}
		for name, command := range map[string]string{
			"journal.txt": "journalctl --no-pager --boot 0",
			"pods.tar":    "mkdir -p /var/log/pods && tar -C /var/log -c pods",
		} {
			out, err := c.Docker.Read(ctx, "exec", n.Name, "sh", "-c", command)
			// A log that grows while it is packed makes tar complain, and is worth having all the same.
			if err != nil && out == "" {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, n.Name, name), []byte(out), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// ErrNotRunning says that a part of the cluster that Status reported does not run.
var ErrNotRunning = errors.New("not everything is running")

// Status prints what runs of each node, and returns ErrNotRunning when something that should does not.
func (c *Cluster) Status(ctx context.Context) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return c.absent()
	}
	healthy := true
	for _, n := range nodes {
		host, kubelet, apiserver := "Stopped", "Stopped", "Stopped"
		if n.Running {
			host = "Running"
			if !c.hasKubernetes(ctx, n) {
				kubelet, apiserver = "Nonexistent", "Nonexistent"
			} else {
				kubelet = c.probe(ctx, n, "http://127.0.0.1:10248/healthz")
				if n.IsControlPlane() {
					apiserver = c.probe(ctx, n, fmt.Sprintf("https://127.0.0.1:%d/readyz", apiPort))
				}
			}
		}
		fmt.Fprintf(c.Out, "%s\n", n.Name)
		if n.IsControlPlane() {
			kubeconfig := "Configured"
			if _, err := os.Stat(c.Kubeconfig()); err != nil {
				kubeconfig = "Misconfigured"
			}
			fmt.Fprintf(c.Out, "type: Control Plane\nhost: %s\nkubelet: %s\napiserver: %s\nkubeconfig: %s\n\n", host, kubelet, apiserver, kubeconfig)
			healthy = healthy && apiserver != "Stopped"
		} else {
			fmt.Fprintf(c.Out, "type: Worker\nhost: %s\nkubelet: %s\n\n", host, kubelet)
		}
		healthy = healthy && kubelet != "Stopped"
	}
	if !healthy {
		return ErrNotRunning
	}
	return nil
}

// probe asks a health endpoint from inside the node.
func (c *Cluster) probe(ctx context.Context, n Node, url string) string {
	if _, err := c.Docker.Ask(ctx, "exec", n.Name, "curl", "--silent", "--fail", "--insecure", "--max-time", "3", url); err != nil {
		return "Stopped"
	}
	return "Running"
}

// Stop shuts down all nodes; their disks stay.
func (c *Cluster) Stop(ctx context.Context) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return c.absent()
	}
	return c.runSteps(ctx, step{"Stopping " + plural(len(nodes), "node"), func(ctx context.Context) error {
		return c.each(ctx, nodes, c.StopNode)
	}})
}

// Delete removes everything that the cluster consists of: containers, disks, network, kubeconfig. Nothing there
// to be removed is no error.
func (c *Cluster) Delete(ctx context.Context) error {
	containers, err := c.Docker.Lines(ctx, "ps", "--all", "--quiet", "--filter", "label="+labelProfile+"="+c.Name)
	if err != nil {
		return err
	}
	networks, err := c.Docker.Lines(ctx, "network", "ls", "--quiet", "--filter", "label="+labelProfile+"="+c.Name)
	if err != nil {
		return err
	}
	if len(containers)+len(networks) == 0 {
		fmt.Fprintf(c.Out, "There is no cluster %q.\n", c.Name)
		return os.RemoveAll(filepath.Dir(c.Kubeconfig()))
	}
	return c.runSteps(ctx,
		step{"Removing " + plural(len(containers), "node") + " and their disks", func(ctx context.Context) error {
			if len(containers) == 0 {
				return nil
			}
			return c.Docker.Do(ctx, append([]string{"rm", "--force", "--volumes"}, containers...)...)
		}},
		step{"Removing the network and the kubeconfig", func(ctx context.Context) error {
			if len(networks) > 0 {
				if err := c.Docker.Do(ctx, append([]string{"network", "rm"}, networks...)...); err != nil {
					return err
				}
			}
			if c.Docker.DryRun != nil {
				return nil
			}
			if err := os.RemoveAll(filepath.Dir(c.Kubeconfig())); err != nil {
				return err
			}
			os.Remove(c.Home) // stays when another cluster's folder is in it
			return nil
		}})
}

// Kubectl runs the real kubectl of the user's machine, or the one that was built beside this program, on the
// cluster.
func (c *Cluster) Kubectl(ctx context.Context, args []string) error {
	kubeconfig, err := c.EnsureKubeconfig(ctx)
	if err != nil {
		return err
	}
	program := filepath.Join(c.Bin, "kubectl")
	if _, err := os.Stat(program); err != nil {
		program = "kubectl"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	return cmd.Run()
}
