package controllers

import (
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// This file decides how fast nodes may be tainted NoExecute. A zone where a few
// nodes are silent has broken nodes; a zone where most are silent has a broken
// network, or the cluster a broken control plane: then moving pods would only
// make it worse.
//
// Upstream: pkg/controller/nodelifecycle/node_lifecycle_controller.go,
// handleDisruption, ComputeZoneState; scheduler/rate_limited_queue.go.

// zoneState is the health of a zone.
type zoneState string

const (
	zoneInitial zoneState = "Initial"
	zoneNormal  zoneState = "Normal"
	zonePartial zoneState = "PartialDisruption"
	zoneFull    zoneState = "FullDisruption"
)

// zone is a queue of nodes that shall get a NoExecute taint, with the rate at
// which they may: a token bucket of one token.
type zone struct {
	state  zoneState
	rate   float64 // nodes a second, 0 for none
	last   time.Time
	queue  []string
	listed map[string]bool // in the queue, or tainted already
}

func newZone(rate float64) *zone {
	return &zone{state: zoneInitial, rate: rate, listed: map[string]bool{}}
}

func (z *zone) add(node string) {
	if !z.listed[node] {
		z.listed[node] = true
		z.queue = append(z.queue, node)
	}
}

func (z *zone) remove(node string) {
	delete(z.listed, node)
	z.queue = slices.DeleteFunc(z.queue, func(n string) bool { return n == node })
}

// again puts back a node that could not be tainted.
func (z *zone) again(node string) {
	if z.listed[node] {
		z.queue = append(z.queue, node)
	}
}

// allow takes the token if there is one.
func (z *zone) allow(now time.Time) bool {
	if z.rate <= 0 || !z.last.IsZero() && now.Sub(z.last).Seconds() < 1/z.rate {
		return false
	}
	z.last = now
	return true
}

// take is the next node that may be tainted.
func (z *zone) take(now time.Time) (string, bool) {
	if len(z.queue) == 0 || !z.allow(now) {
		return "", false
	}
	node := z.queue[0]
	z.queue = z.queue[1:]
	return node, true
}

// setRate changes the rate. A bucket that was empty stays empty.
func (z *zone) setRate(rate float64, now time.Time) {
	if rate == z.rate {
		return
	}
	full := z.allow(now)
	z.rate, z.last = rate, now
	if full {
		z.last = time.Time{}
	}
}

// zoneKey names the zone of a node by its labels.
func zoneKey(n *corev1.Node) string {
	region, name := n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelTopologyZone]
	if region == "" && name == "" {
		return ""
	}
	return region + ":\x00:" + name
}

func (c *nodeLifecycle) zoneOf(n *corev1.Node) *zone {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.zoneOfLocked(n)
}

func (c *nodeLifecycle) zoneOfLocked(n *corev1.Node) *zone {
	key := zoneKey(n)
	if c.zones[key] == nil {
		c.zones[key] = newZone(c.cfg.NodeEvictionRate)
	}
	return c.zones[key]
}

// stateOfZone is the state of a zone whose nodes are ready or not.
func stateOfZone(ready []bool, threshold float64) zoneState {
	down := 0
	for _, r := range ready {
		if !r {
			down++
		}
	}
	switch {
	case down > 0 && down == len(ready):
		return zoneFull
	case down > 2 && float64(down)/float64(len(ready)) >= threshold:
		return zonePartial
	}
	return zoneNormal
}

// rateOf is the rate of tainting in a zone of a state and size.
func (c *Config) rateOf(s zoneState, size int) float64 {
	if s != zonePartial {
		return c.NodeEvictionRate // a zone that is down alone has its nodes down
	}
	if size > c.LargeClusterSizeThreshold {
		return c.SecondaryNodeEvictionRate
	}
	return 0
}

// disruption is what changes between two looks at the zones.
type disruption int

const (
	perZone disruption = iota // each zone by itself
	enterMaster
	stayMaster
	leaveMaster
)

// decideDisruption compares all zones before and after.
func decideDisruption(before, after map[string]zoneState) disruption {
	all := func(m map[string]zoneState) bool {
		for _, s := range m {
			if s != zoneFull {
				return false
			}
		}
		return true
	}
	switch is, was := all(after), all(before); {
	case is && was:
		return stayMaster
	case is:
		return enterMaster
	case was:
		return leaveMaster
	}
	return perZone
}

// handleDisruption adapts the rates to the zones. If no node at all is ready, the
// fault is thought to be ours: all NoExecute taints go and none comes; when the
// first node is back, all nodes get a fresh grace period.
func (c *nodeLifecycle) handleDisruption(ctx context.Context, ready map[string][]bool, nodes []*corev1.Node) {
	now := time.Now()
	after := map[string]zoneState{}
	for key, r := range ready {
		after[key] = stateOfZone(r, c.cfg.UnhealthyZoneThreshold)
	}
	c.mu.Lock()
	before := map[string]zoneState{}
	for key, z := range c.zones {
		if _, ok := after[key]; ok {
			before[key] = z.state
		} else {
			z.state = zoneInitial // without nodes: begins anew when it has some again
		}
	}
	kind := decideDisruption(before, after)
	for key, state := range after {
		z := c.zones[key]
		if z == nil {
			continue
		}
		switch {
		case kind == enterMaster:
			z.setRate(0, now)
		case kind == leaveMaster, kind == perZone && z.state != state:
			z.setRate(c.cfg.rateOf(state, len(ready[key])), now)
		}
		z.state = state
	}
	if kind == leaveMaster {
		for _, h := range c.health {
			h.probe, h.transition = now, now
		}
	}
	c.mu.Unlock()
	switch kind {
	case enterMaster:
		slog.Info("Controller detected that all Nodes are not-Ready. Entering master disruption mode", "component", "node-lifecycle-controller")
		for _, n := range nodes {
			if fresh, ok := c.nodes.GetKey(n.Name); ok {
				c.markReachable(ctx, fresh)
			}
		}
	case leaveMaster:
		slog.Info("Controller detected that some Nodes are Ready. Exiting master disruption mode", "component", "node-lifecycle-controller")
	}
}
