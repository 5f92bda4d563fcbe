package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Host is the kubelet as its server sees it. Errors are told to the client as
// they are; NotFound makes them a 404.
type Host interface {
	// Pods is the pods of this node with their newest status.
	Pods() []*corev1.Pod
	// Log is where a container's log lies, and whether it may still grow.
	Log(ctx context.Context, namespace, pod, container string, previous bool) (path string, running func() bool, err error)
	// Exec, Attach and PortForward prepare a session and return where to have it.
	Exec(ctx context.Context, namespace, pod, container string, command []string, s Streams) (*url.URL, error)
	Attach(ctx context.Context, namespace, pod, container string, s Streams) (*url.URL, error)
	PortForward(ctx context.Context, namespace, pod string, ports []int32) (*url.URL, error)
	// Stats is what the node and its pods use.
	Stats(ctx context.Context) (*stats.Summary, error)
	// Healthy is nil while the kubelet's loops turn.
	Healthy() error
}

// Streams is which of a process's streams are wanted.
type Streams struct{ TTY, Stdin, Stdout, Stderr bool }

// NotFound is an error about a pod or a container that is not here: a 404.
type NotFound string

// Error implements error.
func (e NotFound) Error() string { return string(e) }

// Server answers on the kubelet's port.
//
// Upstream: pkg/kubelet/server/server.go, Server.
// Left out: /run, /checkpoint, /configz, /debug, /logs, /metrics/cadvisor.
type Server struct {
	Host Host
	Auth *Authenticator
	Cert tls.Certificate
	// Address is host:port of the TLS server, Healthz that of the open health check; "" for none.
	Address, Healthz string
}

// Run serves until the context ends.
func (s *Server) Run(ctx context.Context) error {
	type listener struct {
		*http.Server
		net.Listener
	}
	var all []listener
	defer func() {
		for _, l := range all {
			l.Server.Close()
		}
	}()
	open := func(address string, h http.Handler, config *tls.Config) error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		if config != nil {
			l = tls.NewListener(l, config)
		}
		// Requests, long ones too, end with the server.
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
		all = append(all, listener{srv, l})
		return nil
	}
	if s.Healthz != "" {
		if err := open(s.Healthz, s.healthz(), nil); err != nil {
			return fmt.Errorf("healthz: %w", err)
		}
	}
	// HTTP/1.1 only: a session of exec takes over its connection.
	config := &tls.Config{Certificates: []tls.Certificate{s.Cert}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if err := open(s.Address, s.Auth.Wrap(s.Handler()), config); err != nil {
		return err
	}
	failed := make(chan error, len(all))
	for _, l := range all {
		go func() { failed <- l.Server.Serve(l.Listener) }()
	}
	running := len(all)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	for _, l := range all {
		l.Server.Close()
	}
	for range running {
		<-failed
	}
	return err
}

func (s *Server) healthz() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/healthz/ping", "/healthz/syncloop"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := s.Host.Healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			io.WriteString(w, "ok")
		})
	}
	return mux
}

// Handler is the routes, without the check who asks.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz", s.healthz())
	mux.Handle("/healthz/", s.healthz())
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /runningpods/", s.pods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /metrics/resource", s.resource)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, path := range []string{"/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc(path, s.exec)
	}
	for _, path := range []string{"/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc(path, s.attach)
	}
	for _, path := range []string{"/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"} {
		mux.HandleFunc(path, s.portForward)
	}
	return mux
}

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, pod := range s.Host.Pods() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.Host.Stats(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, sum)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Debug("answer not written", "component", "kubelet", "err", err)
	}
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if _, ok := errors.AsType[NotFound](err); ok {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

// metrics is the few that say what runs here.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	pods, containers := 0, 0
	for _, pod := range s.Host.Pods() {
		running := 0
		for _, c := range pod.Status.ContainerStatuses {
			if c.State.Running != nil {
				running++
			}
		}
		if containers += running; running > 0 {
			pods++
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# HELP kubelet_running_pods Number of pods that have a running container\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods %d\n", pods)
	fmt.Fprintf(w, "# HELP kubelet_running_containers Number of running containers\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{container_state=\"running\"} %d\n", containers)
}

// logs answers kubectl logs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	o, previous, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path, running, err := s.Host.Log(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), previous)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	out := flusher{w}
	out.Flush() // a follower wants to know at once that there is a log
	if err := CopyLog(r.Context(), path, o, running, out, out); err != nil && r.Context().Err() == nil {
		fmt.Fprintf(w, "failed to read log: %v\n", err)
	}
}

type flusher struct{ http.ResponseWriter }

// Flush sends what has been written.
func (f flusher) Flush() {
	if fl, ok := f.ResponseWriter.(http.Flusher); ok {
		fl.Flush()
	}
}

// logOptions reads the query of a log request, PodLogOptions in another form.
func logOptions(q url.Values) (o LogOptions, previous bool, err error) {
	o = LogOptions{Tail: -1, Limit: -1, Follow: isTrue(q, "follow"), Timestamps: isTrue(q, "timestamps")}
	number := func(name string, into *int64) {
		if v := q.Get(name); v != "" && err == nil {
			*into, err = strconv.ParseInt(v, 10, 64)
		}
	}
	number("tailLines", &o.Tail)
	number("limitBytes", &o.Limit)
	seconds := int64(-1)
	if number("sinceSeconds", &seconds); seconds >= 0 {
		o.Since = time.Now().Add(-time.Duration(seconds) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" && err == nil {
		o.Since, err = time.Parse(time.RFC3339, v)
	}
	if v := q.Get("stream"); v != "" && v != "All" {
		o.Stream = v
	}
	return o, isTrue(q, "previous"), err
}

func isTrue(q url.Values, name string) bool {
	v := q.Get(name)
	return v == "true" || v == "1"
}

func streams(q url.Values) Streams {
	either := func(a, b string) bool { return isTrue(q, a) || isTrue(q, b) }
	return Streams{TTY: isTrue(q, "tty"), Stdin: either("input", "stdin"), Stdout: either("output", "stdout"), Stderr: either("error", "stderr")}
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	u, err := s.Host.Exec(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), q["command"], streams(q))
	relay(w, r, u, err)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	u, err := s.Host.Attach(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), streams(r.URL.Query()))
	relay(w, r, u, err)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	var ports []int32
	for _, v := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		for _, p := range strings.Split(v, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil {
				http.Error(w, "invalid port "+p, http.StatusBadRequest)
				return
			}
			ports = append(ports, int32(n))
		}
	}
	u, err := s.Host.PortForward(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), ports)
	relay(w, r, u, err)
}

// relay hands the connection through to the runtime's streaming server, whatever
// protocol the two ends upgrade to.
func relay(w http.ResponseWriter, r *http.Request, to *url.URL, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = to, to.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		},
	}
	proxy.ServeHTTP(w, r)
}
