package health

import (
	"net/http"
	"strings"

	"orrery/apiserver/auth"
)

// InFlight limits how many requests are served at a time, reads and writes apart, so
// that a flood of lists cannot keep leases from being renewed. Above the limit the
// answer is 429 with Retry-After, which every client of Kubernetes obeys.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/filters/maxinflight.go, WithMaxInFlightLimit.
// Left out: API priority and fairness, which queues by flow instead.
type InFlight struct {
	reads, writes chan struct{}
	metrics       *Metrics
}

// NewInFlight takes --max-requests-inflight and --max-mutating-requests-inflight; 0 is no limit.
func NewInFlight(reads, writes int, metrics *Metrics) *InFlight {
	f := &InFlight{metrics: metrics}
	if reads > 0 {
		f.reads = make(chan struct{}, reads)
	}
	if writes > 0 {
		f.writes = make(chan struct{}, writes)
	}
	return f
}

// Wrap puts the limit before next. auth.Attributes must be in the context.
func (f *InFlight) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := auth.AttributesFrom(r.Context())
		slots, kind := f.writes, "mutating"
		if a == nil || readOnly(a.Verb) {
			slots, kind = f.reads, "readOnly"
		}
		if slots == nil || LongRunning(a) || exempt(r) {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case slots <- struct{}{}:
			f.metrics.inflight.WithLabelValues(kind).Inc()
			defer func() {
				f.metrics.inflight.WithLabelValues(kind).Dec()
				<-slots
			}()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
		}
	})
}

// exempt lets administrators in to look what is wrong, as upstream does.
func exempt(r *http.Request) bool {
	user := auth.UserFrom(r.Context())
	if user == nil {
		return false
	}
	for _, group := range user.Groups {
		if group == auth.GroupMasters {
			return true
		}
	}
	return false
}

func readOnly(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

// LongRunning reports requests that live as long as the client wants: they have no
// timeout and do not count as in flight.
//
// Upstream: pkg/controlplane/apiserver/config.go, BuildGenericConfig (LongRunningFunc).
func LongRunning(a *auth.Attributes) bool {
	if a == nil || !a.IsResource {
		return a != nil && strings.HasPrefix(a.Path, "/debug/pprof/")
	}
	switch a.Subresource {
	case "attach", "exec", "proxy", "log", "portforward":
		return true
	}
	return a.Verb == "watch" || a.Verb == "proxy"
}
