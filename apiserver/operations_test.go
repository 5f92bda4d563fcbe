package apiserver_test

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
)

// halting is a store that can be made to answer nothing more, as an etcd that lost its quorum.
type halting struct {
	store.Store
	halted atomic.Bool
}

func (h *halting) wait(ctx context.Context) error {
	if h.halted.Load() {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (h *halting) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := h.wait(ctx); err != nil {
		return store.Entry{}, err
	}
	return h.Store.Get(ctx, key)
}

func (h *halting) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	return h.Store.Create(ctx, key, value, ttl)
}

func (h *halting) Revision(ctx context.Context) (int64, error) {
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	return h.Store.Revision(ctx)
}

// idle is a listener at which nobody arrives: requests are given to the handler.
type idle struct{ closed chan struct{} }

func (i *idle) Accept() (net.Conn, error) { <-i.closed; return nil, net.ErrClosed }
func (i *idle) Close() error              { close(i.closed); return nil }
func (i *idle) Addr() net.Addr            { return &net.TCPAddr{} }

// operated is a server that runs inside a bubble of fake time.
type operated struct {
	*apiserver.Server
	t     *testing.T
	store *halting
	stop  func()
}

func operate(t *testing.T) *operated {
	t.Helper()
	o := &operated{t: t, store: &halting{Store: memory.New()}}
	var err error
	o.Server, err = apiserver.New(apiserver.Config{Store: o.store, Version: "v1.36.3+test", AllowAll: true, Bare: true, Log: slog.New(slog.DiscardHandler),
		Listener: &idle{make(chan struct{})}, Times: apiserver.Times{EventTTL: time.Hour, Compaction: 5 * time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	o.do("POST", "/api/v1/namespaces", `{"metadata":{"name":"default"}}`)
	return o
}

func (o *operated) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(o.t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	o.Handler().ServeHTTP(w, r)
	return w
}

func TestARequestIsGivenUpWhenItsTimeIsUp(t *testing.T) {
	const timeout = `{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}`
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		defer o.stop()
		o.do("POST", configMaps, `{"metadata":{"name":"a"}}`)
		o.store.halted.Store(true)
		for _, c := range []struct {
			method, query string
			after         time.Duration
			code          int
			body          string
		}{
			{"GET", "/a?timeout=1s", time.Second, 504, timeout},
			{"GET", "/a?timeout=0s", time.Minute, 504, timeout},
			{"GET", "/a?timeout=10m", time.Minute, 504, timeout}, // --request-timeout is the most
			{"GET", "?timeout=2s", 2 * time.Second, 504, timeout},
			{"POST", "?timeout=3s", 3 * time.Second, 504, timeout},
			{"GET", "/a?resourceVersion=0&timeout=1s", 0, 200, ""}, // what the cache has needs no store
			{"GET", "?watch=1&timeoutSeconds=5", 5 * time.Second, 200, // a watch from now has to ask the store when that is
				`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"context deadline exceeded","reason":"InternalError","code":500}}`},
			{"GET", "?watch=1&timeoutSeconds=5&resourceVersion=0", 5 * time.Second, 200, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"`},
			{"GET", "/a?timeout=soon", 0, 400, `"invalid timeout specified in the request URL - time: invalid duration \"soon\""`},
			{"GET", "/a?timeout=1", 0, 400, `"invalid timeout specified in the request URL - time: missing unit in duration \"1\""`},
		} {
			began := time.Now()
			w := o.do(c.method, configMaps+c.query, `{"metadata":{"name":"b"}}`)
			if took := time.Since(began); took != c.after || w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%s %s: %d after %v: %s", c.method, c.query, w.Code, took, w.Body)
			}
		}
		began := time.Now()
		if w := o.do("GET", "/livez/etcd", ""); w.Code != 500 || w.Body.String() != "internal server error: error getting data from etcd: context deadline exceeded\n" || time.Since(began) != 2*time.Second {
			t.Errorf("/livez/etcd: %d %s after %v", w.Code, w.Body, time.Since(began))
		}
	})
}

func TestProbesMayAskInAnyWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		defer o.stop()
		synctest.Wait() // until the caches are filled
		for _, c := range []struct {
			method, path string
			code         int
			body         string
		}{
			{"GET", "/livez", 200, "ok"}, {"POST", "/livez", 200, "ok"}, {"HEAD", "/readyz", 200, ""}, {"GET", "/healthz/ping", 200, "ok"},
			{"GET", "/livez/", 404, "404 page not found\n"}, {"GET", "/livez/shutdown", 404, "404 page not found\n"}, {"GET", "/livezz", 404, "404 page not found\n"},
			{"GET", "/livez?verbose", 200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"},
			{"GET", "/readyz?verbose", 200, "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n"},
			{"GET", "/readyz/informer-sync", 200, "ok"},
		} {
			w := o.do(c.method, c.path, "")
			if body := w.Body.String(); w.Code != c.code || body != c.body && c.method != "HEAD" {
				t.Errorf("%s %s: %d %q", c.method, c.path, w.Code, body)
			}
		}
	})
}

func TestMetricsCountWhatIsServedAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		defer o.stop()
		o.do("POST", configMaps, `{"metadata":{"name":"a"}}`)
		o.do("POST", configMaps+"?dryRun=All", `{"metadata":{"name":"b"}}`)
		o.do("POST", configMaps+"?dryRun=a-word", `{"metadata":{"name":"b"}}`)
		o.do("PATCH", configMaps+"/a?fieldManager=me", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, "Content-Type", "application/apply-patch+yaml")
		o.do("GET", configMaps+"?watch=1&timeoutSeconds=1", "")
		o.do("DELETE", configMaps, "")
		o.do("POST", "/api/v1/namespaces/default/pods/none/exec?command=a", "")
		o.do("GET", "/apis/apps/v1/deployments", "")
		o.do("GET", "/apis/apps/v1/namespaces/default/deployments/none", "")
		o.do("GET", "/livez", "")
		for _, path := range []string{"/api/v1/invented", "/apis/invented/v1/things", "/invented"} {
			o.do("GET", path, "")
		}
		o.do("INVENTED", configMaps, "")
		metrics := o.do("GET", "/metrics", "").Body.String()
		const ofConfigMaps = `group="",resource="configmaps"`
		for _, line := range []string{
			`apiserver_request_total{code="201",component="apiserver",dry_run="",` + ofConfigMaps + `,scope="resource",subresource="",verb="POST",version="v1"} 1`,
			`apiserver_request_total{code="201",component="apiserver",dry_run="All",` + ofConfigMaps + `,scope="resource",subresource="",verb="POST",version="v1"} 1`,
			`apiserver_request_total{code="422",component="apiserver",dry_run="invalid",` + ofConfigMaps + `,scope="resource",subresource="",verb="POST",version="v1"} 1`,
			`apiserver_request_total{code="200",component="apiserver",dry_run="",` + ofConfigMaps + `,scope="resource",subresource="",verb="APPLY",version="v1"} 1`,
			`apiserver_request_total{code="200",component="apiserver",dry_run="",` + ofConfigMaps + `,scope="namespace",subresource="",verb="DELETE",version="v1"} 1`,
			`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="exec",verb="CONNECT",version="v1"} 1`,
			`apiserver_request_total{code="200",component="",dry_run="",group="",resource="",scope="",subresource="/livez",verb="GET",version=""} 1`,
			`apiserver_request_duration_seconds_count{component="apiserver",dry_run="",` + ofConfigMaps + `,scope="namespace",subresource="",verb="WATCH",version="v1"} 1`,
			`apiserver_longrunning_requests{component="apiserver",` + ofConfigMaps + `,scope="namespace",subresource="",verb="WATCH",version="v1"} 0`,
			`apiserver_watch_events_total{` + ofConfigMaps + `,version="v1"} 1`,
			`apiserver_current_inflight_requests{request_kind="mutating"} 0`,
			`apiserver_resource_objects{group="",resource="namespaces"} 1`,
			`etcd_request_duration_seconds_count{` + `group="apps",operation="get",resource="deployments"} 1`,
			`major="1",minor="36",platform=`,
		} {
			if !strings.Contains(metrics, line) {
				t.Errorf("no line %s", line)
			}
		}
		if strings.Contains(strings.ToLower(metrics), "invented") {
			t.Error("what nobody serves is counted")
		}
	})
}

func TestHistoryAndEventsAreForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		defer o.stop()
		first := answer[corev1.ConfigMap](t, o.do("POST", configMaps, `{"metadata":{"name":"a"}}`))
		o.do("POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"x"}}`)
		o.do("DELETE", configMaps+"/a", "")
		then := func() int {
			return o.do("GET", configMaps+"?resourceVersionMatch=Exact&resourceVersion="+first.ResourceVersion, "").Code
		}
		event := func() int { return o.do("GET", "/api/v1/namespaces/default/events/e", "").Code }
		time.Sleep(10*time.Minute - time.Second)
		if code := then(); code != 200 {
			t.Errorf("history of less than two compaction intervals: %d", code)
		}
		time.Sleep(2 * time.Second)
		if code := then(); code != 410 {
			t.Errorf("older history: %d", code)
		}
		time.Sleep(49 * time.Minute)
		if code := event(); code != 200 {
			t.Errorf("an event of 59 minutes: %d", code)
		}
		time.Sleep(time.Minute)
		if code := event(); code != 404 {
			t.Errorf("an event of an hour: %d", code)
		}
	})
}

func TestAWatchGoesOnThroughCompactionAndEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		defer o.stop()
		watched := make(chan *httptest.ResponseRecorder, 1)
		go func() { watched <- o.do("GET", configMaps+"?watch=1&timeoutSeconds=3600", "") }()
		synctest.Wait()
		for _, name := range []string{"early", "middle", "late"} {
			o.do("POST", configMaps, `{"metadata":{"name":"`+name+`"}}`)
			time.Sleep(8 * time.Minute)
		}
		select {
		case w := <-watched:
			t.Fatalf("the watch ended: %d %s", w.Code, w.Body)
		default:
		}
		o.stop()
		body := (<-watched).Body.String()
		if strings.Count(body, `"type":"ADDED"`) != 3 || strings.Contains(body, "ERROR") {
			t.Errorf("the watch was sent %s", body)
		}
		if w := o.do("GET", "/readyz/shutdown", ""); w.Code != 500 || w.Body.String() != "internal server error: process is shutting down\n" {
			t.Errorf("/readyz/shutdown of a server that stops: %d %s", w.Code, w.Body)
		}
	})
}
