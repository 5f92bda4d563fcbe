package health

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
)

// Metrics counts and times requests under upstream's names, each server by itself.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/metrics/metrics.go.
type Metrics struct {
	table       *kinds.Table
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	longRunning *prometheus.GaugeVec
	inflight    *prometheus.GaugeVec
	watchEvents *prometheus.CounterVec
	storage     *prometheus.HistogramVec
	handler     http.Handler
}

var (
	requestLabels     = []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	longRunningLabels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	buckets           = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
)

// NewMetrics returns an empty set, with the Go runtime's and the process's own beside it. Resources are those of the table.
func NewMetrics(table *kinds.Table) *Metrics {
	m := &Metrics{
		table:    table,
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests answered, by what was asked for and by HTTP status code."}, append([]string{"code"}, requestLabels...)),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help: "Time from request to the end of the answer, in seconds.", Buckets: buckets}, requestLabels),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Watches and streams that are open."}, longRunningLabels),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Requests being served, reads and writes apart."}, []string{"request_kind"}),
		watchEvents: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total",
			Help: "Events sent to watchers."}, []string{"group", "version", "resource"}),
		storage: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds",
			Help: "Time of calls to the store, in seconds.", Buckets: buckets}, []string{"operation", "group", "resource"}),
	}
	m.inflight.WithLabelValues("readOnly")
	m.inflight.WithLabelValues("mutating")
	m.registry.MustRegister(m.requests, m.durations, m.longRunning, m.inflight, m.watchEvents, m.storage,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// Build says which program this is.
func (m *Metrics) Build(v *version.Info) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; the labels tell.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}}, func() float64 { return 1 }))
}

// WatchEvents counts the events that watches of a kind are sent.
func (m *Metrics) WatchEvents(k *kinds.Kind) interface{ Inc() } {
	return m.watchEvents.WithLabelValues(k.Group, k.Version, k.Resource)
}

// ServeHTTP answers /metrics.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Wrap measures next. auth.Attributes must be in the context.
func (m *Metrics) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := auth.AttributesFrom(r.Context())
		labels := m.labelsOf(a, r)
		if labels == nil {
			next.ServeHTTP(w, r)
			return
		}
		if LongRunning(a) {
			open := m.longRunning.WithLabelValues(append(labels[:1:1], labels[2:]...)...)
			open.Inc()
			defer open.Dec()
		}
		begin := time.Now()
		recorder := &StatusRecorder{ResponseWriter: w}
		defer func() {
			if recorder.Code() == http.StatusMethodNotAllowed {
				return // any word may be a method
			}
			m.requests.WithLabelValues(append([]string{strconv.Itoa(recorder.Code())}, labels...)...).Inc()
			m.durations.WithLabelValues(labels...).Observe(time.Since(begin).Seconds())
		}()
		next.ServeHTTP(recorder, r)
	})
}

// labelsOf are the values of requestLabels; nil for what nobody serves, or else strangers could fill the memory with names.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/metrics/metrics.go, cleanVerb and CleanScope.
func (m *Metrics) labelsOf(a *auth.Attributes, r *http.Request) []string {
	if a == nil {
		return nil
	}
	if !a.IsResource {
		if path := probed(a.Path); path != "" {
			return []string{strings.ToUpper(a.Verb), "", "", "", "", path, "", ""}
		}
		return nil
	}
	k := m.table.Lookup(a.APIGroup, a.APIVersion, a.Resource)
	if k == nil || k.Remote || a.Subresource != "" && k.Sub(a.Subresource) == nil {
		return nil
	}
	scope := "cluster"
	switch {
	case a.Name != "" || a.Verb == "create":
		scope = "resource"
	case a.Namespace != "":
		scope = "namespace"
	}
	return []string{reported(a, r), dryRun(r), a.APIGroup, a.APIVersion, a.Resource, a.Subresource, scope, "apiserver"}
}

// probed is the name under which a path that is no resource is counted; few are.
func probed(path string) string {
	switch {
	case path == "/livez", path == "/readyz", path == "/healthz":
		return path
	case path == "/openapi/v3", strings.HasPrefix(path, "/openapi/v3/"):
		return path[1:min(len(path), len("/openapi/v3/"))]
	}
	return ""
}

// reported is the word for a verb in metrics: mostly that of HTTP.
func reported(a *auth.Attributes, r *http.Request) string {
	switch {
	case a.Subresource == "exec", a.Subresource == "attach", a.Subresource == "portforward", a.Subresource == "proxy", a.Subresource == "log":
		return "CONNECT"
	case a.Verb == "patch" && strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply-patch+"):
		return "APPLY"
	}
	switch a.Verb {
	case "create":
		return http.MethodPost
	case "update":
		return http.MethodPut
	case "deletecollection":
		return http.MethodDelete
	}
	return strings.ToUpper(a.Verb)
}

// dryRun is the request's, which is All or a mistake.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/metrics/metrics.go, cleanDryRun.
func dryRun(r *http.Request) string {
	asked := r.URL.Query()["dryRun"]
	switch {
	case len(asked) == 0:
		return ""
	case slices.ContainsFunc(asked, func(v string) bool { return v != metav1.DryRunAll }):
		return "invalid"
	}
	return metav1.DryRunAll
}
