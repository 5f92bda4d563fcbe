// Package swap holds the proof that any part can be taken out and replaced by
// its upstream namesake, and the other way round: its tests run the same
// scenarios with each combination of parts, hand one data directory from
// one API server to the other, and let both serve one etcd.
//
//	kube-apiserver   kube-controller-manager   kube-scheduler
//	ours             ours                      upstream
//	ours             upstream                  ours
//	ours             upstream                  upstream
//	upstream         ours                      ours
//
// Invariant: a scenario does not know whose parts run it.
//
// Read next: ../peers, which runs them.
package swap
