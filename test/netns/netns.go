// Package netns lets tests act inside network namespaces.
package netns

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// Within runs f on a thread of its own inside a named network namespace: sockets
// that f opens and programs that it runs stay there. The thread is thrown away
// afterwards. f may end the test.
func Within(t testing.TB, name string, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done) // also when f ends the goroutine with Fatal
		runtime.LockOSThread()
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatalf("entering %s: %v", name, err)
	}
}
