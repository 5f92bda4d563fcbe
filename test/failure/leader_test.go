package failure

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"orrery/client"
	"orrery/test/cluster"
)

// candidate is one of several replicas.
type candidate struct {
	leads  atomic.Bool
	since  time.Time
	result chan error
	stop   context.CancelFunc
	cut    atomic.Bool // from the API server
}

func stand(t *testing.T, c *cluster.Cluster, name string, release bool) *candidate {
	t.Helper()
	x := &candidate{result: make(chan error, 1)}
	cfg := c.Config
	dial := cfg.Dial
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if x.cut.Load() {
			return nil, errors.New("connection refused")
		}
		conn, err := dial(ctx, network, addr)
		return &cuttable{Conn: conn, cut: &x.cut}, err
	}
	api, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x.stop = cancel
	elector := &client.LeaderElector{Client: api, Namespace: "kube-system", Name: "test", Identity: name, ReleaseOnCancel: release}
	go func() {
		defer api.Close()
		x.result <- elector.Lead(ctx, func(ctx context.Context) error {
			x.since = time.Now()
			x.leads.Store(true)
			<-ctx.Done()
			x.leads.Store(false)
			return nil
		})
	}()
	return x
}

// cuttable is a connection that can be cut by a flag.
type cuttable struct {
	net.Conn
	cut *atomic.Bool
}

func (c *cuttable) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, errors.New("broken pipe")
	}
	return c.Conn.Write(b)
}

func TestOneOfTwoLeadsAndTheOtherTakesOverWhenTheLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		a := stand(t, c, "a", false)
		synctest.Wait()
		b := stand(t, c, "b", false)
		time.Sleep(time.Minute)
		if !a.leads.Load() || b.leads.Load() {
			t.Fatal("the first does not lead alone")
		}
		died := time.Now()
		a.stop() // without giving the lease back: it was renewed less than 2 s ago
		if err := <-a.result; err != nil {
			t.Error(err)
		}
		time.Sleep(30 * time.Second)
		if !b.leads.Load() {
			t.Fatal("nobody leads")
		}
		// b saw the last renewal at one of its tries, 2 to 4.4 s apart, waits 15 s from
		// then, and notices at its next try.
		if d := b.since.Sub(died); d < 11*time.Second || d > 24*time.Second {
			t.Errorf("took over after %v", d)
		}
		api, err := client.New(c.Config)
		if err != nil {
			t.Fatal(err)
		}
		defer api.Close()
		lease, err := client.For[*coordinationv1.Lease](api).Get(t.Context(), "kube-system", "test")
		if err != nil || *lease.Spec.HolderIdentity != "b" || *lease.Spec.LeaseTransitions != 1 || *lease.Spec.LeaseDurationSeconds != 15 {
			t.Errorf("%+v %v", lease.Spec, err)
		}
		b.stop()
		<-b.result
	})
}

func TestALeaseThatIsGivenBackIsTakenAtTheNextTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		a := stand(t, c, "a", true)
		synctest.Wait()
		b := stand(t, c, "b", true)
		time.Sleep(time.Minute)
		died := time.Now()
		a.stop()
		<-a.result
		time.Sleep(10 * time.Second)
		if !b.leads.Load() || b.since.Sub(died) > 4400*time.Millisecond {
			t.Errorf("took over after %v", b.since.Sub(died))
		}
		b.stop()
		<-b.result
	})
}

func TestALeaderWithoutServerGivesUpAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		a := stand(t, c, "a", false)
		time.Sleep(time.Minute)
		cut := time.Now()
		a.cut.Store(true)
		err := <-a.result
		if !errors.Is(err, client.ErrLeaderElectionLost) {
			t.Errorf("%v", err)
		}
		if d := time.Since(cut); d < 8*time.Second || d > 12*time.Second {
			t.Errorf("after %v", d)
		}
		synctest.Wait()
		if a.leads.Load() {
			t.Error("it still acts")
		}
		a.stop()
	})
}
