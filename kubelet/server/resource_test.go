package server

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// measured is a kubelet that has looked at its pods, or could not.
type measured struct {
	Host
	sum *stats.Summary
	err error
}

func (m measured) Stats(context.Context) (*stats.Summary, error) { return m.sum, m.err }

// reading is seconds of CPU and bytes of memory, read at a time in seconds.
func reading(at int64, cpu, memory uint64) (*stats.CPUStats, *stats.MemoryStats) {
	cpu *= uint64(time.Second)
	when := metav1.NewTime(time.Unix(at, 0))
	return &stats.CPUStats{Time: when, UsageCoreNanoSeconds: &cpu}, &stats.MemoryStats{Time: when, WorkingSetBytes: &memory}
}

// The words are upstream's, to the letter, since programs read them: a figure has the time at which it was read, the
// start of a container has none, and what was not read is not there.
func TestResourceMetrics(t *testing.T) {
	sum := &stats.Summary{Pods: []stats.PodStats{{PodRef: stats.PodReference{Name: "web", Namespace: "default"}, Containers: []stats.ContainerStats{
		{Name: "app", StartTime: metav1.NewTime(time.Unix(1700000000, 5e8))}, {Name: "new", StartTime: metav1.NewTime(time.Unix(1700000100, 0))}}}}}
	sum.Node.CPU, sum.Node.Memory = reading(1700000201, 90, 1<<30)
	pod := &sum.Pods[0]
	pod.CPU, pod.Memory = reading(1700000202, 3, 4096)
	pod.Containers[0].CPU, pod.Containers[0].Memory = reading(1700000203, 2, 2048)
	for _, test := range []struct {
		host measured
		want string
	}{
		{measured{sum: sum}, `# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="app",namespace="default",pod="web"} 2 1700000203000
# HELP container_memory_working_set_bytes [STABLE] Current working set of the container in bytes
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="app",namespace="default",pod="web"} 2048 1700000203000
# HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="app",namespace="default",pod="web"} 1.7000000005e+09
container_start_time_seconds{container="new",namespace="default",pod="web"} 1.7000001e+09
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 90 1700000201000
# HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 1.073741824e+09 1700000201000
# HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds
# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="default",pod="web"} 3 1700000202000
# HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="default",pod="web"} 4096 1700000202000
# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
# TYPE resource_scrape_error gauge
resource_scrape_error 0
`},
		{measured{err: errors.New("no runtime")}, `# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
# TYPE resource_scrape_error gauge
resource_scrape_error 1
`},
	} {
		w := httptest.NewRecorder()
		(&Server{Host: test.host}).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics/resource", nil))
		if got := w.Body.String(); got != test.want {
			t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
		}
	}
}
