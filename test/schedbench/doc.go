// Package schedbench measures how fast pods get nodes: our scheduler beside
// upstream's, both on an API server of ours, in turn, with the templates of
// upstream's scheduler_perf at several sizes.
//
//	nodes, pods that are there ─▶ API server ◀─ scheduler (ours | upstream)
//	pods to place ──────────────▶     │
//	                                  └─▶ clock: from the scheduler's start to the last binding
//
// The pods to place are there before the scheduler starts, so that the one who
// makes them is not measured. Upstream's runs with its client limits lifted. No
// kubelet runs: a bound pod stays Pending. The figures hold for one machine and one
// moment; the ratios are what counts.
//
// Read next: ../peers, which runs the processes.
package schedbench
