package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	certutil "k8s.io/client-go/util/cert"
)

// counting counts what is written to the network.
type counting struct {
	net.Listener
	writes *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.writes}, err
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// TestOneWriteCarriesAnEventToManyWatches: a hundred watches of a connection do not
// cost a hundred system calls for each event.
func TestOneWriteCarriesAnEventToManyWatches(t *testing.T) {
	const watches, events = 100, 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var writes atomic.Int64
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, pem := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server, err := apiserver.New(apiserver.Config{Store: memory.New(), Version: "v1.36.3+test", AllowAll: true, Bare: true, Log: slog.New(slog.DiscardHandler),
		Listener: counting{l, &writes}, TLSCertFile: filepath.Join(dir, "tls.crt"), TLSKeyFile: filepath.Join(dir, "tls.key")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // who answers is not in question
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport, Timeout: time.Minute}
	var seen sync.WaitGroup
	var watching sync.WaitGroup
	for range watches {
		r, err := h.Get("https://" + l.Addr().String() + "/api/v1/configmaps?watch=1&resourceVersion=1")
		if err != nil || r.ProtoMajor != 2 {
			t.Fatalf("%v %v", r, err)
		}
		watching.Go(func() {
			defer r.Body.Close()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				if bytes.Contains(lines.Bytes(), []byte(`"type":"ADDED"`)) {
					seen.Done()
				}
			}
		})
	}
	before := writes.Load()
	for i := range events {
		seen.Add(watches)
		if _, err := server.Objects().Create(ctx, schema.GroupResource{Resource: "configmaps"}, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("tick-", i)}}); err != nil {
			t.Fatal(err)
		}
		seen.Wait()
	}
	if n := writes.Load() - before; n > watches*events/4 {
		t.Errorf("%d events to %d watches of one connection took %d writes", events, watches, n)
	} else {
		t.Logf("%d writes", n)
	}
	cancel()
	watching.Wait()
}
