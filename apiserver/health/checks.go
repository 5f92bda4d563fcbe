package health

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Check is one named condition; an error says why it does not hold.
type Check struct {
	Name string
	Run  func(r *http.Request) error
}

// Ping always succeeds: the server answers, which is what it shows.
var Ping = Check{"ping", func(*http.Request) error { return nil }}

// Checks are the conditions of one endpoint, /livez, /readyz or /healthz.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go.
type Checks struct {
	path   string
	checks []Check
	log    *slog.Logger
}

// NewChecks returns the endpoint path with its conditions.
func NewChecks(path string, log *slog.Logger, checks ...Check) *Checks {
	return &Checks{path: path, checks: checks, log: log}
}

// Paths are the endpoint and one path for each condition.
func (c *Checks) Paths() []string {
	paths := []string{c.path}
	for _, check := range c.checks {
		paths = append(paths, c.path+"/"+check.Name)
	}
	return paths
}

// ServeHTTP answers "ok", or 500 with the list of conditions; ?verbose shows the list
// always, ?exclude=name leaves one out; <path>/<name> asks for one alone.
func (c *Checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if name, one := strings.CutPrefix(r.URL.Path, c.path+"/"); one {
		c.one(w, r, name)
		return
	}
	excluded := r.URL.Query()["exclude"]
	var report bytes.Buffer
	var failed []string
	for _, check := range c.checks {
		if slices.Contains(excluded, check.Name) {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", check.Name)
			continue
		}
		if err := check.Run(r); err != nil {
			c.log.Info("health check failed", "key", strings.Trim(c.path, "/")+"/"+check.Name, "err", err)
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", check.Name)
			failed = append(failed, check.Name)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", check.Name)
	}
	for _, name := range excluded {
		if !slices.ContainsFunc(c.checks, func(check Check) bool { return check.Name == name }) {
			fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %q\n", name)
		}
	}
	what := strings.Trim(c.path, "/")
	switch _, verbose := r.URL.Query()["verbose"]; {
	case len(failed) > 0:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", report.String(), what)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", report.String(), what)
	default:
		fmt.Fprint(w, "ok")
	}
}

// one answers for a single condition.
func (c *Checks) one(w http.ResponseWriter, r *http.Request, name string) {
	i := slices.IndexFunc(c.checks, func(check Check) bool { return check.Name == name })
	if i < 0 {
		http.NotFound(w, r)
		return
	}
	if err := c.checks[i].Run(r); err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "ok")
}

// Shutdown is a condition that fails from the moment the server begins to stop, so
// that no new client is led to it while it still serves the old ones.
type Shutdown struct{ begun atomic.Bool }

// Begin makes the condition fail.
func (s *Shutdown) Begin() { s.begun.Store(true) }

// Check is the condition for /readyz.
func (s *Shutdown) Check() Check {
	return Check{"shutdown", func(*http.Request) error {
		if s.begun.Load() {
			return fmt.Errorf("process is shutting down")
		}
		return nil
	}}
}
