package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"orrery/test/peers"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
)

const (
	namespace  = "default"
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf"
)

// load is the client program.
type load struct {
	t   *testing.T
	c   *peers.Cluster
	url string
	pod []byte // the body of a POST
	// names of pods that have been created
	names []string
}

func newLoad(t *testing.T, c *peers.Cluster) *load {
	body, err := json.Marshal(pod())
	if err != nil {
		t.Fatal(err)
	}
	return &load{t: t, c: c, url: c.URL() + "/api/v1/namespaces/" + namespace, pod: body}
}

// pod is an ordinary one: two containers with resources, probes and variables.
func pod() *corev1.Pod {
	container := func(name string) corev1.Container {
		amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		return corev1.Container{
			Name: name, Image: "registry.example/app/" + name + ":v1.2.3", Resources: corev1.ResourceRequirements{Requests: amount, Limits: amount},
			Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			Env:            []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http")}}, PeriodSeconds: 5},
		}
	}
	sidecar := container("sidecar")
	sidecar.Ports[0].Name, sidecar.Ports[0].ContainerPort = "metrics", 9090
	sidecar.ReadinessProbe.HTTPGet.Port = intstr.FromString("metrics")
	return &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-5d4f8c7b9-", Labels: map[string]string{"app": "bench", "pod-template-hash": "5d4f8c7b9"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "bench-5d4f8c7b9", UID: "6bd3ee87-3c3f-4b8e-8a0e-2f0e5ad4e5d1", Controller: new(true)}}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{container("main"), sidecar}, NodeSelector: map[string]string{"kubernetes.io/os": "linux"}}}
}

// connection is a client of its own: one TLS connection.
func (l *load) connection() *http.Client {
	l.t.Helper()
	config := l.c.Config("admin", "system:masters")
	// Without it, client-go gives all of them the same transport.
	config.Dial = (&net.Dialer{}).DialContext
	config.DisableCompression = true
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

// do sends a request and returns the body; anything but success fails the test.
func (l *load) do(h *http.Client, method, url, accept string, body []byte) []byte {
	r, err := http.NewRequestWithContext(l.t.Context(), method, url, bytes.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", asJSON)
		r.Header.Set("Accept", accept)
		var answer *http.Response
		if answer, err = h.Do(r); err == nil {
			defer answer.Body.Close()
			var data []byte
			if data, err = io.ReadAll(answer.Body); err == nil && answer.StatusCode < 300 {
				return data
			}
			err = fmt.Errorf("%s: %v %s", answer.Status, err, data[:min(300, len(data))])
		}
	}
	l.t.Errorf("%s %s: %v", method, url, err)
	return nil
}

// prepare makes the service account that the controller manager would make.
func (l *load) prepare() {
	h := l.connection()
	defer h.CloseIdleConnections()
	l.do(h, http.MethodPost, l.url+"/serviceaccounts", asJSON, []byte(`{"metadata":{"name":"default"}}`))
}

// profile asks the server for a profile of itself, if profiles are wanted; the
// func that it returns waits for it.
func (l *load) profile(name peers.Side, query string) (wait func()) {
	if *keep == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h := l.connection()
		defer h.CloseIdleConnections()
		if err := os.WriteFile(filepath.Join(*keep, string(name)), l.do(h, http.MethodGet, l.c.URL()+"/debug/pprof/"+query, "*/*", nil), 0o600); err != nil {
			l.t.Error(err)
		}
	}()
	return func() { <-done }
}

// collect lets the server throw away its garbage, and its runtime some seconds to return it.
func (l *load) collect() {
	h := l.connection()
	defer h.CloseIdleConnections()
	l.do(h, http.MethodGet, l.c.URL()+"/debug/pprof/heap?gc=1", "*/*", nil)
	wait(10 * time.Second)
}

// result is what some clients did.
type result struct {
	each []float64 // milliseconds
	took time.Duration
}

func (r result) perSecond() float64 { return float64(len(r.each)) / r.took.Seconds() }

// parallel lets clients share n calls.
func (l *load) parallel(clients, n int, call func(h *http.Client, i int)) result {
	r := result{each: make([]float64, n)}
	connections := make([]*http.Client, clients)
	for i := range connections {
		connections[i] = l.connection()
		l.do(connections[i], http.MethodGet, l.c.URL()+"/version", asJSON, nil) // handshakes are not measured
		defer connections[i].CloseIdleConnections()
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i, h := range connections {
		wg.Go(func() {
			for j := i; j < n && !l.t.Failed(); j += clients {
				start := time.Now()
				call(h, j)
				r.each[j] = milliseconds(time.Since(start))
			}
		})
	}
	wg.Wait()
	r.took = time.Since(began)
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (l *load) creates(clients, n int) result {
	names := make([]string, n)
	r := l.parallel(clients, n, func(h *http.Client, i int) {
		body := l.do(h, http.MethodPost, l.url+"/pods", asJSON, l.pod)
		// Cheaper than decoding, and the same for both sides.
		_, rest, _ := bytes.Cut(body, []byte(`"name":"`))
		name, _, _ := bytes.Cut(rest, []byte(`"`))
		names[i] = string(name)
	})
	l.names = append(l.names, names...)
	return r
}

func (l *load) gets(clients, n int) result {
	return l.parallel(clients, n, func(h *http.Client, i int) {
		l.do(h, http.MethodGet, l.url+"/pods/"+l.names[i%len(l.names)], asJSON, nil)
	})
}

func (l *load) lists(accept string, n int) []float64 {
	size := 0
	r := l.parallel(1, n, func(h *http.Client, _ int) { size = len(l.do(h, http.MethodGet, l.url+"/pods", accept, nil)) })
	l.t.Logf("a list as %s has %.1f MiB", accept, float64(size)/(1<<20))
	return r.each
}
