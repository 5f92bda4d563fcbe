package client

import (
	"context"
	"sync"
	"time"

	"orrery/client/timing"
)

// Queue is a work queue of keys. It is *fair* (first in, first out), *stingy* (a
// key that is waiting is not queued twice), and never gives one key to two
// workers: a key added while it is *processing* is *dirty*, and comes again
// when it is Done.
//
// Upstream: k8s.io/client-go/util/workqueue, Typed, with its delaying and rate
// limiting layers in one.
type Queue[K comparable] struct {
	mu         sync.Mutex
	ready      []K               // in order; every key of it is dirty
	dirty      map[K]bool        // wants work
	processing map[K]bool        // has a worker
	failures   map[K]int         // for the back-off
	timers     map[K]*time.Timer // keys to be added later; the earliest wins
	due        map[K]time.Time
	wake       chan struct{} // holds a token when ready is not empty
	shut       bool
}

// NewQueue is an empty queue.
func NewQueue[K comparable]() *Queue[K] {
	return &Queue[K]{
		dirty: map[K]bool{}, processing: map[K]bool{}, failures: map[K]int{},
		timers: map[K]*time.Timer{}, due: map[K]time.Time{}, wake: make(chan struct{}, 1),
	}
}

// Add says that a key wants work.
func (q *Queue[K]) Add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(key)
}

func (q *Queue[K]) add(key K) {
	if q.shut || q.dirty[key] {
		return
	}
	q.dirty[key] = true
	if !q.processing[key] {
		q.push(key)
	}
}

// push makes a dirty key ready; the caller holds mu.
func (q *Queue[K]) push(key K) {
	q.ready = append(q.ready, key)
	q.signal()
}

func (q *Queue[K]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// AddAfter adds a key after d; of several waits for one key the shortest wins.
func (q *Queue[K]) AddAfter(key K, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d <= 0 {
		q.add(key)
		return
	}
	at := time.Now().Add(d)
	if q.shut {
		return
	}
	if t, ok := q.timers[key]; ok {
		if !at.Before(q.due[key]) {
			return
		}
		t.Stop()
	}
	q.due[key] = at
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.timers[key] != timer {
			return // replaced by a shorter wait while it fired
		}
		delete(q.timers, key)
		delete(q.due, key)
		q.add(key)
	})
	q.timers[key] = timer
}

// AddRateLimited adds a key that failed, after 5 ms at first and twice as long
// each time, until Forget.
func (q *Queue[K]) AddRateLimited(key K) {
	q.mu.Lock()
	n := q.failures[key]
	q.failures[key] = n + 1
	q.mu.Unlock()
	q.AddAfter(key, backOff(n))
}

// backOff is the wait after n failures before this one.
func backOff(n int) time.Duration {
	d := timing.QueueBackOffInitial
	for range n {
		if d >= timing.QueueBackOffMax {
			break
		}
		d *= 2
	}
	return min(d, timing.QueueBackOffMax)
}

// Forget ends the back-off of a key: it succeeded.
func (q *Queue[K]) Forget(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.failures, key)
}

// Failures is how often a key has failed since it last succeeded.
func (q *Queue[K]) Failures(key K) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failures[key]
}

// Get waits for a key and marks it as being processed; the caller must call Done.
// It returns false when the context ends.
func (q *Queue[K]) Get(ctx context.Context) (key K, ok bool) {
	for {
		if key, ok = q.pop(); ok {
			return key, true
		}
		select {
		case <-ctx.Done():
			return key, false
		case <-q.wake:
		}
	}
}

func (q *Queue[K]) pop() (key K, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return key, false
	}
	key, q.ready = q.ready[0], q.ready[1:]
	delete(q.dirty, key)
	q.processing[key] = true
	if len(q.ready) > 0 {
		q.signal() // the token that woke us stood for all of them
	}
	return key, true
}

// Done says that the worker is finished with a key.
func (q *Queue[K]) Done(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.processing, key)
	if q.dirty[key] {
		q.push(key)
	}
}

// Len is the number of keys that wait for a worker.
func (q *Queue[K]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready)
}

// ShutDown stops all timers and ignores further keys.
func (q *Queue[K]) ShutDown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut = true
	for key, t := range q.timers {
		t.Stop()
		delete(q.timers, key)
	}
}
