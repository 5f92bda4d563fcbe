package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"orrery/client"
)

// front is a controller with one table, and what it logs.
func front(t *testing.T, to *table) (*Controller, *bytes.Buffer) {
	t.Helper()
	c := New(Config{}, &client.Client{})
	log := &bytes.Buffer{}
	c.log = slog.New(slog.NewTextHandler(log, nil))
	c.table.Store(to)
	return c, log
}

// all sends everything to some endpoints.
func all(endpoints ...string) *table {
	return &table{fallback: &backend{name: "default/hello:80", endpoints: endpoints}}
}

func serve(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func says(t *testing.T, what string) (address string) {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, what) })
}

func ask(c *Controller, method, target string, body io.Reader) (code int, text string) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(method, target, body))
	return w.Code, w.Body.String()
}

func TestWithoutARouteAndWithoutAnEndpoint(t *testing.T) {
	c, log := front(t, &table{})
	if code, text := ask(c, "GET", "http://any.example/", nil); code != 404 || text != "404 page not found\n" {
		t.Errorf("without a route: %d %q", code, text)
	}
	c.table.Store(all())
	if code, text := ask(c, "GET", "http://any.example/a?b", nil); code != 503 || text != "no available server\n" {
		t.Errorf("without an endpoint: %d %q", code, text)
	}
	for _, part := range []string{"msg=request", "method=GET", "host=any.example", "path=/a", "code=404", "code=503", "key=default/hello:80", "client=192.0.2.1:1234"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("no %s in the access log:\n%s", part, log)
		}
	}
}

func TestEndpointsAnswerInTurn(t *testing.T) {
	c, _ := front(t, all(says(t, "a"), says(t, "b"), says(t, "c")))
	got := ""
	for range 6 {
		_, text := ask(c, "GET", "/", nil)
		got += text
	}
	if got != "abcabc" {
		t.Errorf("answered: %s", got)
	}
}

func TestThePodSeesWhoAskedForWhat(t *testing.T) {
	pod := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery)
		for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Own", "Connection"} {
			fmt.Fprintf(w, "%s=%s\n", h, r.Header.Get(h))
		}
	})
	c, _ := front(t, all(pod))
	for _, secure := range []bool{false, true} {
		r := httptest.NewRequest("GET", "http://shop.example/a%2Fb?q=1;2", nil)
		r.Header = http.Header{"X-Own": {"kept"}, "X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Host": {"liar"}, "Forwarded": {"for=6.6.6.6"}}
		scheme := "http"
		if secure {
			r.TLS, scheme = &tls.ConnectionState{}, "https"
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		want := "GET shop.example /a%2Fb q=1;2\nX-Forwarded-For=192.0.2.1\nX-Forwarded-Host=shop.example\nX-Forwarded-Proto=" + scheme +
			"\nX-Own=kept\nConnection=close\n"
		if w.Body.String() != want {
			t.Errorf("the pod saw\n%s\nwant\n%s", w.Body, want)
		}
	}
}

// refused is an address where nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// hangsUp accepts a connection, reads the request and closes; it counts them.
func hangsUp(t *testing.T, count *atomic.Int32) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
}

func TestADeadEndpointIsPassedOver(t *testing.T) {
	echo := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body); io.WriteString(w, "ok") })
	for _, tt := range []struct {
		title, method, body string
		cut                 bool // the first endpoint hangs up; else it refuses
		code                int
		text                string
	}{
		{"refused", "GET", "", false, 200, "ok"},
		{"refused, with a body: none of it was sent", "POST", "body ", false, 200, "body ok"},
		{"cut off", "GET", "", true, 200, "ok"},
		{"cut off, idempotent", "DELETE", "", true, 200, "ok"},
		{"cut off: a POST may have worked", "POST", "", true, 502, "Bad Gateway\n"},
		{"cut off: the body is gone", "PUT", "body", true, 502, "Bad Gateway\n"},
	} {
		var count atomic.Int32
		dead := refused(t)
		if tt.cut {
			dead = hangsUp(t, &count)
		}
		c, log := front(t, all(dead, echo))
		var body io.Reader
		if tt.body != "" {
			body = io.MultiReader(strings.NewReader(tt.body)) // of no known length, as from a network
		}
		if code, text := ask(c, tt.method, "/", body); code != tt.code || text != tt.text {
			t.Errorf("%s: %d %q, want %d %q", tt.title, code, text, tt.code, tt.text)
		}
		if tt.cut && count.Load() != 1 {
			t.Errorf("%s: the endpoint was asked %d times", tt.title, count.Load())
		}
		if failed := strings.Contains(log.String(), "err="); failed != (tt.code == 502) {
			t.Errorf("%s: log: %s", tt.title, log)
		}
	}
}

func TestAfterThreeAttemptsItIsEnough(t *testing.T) {
	var count atomic.Int32
	c, log := front(t, all(hangsUp(t, &count), hangsUp(t, &count), hangsUp(t, &count), says(t, "never asked")))
	if code, _ := ask(c, "GET", "/", nil); code != 502 || count.Load() != 3 {
		t.Errorf("code %d after %d attempts", code, count.Load())
	}
	if !strings.Contains(log.String(), "err=EOF") {
		t.Errorf("log: %s", log)
	}
}

// transportFunc is a network that fails as it is told.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWhatAFailureIsCalled(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tt := range []struct {
		err  error
		code int
	}{
		{dial(syscall.ECONNREFUSED), 502},
		{dial(syscall.EHOSTUNREACH), 502},
		{dial(context.DeadlineExceeded), 504},
		{errors.New("malformed HTTP response"), 502},
	} {
		tries := 0
		c, _ := front(t, all("10.244.1.2:80", "10.244.1.3:80"))
		c.transport = transportFunc(func(*http.Request) (*http.Response, error) { tries++; return nil, tt.err })
		if code, text := ask(c, "GET", "/", nil); code != tt.code || text != http.StatusText(tt.code)+"\n" || tries != 2 {
			t.Errorf("%v: %d %q after %d tries, want %d", tt.err, code, text, tries, tt.code)
		}
	}
}

// Who hangs up before the answer is not offered to another endpoint.
func TestTheClientGoesAway(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	c, log := front(t, all("10.244.1.2:80", "10.244.1.3:80"))
	c.transport = transportFunc(func(r *http.Request) (*http.Response, error) {
		tries++
		cancel()
		return nil, r.Context().Err()
	})
	c.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	if tries != 1 || !strings.Contains(log.String(), "code=499") {
		t.Errorf("%d tries; log: %s", tries, log)
	}
}

// An answer that breaks off is logged too, though net/http ends it by a panic.
func TestABrokenAnswerIsLogged(t *testing.T) {
	pod := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strings.Repeat("x", 10000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	c, _ := front(t, all(pod))
	var logged atomic.Pointer[string]
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		log := &bytes.Buffer{}
		c.log = slog.New(slog.NewTextHandler(log, nil))
		defer func() { text := log.String(); logged.Store(&text) }()
		c.ServeHTTP(w, r)
	}))
	defer s.Close()
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the client did not notice that the answer broke off")
	}
	<-done
	if text := *logged.Load(); !strings.Contains(text, "code=200") {
		t.Errorf("log: %s", text)
	}
}

// A WebSocket, or anything else that begins with 101, is two open ends.
func TestUpgradesPassThrough(t *testing.T) {
	pod := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("the pod got %v", r.Header)
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		line, _ := both.ReadString('\n')
		fmt.Fprintf(conn, "you said %s", line)
	})
	c, _ := front(t, all(pod))
	s := httptest.NewServer(c)
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := in.ReadString('\n'); line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// What a pod sends piece by piece arrives piece by piece.
func TestStreamsAreNotHeldBack(t *testing.T) {
	seen := make(chan struct{})
	pod := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-seen
		io.WriteString(w, "second\n")
	})
	c, _ := front(t, all(pod))
	s := httptest.NewServer(c)
	defer s.Close()
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	first, _ := in.ReadString('\n')
	close(seen)
	if second, _ := in.ReadString('\n'); first != "first\n" || second != "second\n" {
		t.Errorf("%q %q", first, second)
	}
}
