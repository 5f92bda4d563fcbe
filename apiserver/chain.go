package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"orrery/apiserver/audit"
	"orrery/apiserver/auth"
	"orrery/apiserver/health"
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
		s.timesOut,
		s.authenticates,
		s.audit.Wrap,
		health.NewInFlight(s.config.MaxRequestsInFlight, s.config.MaxMutatingInFlight, s.metrics).Wrap,
		s.impersonates,
		s.authorizes,
		s.metrics.Wrap,
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
		if user != auth.UserFrom(r.Context()) {
			audit.Impersonated(r.Context(), user)
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
		decision, reason, err := s.authorizer.Authorize(r.Context(), auth.WithSelectors(a, r.URL.Query()))
		audit.Annotate(r.Context(), "authorization.k8s.io/reason", reason)
		if decision != auth.Allow {
			audit.Annotate(r.Context(), "authorization.k8s.io/decision", "forbid")
			if err != nil {
				s.config.Log.Warn("authorizer failed", "path", a.Path, "err", err)
			}
			rest.WriteError(w, r, auth.Forbidden(&a, reason))
			return
		}
		audit.Annotate(r.Context(), "authorization.k8s.io/decision", "allow")
		next.ServeHTTP(w, r.WithContext(auth.WithAttributes(r.Context(), &a)))
	})
}

// timesOut bounds every request that is not meant to last: by --request-timeout, or by less when the client says so. What
// is answered when the time is up, rest.WriteError knows.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/filters/request_deadline.go, WithRequestDeadline.
func (s *Server) timesOut(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := s.config.Times.RequestTimeout
		if health.LongRunning(auth.AttributesFrom(r.Context())) || limit <= 0 {
			next.ServeHTTP(w, r)
			return
		}
		if text := r.URL.Query().Get("timeout"); text != "" {
			asked, err := time.ParseDuration(text)
			if err != nil {
				rest.WriteError(w, r, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err)))
				return
			}
			if 0 < asked && asked < limit {
				limit = asked
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
