package sim

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// Each answer comes by the link's latency later, also when one question follows
// the other at once; an answer in two pieces does so once.
func TestEveryAnswerHasTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		l := newLink(func(context.Context, string, string) (net.Conn, error) { return ours, nil }, 10*time.Millisecond)
		c, err := l.Dial(t.Context(), "", "server")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			for b := make([]byte, 8); ; {
				if _, err := theirs.Read(b); err != nil {
					return
				}
				_, _ = theirs.Write([]byte("an"))
				_, _ = theirs.Write([]byte("swer"))
			}
		}()
		for i := range 3 {
			began, b := time.Now(), make([]byte, 8)
			if _, err := c.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := c.Read(b); err != nil {
					t.Fatal(err)
				}
			}
			if d := time.Since(began); d != 10*time.Millisecond {
				t.Errorf("answer %d took %v", i, d)
			}
		}
	})
}
