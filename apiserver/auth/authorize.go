package auth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Union asks its authorizers in order; the first one with an opinion decides.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authorization/union/union.go, unionAuthzHandler.
type Union []Authorizer

// Authorize implements Authorizer.
func (u Union) Authorize(ctx context.Context, a Attributes) (Decision, string, error) {
	var reasons []string
	var errs []error
	for _, authorizer := range u {
		decision, reason, err := authorizer.Authorize(ctx, a)
		if reason != "" {
			reasons = append(reasons, reason)
		}
		errs = append(errs, err)
		if decision != NoOpinion {
			return decision, reason, err
		}
	}
	return NoOpinion, strings.Join(reasons, "\n"), errors.Join(errs...)
}

// MastersOnly allows everything to the group system:masters, whatever roles say: the
// way into a cluster whose roles are broken. It stands before all other authorizers.
//
// Upstream: pkg/kubeapiserver/authorizer/config.go, Config.New (superuserAuthorizer).
type MastersOnly struct{}

// Authorize implements Authorizer.
func (MastersOnly) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.User != nil && slices.Contains(a.User.Groups, GroupMasters) {
		return Allow, "", nil
	}
	return NoOpinion, "", nil
}

// AlwaysAllow is --authorization-mode=AlwaysAllow.
type AlwaysAllow struct{}

// Authorize implements Authorizer.
func (AlwaysAllow) Authorize(context.Context, Attributes) (Decision, string, error) {
	return Allow, "", nil
}

// AlwaysDeny is --authorization-mode=AlwaysDeny.
type AlwaysDeny struct{}

// Authorize implements Authorizer.
func (AlwaysDeny) Authorize(context.Context, Attributes) (Decision, string, error) {
	return NoOpinion, "Everything is forbidden.", nil
}

// WithSelectors adds what the query of a list or watch narrows it to. One that asks
// for a single name counts as a request for that name, so that roles with resourceNames allow it.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go, RequestInfoFactory.NewRequestInfo.
func WithSelectors(a Attributes, query url.Values) Attributes {
	if a.Verb != "list" && a.Verb != "watch" && a.Verb != "deletecollection" {
		return a
	}
	if selector, err := fields.ParseSelector(query.Get("fieldSelector")); err == nil && !selector.Empty() {
		a.Fields = selector
		if name, ok := selector.RequiresExactMatch("metadata.name"); ok && a.Name == "" {
			a.Name = name
		}
	}
	if selector, err := labels.Parse(query.Get("labelSelector")); err == nil && !selector.Empty() {
		a.Labels = selector
	}
	return a
}

// Forbidden is the error for a request that was not allowed, with upstream's words.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go, ForbiddenStatusError.
func Forbidden(a *Attributes, reason string) *apierrors.StatusError {
	text := forbiddenText(a)
	if reason != "" {
		text += ": " + reason
	}
	err := apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(text))
	if !a.IsResource {
		err.ErrStatus.Message = "forbidden: " + text
		err.ErrStatus.Details = &metav1.StatusDetails{}
	}
	return err
}

// forbiddenText says who cannot do what to which.
func forbiddenText(a *Attributes) string {
	user := ""
	if a.User != nil {
		user = a.User.Name
	}
	if !a.IsResource {
		return fmt.Sprintf("User %q cannot %s path %q", user, a.Verb, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", user, a.Verb, resource, a.APIGroup, where)
}

// API is the user in the form of the API, for reviews and the audit log.
func (u *UserInfo) API() authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for key, values := range u.Extra {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[key] = values
	}
	return out
}
