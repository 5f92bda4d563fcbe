package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orrery/test/pipes"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scriptedServer answers lists with its items and watches with the script that
// the test sends; it lives on net.Pipe.
type scriptedServer struct {
	mu       sync.Mutex
	items    []string
	version  string
	requests []string
	watches  chan chan string // one channel of frames for each watch; "!" cuts it
}

func (s *scriptedServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	kind := "list"
	if q.Get("watch") != "" {
		kind = "watch@" + q.Get("resourceVersion")
	}
	s.requests = append(s.requests, kind)
	list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: s.version}}
	for _, name := range s.items {
		list.Items = append(list.Items, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}})
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if kind == "list" {
		json.NewEncoder(w).Encode(list)
		return
	}
	w.(http.Flusher).Flush()
	script := make(chan string)
	select {
	case s.watches <- script:
	case <-r.Context().Done():
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case frame := <-script:
			if frame == "!" {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprintln(w, frame)
			w.(http.Flusher).Flush()
		}
	}
}

func frame(event, name, version string) string {
	return fmt.Sprintf(`{"type":%q,"object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"namespace":"ns","name":%q,"resourceVersion":%q}}}`, event, name, version)
}

func (s *scriptedServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// serve runs a server until stop, and returns a client of it.
func serve(t *testing.T, h http.Handler) (c *Client, stop func()) {
	l := pipes.Listen()
	server := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	c, err := New(Config{Host: "http://server", Dial: l.Dial})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		c.Close()
		server.Close()
		wg.Wait()
	}
}

// follow runs an informer against a scripted server in a bubble.
func follow(t *testing.T, f func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string)) {
	followScaled(t, 1, f)
}

func followScaled(t *testing.T, timeScale float64, f func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scriptedServer{version: "10", items: []string{"a", "b"}, watches: make(chan chan string)}
		c, stop := serve(t, s)
		c.cfg.TimeScale = timeScale
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		var log []string
		note := func(what string) func(*corev1.ConfigMap) {
			return func(cm *corev1.ConfigMap) {
				mu.Lock()
				defer mu.Unlock()
				log = append(log, what+cm.Name)
			}
		}
		inf := NewInformer(For[*corev1.ConfigMap](c), "", metav1.ListOptions{})
		inf.AddHandler(Handler[*corev1.ConfigMap]{Add: note("+"), Delete: note("-"), Update: func(_, cm *corev1.ConfigMap) { note("~")(cm) }})
		wg.Go(func() { inf.Run(ctx) })
		defer func() {
			cancel()
			stop()
			wg.Wait()
		}()
		f(s, inf, func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := log
			log = nil
			return out
		})
	})
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestAnInformerListsThenFollows(t *testing.T) {
	follow(t, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		w := <-s.watches
		<-inf.Synced()
		equal(t, "list", heard(), "+a", "+b")
		w <- frame("ADDED", "c", "11")
		w <- frame("MODIFIED", "a", "12")
		w <- frame("DELETED", "b", "13")
		equal(t, "watch", heard(), "+c", "~a", "-b")
		if _, ok := inf.Get("ns", "b"); ok || len(inf.List()) != 2 {
			t.Error("the cache does not follow")
		}
	})
}

func TestACutWatchResumesWhereItStopped(t *testing.T) {
	follow(t, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		w := <-s.watches
		w <- frame("ADDED", "c", "11")
		w <- frame("BOOKMARK", "", "15")
		heard()
		began := time.Now()
		w <- "!"
		w = <-s.watches
		if d := time.Since(began); d != 0 {
			t.Errorf("came back after %v, not at once", d)
		}
		equal(t, "requests", s.seen(), "list", "watch@10", "watch@15")
		w <- "!" // before anything has come
		w = <-s.watches
		if d := time.Since(began); d < 800*time.Millisecond || d > 1600*time.Millisecond {
			t.Errorf("came back after %v, not 0.8 to 1.6 s", d)
		}
		w <- frame("ADDED", "d", "16")
		equal(t, "heard", heard(), "+d")
	})
}

// Two minutes count from the failure before, not from the end of the wait for it.
func TestTheWaitOfAnInformerIsShortAgainTwoMinutesAfterAFailure(t *testing.T) {
	follow(t, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		w := <-s.watches
		failed := time.Now()
		for range 7 {
			failed = time.Now()
			w <- "!" // before anything has come
			w = <-s.watches
		}
		for _, round := range []struct{ after, wait time.Duration }{
			{2 * time.Minute, 30 * time.Second}, {2*time.Minute + 1, 800 * time.Millisecond},
		} {
			time.Sleep(time.Until(failed.Add(round.after)))
			failed = time.Now()
			w <- `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}`
			w = <-s.watches
			if d := time.Since(failed); d < round.wait || d > 2*round.wait {
				t.Errorf("%v after a failure the next one has a wait of %v, not %v to twice that", round.after, d, round.wait)
			}
		}
	})
}

func TestTimeScaleShortensTheWaitOfAnInformer(t *testing.T) {
	followScaled(t, 10, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		w := <-s.watches
		for _, wait := range []time.Duration{80, 160, 320, 640, 1280, 2560, 3000, 3000} {
			wait *= time.Millisecond
			began := time.Now()
			w <- "!" // before anything has come
			w = <-s.watches
			if d := time.Since(began); d < wait || d > 2*wait {
				t.Errorf("came back after %v, not %v to twice that", d, wait)
			}
		}
	})
}

func TestTimeScaleShortensTheDetectionOfDeadPeers(t *testing.T) {
	tr, err := Config{Host: "http://server", TimeScale: 10}.transport()
	if err != nil {
		t.Fatal(err)
	}
	if ping, pong := tr.HTTP2.SendPingTimeout, tr.HTTP2.PingTimeout; ping != 3*time.Second || pong != 1500*time.Millisecond {
		t.Errorf("a ping after %v and %v for its answer, want 3 and 1.5 s", ping, pong)
	}
}

func TestAVersionThatIsTooOldMeansANewList(t *testing.T) {
	follow(t, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		w := <-s.watches
		heard()
		w <- "!"
		w = <-s.watches
		s.mu.Lock()
		s.items, s.version = []string{"b", "z"}, "99"
		s.mu.Unlock()
		began := time.Now()
		w <- `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}`
		<-s.watches
		// This answer too has its wait, and a longer one than the failure before.
		if d := time.Since(began); d < 1600*time.Millisecond || d > 3200*time.Millisecond {
			t.Errorf("lists after %v, not 1.6 to 3.2 s", d)
		}
		got := heard()
		slices.Sort(got)
		equal(t, "what changed meanwhile", got, "+z", "-a", "~b")
		equal(t, "requests", s.seen(), "list", "watch@10", "watch@10", "list", "watch@99")
	})
}

func TestAnIndexFollowsTheCache(t *testing.T) {
	follow(t, func(s *scriptedServer, inf *Informer[*corev1.ConfigMap], heard func() []string) {
		inf.AddIndex("first", func(cm *corev1.ConfigMap) []string { return []string{cm.Name[:1]} })
		w := <-s.watches
		w <- frame("ADDED", "ax", "11")
		heard()
		if n := len(inf.ByIndex("first", "a")); n != 2 {
			t.Errorf("%d under a", n)
		}
		w <- frame("DELETED", "a", "12")
		heard()
		if n := len(inf.ByIndex("first", "a")); n != 1 {
			t.Errorf("%d under a after a deletion", n)
		}
	})
}
