package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// resourceMetrics is what the node and its pods use, as metrics-server scrapes it: the figures of /stats/summary in
// Prometheus' words, each with the time at which it was read. Rates are made from two scrapes, by who scrapes.
//
// Upstream: pkg/kubelet/metrics/collectors/resource_metrics.go, resourceMetricsCollector.
// Left out: swap; scrape_error, which v1.36 hides.
type resourceMetrics struct {
	host Host
	ctx  context.Context // of the request: a Collector is handed none
}

var (
	podLabels       = []string{"pod", "namespace"}
	containerLabels = append([]string{"container"}, podLabels...)

	nodeCPU        = resourceMetric("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	nodeMemory     = resourceMetric("node_memory_working_set_bytes", "Current working set of the node in bytes")
	podCPU         = resourceMetric("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podLabels...)
	podMemory      = resourceMetric("pod_memory_working_set_bytes", "Current working set of the pod in bytes", podLabels...)
	containerCPU   = resourceMetric("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels...)
	containerMem   = resourceMetric("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels...)
	containerStart = resourceMetric("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels...)
	scrapeError    = resourceMetric("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
)

func resourceMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, "[STABLE] "+help, labels, nil)
}

func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(resourceMetrics{s.Host, r.Context()})
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
}

// Describe implements prometheus.Collector.
func (resourceMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, podCPU, podMemory, containerCPU, containerMem, containerStart, scrapeError} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m resourceMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	sum, err := m.host.Stats(m.ctx)
	if err != nil {
		slog.Error("Error getting summary for resourceMetric prometheus endpoint", "component", "kubelet", "err", err)
		gauge(scrapeError, 1)
		return
	}
	gauge(scrapeError, 0)
	used(ch, nodeCPU, nodeMemory, sum.Node.CPU, sum.Node.Memory)
	for _, p := range sum.Pods {
		for _, c := range p.Containers {
			labels := []string{c.Name, p.PodRef.Name, p.PodRef.Namespace}
			gauge(containerStart, float64(c.StartTime.UnixNano())/float64(time.Second), labels...)
			used(ch, containerCPU, containerMem, c.CPU, c.Memory, labels...)
		}
		used(ch, podCPU, podMemory, p.CPU, p.Memory, p.PodRef.Name, p.PodRef.Namespace)
	}
}

// used tells one reading of CPU and of memory; of what was not read nothing.
func used(ch chan<- prometheus.Metric, cpuDesc, memoryDesc *prometheus.Desc, cpu *stats.CPUStats, memory *stats.MemoryStats, labels ...string) {
	if cpu != nil && cpu.UsageCoreNanoSeconds != nil {
		ch <- prometheus.NewMetricWithTimestamp(cpu.Time.Time, prometheus.MustNewConstMetric(
			cpuDesc, prometheus.CounterValue, float64(*cpu.UsageCoreNanoSeconds)/float64(time.Second), labels...))
	}
	if memory != nil && memory.WorkingSetBytes != nil {
		ch <- prometheus.NewMetricWithTimestamp(memory.Time.Time, prometheus.MustNewConstMetric(
			memoryDesc, prometheus.GaugeValue, float64(*memory.WorkingSetBytes), labels...))
	}
}
