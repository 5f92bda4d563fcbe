package apiserver

import (
	"net/http"
	"strings"

	"orrery/apiserver/openapi"
	"orrery/apiserver/rest"

	"github.com/gorilla/mux"
)

// routes is the whole REST surface. What resources there are, and which verbs
// they have, is not said here but in the table of kinds: a path names any.
//
//	/api/v1/...                       the core group
//	/apis/{group}/{version}/...       all others
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/installer.go, which makes some
// thousand routes of the same shapes.
func (s *Server) routes() http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.NotFoundHandler = http.HandlerFunc(s.notFound)
	r.MethodNotAllowedHandler = http.HandlerFunc(rest.MethodNotAllowed)
	get := func(path string, h http.HandlerFunc) { r.Path(path).Methods(http.MethodGet).Handler(h) }

	// What there is.
	for _, p := range []string{"/api", "/apis", "/api/{version}", "/apis/{group}", "/apis/{group}/{version}"} {
		r.Path(p).Handler(s.discovery)
	}
	r.Path("/openapi/v2").HandlerFunc(s.openapi.ServeV2)
	r.PathPrefix("/openapi/v3").HandlerFunc(s.openapi.ServeV3)
	r.Path(strings.TrimSuffix(openapi.UIPath, "/")).Handler(http.RedirectHandler(openapi.UIPath, http.StatusMovedPermanently))
	r.PathPrefix(openapi.UIPath).Methods(http.MethodGet, http.MethodHead).HandlerFunc(openapi.ServeUI)
	if s.oidc != nil {
		get("/.well-known/openid-configuration", s.oidc.ServeConfig)
		get("/openid/v1/jwks", s.oidc.ServeKeys)
	}
	s.routeOperations(r)

	// Resources. Objects of a namespace and objects of the cluster have the same
	// handlers: the namespace is part of the request's attributes.
	for _, version := range []string{"/api/{version}", "/apis/{group}/{version}"} {
		v := r.PathPrefix(version).Subrouter()
		v.NotFoundHandler, v.MethodNotAllowedHandler = http.HandlerFunc(rest.NotFound), http.HandlerFunc(rest.MethodNotAllowed)
		v.PathPrefix("/watch/").Methods(http.MethodGet).HandlerFunc(s.rest.Watch) // the old form of ?watch=true

		// A namespace is an object itself, with two subresources.
		s.object(v, "/namespaces/{name}")
		v.HandleFunc("/namespaces/{name}/{subresource:status|finalize}", s.rest.Subresource)

		// The longer form first: /namespaces/default/pods is no subresource of a namespace.
		for _, scope := range []string{"/namespaces/{namespace}", ""} {
			s.collection(v, scope+"/{resource}")
			s.object(v, scope+"/{resource}/{name}")
			v.HandleFunc(scope+"/{resource}/{name}/{subresource}", s.rest.Subresource)
			v.HandleFunc(scope+"/{resource}/{name}/{subresource:proxy}/{path:.*}", s.rest.Subresource)
		}
	}
	return slashless(r)
}

// slashless lets a path of the API end in a slash, which is not part of it; only what is behind a proxy may see a difference.
func slashless(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimSuffix(r.URL.Path, "/")
		if path != r.URL.Path && (path == "/version" || strings.HasPrefix(r.URL.Path, "/api")) && !strings.Contains(path+"/", "/proxy/") {
			u := *r.URL
			u.Path, u.RawPath = path, strings.TrimSuffix(r.URL.RawPath, "/")
			copied := *r
			copied.URL, r = &u, &copied
		}
		h.ServeHTTP(w, r)
	})
}

// collection: all objects of a resource.
func (s *Server) collection(r *mux.Router, path string) {
	r.HandleFunc(path, s.byMethod(map[string]http.HandlerFunc{http.MethodGet: s.listOrWatch,
		http.MethodPost: s.rest.Create, http.MethodDelete: s.rest.DeleteCollection}))
}

// object: one of them.
func (s *Server) object(r *mux.Router, path string) {
	r.HandleFunc(path, s.byMethod(map[string]http.HandlerFunc{http.MethodGet: s.rest.Get,
		http.MethodPut: s.rest.Update, http.MethodPatch: s.rest.Patch, http.MethodDelete: s.rest.Delete}))
}

// byMethod is one route for all methods of a path: mux matches a path anew for
// each route that has it, and answers 404 to a method of no route as soon as a
// later path does not match.
func (s *Server) byMethod(handlers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		handle := handlers[r.Method]
		if handle == nil {
			handle = s.rest.NotAllowed
		}
		handle(w, r)
	}
}

func (s *Server) listOrWatch(w http.ResponseWriter, r *http.Request) {
	if rest.ParseRequest(r).Verb == "watch" {
		s.rest.Watch(w, r)
		return
	}
	s.rest.List(w, r)
}

// notFound is for paths that are no API at all.
func (s *Server) notFound(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}
