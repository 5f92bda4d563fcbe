package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// health knows whether the rules follow the objects, and how many endpoints of
// each Service are on this node.
//
// Upstream: pkg/proxy/healthcheck.
type health struct {
	timeout time.Duration // how long a change may wait before the proxy is unhealthy
	log     *slog.Logger

	mu       sync.Mutex
	queued   time.Time              // guarded by mu; the oldest change that is not in the rules, or zero
	updated  time.Time              // guarded by mu; when the rules were last changed
	leaving  bool                   // guarded by mu; the node is being removed
	local    map[int32]localService // guarded by mu; by health check node port
	servers  map[int32]*http.Server // guarded by mu
	finished sync.WaitGroup
}

// localService is a Service for whose load balancer this node answers.
type localService struct {
	namespace, name string
	endpoints       int
}

func (h *health) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queued.IsZero() {
		h.queued = time.Now()
	}
}

// synced is told when the objects of a successful sync were read.
func (h *health) synced(began time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updated = time.Now()
	if !h.queued.After(began) {
		h.queued = time.Time{}
	}
}

func (h *health) healthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.queued.IsZero() || time.Since(h.queued) < h.timeout
}

// ServeHTTP answers /healthz and /livez. A node that is being removed is alive,
// but load balancers should not send it new connections.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ok := h.healthy()
	h.mu.Lock()
	body := map[string]any{"lastUpdated": h.updated.String(), "currentTime": time.Now().String()}
	if r.URL.Path == "/healthz" {
		body["nodeEligible"] = !h.leaving
		ok = ok && !h.leaving
	}
	h.mu.Unlock()
	answer(w, ok, body)
}

func answer(w http.ResponseWriter, ok bool, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// A client that has gone away is no concern of ours.
	_ = json.NewEncoder(w).Encode(body)
}

// setServices opens and closes the health check node ports.
func (h *health) setServices(ports []*servicePort, node string) {
	local := map[int32]localService{}
	for _, sp := range ports {
		if sp.healthCheckPort == 0 {
			continue
		}
		s := localService{namespace: sp.namespace, name: sp.service}
		here := map[string]bool{}
		for _, e := range sp.endpoints {
			if e.node == node && e.ready {
				here[e.addr.Addr().String()] = true
			}
		}
		s.endpoints = max(len(here), local[sp.healthCheckPort].endpoints)
		local[sp.healthCheckPort] = s
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.local = local
	for port, server := range h.servers {
		if _, ok := local[port]; !ok {
			server.Close()
			delete(h.servers, port)
		}
	}
	for port := range local {
		if h.servers[port] == nil {
			h.open(port)
		}
	}
}

// open listens on a health check node port; the caller holds mu. A port that is
// taken is tried again at the next sync.
func (h *health) open(port int32) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		h.log.Error("health check node port cannot be opened", "port", port, "err", err)
		return
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { h.serveLocal(w, port) })}
	h.servers[port] = server
	h.finished.Go(func() { _ = server.Serve(l) }) // ends when it is closed
}

// serveLocal tells a load balancer whether this node has endpoints of its Service.
func (h *health) serveLocal(w http.ResponseWriter, port int32) {
	healthy := h.healthy()
	h.mu.Lock()
	s := h.local[port]
	h.mu.Unlock()
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(s.endpoints))
	answer(w, healthy && s.endpoints > 0, map[string]any{
		"service":             map[string]string{"namespace": s.namespace, "name": s.name},
		"localEndpoints":      s.endpoints,
		"serviceProxyHealthy": healthy,
	})
}

// close ends the servers of all health check node ports and waits for them.
func (h *health) close() {
	h.mu.Lock()
	for _, s := range h.servers {
		s.Close()
	}
	h.mu.Unlock()
	h.finished.Wait()
}

// serve answers on an address until ctx ends.
func serve(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *health) setLeaving(leaving bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = leaving
}
