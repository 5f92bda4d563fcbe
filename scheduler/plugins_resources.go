package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// resourcesFit turns pods away from nodes without room, and prefers the nodes
// with the most room left (the LeastAllocated strategy).
//
// Upstream: pkg/scheduler/framework/plugins/noderesources/fit.go.
// Left out: the strategies MostAllocated and RequestedToCapacityRatio.
type resourcesFit struct{}

func (resourcesFit) Name() string { return "NodeResourcesFit" }

func (resourcesFit) Filter(c *Cycle, n *NodeInfo) *Status {
	reasons, never := insufficient(c.reasons[:0], c.Request, n)
	if c.reasons = reasons; len(reasons) == 0 {
		return nil
	}
	code := Unschedulable
	if never {
		code = Unresolvable
	}
	// In a full cluster the next node lacks what the last one did.
	if last := c.lacks; last == nil || last.Code != code || !slices.Equal(last.Reasons, reasons) {
		c.lacks = verdict(code, slices.Clone(reasons)...)
	}
	return c.lacks
}

// insufficient appends to reasons what a node has too little of. never says that even
// an empty node would not do.
func insufficient(reasons []string, want Resource, n *NodeInfo) (_ []string, never bool) {
	if int64(len(n.Pods))+1 > n.Allocatable.Pods {
		reasons = append(reasons, "Too many pods")
	}
	lack := func(reason string, want, have, used int64) {
		if want > 0 && want > have-used {
			reasons = append(reasons, reason)
			never = never || want > have
		}
	}
	lack("Insufficient cpu", want.MilliCPU, n.Allocatable.MilliCPU, n.Requested.MilliCPU)
	lack("Insufficient memory", want.Memory, n.Allocatable.Memory, n.Requested.Memory)
	lack("Insufficient ephemeral-storage", want.EphemeralStorage, n.Allocatable.EphemeralStorage, n.Requested.EphemeralStorage)
	for name, amount := range want.Other {
		lack("Insufficient "+string(name), amount, n.Allocatable.Other[name], n.Requested.Other[name])
	}
	return reasons, never
}

func (resourcesFit) Score(c *Cycle, n *NodeInfo) int64 {
	var sum, weights int64
	for _, r := range [2][2]int64{
		{n.Allocatable.MilliCPU, n.NonZero.MilliCPU + c.scored.MilliCPU},
		{n.Allocatable.Memory, n.NonZero.Memory + c.scored.Memory},
	} {
		have, used := r[0], r[1]
		if have == 0 {
			continue
		}
		if used <= have {
			sum += (have - used) * MaxScore / have
		}
		weights++
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

func (resourcesFit) Normalize(*Cycle, []NodeScore) {}

func (resourcesFit) Helps(ev ClusterEvent, pod *corev1.Pod) bool {
	switch {
	case ev.Node != nil:
		want, _ := podRequest(pod)
		reasons, _ := insufficient(nil, want, (&NodeInfo{}).withNode(ev.Node))
		return len(reasons) == 0
	}
	return ev.PodGone != nil // a pod that comes to a node makes no room
}

// balancedAllocation prefers nodes on which cpu and memory would be used to
// equal parts.
//
// Upstream: pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go, balancedResourceScorer.
type balancedAllocation struct{}

func (balancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

func (balancedAllocation) PreScore(c *Cycle, _ []*NodeInfo) *Status {
	if c.Request.MilliCPU == 0 && c.Request.Memory == 0 {
		return verdict(Skip) // a best-effort pod balances nothing
	}
	return nil
}

func (balancedAllocation) Score(c *Cycle, n *NodeInfo) int64 {
	// A pod that changes nothing scores 75, one that evens the node out up to 100.
	return MaxScore/2 + (MaxScore/2+balance(n, c.Request)-balance(n, Resource{}))/2
}

// balance is 100 for a node whose cpu and memory are used to equal parts, 50 for
// one that has all of one and nothing of the other. Half the distance of two
// fractions is their standard deviation.
func balance(n *NodeInfo, extra Resource) int64 {
	if n.Allocatable.MilliCPU == 0 || n.Allocatable.Memory == 0 {
		return MaxScore
	}
	cpu := min(1, float64(n.Requested.MilliCPU+extra.MilliCPU)/float64(n.Allocatable.MilliCPU))
	mem := min(1, float64(n.Requested.Memory+extra.Memory)/float64(n.Allocatable.Memory))
	return int64((1 - math.Abs((cpu-mem)/2)) * MaxScore)
}

func (balancedAllocation) Normalize(*Cycle, []NodeScore) {}
