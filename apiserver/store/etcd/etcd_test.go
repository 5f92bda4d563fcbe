package etcd

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery/apiserver/store"
	"orrery/apiserver/store/storetest"

	"go.etcd.io/etcd/server/v3/embed"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Embed(EmbedConfig{DataDir: dir, ReadyWithin: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

func TestDataOutlivesTheServer(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rev, err := s.Create(t.Context(), "/registry/a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	e, err := s.Get(t.Context(), "/registry/a")
	if err != nil || string(e.Value) != "1" || e.Revision != rev {
		t.Errorf("after a restart: %q at %d, %v; want 1 at %d", e.Value, e.Revision, err, rev)
	}
}

// apart is a store on an etcd that serves it over the network, and what stops that etcd.
func apart(t *testing.T) (s *Store, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := url.URL{Scheme: "http", Host: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := EmbedConfig{DataDir: t.TempDir()}.config()
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(server.Close)
	t.Cleanup(stop)
	if s, err = Open(t.Context(), Config{Servers: []string{at.String()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, stop
}

func TestOpenGivesUpOnAnEtcdThatIsNotThere(t *testing.T) {
	s, stop := apart(t)
	if _, err := s.Create(t.Context(), "/registry/a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	at := s.client.Endpoints()
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Config{Servers: at}); err == nil || !strings.HasPrefix(err.Error(), "connecting to etcd at http://127.0.0.1:") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with no etcd: %v", err)
	}
}

// A watch that wants to send a bookmark must not stand still until etcd is back.
func TestProgressDoesNotWaitForAnEtcdThatIsAway(t *testing.T) {
	s, stop := apart(t)
	events := s.Watch(t.Context(), "/registry/", 0)
	if _, err := s.Create(t.Context(), "/registry/a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	<-events
	stop()
	returned := make(chan error, 1)
	go func() {
		// The first may be taken by the stream that is about to break.
		for range 3 {
			if err := s.Progress(t.Context()); err != nil {
				returned <- err
				return
			}
		}
		returned <- nil
	}()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case err := <-returned:
		if err != nil {
			t.Error(err)
		}
	case <-timer.C:
		t.Error("Progress has not returned after 20 s")
	}
}

// The words reach the client, as they do from upstream's server.
func TestTooLargeAValueIsRefusedInEtcdsWords(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	_, err := s.Create(t.Context(), "/registry/a", make([]byte, 2<<20), 0)
	if err == nil || err.Error() != "etcdserver: request is too large" {
		t.Errorf("got %v", err)
	}
}
