package swap

import (
	"context"
	"fmt"
	"testing"

	"orrery/test/peers"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a cluster does must not depend on whose parts it is made of.
func TestEveryPartCanBeReplacedByItsNamesake(t *testing.T) {
	for _, with := range []struct{ apiserver, manager, scheduler peers.Side }{
		// Both ends first: the scenarios ask for nothing that a whole cluster of either side does not do.
		{peers.Ours, peers.Ours, peers.Ours},
		{peers.Upstream, peers.Upstream, peers.Upstream},
		{peers.Ours, peers.Ours, peers.Upstream},
		{peers.Ours, peers.Upstream, peers.Ours},
		{peers.Ours, peers.Upstream, peers.Upstream},
		{peers.Upstream, peers.Ours, peers.Ours},
	} {
		name := "apiserver=" + string(with.apiserver) + ",controller-manager=" + string(with.manager) + ",scheduler=" + string(with.scheduler)
		t.Run(name, func(t *testing.T) {
			if with.apiserver == peers.Upstream || with.manager == peers.Upstream || with.scheduler == peers.Upstream {
				peers.Need(t)
			}
			c := peers.New(t)
			c.StartAPIServer(with.apiserver)
			c.StartControllerManager(with.manager)
			c.StartScheduler(with.scheduler)
			c.StartNodes(3)
			c.Wait("nodes without taints", func(ctx context.Context) error { return untainted(ctx, c) })
			for i, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					if i > 0 { // the first looks at where pods are put, which pods of others would change
						t.Parallel()
					}
					s.run(newWorld(t, c, s.name, with.manager))
				})
			}
		})
	}
}

// untainted returns an error as long as the controllers have not seen that the nodes are well.
func untainted(ctx context.Context, c *peers.Cluster) error {
	nodes, err := c.Admin().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) > 0 || n.Spec.PodCIDR == "" {
			return fmt.Errorf("%s has taints %v and pod CIDR %q", n.Name, n.Spec.Taints, n.Spec.PodCIDR)
		}
	}
	return nil
}
