package rest

import (
	"net/http"
	"strings"

	"orrery/apiserver/auth"
)

// ParseRequest reads from a request's method and path what it wants to do with
// which resource. Paths outside /api and /apis are not resources.
//
//	/api/v1/namespaces/default/pods/web/log     get, pods/log, default, web
//	/apis/apps/v1/deployments?watch=true        watch, deployments, all namespaces
//	/api/v1/namespaces/default                  get, namespaces, default
//	/healthz                                    get of a path
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go, RequestInfoFactory.NewRequestInfo.
func ParseRequest(r *http.Request) *auth.Attributes {
	a := &auth.Attributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) >= 3:
		a.APIVersion, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) >= 4:
		a.APIGroup, a.APIVersion, parts = parts[1], parts[2], parts[3:]
	default:
		return a
	}
	a.IsResource = true
	watched := parts[0] == "watch" // the old form /api/v1/watch/pods
	if watched && len(parts) > 1 {
		parts = parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		a.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	a.Resource, a.Name, a.Subresource = at(0), at(1), at(2)
	a.Verb = verb(r, a.Name, watched)
	return a
}

// verb is the API's word for a method.
func verb(r *http.Request, name string, watched bool) string {
	q := r.URL.Query()
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if name == "" {
			return "deletecollection"
		}
		return "delete"
	case http.MethodGet, http.MethodHead:
		switch w := q.Get("watch"); {
		case watched, name == "" && q.Has("watch") && w != "0" && w != "false":
			return "watch"
		case name == "":
			return "list"
		}
		return "get"
	}
	return ""
}
