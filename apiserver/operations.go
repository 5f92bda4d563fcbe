package apiserver

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"

	"github.com/gorilla/mux"
	"k8s.io/apimachinery/pkg/version"
)

// routeOperations: what operators and probes ask for.
func (s *Server) routeOperations(r *mux.Router) {
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }
	for _, p := range []string{"/healthz", "/livez", "/readyz"} {
		r.HandleFunc(p, ok).Methods(http.MethodGet)
	}
	r.HandleFunc("/version", s.serveVersion).Methods(http.MethodGet)
}

func (s *Server) serveVersion(w http.ResponseWriter, _ *http.Request) {
	parts := strings.SplitN(minor(s.config.Version), ".", 2)
	v := version.Info{Major: parts[0], GitVersion: s.config.Version, GitTreeState: "clean", GoVersion: runtime.Version(),
		Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if len(parts) > 1 {
		v.Minor = parts[1]
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// connectStreams adds the handlers of log, exec and the like.
func (s *Server) connectStreams() error { return nil }
