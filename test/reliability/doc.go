// Package reliability kills the API server and looks for what it has forgotten.
// The server is the real program with etcd inside, on the loopback; it is killed
// as by a power switch that leaves the machine's memory alone (SIGKILL: what
// etcd has written but not yet synced survives, so the disk itself is trusted).
//
//	writers ──▶ kube-apiserver ◀── kill -9, start, kill -9, start ...
//	   │              │
//	 history       watchers ── reconnect, resume, list again after a 410
//	   │              │
//	 porcupine      log ── compared with what the writers were told
//
// What is held true:
//   - The history of every object is linearizable: a register that is written by
//     compare-and-swap on its resourceVersion. A request that got no answer may
//     have happened, at any time after it was sent, or not at all.
//   - A write that began after another was acknowledged has a greater
//     resourceVersion, whatever the objects.
//   - A watch delivers every write once and in order, also when it is taken up
//     again at the last resourceVersion it saw.
//
// A failure prints the seed and the history that cannot be explained. `make
// test` kills a few times; `make reliability` does it 200 times and watches
// 100,000 writes.
//
// Read next: register_test.go for the model, kill_test.go, then watch_test.go.
package reliability
