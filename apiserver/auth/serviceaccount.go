package auth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orrery/apiserver/objects"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Keys of a service account user's extra, and the prefixes of its name and groups.
const (
	podNameKey   = "authentication.kubernetes.io/pod-name"
	podUIDKey    = "authentication.kubernetes.io/pod-uid"
	nodeNameKey  = "authentication.kubernetes.io/node-name"
	nodeUIDKey   = "authentication.kubernetes.io/node-uid"
	saUserPrefix = "system:serviceaccount:"
	saGroup      = "system:serviceaccounts"
)

// object is a reference inside a token: the name for people, the UID so that a
// deleted and recreated object of that name does not inherit the token.
type object struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// bound is the "kubernetes.io" claim: what must still exist for the token to be good.
type bound struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *object          `json:"node,omitempty"`
	Pod            *object          `json:"pod,omitempty"`
	Secret         *object          `json:"secret,omitempty"`
	ServiceAccount object           `json:"serviceaccount"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// claims are all that a service account token says.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes *bound `json:"kubernetes.io,omitempty"`
	// The claims of a token that stands in a Secret and never expires.
	LegacyNamespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	LegacySecretName string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	LegacyName       string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	LegacyUID        string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// legacyIssuer is the issuer of tokens in Secrets.
const legacyIssuer = "kubernetes/serviceaccount"

// ServiceAccountTokens authenticates the JWTs of service accounts: signature,
// issuer, audience, time, and that everything they are bound to still exists.
//
// Upstream: pkg/serviceaccount/jwt.go, jwtTokenAuthenticator; pkg/serviceaccount/claims.go, validator.
type ServiceAccountTokens struct {
	// Issuers are the values of --service-account-issuer; the first one signs.
	Issuers []string
	// Audiences are the API server's own, --api-audiences.
	Audiences []string
	Keys      *KeySet
	Objects   objects.Reader
}

// AuthenticateToken implements TokenAuthenticator.
func (s *ServiceAccountTokens) AuthenticateToken(ctx context.Context, token string, audiences []string) (*UserInfo, bool, error) {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return nil, false, nil
	}
	if c.Issuer != legacyIssuer && !slices.Contains(s.Issuers, c.Issuer) {
		return nil, false, nil
	}
	c = claims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256", "ES256", "ES384", "ES512"}))
	if _, err := parser.ParseWithClaims(token, &c, s.Keys.find); err != nil {
		if errors.Is(err, jwt.ErrTokenExpired) {
			return nil, false, errors.New("service account token has expired")
		}
		return nil, false, err
	}
	if c.Issuer == legacyIssuer {
		return s.legacyUser(ctx, &c, token)
	}
	if len(audiences) == 0 {
		audiences = s.Audiences
	}
	if !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(audiences, a) }) {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, audiences)
	}
	if c.Kubernetes == nil {
		return nil, false, errors.New("invalid claims: no kubernetes.io claim")
	}
	if err := s.checkBound(ctx, c.Kubernetes); err != nil {
		return nil, false, err
	}
	return c.user(), true, nil
}

// user builds the identity of a bound token.
func (c *claims) user() *UserInfo {
	k := c.Kubernetes
	user := ServiceAccountUser(k.Namespace, k.ServiceAccount.Name, string(k.ServiceAccount.UID))
	if k.Pod != nil {
		user.Extra[podNameKey] = []string{k.Pod.Name}
		user.Extra[podUIDKey] = []string{string(k.Pod.UID)}
	}
	if k.Node != nil {
		user.Extra[nodeNameKey] = []string{k.Node.Name}
		user.Extra[nodeUIDKey] = []string{string(k.Node.UID)}
	}
	if c.ID != "" {
		user.Extra[CredentialIDKey] = []string{"JTI=" + c.ID}
	}
	return user
}

// ServiceAccountUser is the user that a service account acts as.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/serviceaccount/util.go, ServiceAccountInfo.UserInfo.
func ServiceAccountUser(namespace, name, uid string) *UserInfo {
	return &UserInfo{
		Name:   saUserPrefix + namespace + ":" + name,
		UID:    uid,
		Groups: []string{saGroup, saGroup + ":" + namespace},
		Extra:  map[string][]string{},
	}
}

// checkBound refuses tokens whose service account, pod, secret or node is gone or was replaced.
func (s *ServiceAccountTokens) checkBound(ctx context.Context, k *bound) error {
	references := []struct {
		resource  schema.GroupResource
		namespace string
		ref       *object
	}{
		{serviceAccounts, k.Namespace, &k.ServiceAccount},
		{pods, k.Namespace, k.Pod},
		{secrets, k.Namespace, k.Secret},
		{nodes, "", k.Node},
	}
	for _, r := range references {
		// The node of a pod-bound token is information: the token dies with the pod.
		if r.ref == nil || (r.resource == nodes && k.Pod != nil) {
			continue
		}
		if err := s.checkAlive(ctx, r.resource, r.namespace, r.ref); err != nil {
			return fmt.Errorf("service account token of %s/%s is invalidated: %w", k.Namespace, k.ServiceAccount.Name, err)
		}
	}
	return nil
}

// deletionLeeway is how long a token outlives its object's deletionTimestamp, so that
// a pod can still talk to the API server while it shuts down.
const deletionLeeway = 60 * time.Second

// checkAlive checks one reference.
func (s *ServiceAccountTokens) checkAlive(ctx context.Context, resource schema.GroupResource, namespace string, ref *object) error {
	obj, err := s.Objects.Get(ctx, resource, namespace, ref.Name)
	if err != nil {
		return err
	}
	meta, err := metaOf(obj)
	if err != nil {
		return err
	}
	if meta.GetUID() != ref.UID {
		return fmt.Errorf("%s %q has been replaced: its UID is %s, the token's %s", resource.Resource, ref.Name, meta.GetUID(), ref.UID)
	}
	if at := meta.GetDeletionTimestamp(); at != nil && at.Add(deletionLeeway).Before(time.Now()) {
		return fmt.Errorf("%s %q has been deleted", resource.Resource, ref.Name)
	}
	return nil
}

// legacyUser checks a token from a Secret: the Secret must still hold this very token.
func (s *ServiceAccountTokens) legacyUser(ctx context.Context, c *claims, token string) (*UserInfo, bool, error) {
	account := &object{Name: c.LegacyName, UID: types.UID(c.LegacyUID)}
	if err := s.checkAlive(ctx, serviceAccounts, c.LegacyNamespace, account); err != nil {
		return nil, false, err
	}
	obj, err := s.Objects.Get(ctx, secrets, c.LegacyNamespace, c.LegacySecretName)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, false, err
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok || string(secret.Data[corev1.ServiceAccountTokenKey]) != token {
		return nil, false, errors.New("token has been invalidated")
	}
	return ServiceAccountUser(c.LegacyNamespace, c.LegacyName, c.LegacyUID), true, nil
}

// find chooses the public key that a token names.
func (k *KeySet) find(token *jwt.Token) (any, error) {
	id, _ := token.Header["kid"].(string)
	if key, ok := k.byID[id]; ok {
		return key, nil
	}
	if id != "" {
		return nil, fmt.Errorf("no key %q", id)
	}
	set := jwt.VerificationKeySet{}
	for _, key := range k.byID {
		set.Keys = append(set.Keys, key)
	}
	return set, nil
}

// methodFor returns the signing algorithm that fits key.
func methodFor(key crypto.PublicKey) (jwt.SigningMethod, error) {
	name, err := algorithm(key)
	if err != nil {
		return nil, err
	}
	return jwt.GetSigningMethod(name), nil
}

// SplitServiceAccount returns namespace and name of a service account's user name.
func SplitServiceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, saUserPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}
