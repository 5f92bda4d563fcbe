package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// fitError says why a pod has no node.
//
// Upstream: pkg/scheduler/framework/types.go, FitError.
type fitError struct {
	total    int         // of nodes
	rejected []rejection // by filters
	absent   *Status     // for the other nodes, that no filter was asked about
	whole    *Status     // for all nodes at once, or an error
	post     string      // what preemption had to say
	// nominee is the node that is from now on kept for the pod, "" for none; nil
	// leaves that as it is. victims are to make room there.
	nominee *string
	victims []*PodInfo
}

// rejection is the verdict against a node, by its place in Snapshot.Nodes.
type rejection struct {
	node int
	*Status
}

// internal says whether an error, and no verdict, is the cause.
func (f *fitError) internal() bool { return f.whole != nil && f.whole.Code == Failed }

// Error is the text that users read in the event FailedScheduling.
func (f *fitError) Error() string {
	switch {
	case f.internal():
		return f.whole.Message()
	case f.total == 0:
		return "no nodes available to schedule pods"
	}
	msg := f.whole.Message()
	if f.whole == nil {
		counts := histogram{}
		for _, r := range f.rejected {
			counts.add(1, r.Reasons...)
		}
		if others := f.total - len(f.rejected); others > 0 && f.absent != nil {
			counts.add(others, f.absent.Reasons...)
		}
		msg = counts.String()
	}
	msg = fmt.Sprintf("0/%d nodes are available: %s.", f.total, msg)
	if f.post != "" {
		msg += " " + f.post
	}
	return msg
}

// histogram counts nodes by reason.
type histogram map[string]int

func (h histogram) add(nodes int, reasons ...string) {
	for _, r := range reasons {
		h[r] += nodes
	}
}

// String is like "1 node(s) were unschedulable, 2 Insufficient cpu".
func (h histogram) String() string {
	out := make([]string, 0, len(h))
	for r, n := range h {
		out = append(out, fmt.Sprintf("%d %s", n, r))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// plugins are those that turned the pod away; nil after an error.
func (f *fitError) plugins() map[string]bool {
	if f.internal() {
		return nil
	}
	names := map[string]bool{}
	if f.whole != nil {
		names[f.whole.Plugin] = true
	}
	for _, r := range f.rejected {
		names[r.Plugin] = true
	}
	if f.absent != nil {
		names[f.absent.Plugin] = true
	}
	if len(names) == 0 { // there were no nodes: only a node can help
		names[nodeUnschedulable{}.Name()] = true
	}
	return names
}
