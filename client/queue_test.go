package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func take(t *testing.T, q *Queue[string]) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	key, ok := q.Get(ctx)
	if !ok {
		return "-"
	}
	return key
}

func TestAQueueIsFairAndStingy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		for _, k := range []string{"a", "b", "a", "c", "b"} {
			q.Add(k)
		}
		got := []string{take(t, q), take(t, q), take(t, q), take(t, q)}
		if !slices.Equal(got, []string{"a", "b", "c", "-"}) {
			t.Error(got)
		}
	})
}

func TestAKeyThatIsAddedWhileItIsProcessedComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Add("a")
		take(t, q)
		q.Add("a")
		q.Add("a")
		if k := take(t, q); k != "-" {
			t.Errorf("%s was given to a second worker", k)
		}
		q.Done("a")
		if k := take(t, q); k != "a" {
			t.Errorf("the dirty key was lost: %s", k)
		}
		q.Done("a")
		if k := take(t, q); k != "-" {
			t.Errorf("%s came once too often", k)
		}
	})
}

func TestOfSeveralWaitsTheShortestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		began := time.Now()
		q.AddAfter("a", 30*time.Second)
		q.AddAfter("a", 10*time.Second)
		q.AddAfter("a", 20*time.Second)
		if _, ok := q.Get(t.Context()); !ok || time.Since(began) != 10*time.Second {
			t.Errorf("after %v", time.Since(began))
		}
		q.Done("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if k, ok := q.Get(ctx); ok {
			t.Errorf("%s came again", k)
		}
	})
}

func TestFailuresAreRetriedWithDoublingBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		c := NewController("test", func(context.Context, string) (Result, error) {
			at = append(at, time.Since(began))
			if len(at) < 5 {
				return Result{}, errors.New("not yet")
			}
			return Result{RequeueAfter: time.Hour}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
		defer cancel()
		c.Queue.Add("a")
		c.Run(ctx)
		ms := time.Millisecond
		want := []time.Duration{0, 5 * ms, 15 * ms, 35 * ms, 75 * ms, time.Hour + 75*ms}
		if !slices.Equal(at, want) {
			t.Errorf("%v, want %v", at, want)
		}
		if n := c.Queue.Failures("a"); n != 0 {
			t.Errorf("%d failures remembered after a success", n)
		}
	})
}

func TestTheBackOffHasAnEnd(t *testing.T) {
	if d := backOff(100); d != 1000*time.Second {
		t.Error(d)
	}
}

func TestAPanicIsAFailureOfOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := map[string]int{}
		var mu sync.Mutex
		c := NewController("test", func(_ context.Context, key string) (Result, error) {
			mu.Lock()
			defer mu.Unlock()
			tries[key]++
			if key == "bad" && tries[key] == 1 {
				panic("no")
			}
			return Result{}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Queue.Add("bad")
		c.Queue.Add("good")
		c.Run(ctx)
		if tries["bad"] != 2 || tries["good"] != 1 {
			t.Error(tries)
		}
	})
}

func TestOneKeyIsNeverWithTwoWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy [10]atomic.Int32
		var passes atomic.Int32
		c := NewController("test", func(_ context.Context, key string) (Result, error) {
			i := key[0] - '0'
			if busy[i].Add(1) > 1 {
				t.Errorf("%s is with two workers", key)
			}
			defer busy[i].Add(-1)
			passes.Add(1)
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			return Result{}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				c.Queue.Add(string(rune('0' + i%10)))
				time.Sleep(time.Millisecond)
			}
		}()
		c.Run(ctx)
		if passes.Load() < 1000 {
			t.Errorf("only %d passes", passes.Load())
		}
	})
}
