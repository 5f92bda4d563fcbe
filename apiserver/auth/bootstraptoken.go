package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	tokenapi "k8s.io/cluster-bootstrap/token/api"
	tokenutil "k8s.io/cluster-bootstrap/token/util"
)

var (
	secrets         = schema.GroupResource{Resource: "secrets"}
	pods            = schema.GroupResource{Resource: "pods"}
	nodes           = schema.GroupResource{Resource: "nodes"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
)

// BootstrapTokens authenticates the tokens that kubeadm join brings along,
// "abcdef.0123456789abcdef": each is a Secret bootstrap-token-<id> in kube-system.
//
// Upstream: plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go, TokenAuthenticator.
type BootstrapTokens struct{ Objects objects.Reader }

// AuthenticateToken implements TokenAuthenticator. Every reason to refuse a token
// looks the same to the caller: it is not told whether the id or the secret was wrong.
func (b BootstrapTokens) AuthenticateToken(ctx context.Context, token string, _ []string) (*UserInfo, bool, error) {
	if !tokenutil.IsValidBootstrapToken(token) {
		return nil, false, nil
	}
	id, secretPart, _ := strings.Cut(token, ".")
	obj, err := b.Objects.Get(ctx, secrets, "kube-system", tokenapi.BootstrapTokenSecretPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading bootstrap token %s: %w", id, err)
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok || !usableForAuthentication(secret, id, secretPart) {
		return nil, false, nil
	}
	groups, err := tokenGroups(secret)
	if err != nil {
		return nil, false, nil
	}
	return &UserInfo{Name: tokenapi.BootstrapUserPrefix + id, Groups: groups}, true, nil
}

// usableForAuthentication checks type, id, secret, expiry and the permission to authenticate with it.
func usableForAuthentication(secret *corev1.Secret, id, secretPart string) bool {
	data := func(key string) string { return string(secret.Data[key]) }
	if secret.DeletionTimestamp != nil || secret.Type != tokenapi.SecretTypeBootstrapToken ||
		data(tokenapi.BootstrapTokenIDKey) != id || data(tokenapi.BootstrapTokenUsageAuthentication) != "true" ||
		subtle.ConstantTimeCompare(secret.Data[tokenapi.BootstrapTokenSecretKey], []byte(secretPart)) != 1 {
		return false
	}
	expiration := data(tokenapi.BootstrapTokenExpirationKey)
	if expiration == "" {
		return true
	}
	at, err := time.Parse(time.RFC3339, expiration)
	return err == nil && time.Now().Before(at)
}

// tokenGroups are system:bootstrappers and the extra groups of the Secret.
func tokenGroups(secret *corev1.Secret) ([]string, error) {
	groups := []string{tokenapi.BootstrapDefaultGroup}
	extra := string(secret.Data[tokenapi.BootstrapTokenExtraGroupsKey])
	if extra == "" {
		return groups, nil
	}
	for _, group := range strings.Split(extra, ",") {
		if err := tokenutil.ValidateBootstrapGroupName(group); err != nil {
			return nil, errors.New("invalid group in bootstrap token")
		}
		groups = append(groups, group)
	}
	return groups, nil
}
