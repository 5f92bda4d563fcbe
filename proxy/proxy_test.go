package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// fakeKernel notes when it was given which rules.
type fakeKernel struct {
	began time.Time

	mu   sync.Mutex
	puts []givenRules // guarded by mu
	err  error        // guarded by mu; what put answers
}

type givenRules struct {
	after time.Duration
	jumps bool
	text  string
}

func (k *fakeKernel) prepare(Options, *slog.Logger) (bool, error) { return false, nil }
func (k *fakeKernel) forget([]*servicePort) error                 { return nil }
func (k *fakeKernel) put(_ context.Context, r Ruleset, jumps bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.puts = append(k.puts, givenRules{time.Since(k.began), jumps, r.String()})
	return k.err
}

func (k *fakeKernel) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// given is what has been put so far.
func (k *fakeKernel) given() []givenRules {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.puts
}

// started runs a Proxy against a server with the recorded Services, in a bubble.
func started(t *testing.T, test func(*apiServer, *Proxy, *fakeKernel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		services, endpointSlices := recorded()
		serviceList := &corev1.ServiceList{TypeMeta: metav1.TypeMeta{Kind: "ServiceList", APIVersion: "v1"}}
		for _, s := range services[:3] {
			serviceList.Items = append(serviceList.Items, *s)
		}
		sliceList := &discoveryv1.EndpointSliceList{TypeMeta: metav1.TypeMeta{Kind: "EndpointSliceList", APIVersion: "discovery.k8s.io/v1"}}
		for _, s := range endpointSlices {
			sliceList.Items = append(sliceList.Items, *s)
		}
		nodeList := &corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}}
		server := newAPIServer(map[string]runtime.Object{"services": serviceList, "endpointslices": sliceList, "nodes": nodeList})
		c, err := server.client()
		if err != nil {
			t.Fatal(err)
		}
		p := New(Config{Options: options(), MinSyncPeriod: time.Second, SyncPeriod: 30 * time.Second}, c)
		kernel := &fakeKernel{began: time.Now()}
		p.kernel = kernel
		ctx, cancel := context.WithCancel(t.Context())
		go server.server.Serve(server.listener)
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		test(server, p, kernel)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		c.Close()
		server.server.Close()
	})
}

// endpointsNow is the EndpointSlice of default/hello with other endpoints.
func endpointsNow(version string, ips ...string) *discoveryv1.EndpointSlice {
	s := slice("default", "hello", "", 9898, on("w2", ips...)...)
	s.TypeMeta = metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"}
	s.ResourceVersion = version
	return s
}

func TestAChangeIsInTheRulesAtOnceAndManyTogetherWithinASecond(t *testing.T) {
	started(t, func(server *apiServer, p *Proxy, kernel *fakeKernel) {
		time.Sleep(100 * time.Millisecond)
		server.send("endpointslices", "MODIFIED", endpointsNow("11", "10.244.1.1"))
		time.Sleep(100 * time.Millisecond)
		server.send("endpointslices", "MODIFIED", endpointsNow("12", "10.244.1.2"))
		time.Sleep(4800 * time.Millisecond)
		server.send("endpointslices", "MODIFIED", endpointsNow("13", "10.244.1.3"))
		time.Sleep(56 * time.Second)

		want := []struct {
			after    time.Duration
			jumps    bool
			endpoint string
		}{
			{0, true, "10.244.2.12:9898"},
			{time.Second, false, "10.244.1.2:9898"},
			{5 * time.Second, false, "10.244.1.3:9898"},
			{30 * time.Second, true, "10.244.1.3:9898"},
			{60 * time.Second, true, "10.244.1.3:9898"},
		}
		puts := kernel.given()
		if len(puts) != len(want) {
			t.Fatalf("rules were put %d times, want %d: %v", len(puts), len(want), puts)
		}
		for i, w := range want {
			if got := puts[i]; got.after != w.after || got.jumps != w.jumps || !strings.Contains(got.text, w.endpoint) {
				t.Errorf("%d: put after %v, jumps %v; want after %v, jumps %v, with %s:\n%s", i, got.after, got.jumps, w.after, w.jumps, w.endpoint, got.text)
			}
		}
	})
}

func TestWithoutTheAPIServerTheRulesStay(t *testing.T) {
	started(t, func(server *apiServer, p *Proxy, kernel *fakeKernel) {
		server.server.Close()
		server.listener.Close()
		time.Sleep(10 * time.Minute)
		puts := kernel.given()
		if len(puts) < 2 {
			t.Fatal("the periodic sync stopped")
		}
		for _, put := range puts[1:] {
			if put.text != puts[0].text {
				t.Fatalf("after %v the rules are others:\n%s", put.after, put.text)
			}
		}
		if !p.health.healthy() {
			t.Error("unhealthy, though no change is waiting")
		}
	})
}

func TestHealthzFailsWhenAChangeWaitsForMoreThanAMinute(t *testing.T) {
	started(t, func(server *apiServer, p *Proxy, kernel *fakeKernel) {
		ask := func(path string) (int, map[string]any) {
			w := httptest.NewRecorder()
			p.health.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			return w.Code, body
		}
		if code, body := ask("/healthz"); code != 200 || body["nodeEligible"] != true {
			t.Errorf("after the first sync: %d %v", code, body)
		}
		kernel.fail(errors.New("iptables-restore: exit status 4"))
		time.Sleep(5 * time.Second)
		server.send("endpointslices", "MODIFIED", endpointsNow("11", "10.244.1.1"))
		time.Sleep(time.Minute - time.Nanosecond)
		if code, _ := ask("/livez"); code != 200 {
			t.Errorf("just before a minute: %d", code)
		}
		time.Sleep(time.Nanosecond)
		if code, _ := ask("/livez"); code != 503 {
			t.Errorf("after a minute: %d", code)
		}
		kernel.fail(nil)
		time.Sleep(30 * time.Second)
		if code, _ := ask("/healthz"); code != 200 {
			t.Errorf("after a sync that worked: %d", code)
		}
		p.health.setLeaving(true)
		if code, body := ask("/healthz"); code != 503 || body["nodeEligible"] != false {
			t.Errorf("/healthz of a node that is being removed: %d %v", code, body)
		}
		if code, _ := ask("/livez"); code != 200 {
			t.Errorf("/livez of a node that is being removed: %d", code)
		}
	})
}
