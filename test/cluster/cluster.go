// Package cluster gives tests a real API server inside their own process: the
// whole of it, HTTP handlers included, on the in-memory store, reached through
// net.Pipe. It works inside a testing/synctest bubble, where a node death of
// minutes is a test of milliseconds.
//
//	test ── client.Config{Dial} ── net.Pipe ── http.Server ── apiserver ── store/memory
//
// Everybody is a member of system:masters. The objects that every cluster has
// (namespaces, roles) are there unless Options.Bare is set.
//
// Invariant: when the test ends, so does every goroutine that Start began.
// Read next: ../../apiserver/doc.go.
package cluster

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"
	"orrery/client"
	"orrery/client/timing"
	"orrery/test/pipes"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Host is the URL of the server in a Config; nothing listens there.
const Host = "http://apiserver.test"

// Options change what Start makes.
type Options struct {
	// Bare leaves out admission and the objects of a fresh cluster.
	Bare bool
	// Store replaces the in-memory store; the cluster closes it.
	Store store.Store
	// Configure changes the server's config before it is used.
	Configure func(*apiserver.Config)
}

// Cluster is one running API server.
type Cluster struct {
	// Config is for client.New.
	Config client.Config
	Server *apiserver.Server
	Store  store.Store

	listener *pipes.Listener
	cancel   context.CancelFunc
	done     chan struct{}
}

// Start runs an API server until the end of the test (or of the synctest
// bubble) and waits until it has made its objects.
func Start(t testing.TB) *Cluster { return StartWith(t, Options{}) }

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Store == nil {
		o.Store = memory.New()
	}
	c := &Cluster{Store: o.Store, listener: pipes.Listen(), done: make(chan struct{})}
	config := apiserver.Config{
		Store: o.Store, Version: "v1.36.3+test", Log: slog.New(slog.DiscardHandler), Listener: c.listener, AllowAll: true, Bare: o.Bare,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"), AdvertiseAddress: netip.MustParseAddr("172.30.0.2"), SecurePort: 6443,
		Times: apiserver.Times{EventTTL: timing.EventTTL, Compaction: timing.CompactionInterval, RequestTimeout: timing.RequestTimeout, BookmarkPeriod: timing.BookmarkPeriod},
	}
	if o.Configure != nil {
		o.Configure(&config)
	}
	server, err := apiserver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	c.Server = server
	c.Config = client.Config{Host: Host, UserAgent: "test/cluster", Dial: c.listener.Dial}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() {
		defer close(c.done)
		if err := server.Run(ctx); err != nil {
			t.Errorf("API server: %v", err)
		}
	}()
	t.Cleanup(c.Stop)
	if !o.Bare {
		c.settle(t)
	}
	return c
}

// settle waits for the last namespace that the server makes at its start.
func (c *Cluster) settle(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		_, err := c.Server.Objects().Get(context.Background(), schema.GroupResource{Resource: "services"}, "default", "kubernetes")
		if err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the API server has not made its objects")
}

// Stop ends the server and waits for it. It may be called again.
func (c *Cluster) Stop() {
	c.cancel()
	<-c.done
}

// Transport speaks HTTP to the server, for clients that are not ours.
func (c *Cluster) Transport() *http.Transport {
	return &http.Transport{DialContext: c.listener.Dial}
}
