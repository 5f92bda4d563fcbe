// Command podinfo is the demo application: a web server that says which pod answered.
//
// It answers like stefanprodan/podinfo, which the course uses: / with a JSON object, /healthz and /readyz for
// probes, /readyz/disable and /readyz/enable to take a pod out of its service and back, /version, /env and
// /delay/{seconds}. With --get it is a client instead, because its image has no curl:
// kubectl run get --rm -i --image=podinfo:... -- --get http://hello. Each request is logged as one line of JSON, so that `kubectl logs` shows who was asked.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const version = "6.3.4"

func main() {
	port := flag.Int("port", 9898, "port to listen on")
	url := flag.String("get", "", "print what this URL answers, instead of serving")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *url != "" {
		if err := get(ctx, *url, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			stop()
			os.Exit(1)
		}
		return
	}

	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	server := &http.Server{Addr: fmt.Sprintf(":%d", *port), Handler: logged(log, routes()), ReadHeaderTimeout: 10 * time.Second}
	drained := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(drained)
		log.Info("shutting down")
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			log.Error("requests were cut off", "err", err)
		}
	})
	log.Info("listening", "addr", server.Addr, "version", version)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Error("cannot serve", "err", err)
		os.Exit(1)
	}
	<-drained
}

// get prints what a URL answers within five seconds; any answer is one.
func get(ctx context.Context, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(out, resp.Body)
	return err
}

func routes() http.Handler {
	var notReady atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", info)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "OK"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if notReady.Load() {
			answer(w, http.StatusServiceUnavailable, map[string]string{"status": "NOT OK"})
			return
		}
		answer(w, http.StatusOK, map[string]string{"status": "OK"})
	})
	for path, off := range map[string]bool{"/readyz/enable": false, "/readyz/disable": true} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, _ *http.Request) {
			notReady.Store(off)
			w.WriteHeader(http.StatusAccepted)
		})
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"version": version})
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, os.Environ())
	})
	mux.HandleFunc("GET /delay/{seconds}", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.Atoi(r.PathValue("seconds"))
		if err != nil || seconds < 0 {
			answer(w, http.StatusBadRequest, map[string]string{"error": "the delay is a number of seconds"})
			return
		}
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
			answer(w, http.StatusOK, map[string]int{"delay": seconds})
		case <-r.Context().Done():
		}
	})
	return mux
}

// info answers / with podinfo's fields in podinfo's order.
func info(w http.ResponseWriter, _ *http.Request) {
	hostname, err := os.Hostname()
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, struct {
		Hostname     string `json:"hostname"`
		Version      string `json:"version"`
		Color        string `json:"color"`
		Message      string `json:"message"`
		GOOS         string `json:"goos"`
		GOARCH       string `json:"goarch"`
		Runtime      string `json:"runtime"`
		NumGoroutine string `json:"num_goroutine"`
		NumCPU       string `json:"num_cpu"`
	}{
		hostname, version, env("PODINFO_UI_COLOR", "#34577c"), env("PODINFO_UI_MESSAGE", "greetings from podinfo v"+version),
		runtime.GOOS, runtime.GOARCH, runtime.Version(), strconv.Itoa(runtime.NumGoroutine()), strconv.Itoa(runtime.NumCPU()),
	})
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.Encode(body)
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started, out := time.Now(), &statusWriter{w, http.StatusOK}
		next.ServeHTTP(out, r)
		log.Info("request", "method", r.Method, "path", r.URL.Path, "status", out.status,
			"remote", r.RemoteAddr, "duration", time.Since(started).String())
	})
}
