package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"

	"orrery/client"
)

// Authenticator checks who asks and has the API server say what they may.
//
// Upstream: pkg/kubelet/server/auth.go; cmd/kubelet/app/auth.go, BuildAuth.
type Authenticator struct {
	Client    *client.Client // nil: nobody but system:masters is served
	ClientCA  *x509.CertPool // nil: no certificates
	Anonymous bool
	Webhook   bool // tokens are checked by TokenReview
	AlwaysYes bool // authorization mode AlwaysAllow
	NodeName  string
	// How long answers of the API server are good for.
	TokenTTL, AllowedTTL, DeniedTTL time.Duration

	mu    sync.Mutex
	known map[string]cached
}

type cached struct {
	user  *user
	yes   bool
	until time.Time
}

type user struct {
	name, uid string
	groups    []string
}

// Wrap serves h to those who may.
func (a *Authenticator) Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := a.who(r)
		if err != nil || u == nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb, subresources := attributes(r)
		for _, sub := range subresources {
			if a.may(r.Context(), u, verb, sub) {
				h.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", u.name, verb, subresources), http.StatusForbidden)
	})
}

// who is the user of a request, or nil.
func (a *Authenticator) who(r *http.Request) (*user, error) {
	if a.ClientCA != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		certs := r.TLS.PeerCertificates
		opts := x509.VerifyOptions{Roots: a.ClientCA, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		for _, c := range certs[1:] {
			opts.Intermediates.AddCert(c)
		}
		if _, err := certs[0].Verify(opts); err == nil {
			return &user{name: certs[0].Subject.CommonName, groups: append(certs[0].Subject.Organization, "system:authenticated")}, nil
		}
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && a.Webhook && a.Client != nil {
		return a.review(r.Context(), token)
	}
	if a.Anonymous {
		return &user{name: "system:anonymous", groups: []string{"system:unauthenticated"}}, nil
	}
	return nil, nil
}

// review asks the API server whose token this is.
func (a *Authenticator) review(ctx context.Context, token string) (*user, error) {
	key := "token " + token
	if c, ok := a.remember(key); ok {
		return c.user, nil
	}
	answer, err := client.For[*authnv1.TokenReview](a.Client).Create(ctx, &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token}})
	if err != nil {
		return nil, err
	}
	var u *user
	if answer.Status.Authenticated {
		u = &user{name: answer.Status.User.Username, uid: answer.Status.User.UID, groups: answer.Status.User.Groups}
	}
	a.keep(key, cached{user: u, until: time.Now().Add(a.TokenTTL)})
	return u, nil
}

// attributes is what a request does, in terms of the Node's subresources: the
// fine-grained one first, and then proxy, which allows everything.
//
// Upstream: pkg/kubelet/server/auth.go, nodeAuthorizerAttributesGetter.
func attributes(r *http.Request) (verb string, subresources []string) {
	verb = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	if verb == "" {
		verb = "get"
	}
	for path, sub := range map[string]string{"/stats": "stats", "/metrics": "metrics", "/logs": "log"} {
		if r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/") {
			return verb, []string{sub}
		}
	}
	for path, sub := range map[string]string{"/healthz": "healthz", "/pods": "pods", "/runningpods": "pods"} {
		if r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/") {
			return verb, []string{sub, "proxy"}
		}
	}
	return verb, []string{"proxy"}
}

// may asks the API server whether a user may do this to this node.
func (a *Authenticator) may(ctx context.Context, u *user, verb, subresource string) bool {
	if a.AlwaysYes || slices.Contains(u.groups, "system:masters") {
		return true
	}
	if a.Client == nil {
		return false
	}
	key := fmt.Sprintln("may", u.name, u.groups, verb, subresource)
	if c, ok := a.remember(key); ok {
		return c.yes
	}
	answer, err := client.For[*authzv1.SubjectAccessReview](a.Client).Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: u.name, UID: u.uid, Groups: u.groups, ResourceAttributes: &authzv1.ResourceAttributes{
			Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.NodeName}}})
	if err != nil {
		return false
	}
	ttl := a.DeniedTTL
	if answer.Status.Allowed {
		ttl = a.AllowedTTL
	}
	a.keep(key, cached{yes: answer.Status.Allowed, until: time.Now().Add(ttl)})
	return answer.Status.Allowed
}

func (a *Authenticator) remember(key string) (cached, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.known[key]
	return c, ok && time.Now().Before(c.until)
}

// maxKnown bounds the memory of answers.
const maxKnown = 4096

func (a *Authenticator) keep(key string, c cached) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxKnown {
		a.known = map[string]cached{}
	}
	a.known[key] = c
}
