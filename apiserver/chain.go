package apiserver

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/rest"
	"orrery/apiserver/warning"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// filter wraps a handler with one thing that every request goes through.
type filter func(next http.Handler) http.Handler

// chain is the way of every request, from the outside in.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/config.go, DefaultBuildHandlerChain.
func (s *Server) chain(routes http.Handler) http.Handler {
	filters := []filter{
		s.recovers,
		s.describes,
		s.authenticates,
		s.limits,
		s.impersonates,
		s.authorizes,
		s.timesOut,
	}
	h := routes
	for i := len(filters) - 1; i >= 0; i-- {
		h = filters[i](h)
	}
	return h
}

// recovers keeps the panic of one request from being the end of all.
func (s *Server) recovers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			switch {
			case p == nil:
			case p == http.ErrAbortHandler:
				panic(p) // how a handler tells net/http to cut the connection
			default:
				s.config.Log.Error("request handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				http.Error(w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// describes works out what the request is about, and gives it a place for warnings.
func (s *Server) describes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := warning.WithRecorder(r.Context())
		ctx = auth.WithAttributes(ctx, rest.ParseRequest(r))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// authenticates finds out who asks.
func (s *Server) authenticates(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok, err := s.authenticator.Authenticate(r)
		if err != nil || !ok {
			if err != nil {
				s.config.Log.Debug("request not authenticated", "path", r.URL.Path, "err", err)
			}
			rest.WriteError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		next.ServeHTTP(w, r.WithContext(auth.WithUser(r.Context(), user)))
	})
}

// impersonates lets a user act as another one, if it may.
func (s *Server) impersonates(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := auth.Impersonate(r, s.authorizer, auth.UserFrom(r.Context()), auth.AttributesFrom(r.Context()))
		if err != nil {
			rest.WriteError(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(auth.WithUser(r.Context(), user)))
	})
}

// authorizes asks whether the user may do that.
func (s *Server) authorizes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := *auth.AttributesFrom(r.Context())
		a.User = auth.UserFrom(r.Context())
		if a.Subresource == "exec" || a.Subresource == "attach" || a.Subresource == "portforward" {
			a.Verb = "create" // a WebSocket begins with GET, but it is no reading
		}
		decision, reason, err := s.authorizer.Authorize(r.Context(), a)
		if decision != auth.Allow {
			if err != nil {
				s.config.Log.Warn("authorizer failed", "path", a.Path, "err", err)
			}
			rest.WriteError(w, r, auth.Forbidden(&a, reason))
			return
		}
		next.ServeHTTP(w, r.WithContext(auth.WithAttributes(r.Context(), &a)))
	})
}

// longRunning requests have no time limit and take no place from others.
func longRunning(a *auth.Attributes) bool {
	switch a.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return a.IsResource && a.Verb == "watch"
}

// limits refuses with 429 what is too much at once.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/filters/maxinflight.go.
// Left out: priority and fairness; the limits are shared by all users but system:masters.
func (s *Server) limits(next http.Handler) http.Handler {
	reading, writing := newSlots(s.config.MaxRequestsInFlight), newSlots(s.config.MaxMutatingInFlight)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := auth.AttributesFrom(r.Context())
		slots := reading
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			slots = writing
		}
		if longRunning(a) || slots == nil {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			if isMaster(auth.UserFrom(r.Context())) {
				next.ServeHTTP(w, r)
				return
			}
			rest.WriteError(w, r, apierrors.NewTooManyRequests("Too many requests, please try again later.", 1))
		}
	})
}

func newSlots(n int) chan struct{} {
	if n <= 0 {
		return nil
	}
	return make(chan struct{}, n)
}

func isMaster(u *auth.UserInfo) bool {
	if u == nil {
		return false
	}
	for _, g := range u.Groups {
		if g == auth.GroupMasters {
			return true
		}
	}
	return false
}

// timesOut bounds every request that is not meant to last.
func (s *Server) timesOut(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if longRunning(auth.AttributesFrom(r.Context())) || strings.HasPrefix(r.URL.Path, "/debug/pprof") || s.config.Times.RequestTimeout <= 0 {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.config.Times.RequestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
