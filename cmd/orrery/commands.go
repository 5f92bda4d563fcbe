package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"orrery/cmd/internal/version"
	"orrery/lab"
)

// command is the tree of verbs. Each is a call of the lab's method of the same name.
func command() *cobra.Command {
	c := &lab.Cluster{Docker: &lab.Docker{}, Out: os.Stdout}
	dryRun := false
	root := &cobra.Command{
		Use:           "orrery",
		Short:         "A working model of Kubernetes on Docker containers",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if dryRun {
				c.Docker.DryRun = c.Out
			}
			return locate(c)
		},
	}
	root.PersistentFlags().StringVarP(&c.Name, "profile", "p", lab.DefaultProfile, "name of the cluster")
	root.PersistentFlags().BoolVar(&dryRun, "dry-run", false, "print the docker commands instead of running them")
	root.AddCommand(startCommand(c), nodeCommand(c), sshCommand(c), imageCommand(c), addonsCommand(c), logsCommand(c), kubectlCommand(c), simCommand(c),
		&cobra.Command{Use: "stop", Short: "Stop all nodes; their disks stay", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.Stop(cmd.Context()) }},
		&cobra.Command{Use: "delete", Short: "Remove the cluster and everything that belongs to it", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.Delete(cmd.Context()) }},
		&cobra.Command{Use: "status", Short: "Say what runs of each node; exits with 7 when something does not", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.Status(cmd.Context()) }},
		&cobra.Command{Use: "node-image", Short: "Build the image that nodes are made from; start does it by itself", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.BuildImage(cmd.Context()) }},
		&cobra.Command{Use: "version", Short: "Print the version of Kubernetes that is modelled", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				fmt.Fprintln(c.Out, "orrery version:", version.Kubernetes)
				return nil
			}},
		&cobra.Command{Use: "kubeconfig", Short: "Print the path of the cluster's kubeconfig", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				path, err := c.EnsureKubeconfig(cmd.Context())
				if err == nil {
					fmt.Fprintln(c.Out, path)
				}
				return err
			}},
		&cobra.Command{Use: "cp SOURCE DESTINATION", Short: "Copy a file to or from NODE:/PATH", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return c.Copy(cmd.Context(), args[0], args[1]) }},
		withNode(&cobra.Command{Use: "ip", Short: "Print a node's address", Args: cobra.NoArgs},
			func(ctx context.Context, node string, _ []string) error {
				n, err := c.Node(ctx, node)
				if err == nil {
					fmt.Fprintln(c.Out, n.IP)
				}
				return err
			}))
	return root
}

// locate finds the folder of Orrery's programs and the one of the clusters' files.
func locate(c *lab.Cluster) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return err
	}
	c.Bin = filepath.Dir(self)
	c.NodeBin = c.Bin
	if runtime.GOOS != "linux" {
		c.NodeBin = filepath.Join(c.Bin, "linux") // see the Makefile
	}
	c.Home, err = lab.DefaultHome(c.Bin)
	return err
}

// withNode gives a command the flag --node.
func withNode(cmd *cobra.Command, run func(ctx context.Context, node string, args []string) error) *cobra.Command {
	node := cmd.Flags().StringP("node", "n", "", "the node; the control plane's when none is given")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), *node, args) }
	return cmd
}

func startCommand(c *lab.Cluster) *cobra.Command {
	var o lab.StartOptions
	cmd := &cobra.Command{Use: "start", Short: "Create a cluster, or start the nodes of one that is stopped", Args: cobra.NoArgs}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 1, "number of nodes")
	cmd.Flags().BoolVar(&o.NoKubernetes, "no-kubernetes", false, "leave the nodes bare, for kubeadm by hand")
	cmd.Flags().IntVar(&o.Port, "apiserver-port", 0, "port of this machine at which the API server is published (0: chosen)")
	cmd.Flags().Float64Var(&o.TimeScale, "time-scale", 1, "let heartbeats, grace periods, evictions, back-offs and probes of a new cluster go this many times as fast")
	container := cmd.Flags().String("container-runtime", "containerd", "container runtime; containerd is the only one")
	driver := cmd.Flags().String("driver", "docker", "what the nodes are; docker is the only one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *container != "containerd" || *driver != "docker" {
			return fmt.Errorf("nodes are Docker containers that run containerd: --driver=docker --container-runtime=containerd")
		}
		return c.Start(cmd.Context(), o)
	}
	return cmd
}

func nodeCommand(c *lab.Cluster) *cobra.Command {
	parent := &cobra.Command{Use: "node", Short: "List, add, stop, start or delete nodes"}
	parent.AddCommand(
		&cobra.Command{Use: "list", Short: "List the nodes and their addresses", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				nodes, err := c.Nodes(cmd.Context())
				for _, n := range nodes {
					fmt.Fprintf(c.Out, "%s\t%s\n", n.Name, n.IP)
				}
				return err
			}},
		&cobra.Command{Use: "add", Short: "Add a worker", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.AddNode(cmd.Context()) }},
		changeNode(c, "stop", "Stopping", "stopped", (*lab.Cluster).StopNode),
		changeNode(c, "start", "Starting", "started", (*lab.Cluster).StartNode),
		changeNode(c, "delete", "Deleting", "deleted", (*lab.Cluster).DeleteNode))
	return parent
}

func changeNode(c *lab.Cluster, verb, doing, done string, do func(*lab.Cluster, context.Context, lab.Node) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: doing + " a node", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "%s node %q ...\n", doing, n.Name)
			if err := do(c, cmd.Context(), n); err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "Successfully %s node %s\n", done, n.Name)
			return nil
		},
	}
}

func sshCommand(c *lab.Cluster) *cobra.Command {
	cmd := withNode(&cobra.Command{Use: "ssh [COMMAND]", Short: "Open a shell in a node, or run a command there"},
		func(ctx context.Context, node string, args []string) error { return c.SSH(ctx, node, args) })
	// What follows the first word belongs to the command in the node.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func imageCommand(c *lab.Cluster) *cobra.Command {
	parent := &cobra.Command{Use: "image", Short: "Load or list images"}
	parent.AddCommand(
		&cobra.Command{Use: "load IMAGE", Short: "Load an image, Docker's or a tar file, into every node", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return c.LoadImage(cmd.Context(), args[0]) }},
		withNode(&cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List a node's images", Args: cobra.NoArgs},
			func(ctx context.Context, node string, _ []string) error { return c.ListImages(ctx, node) }))
	return parent
}

func addonsCommand(c *lab.Cluster) *cobra.Command {
	parent := &cobra.Command{Use: "addons", Short: "Enable or disable an addon; there is one, metrics-server"}
	parent.AddCommand(
		&cobra.Command{Use: "enable ADDON", Short: "Put an addon into the cluster", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return c.EnableAddon(cmd.Context(), args[0]) }},
		&cobra.Command{Use: "disable ADDON", Short: "Take an addon out of the cluster", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return c.DisableAddon(cmd.Context(), args[0]) }})
	return parent
}

func logsCommand(c *lab.Cluster) *cobra.Command {
	var lines int
	var follow bool
	var dir string
	cmd := withNode(&cobra.Command{Use: "logs", Short: "Print the logs of a node's kubelet and containerd", Args: cobra.NoArgs},
		func(ctx context.Context, node string, _ []string) error {
			if dir != "" {
				return c.SaveLogs(ctx, dir)
			}
			return c.Logs(ctx, node, lines, follow)
		})
	cmd.Flags().IntVar(&lines, "length", 60, "number of lines")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing new lines")
	cmd.Flags().StringVar(&dir, "dir", "", "write all logs of all nodes, the containers' too, into this folder instead")
	return cmd
}

func kubectlCommand(c *lab.Cluster) *cobra.Command {
	cmd := &cobra.Command{Use: "kubectl -- ARGUMENTS", Short: "Run kubectl on the cluster",
		RunE: func(cmd *cobra.Command, args []string) error { return c.Kubectl(cmd.Context(), args) }}
	cmd.Flags().SetInterspersed(false)
	return cmd
}
