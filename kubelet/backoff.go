package kubelet

import (
	"sync"
	"time"
)

// backOff remembers, by key, how long the next retry has to wait. A wait counts
// from the event that caused it (a container's end, a failed pull), so that
// looking more often changes nothing.
//
// Upstream: k8s.io/client-go/util/flowcontrol/backoff.go, Backoff.
type backOff struct {
	initial, max time.Duration
	reset        time.Duration // a quiet time after which a key starts afresh

	mu      sync.Mutex
	entries map[string]backOffEntry
}

type backOffEntry struct {
	wait time.Duration
	last time.Time // of the latest next
}

func newBackOff(initial, max, reset time.Duration) *backOff {
	return &backOff{initial: initial, max: max, reset: reset, entries: map[string]backOffEntry{}}
}

// remaining is how much of its wait a key has left, counted from the event, and
// how long the wait is.
func (b *backOff) remaining(key string, event time.Time) (left, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	if !ok || event.Sub(e.last) > b.reset {
		return 0, 0
	}
	return max(0, e.wait-time.Since(event)), e.wait
}

// next notes one more attempt and doubles the wait before the one after it.
func (b *backOff) next(key string, event time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	if !ok || event.Sub(e.last) > b.reset {
		e.wait = b.initial
	} else {
		e.wait = min(2*e.wait, b.max)
	}
	e.last = time.Now()
	b.entries[key] = e
}

// sweep forgets keys that have been quiet for long enough.
func (b *backOff) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, e := range b.entries {
		if time.Since(e.last) > 2*b.reset {
			delete(b.entries, key)
		}
	}
}
