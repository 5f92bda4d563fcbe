// Package placement holds the scheduler to upstream's: both stand beside the same
// API server, and on the same random state of a cluster each of them is given the
// same pod, one after the other.
//
//	seed ─▶ nodes, pods on them ─▶ kube-apiserver (ours)
//	                                  ▲            ▲
//	      pod, schedulerName: ────── ours       upstream's
//	                                  │            │
//	        annotation with the working            log of the scores
//	                                  └── equal? ──┘
//
// Equal must be: whether there is a node for the pod, the message when there is
// none, which nodes passed the filters, what each plugin gave to each of them, and
// the pods that have to go when the pod is more important than they are. Which of
// the best nodes it becomes is drawn by lot on both sides.
//
// Invariants: what the first scheduler changed is put back before the second is
// asked; both have seen all nodes before the first pod comes, and as pods travel
// in one watch, all pods too.
//
// Read next: ../peers, which runs the processes; ../../scheduler/oracle_test.go,
// which holds the scheduler to the rules as they are written down.
package placement
