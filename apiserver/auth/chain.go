package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Names that Kubernetes gives to users and groups.
const (
	Anonymous            = "system:anonymous"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	GroupMasters         = "system:masters"
	GroupNodes           = "system:nodes"
	nodeUserPrefix       = "system:node:"
)

// errInvalidToken is why a request with a token that nobody knows gets 401 and is not treated as anonymous.
var errInvalidToken = errors.New("invalid bearer token")

// TokenAuthenticator says whose token it is. The audiences are those the caller
// accepts; with none given, the API server's own. A false result without an error means "not one of mine".
type TokenAuthenticator interface {
	AuthenticateToken(ctx context.Context, token string, audiences []string) (*UserInfo, bool, error)
}

// Tokens tries several token authenticators in turn.
type Tokens []TokenAuthenticator

// AuthenticateToken implements TokenAuthenticator.
func (t Tokens) AuthenticateToken(ctx context.Context, token string, audiences []string) (*UserInfo, bool, error) {
	var errs []error
	for _, a := range t {
		user, ok, err := a.AuthenticateToken(ctx, token, audiences)
		if ok {
			return user, true, nil
		}
		errs = append(errs, err)
	}
	return nil, false, errors.Join(errs...)
}

// Bearer authenticates by "Authorization: Bearer TOKEN", or by the WebSocket
// subprotocol that carries a token for browsers, which cannot set headers.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/bearertoken/bearertoken.go, Authenticator;
// .../request/websocket/protocol.go, ProtocolAuthenticator.
type Bearer struct{ Tokens TokenAuthenticator }

// Authenticate implements Authenticator. The token is removed from the request, so that no proxied backend sees it.
func (b Bearer) Authenticate(req *http.Request) (*UserInfo, bool, error) {
	token := headerToken(req)
	if token == "" {
		token = websocketToken(req)
	}
	if token == "" {
		return nil, false, nil
	}
	user, ok, err := b.Tokens.AuthenticateToken(req.Context(), token, nil)
	if ok {
		req.Header.Del("Authorization")
		return user, true, nil
	}
	return nil, false, utilerrors.NewAggregate([]error{errInvalidToken, err})
}

// headerToken reads the Authorization header.
func headerToken(req *http.Request) string {
	scheme, token, _ := strings.Cut(strings.TrimSpace(req.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// bearerProtocolPrefix starts the subprotocol that is a token and not a protocol.
const bearerProtocolPrefix = "base64url.bearer.authorization.k8s.io."

// websocketToken takes the token out of Sec-WebSocket-Protocol and leaves the real protocols there.
func websocketToken(req *http.Request) string {
	const header = "Sec-Websocket-Protocol"
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
		return ""
	}
	var token string
	var rest []string
	for _, protocol := range strings.Split(strings.Join(req.Header.Values(header), ","), ",") {
		protocol = strings.TrimSpace(protocol)
		encoded, isToken := strings.CutPrefix(protocol, bearerProtocolPrefix)
		if !isToken {
			rest = append(rest, protocol)
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(encoded)
		if err == nil && utf8.Valid(raw) {
			token = string(raw)
		}
	}
	if token != "" && len(rest) > 0 {
		req.Header.Set(header, strings.Join(rest, ","))
	}
	return token
}

// Chain is the whole of authentication: the first authenticator that knows the
// caller wins; a caller with a bad credential is an error (401); one without any credential is anonymous.
//
// Upstream: pkg/kubeapiserver/authenticator/config.go, Config.New.
type Chain struct {
	Authenticators []Authenticator
	// AllowAnonymous is --anonymous-auth.
	AllowAnonymous bool
}

// Authenticate implements Authenticator.
func (c Chain) Authenticate(req *http.Request) (*UserInfo, bool, error) {
	var errs []error
	for _, a := range c.Authenticators {
		user, ok, err := a.Authenticate(req)
		if ok {
			return withGroup(user, GroupAuthenticated), true, nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || !c.AllowAnonymous {
		return nil, false, err
	}
	return &UserInfo{Name: Anonymous, Groups: []string{GroupUnauthenticated}}, true, nil
}

// withGroup returns user as a member of group.
func withGroup(user *UserInfo, group string) *UserInfo {
	if slices.Contains(user.Groups, group) || user.Name == Anonymous {
		return user
	}
	member := *user
	member.Groups = append(slices.Clone(user.Groups), group)
	return &member
}
