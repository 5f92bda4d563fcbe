package auth

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// The headers of impersonation.
const (
	impersonateUser        = "Impersonate-User"
	impersonateGroup       = "Impersonate-Group"
	impersonateUID         = "Impersonate-Uid"
	impersonateExtraPrefix = "Impersonate-Extra-"
)

// Impersonate returns the user that a request is to be made as: kubectl --as. It asks
// the authorizer whether the real user may, and removes the headers. The error is an apierrors Forbidden.
//
// A user may impersonate with the verb impersonate on each thing it pretends (user, groups,
// ...), or, since 1.36, by the narrower right to do just this request as somebody of this kind.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/filters/impersonation/impersonation.go.
func Impersonate(req *http.Request, authorizer Authorizer, real *UserInfo, target *Attributes) (*UserInfo, error) {
	want, asked := impersonated(req.Header)
	if !asked {
		return real, nil
	}
	full := allowedAll(req.Context(), authorizer, real, want, "impersonate")
	if !full {
		if err := constrained(req.Context(), authorizer, real, want, target); err != nil {
			return nil, err
		}
	}
	for name := range req.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			req.Header.Del(name)
		}
	}
	return complete(want), nil
}

// impersonated reads the headers. A request with any of them but without a user is for a user without name, which nobody may be.
func impersonated(h http.Header) (*UserInfo, bool) {
	user := &UserInfo{Name: h.Get(impersonateUser), UID: h.Get(impersonateUID), Groups: h.Values(impersonateGroup), Extra: map[string][]string{}}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, impersonateExtraPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		user.Extra[key] = append(user.Extra[key], values...)
	}
	return user, user.Name != "" || user.UID != "" || len(user.Groups) > 0 || len(user.Extra) > 0
}

// complete adds the groups that such a user would have if it had come itself.
func complete(user *UserInfo) *UserInfo {
	if namespace, _, ok := SplitServiceAccount(user.Name); ok && len(user.Groups) == 0 {
		user.Groups = []string{saGroup, saGroup + ":" + namespace}
	}
	if user.Name == Anonymous {
		return withGroup(&UserInfo{Name: user.Name, Groups: user.Groups, Extra: user.Extra, UID: user.UID}, GroupUnauthenticated)
	}
	return withGroup(user, GroupAuthenticated)
}

// pretences are the things that impersonating user amounts to, each as something to be authorized.
func pretences(user *UserInfo) []Attributes {
	var list []Attributes
	if namespace, name, ok := SplitServiceAccount(user.Name); ok {
		list = append(list, Attributes{Resource: "serviceaccounts", Namespace: namespace, Name: name})
	} else {
		list = append(list, Attributes{Resource: "users", Name: user.Name})
	}
	for _, group := range user.Groups {
		list = append(list, Attributes{Resource: "groups", Name: group})
	}
	if user.UID != "" {
		list = append(list, Attributes{APIGroup: "authentication.k8s.io", Resource: "uids", Name: user.UID})
	}
	for key, values := range user.Extra {
		for _, value := range values {
			list = append(list, Attributes{APIGroup: "authentication.k8s.io", Resource: "userextras", Subresource: key, Name: value})
		}
	}
	return list
}

// allowedAll reports whether real may do verb on all pretences.
func allowedAll(ctx context.Context, authorizer Authorizer, real, want *UserInfo, verb string) bool {
	for _, a := range pretences(want) {
		a.User, a.Verb, a.IsResource, a.APIVersion = real, verb, true, "v1"
		if decision, _, _ := authorizer.Authorize(ctx, a); decision != Allow {
			return false
		}
	}
	return true
}

// constrained allows impersonation for this one request: the verb impersonate-on:<mode>:<verb>
// on its target, and impersonate:<mode> on whom it pretends to be.
func constrained(ctx context.Context, authorizer Authorizer, real, want *UserInfo, target *Attributes) error {
	mode := "user-info"
	if _, _, ok := SplitServiceAccount(want.Name); ok {
		mode = "serviceaccount"
	} else if strings.HasPrefix(want.Name, nodeUserPrefix) {
		mode = "arbitrary-node"
	}
	on := *target
	on.User, on.Verb = real, "impersonate-on:"+mode+":"+target.Verb
	if decision, reason, _ := authorizer.Authorize(ctx, on); decision != Allow {
		return Forbidden(&on, reason)
	}
	for _, a := range pretences(want) {
		a.User, a.Verb, a.IsResource, a.APIVersion = real, "impersonate:"+mode, true, "v1"
		a.APIGroup = "authentication.k8s.io"
		if mode == "arbitrary-node" && a.Resource == "users" {
			a.Resource, a.Name = "nodes", strings.TrimPrefix(a.Name, nodeUserPrefix)
		}
		if decision, reason, _ := authorizer.Authorize(ctx, a); decision != Allow {
			return Forbidden(&a, reason)
		}
	}
	return nil
}
