package health

import (
	"context"
	"strings"
	"time"

	"orrery/apiserver/store"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Objects lets /metrics tell how many objects of each resource there are.
func (m *Metrics) Objects(count func() map[schema.GroupResource]int) {
	m.registry.MustRegister(objects(count))
}

// objects asks for the numbers when somebody wants to know them.
type objects func() map[schema.GroupResource]int

var objectsDesc = prometheus.NewDesc("apiserver_resource_objects", "Objects that are stored.", []string{"group", "resource"}, nil)

// Describe implements prometheus.Collector.
func (o objects) Describe(out chan<- *prometheus.Desc) { out <- objectsDesc }

// Collect implements prometheus.Collector.
func (o objects) Collect(out chan<- prometheus.Metric) {
	for gr, n := range o() {
		out <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(n), gr.Group, gr.Resource)
	}
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
	if group, resource := s.metrics.named(key); resource != "" {
		s.metrics.storage.WithLabelValues(operation, group, resource).Observe(time.Since(begin).Seconds())
	}
}

// named says whose key it is. What is not of the API has names of its own, or none.
func (m *Metrics) named(key string) (group, resource string) {
	if k := m.table.ByKey(key); k != nil {
		return k.Group, k.Resource
	}
	folder, _, _ := strings.Cut(strings.TrimPrefix(key, "/registry/"), "/")
	return "", map[string]string{"masterleases": "apiServerIPInfo", "ranges": "servicenodeportallocations"}[folder]
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
