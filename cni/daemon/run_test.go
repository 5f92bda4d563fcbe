package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orrery/client"
)

// The test binary is a daemon when this variable holds the API server's URL, so
// that a whole process can run in a network namespace.
const asDaemon = "ORRERY_CNI_TEST_SERVER"

func TestMain(m *testing.M) {
	server := os.Getenv(asDaemon)
	if server == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := client.New(client.Config{Host: server})
	if err == nil {
		err = New(Config{
			NodeName: "orrery", Network: netip.MustParsePrefix("10.244.0.0/16"),
			Template: []byte(template), ConfigDir: os.Getenv("CONFIG_DIR"),
		}, c).Run(ctx)
	}
	if err != nil {
		slog.Error("daemon under test", "err", err)
		os.Exit(1)
	}
}

// nodeServer answers the list of nodes and one watch.
type nodeServer struct {
	list   corev1.NodeList
	events chan metav1.WatchEvent
}

func (s *nodeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") == "" {
		json.NewEncoder(w).Encode(s.list)
		return
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case ev := <-s.events:
			json.NewEncoder(w).Encode(ev)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// send gives the watcher an event; it fails the test if nobody watches.
func (s *nodeServer) send(t *testing.T, kind string, n *corev1.Node) {
	t.Helper()
	n.TypeMeta = metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
	raw, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case s.events <- metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw}}:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody watches the nodes")
	}
}

// until waits for a condition, for at most ten seconds.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

func TestTheDaemonFollowsTheAPIServerAndLeavesEverythingWhenItEnds(t *testing.T) {
	onNode(t, func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close() // it is not there yet when the daemon starts, as in a new cluster

		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asDaemon+"=http://"+address, "CONFIG_DIR="+dir)
		var log strings.Builder
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()

		api := &nodeServer{events: make(chan metav1.WatchEvent), list: corev1.NodeList{
			TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"},
			Items:    []corev1.Node{*node("orrery", "", "172.30.99.2")},
		}}
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: api}
		defer server.Close()
		go server.Serve(l)

		api.send(t, "ADDED", node("orrery-m02", "10.244.1.0/24", "172.30.99.3"))
		api.send(t, "MODIFIED", node("orrery", "10.244.0.0/24", "172.30.99.2"))
		routes := func() string { return sh(t, "ip", "route", "show", "proto", "111") }
		until(t, "the route to the other node", func() bool { return routes() == "10.244.1.0/24 via 172.30.99.3 dev eth0 \n" })
		until(t, "the configuration", func() bool {
			_, err := os.Stat(filepath.Join(dir, ConfigName))
			return err == nil
		})
		server.Close() // the API server dies, and then the daemon
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, &log)
		}
		if routes() == "" || !strings.Contains(sh(t, "iptables", "-t", "nat", "-S"), chainMasq) {
			t.Error("routes or rules went with the daemon")
		}
	})
}
