// Package scheduler gives each pod that has no node a node.
//
//	pods without a node          one pod at a time              many at once
//	─────────────▶ Queue ──Pop──▶ scheduling cycle ──assume──▶ binding cycle ──▶ POST binding
//	                ▲              filter → score → pick         (a goroutine)
//	                └── events that could help ◀── unschedulable
//
// The scheduling cycle is pure: it reads a [Snapshot] of the nodes, asks every
// plugin, and names a node. Because binding takes a round trip to the API
// server, the pod is *assumed* onto its node in the [Cache] at once, and the
// next pod's cycle counts it there.
//
// Invariants:
//   - A [NodeInfo] never changes once it is in the cache: each change makes a new
//     one, so that the [Snapshot] shares them and follows only what changed.
//   - What a cycle costs does not grow with the nodes that it does not look at: what
//     plugins count over all nodes is kept and corrected (tally.go).
//   - A pod is in the queue, in a cycle, or assumed; never in two of them.
//   - Every verdict has upstream's text, because students read it in events.
//
// Read next: framework.go (what a plugin is), scheduler.go (the two cycles),
// queue.go (who is tried when), the plugins_*.go files, tally.go, preemption.go;
// ../test/placement, where upstream's scheduler is asked the same.
//
// Upstream: pkg/scheduler. Left out: several profiles and configuration files,
// extenders, dynamic resources.
package scheduler
