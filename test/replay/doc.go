// Package replay asks the API server what a cluster of v1.36.3 was asked while it
// was recorded, and holds the refusals against the recorded ones: code, reason,
// message, details and causes.
//
//	testdata/refusals.txt ── requests ──▶ kube-apiserver (ours, and upstream's when it is there)
//	                     └── what came back then  =  what comes back now
//
// Invariant: the file knows nothing of who answers. That upstream's server passes
// too proves that the requests are the right ones.
//
// Read next: testdata/refusals.txt.
package replay
