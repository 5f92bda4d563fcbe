package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// StartOptions are the flags of `orrery start`.
type StartOptions struct {
	// Nodes is how many nodes a new cluster gets.
	Nodes int
	// NoKubernetes leaves the nodes bare, for who wants to run kubeadm by hand.
	NoKubernetes bool
	// Port is where the API server is published on the user's machine; 0 chooses one.
	Port int
	// TimeScale is how many times as fast a new cluster does what it does by the clock: 10 makes a drill of six
	// minutes one of forty seconds. 0 and 1 are true time.
	TimeScale float64
}

// maxTimeScale leaves a second to a node's lease, which is counted in whole ones.
const maxTimeScale = 40

// Start creates a cluster, or starts what is stopped of the one that is there.
func (c *Cluster) Start(ctx context.Context, o StartOptions) error {
	if o.Nodes < 1 || o.Nodes > 99 {
		return errors.New("a cluster has 1 to 99 nodes")
	}
	if o.TimeScale == 1 {
		o.TimeScale = 0
	}
	if o.TimeScale < 0 || o.TimeScale > maxTimeScale {
		return fmt.Errorf("--time-scale is 1 (true time) to %d (times as fast)", maxTimeScale)
	}
	if err := c.preflight(ctx); err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) > 0 {
		return c.restart(ctx, nodes, o)
	}
	if o.Port != 0 && c.Docker.DryRun == nil && !free(o.Port) {
		return portError(errors.New("address already in use"), o.Port)
	}

	var image string
	var subnet netip.Prefix
	steps := []step{
		{"Preparing the node image", func(ctx context.Context) (err error) {
			image, err = c.ensureNodeImage(ctx)
			return err
		}},
		{fmt.Sprintf("Creating the network %q", c.Name), func(ctx context.Context) (err error) {
			subnet, err = c.ensureNetwork(ctx)
			return err
		}},
		{"Creating " + plural(o.Nodes, "Docker container") + " as nodes", func(ctx context.Context) error {
			nodes, err = c.plan(ctx, subnet, o)
			if err != nil {
				return err
			}
			return c.each(ctx, nodes, func(ctx context.Context, n Node) error {
				if n.IsControlPlane() || o.NoKubernetes {
					return c.createNode(ctx, image, n, allImages)
				}
				return c.createNode(ctx, image, n, workerImages)
			})
		}},
		{"Booting systemd and containerd", func(ctx context.Context) error { return c.each(ctx, nodes, c.waitBooted) }},
		{"Writing kubeadm's config.yaml into " + c.Name, func(ctx context.Context) error { return c.writeConfig(ctx, nodes[0]) }},
	}
	if !o.NoKubernetes {
		steps = append(steps, c.bootstrapSteps(&nodes)...)
	}
	if err := c.runSteps(ctx, steps...); err != nil {
		return fmt.Errorf("%w\n(what was made so far is still there: look at it with `orrery logs%s`, remove it with `orrery delete%s`)", err, c.profileFlag(), c.profileFlag())
	}
	if o.NoKubernetes {
		fmt.Fprintf(c.Out, "\nDone! The nodes of %q are ready, without Kubernetes. To bootstrap it by hand, begin with:\n\n", c.Name)
		fmt.Fprintf(c.Out, "  orrery ssh%s --node %s\n  sudo kubeadm init --config config.yaml\n", c.profileFlag(), c.Name)
		return nil
	}
	c.whatNext(nodes[0])
	return nil
}

// plan decides what the new nodes will be.
func (c *Cluster) plan(ctx context.Context, subnet netip.Prefix, o StartOptions) ([]Node, error) {
	port := o.Port
	if port == 0 {
		var err error
		if port, err = c.choosePort(ctx); err != nil {
			return nil, err
		}
	}
	nodes := []Node{{Name: c.Name, IP: address(subnet, 1), Role: roleControlPlane, Port: port, TimeScale: o.TimeScale}}
	for i := 2; i <= o.Nodes; i++ {
		nodes = append(nodes, Node{Name: c.NodeName(i), IP: address(subnet, i), Role: roleWorker, TimeScale: o.TimeScale})
	}
	return nodes, nil
}

// restart starts the nodes that are stopped.
func (c *Cluster) restart(ctx context.Context, nodes []Node, o StartOptions) error {
	stopped := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Running })
	if len(stopped) == 0 {
		fmt.Fprintf(c.Out, "The cluster %q is there already, with %s running.\n", c.Name, plural(len(nodes), "node"))
	} else {
		fmt.Fprintf(c.Out, "The cluster %q is there already; %s to be started.\n", c.Name, plural(len(stopped), "stopped node"))
	}
	steps := []step{}
	if len(stopped) > 0 {
		steps = append(steps, step{"Starting " + plural(len(stopped), "node"), func(ctx context.Context) error {
			return c.each(ctx, stopped, c.StartNode)
		}})
	}
	if err := c.runSteps(ctx, steps...); err != nil {
		return err
	}
	if !c.hasKubernetes(ctx, nodes[0]) {
		if !o.NoKubernetes {
			fmt.Fprintf(c.Out, "Kubernetes is not on it: run kubeadm by hand, or begin anew with `orrery delete%s`.\n", c.profileFlag())
		}
		return nil
	}
	if len(stopped) > 0 {
		err := c.runSteps(ctx,
			step{"Waiting for the API server", func(ctx context.Context) error { return c.waitAPI(ctx, nodes[0]) }},
			step{"Waiting until every node is Ready", func(ctx context.Context) error { return c.waitReady(ctx, nodes) }})
		if err != nil {
			return err
		}
	}
	if err := c.writeKubeconfig(ctx, nodes[0]); err != nil {
		return err
	}
	c.whatNext(nodes[0])
	return nil
}

// AddNode adds a worker to the cluster, under the first name that is free.
func (c *Cluster) AddNode(ctx context.Context) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return c.absent()
	}
	subnet, err := c.ensureNetwork(ctx)
	if err != nil {
		return err
	}
	i := 2
	for slices.ContainsFunc(nodes, func(n Node) bool { return n.Name == c.NodeName(i) }) {
		i++
	}
	added := []Node{{Name: c.NodeName(i), IP: address(subnet, i), Role: roleWorker, TimeScale: nodes[0].TimeScale}}
	steps := []step{
		{"Creating the node " + added[0].Name, func(ctx context.Context) error {
			image, err := c.ensureNodeImage(ctx)
			if err != nil {
				return err
			}
			return c.createNode(ctx, image, added[0], workerImages)
		}},
		{"Booting systemd and containerd", func(ctx context.Context) error { return c.each(ctx, added, c.waitBooted) }},
	}
	if c.hasKubernetes(ctx, nodes[0]) {
		steps = append(steps,
			step{"Joining it to the cluster", func(ctx context.Context) error { return c.join(ctx, nodes[0], added) }},
			step{"Waiting until every node is Ready", func(ctx context.Context) error { return c.waitReady(ctx, append(nodes, added...)) }})
	}
	return c.runSteps(ctx, steps...)
}

// whatNext ends a start with what the user can do now.
func (c *Cluster) whatNext(head Node) {
	fmt.Fprintf(c.Out, `
Done! The cluster %q answers at https://127.0.0.1:%d. What next:

  export KUBECONFIG=%s
  kubectl get nodes -o wide
  kubectl apply -f deploy/demo/app.yaml
`, c.Name, head.Port, c.Kubeconfig())
}
