package etcd

import (
	"testing"
	"time"

	"orrery/apiserver/store"
	"orrery/apiserver/store/storetest"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Embed(EmbedConfig{DataDir: dir, Name: "test", ReadyWithin: 30 * time.Second})
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

// The words reach the client, as they do from upstream's server.
func TestTooLargeAValueIsRefusedInEtcdsWords(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	_, err := s.Create(t.Context(), "/registry/a", make([]byte, 2<<20), 0)
	if err == nil || err.Error() != "etcdserver: request is too large" {
		t.Errorf("got %v", err)
	}
}
