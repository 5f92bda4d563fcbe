package swap

import (
	"testing"

	"orrery/test/peers"
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
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.run(newWorld(t, c, s.name, with.manager)) })
			}
		})
	}
}
