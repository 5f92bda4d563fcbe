package health

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts and times requests under upstream's names, each server by itself.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/metrics/metrics.go.
type Metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	longRunning *prometheus.GaugeVec
	inflight    *prometheus.GaugeVec
	storage     *prometheus.HistogramVec
	handler     http.Handler
}

var (
	requestLabels = []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	buckets       = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
)

// NewMetrics returns an empty set, with the Go runtime's and the process's own beside it.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests answered, by what was asked for and by HTTP status code."}, append([]string{"code"}, requestLabels...)),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help: "Time from request to the end of the answer, in seconds.", Buckets: buckets}, requestLabels),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Watches and streams that are open."}, requestLabels),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Requests being served, reads and writes apart."}, []string{"request_kind"}),
		storage: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds",
			Help: "Time of calls to the store, in seconds.", Buckets: buckets}, []string{"operation", "group", "resource"}),
	}
	m.registry.MustRegister(m.requests, m.durations, m.longRunning, m.inflight, m.storage,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// ServeHTTP answers /metrics.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Wrap measures next. auth.Attributes must be in the context.
func (m *Metrics) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := auth.AttributesFrom(r.Context())
		if a == nil {
			next.ServeHTTP(w, r)
			return
		}
		labels := labelsOf(a, r)
		if LongRunning(a) {
			open := m.longRunning.WithLabelValues(labels...)
			open.Inc()
			defer open.Dec()
		}
		begin := time.Now()
		recorder := &StatusRecorder{ResponseWriter: w}
		defer func() {
			m.requests.WithLabelValues(append([]string{strconv.Itoa(recorder.Code())}, labels...)...).Inc()
			if !LongRunning(a) {
				m.durations.WithLabelValues(labels...).Observe(time.Since(begin).Seconds())
			}
		}()
		next.ServeHTTP(recorder, r)
	})
}

// labelsOf are the values of requestLabels.
func labelsOf(a *auth.Attributes, r *http.Request) []string {
	verb := strings.ToUpper(a.Verb)
	switch a.Verb {
	case "create":
		verb = "POST"
	case "update":
		verb = "PUT"
	}
	resource, scope := a.Resource, "cluster"
	switch {
	case !a.IsResource:
		// One label value a path would let strangers fill the memory.
		resource, scope = "", ""
	case a.Name != "" || a.Verb == "create":
		scope = "resource"
	case a.Namespace != "":
		scope = "namespace"
	}
	return []string{verb, r.URL.Query().Get("dryRun"), a.APIGroup, a.APIVersion, resource, a.Subresource, scope, "apiserver"}
}

// StatusRecorder remembers the status code of an answer. Flush and Hijack reach the real writer by Unwrap.
type StatusRecorder struct {
	http.ResponseWriter
	status int
}

// Unwrap lets http.ResponseController find the real writer.
func (s *StatusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Flush implements http.Flusher for code that asks for it directly.
func (s *StatusRecorder) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// WriteHeader implements http.ResponseWriter.
func (s *StatusRecorder) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
	s.ResponseWriter.WriteHeader(code)
}

// Code is the status that was sent; 200 when nothing was said.
func (s *StatusRecorder) Code() int {
	if s.status == 0 {
		return http.StatusOK
	}
	return s.status
}

// Store measures the calls to a store.
func (m *Metrics) Store(inner store.Store) store.Store { return &measured{inner, m} }

// measured is a Store with a clock.
type measured struct {
	store.Store
	metrics *Metrics
}

// observe notes how long a call on key took; call it with defer.
func (s *measured) observe(operation, key string, begin time.Time) {
	resource, _, _ := strings.Cut(strings.TrimPrefix(key, "/registry/"), "/")
	s.metrics.storage.WithLabelValues(operation, "", resource).Observe(time.Since(begin).Seconds())
}

// Create implements store.Store.
func (s *measured) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	defer s.observe("create", key, time.Now())
	return s.Store.Create(ctx, key, value, ttl)
}

// Get implements store.Store.
func (s *measured) Get(ctx context.Context, key string) (store.Entry, error) {
	defer s.observe("get", key, time.Now())
	return s.Store.Get(ctx, key)
}

// Update implements store.Store.
func (s *measured) Update(ctx context.Context, key string, value []byte, expected int64, ttl time.Duration) (store.Entry, error) {
	defer s.observe("update", key, time.Now())
	return s.Store.Update(ctx, key, value, expected, ttl)
}

// Delete implements store.Store.
func (s *measured) Delete(ctx context.Context, key string, expected int64) (store.Entry, error) {
	defer s.observe("delete", key, time.Now())
	return s.Store.Delete(ctx, key, expected)
}

// List implements store.Store.
func (s *measured) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Listing, error) {
	defer s.observe("list", prefix, time.Now())
	return s.Store.List(ctx, prefix, opts)
}
