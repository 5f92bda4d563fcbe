// Package replay asks the API server what a cluster of v1.36.3 was asked while it
// was recorded, and holds the answers against the recorded ones: of refusals code,
// reason, message, details and causes, of the rest the whole body. The files
// validation_*.txt are manifests that are wrong, or taken with a warning, with the
// answers of upstream's server:
//
//	go test ./test/replay -run Manifests -record validation_core.txt
//
//	testdata/*.txt ── requests ──▶ kube-apiserver (ours, and upstream's when it is there)
//	            └── what came back then  =  what comes back now
//
// Invariant: the files know nothing of who answers. That upstream's server passes
// too proves that the requests are the right ones.
//
// Left out: what needs a history that was compacted, controllers, tokens in a file.
//
// Read next: testdata/refusals.txt, testdata/answers.txt.
package replay
