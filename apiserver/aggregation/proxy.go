package aggregation

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/rest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Wrap sends requests for the APIs of other servers there, and all others to next.
//
// Upstream: staging/src/k8s.io/kube-aggregator/pkg/apiserver/handler_proxy.go, proxyHandler.ServeHTTP.
func (a *Aggregator) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := a.route(r.URL.Path)
		switch {
		case to == nil:
			next.ServeHTTP(w, r)
		case !to.available:
			rest.WriteError(w, r, apierrors.NewServiceUnavailable("service unavailable"))
		default:
			a.forward(w, r, to)
		}
	})
}

// route finds whose path it is: /apis/GROUP/VERSION and what is below, or the OpenAPI document of that.
func (a *Aggregator) route(path string) *remote {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/openapi/v3"), "/apis/")
	routes := a.routes.Load()
	if !ok || routes == nil || len(*routes) == 0 {
		return nil
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 {
		return nil
	}
	return (*routes)[parts[1]+"."+parts[0]]
}

func (a *Aggregator) forward(w http.ResponseWriter, r *http.Request, to *remote) {
	transport, err := a.pool.Transport(to.target)
	if err != nil {
		rest.WriteError(w, r, apierrors.NewInternalError(err))
		return
	}
	user := auth.UserFrom(r.Context())
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "https", Host: to.target.Host(), Path: p.In.URL.Path, RawPath: p.In.URL.RawPath, RawQuery: p.In.URL.RawQuery}
			p.Out.Host = p.Out.URL.Host
			p.SetXForwarded()
			setUser(p.Out.Header, user)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			rest.WriteError(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
		},
	}
	proxy.ServeHTTP(w, r)
}

// setUser says who asks, in the headers of a front proxy, and nothing else about that.
//
// Upstream: staging/src/k8s.io/client-go/transport/round_trippers.go, SetAuthProxyHeaders.
func setUser(h http.Header, u *auth.UserInfo) {
	h.Del("Authorization")
	for name := range h {
		if strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Impersonate-") {
			h.Del(name)
		}
	}
	if u == nil {
		return
	}
	h.Set("X-Remote-User", u.Name)
	if u.UID != "" {
		h.Set("X-Remote-Uid", u.UID)
	}
	for _, g := range u.Groups {
		h.Add("X-Remote-Group", g)
	}
	for key, values := range u.Extra {
		for _, v := range values {
			h.Add("X-Remote-Extra-"+url.PathEscape(key), v)
		}
	}
}
