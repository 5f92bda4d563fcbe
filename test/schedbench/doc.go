// Package schedbench measures how fast pods get nodes: our scheduler on our API
// server, upstream's on ours, and upstream's on upstream's with its etcd, in turn,
// with the templates of upstream's scheduler_perf at several sizes.
//
//	nodes, pods that are there ─▶ API server ◀─ scheduler
//	pods to place ──────────────▶     │
//	                                  └─▶ clock: from the scheduler's first write to the last binding
//
// The pods to place are there before the scheduler starts, so that the one who
// makes them is not measured. Upstream's runs with its client limits lifted. No
// kubelet runs: a bound pod stays Pending.
//
// Pods a second hold for one machine and one moment: API server, etcd, scheduler and
// benchmark share its processors. The processor time for each pod says which of them
// was busy, and hardly depends on what else went on. It is counted until the event of
// the last binding is written, because schedulers put these off.
//
// Read next: ../peers, which runs the processes.
package schedbench
