package apiserver_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"orrery/apiserver"
	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"
)

// A metrics server in miniature: what it has been asked, and by whom.
type metricsServer struct {
	mu   sync.Mutex
	seen http.Header
}

func (m *metricsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/apis/metrics.k8s.io/v1beta1":
		_, _ = w.Write([]byte(`{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.k8s.io/v1beta1","resources":[
			{"name":"nodes","singularName":"","namespaced":false,"kind":"NodeMetrics","verbs":["get","list"]},
			{"name":"pods","singularName":"","namespaced":true,"kind":"PodMetrics","verbs":["get","list"]}]}`))
	case "/apis/metrics.k8s.io/v1beta1/nodes":
		m.mu.Lock()
		m.seen = r.Header.Clone()
		m.mu.Unlock()
		_, _ = w.Write([]byte(`{"kind":"NodeMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[{"metadata":{"name":"a"},"usage":{"cpu":"1"}}]}`))
	default:
		http.NotFound(w, r)
	}
}

const apiServices = "/apis/apiregistration.k8s.io/v1/apiservices"

func TestAnotherServersAPIIsPartOfOurs(t *testing.T) {
	m := &metricsServer{}
	s, bundle := outside(t, m.ServeHTTP)
	v := startServer(t, services(func() string { return s.Listener.Addr().String() }))
	condition := func(texts ...string) {
		t.Helper()
		v.eventually(texts[0], func() bool {
			_, body := v.do("GET", apiServices+"/v1beta1.metrics.k8s.io", "", "")
			for _, text := range texts {
				if !strings.Contains(body, text) {
					return false
				}
			}
			return true
		})
	}
	v.want(201, "POST", apiServices, "", `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, caBundle: `+bundle+`, service: {name: outside, namespace: default}}`)
	condition(`"reason":"ServiceNotFound"`, `service/outside in \"default\" is not present`)
	v.want(503, "GET", "/apis/metrics.k8s.io/v1beta1/nodes", "", "", "service unavailable")
	v.want(201, "POST", "/api/v1/namespaces/default/services", "", "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{name: https, port: 443}]}")
	condition(`"reason":"EndpointsNotFound"`)
	v.want(201, "POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", "", `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
ports: [{name: https, port: 8443}]
endpoints: [{addresses: [10.244.1.9], conditions: {ready: true}}]`)
	condition(`"reason":"Passed"`, `"message":"all checks passed"`)

	// The request goes on with the user's name, and without what proved it.
	v.want(200, "GET", "/apis/metrics.k8s.io/v1beta1/nodes", "", "", `"kind":"NodeMetricsList"`)
	m.mu.Lock()
	if m.seen.Get("X-Remote-User") != "system:admin" || m.seen.Values("X-Remote-Group")[0] != "system:masters" || m.seen.Get("Authorization") != "" {
		t.Errorf("headers are %v", m.seen)
	}
	m.mu.Unlock()

	// Discovery is one.
	v.want(200, "GET", "/apis", "", "", `{"name":"metrics.k8s.io","versions":[{"groupVersion":"metrics.k8s.io/v1beta1","version":"v1beta1"}]`)
	v.want(200, "GET", "/apis/metrics.k8s.io/v1beta1", "", "", `"kind":"PodMetrics"`)
	v.want(200, "GET", apiServices, "table", "", `"cells":["v1beta1.metrics.k8s.io","default/outside","True","`, `"cells":["v2.autoscaling","Local","True","`)
	v.want(200, "GET", "/openapi/v3", "", "", "apis/apps/v1")

	v.want(200, "DELETE", apiServices+"/v1beta1.metrics.k8s.io", "", "")
	v.eventually("the end", func() bool {
		code, _ := v.do("GET", "/apis/metrics.k8s.io/v1beta1/nodes", "", "")
		_, groups := v.do("GET", "/apis", "", "")
		return code == 404 && !strings.Contains(groups, "metrics.k8s.io")
	})
}

// All groups of our own are there, as kubeadm's clusters have them; those of custom resources come and go.
func TestOwnAPIServices(t *testing.T) {
	v := withCronTabs(t)
	v.eventually("the custom group", func() bool {
		code, _ := v.do("GET", apiServices+"/v1.stable.example.com", "", "")
		return code == 200
	})
	v.want(200, "GET", apiServices+"/v1.apps", "", "", `"kube-aggregator.kubernetes.io/automanaged":"onstart"`, `"groupPriorityMinimum":17800`, `"versionPriority":15`,
		`"reason":"Local"`, `"message":"Local APIServices are always available"`)
	v.want(200, "GET", apiServices+"/v1.", "", "", `"groupPriorityMinimum":18000,"versionPriority":1`)
	if l := v.want(200, "GET", apiServices, "", ""); len(at(l, "items").([]any)) != 21+2 {
		t.Errorf("%d APIServices", len(at(l, "items").([]any)))
	}
	v.want(200, "DELETE", crds+"/crontabs.stable.example.com", "", "")
	v.eventually("the end of the custom group", func() bool {
		code, _ := v.do("GET", apiServices+"/v1.stable.example.com", "", "")
		return code == 404
	})
}

// A server that has not read the CustomResourceDefinitions yet does not take their groups for gone.
func TestTheGroupsOfCustomResourcesOutliveARestart(t *testing.T) {
	store := staying{memory.New()}
	var before any
	for _, life := range []string{"first", "second"} {
		t.Run(life, func(t *testing.T) {
			v := startServer(t, func(c *apiserver.Config) { c.Store = store })
			if life == "first" {
				v.want(201, "POST", crds, "", cronTabs)
			}
			v.eventually("custom resources", func() bool {
				served, _ := v.do("GET", tabs, "", "")
				registered, _ := v.do("GET", apiServices+"/v1.stable.example.com", "", "")
				return served == 200 && registered == 200
			})
			uid := at(v.want(200, "GET", apiServices+"/v1.stable.example.com", "", ""), "metadata", "uid")
			if before != nil && uid != before {
				t.Errorf("it was made anew: %v, then %v", before, uid)
			}
			before = uid
		})
	}
}

// staying outlives the server that closes it, as a data directory does.
type staying struct{ store.Store }

func (staying) Close() error { return nil }
