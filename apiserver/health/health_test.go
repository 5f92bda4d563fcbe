package health_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"orrery/apiserver/auth"
	"orrery/apiserver/health"
	"orrery/apiserver/kinds"
)

func ask(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestAFailedConditionIsNamedButNotExplained(t *testing.T) {
	checks := health.NewChecks("/readyz", slog.New(slog.DiscardHandler), health.Ping,
		health.Check{Name: "etcd", Run: func(*http.Request) error { return errors.New("secret detail") }})
	if w := ask(checks, "/readyz"); w.Code != 500 || w.Body.String() != "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(checks, "/readyz?exclude=etcd"); w.Code != 200 || w.Body.String() != "ok" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(checks, "/readyz/ping"); w.Code != 200 || w.Body.String() != "ok" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(checks, "/readyz/nonsense"); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
}

func TestAServerThatStopsIsNotReady(t *testing.T) {
	var stopping health.Shutdown
	checks := health.NewChecks("/readyz", slog.New(slog.DiscardHandler), stopping.Check())
	if w := ask(checks, "/readyz"); w.Code != 200 {
		t.Errorf("before: %d", w.Code)
	}
	stopping.Begin()
	if w := ask(checks, "/readyz"); w.Code != 500 {
		t.Errorf("after: %d", w.Code)
	}
}

// flood is a server with room for one read and one write, in which one read is stuck.
type flood struct {
	handler http.Handler
	release chan struct{}
	ended   chan int
}

func startFlood(t *testing.T) *flood {
	f := &flood{release: make(chan struct{}), ended: make(chan int, 1)}
	entered := make(chan struct{}, 1)
	f.handler = health.NewInFlight(1, 1, health.NewMetrics(kinds.NewTable())).Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Stuck") != "" {
			entered <- struct{}{}
			<-f.release
		}
	}))
	go func() { f.ended <- f.do("list", "alice", "Stuck").Code }()
	<-entered
	t.Cleanup(func() {
		close(f.release)
		if code := <-f.ended; code != 200 {
			t.Errorf("the stuck request ended with %d", code)
		}
	})
	return f
}

func (f *flood) do(verb, user string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("GET", "/api/v1/pods", nil)
	for _, h := range headers {
		req.Header.Set(h, "1")
	}
	info := &auth.UserInfo{Name: user}
	if user == "admin" {
		info.Groups = []string{"system:masters"}
	}
	ctx := auth.WithAttributes(auth.WithUser(req.Context(), info), &auth.Attributes{IsResource: true, Verb: verb, Resource: "pods"})
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, req.WithContext(ctx))
	return w
}

func TestTooManyReadsAreAskedToComeBack(t *testing.T) {
	f := startFlood(t)
	w := f.do("get", "alice")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || w.Body.String() != "Too many requests, please try again later.\n" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	for verb, what := range map[string]string{"update": "a write, which has its own limit", "watch": "a watch, which lasts"} {
		if w := f.do(verb, "alice"); w.Code != 200 {
			t.Errorf("%s: %d", what, w.Code)
		}
	}
	if w := f.do("get", "admin"); w.Code != 200 {
		t.Errorf("an administrator: %d", w.Code)
	}
}
