// Package compare holds the controllers to upstream's: the same script is played
// to our controller manager and to upstream's, each on an API server of ours, and
// what both did is laid side by side.
//
//	script ─▶ kube-apiserver (ours) ◀─ kube-controller-manager (ours | upstream)
//	              ▲      │
//	   stage: leases,    └─▶ recording: every state of every object, and the events
//	   pods' statuses,
//	   bindings
//
// Kubelets and the scheduler are played by the stage, so that nothing but the
// controller manager differs. Both get the same flags, which make a node's death a
// matter of seconds. Recordings are normalized: generated names lose their random
// parts, objects that only differ in them are one class, states stand in the order
// in which each object went through them, with the second since the script's step.
//
// On a busy machine the stage itself is late, and then the play says nothing: it is
// played again. What depends on which of two things comes first by chance is not
// compared, and scripts keep apart what would.
//
// Invariant: the test fails on each difference that is not listed in explained,
// with the reason that docs/gaps.md gives.
//
// Read next: ../peers, which runs the processes.
package compare
