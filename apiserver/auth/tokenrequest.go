package auth

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"orrery/apiserver/objects"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Lifetimes of tokens, in seconds.
const (
	defaultTokenSeconds = 60 * 60
	minTokenSeconds     = 10 * 60
	// warnOnlyTokenSeconds is what ServiceAccount admission asks for in the volume
	// of every pod. Such a token really lives a year, for clients that never read it
	// again; it only says when it should have been renewed.
	warnOnlyTokenSeconds = 60*60 + 7
	extendedTokenSeconds = 365 * 24 * 60 * 60
)

// TokenIssuer signs service account tokens: the token subresource of serviceaccounts.
//
// Upstream: pkg/registry/core/serviceaccount/storage/token.go, TokenREST.Create; pkg/serviceaccount/claims.go, Claims.
type TokenIssuer struct {
	issuer    string
	audiences []string
	key       crypto.Signer
	keyID     string
	objects   objects.Reader
	extend    bool
}

// NewTokenIssuer reads the private key of --service-account-signing-key-file.
// audiences are for requests that name none; extend is --service-account-extend-token-expiration.
func NewTokenIssuer(issuer string, audiences []string, keyPEM []byte, extend bool, reader objects.Reader) (*TokenIssuer, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("the service account signing key is not in PEM form")
	}
	key, err := privateKey(block)
	if err != nil {
		return nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	return &TokenIssuer{issuer: issuer, audiences: audiences, key: key, keyID: id, objects: reader, extend: extend}, nil
}

// Create answers a TokenRequest for the service account namespace/name: it
// returns the request with its status filled in, or an apierrors error.
func (t *TokenIssuer) Create(ctx context.Context, namespace, name string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	obj, err := t.objects.Get(ctx, serviceAccounts, namespace, name)
	if err != nil {
		return nil, err
	}
	account, err := metaOf(obj)
	if err != nil {
		return nil, err
	}
	if req.Name != "" && req.Name != name {
		return nil, apierrors.NewInvalid(tokenRequestKind, name, field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), req.Name, "must match the service account name if specified")})
	}
	out := req.DeepCopy()
	out.Name, out.Namespace, out.UID, out.CreationTimestamp = name, namespace, account.GetUID(), metav1.Now()
	if out.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		out.Spec.ExpirationSeconds = &seconds
	}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = t.audiences
	}
	if err := validateTokenRequest(out); err != nil {
		return nil, err
	}
	k := &bound{Namespace: namespace, ServiceAccount: object{Name: name, UID: account.GetUID()}}
	if err := t.bind(ctx, k, out.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	token, expires, err := t.sign(k, out.Spec.Audiences, *out.Spec.ExpirationSeconds)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.Status = authv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return out, nil
}

var tokenRequestKind = authv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()

// validateTokenRequest checks the lifetime.
func validateTokenRequest(req *authv1.TokenRequest) error {
	path, seconds := field.NewPath("spec", "expirationSeconds"), *req.Spec.ExpirationSeconds
	var errs field.ErrorList
	if seconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > 1<<32 {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(tokenRequestKind, "", errs)
}

// bind looks up the object that the token is to live and die with.
func (t *TokenIssuer) bind(ctx context.Context, k *bound, ref *authv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	want := &object{Name: ref.Name, UID: ref.UID}
	switch gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind); {
	case gvk.Group == "" && gvk.Kind == "Pod":
		obj, err := t.objects.Get(ctx, pods, k.Namespace, ref.Name)
		if err != nil {
			return err
		}
		pod := obj.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != k.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", k.ServiceAccount.Name))
		}
		k.Pod = want
		return errors.Join(matchUID(pod, want), t.addNode(ctx, k, pod.Spec.NodeName))
	case gvk.Group == "" && gvk.Kind == "Secret":
		obj, err := t.objects.Get(ctx, secrets, k.Namespace, ref.Name)
		if err != nil {
			return err
		}
		k.Secret = want
		return matchUID(obj.(*corev1.Secret), want)
	case gvk.Group == "" && gvk.Kind == "Node":
		obj, err := t.objects.Get(ctx, nodes, "", ref.Name)
		if err != nil {
			return err
		}
		k.Node = want
		return matchUID(obj.(*corev1.Node), want)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)))
}

// addNode notes on which node the token's pod runs.
func (t *TokenIssuer) addNode(ctx context.Context, k *bound, name string) error {
	if name == "" {
		return nil
	}
	k.Node = &object{Name: name}
	obj, err := t.objects.Get(ctx, nodes, "", name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	k.Node.UID = obj.(*corev1.Node).UID
	return nil
}

// matchUID completes or checks the UID of a reference.
func matchUID(obj metav1.Object, ref *object) error {
	if ref.UID == "" {
		ref.UID = obj.GetUID()
	}
	if ref.UID != obj.GetUID() {
		return apierrors.NewConflict(serviceAccounts, obj.GetName(),
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// sign makes the JWT. expires is what the client is told; the token itself may live longer.
func (t *TokenIssuer) sign(k *bound, audiences []string, seconds int64) (token string, expires time.Time, err error) {
	now := time.Now()
	expires = now.Add(time.Duration(seconds) * time.Second)
	lives := expires
	if t.extend && seconds == warnOnlyTokenSeconds && k.Pod != nil && slices.Equal(audiences, t.audiences) {
		k.WarnAfter = jwt.NewNumericDate(expires)
		lives = now.Add(extendedTokenSeconds * time.Second)
	}
	method, err := methodFor(t.key.Public())
	if err != nil {
		return "", expires, err
	}
	unsigned := jwt.NewWithClaims(method, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    t.issuer,
			Subject:   saUserPrefix + k.Namespace + ":" + k.ServiceAccount.Name,
			Audience:  audiences,
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(lives),
			ID:        uuid.NewString(),
		},
		Kubernetes: k,
	})
	unsigned.Header["kid"] = t.keyID
	delete(unsigned.Header, "typ")
	token, err = unsigned.SignedString(t.key)
	return token, expires, err
}
