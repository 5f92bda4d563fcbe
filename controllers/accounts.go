package controllers

import (
	"context"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// accounts gives each controller the identity of its service account in
// kube-system: the account is made when it is missing, and its token is asked
// for by TokenRequest and renewed when a fifth of its life is left.
//
// Upstream: k8s.io/controller-manager/pkg/clientbuilder, DynamicClientBuilder.
type accounts struct {
	root *client.Client
	ctx  context.Context // of the leadership; tokens are fetched from inside requests
}

// config is the root configuration under another identity.
func (a *accounts) config(name string) client.Config {
	source := &tokenSource{accounts: a, name: name}
	cfg := a.root.Config().WithToken("").As(a.root.Config().UserAgent)
	cfg.Token = source.token
	return cfg
}

type tokenSource struct {
	accounts *accounts
	name     string

	mu    sync.Mutex
	value string    // guarded by mu
	renew time.Time // guarded by mu
}

// tokenLife is what is asked for, in seconds.
const tokenLife = 60 * 60

func (s *tokenSource) token() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.value != "" && time.Now().Before(s.renew) {
		return s.value, nil
	}
	ctx, root := s.accounts.ctx, s.accounts.root
	sas := client.For[*corev1.ServiceAccount](root)
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenLife))}}
	var got authenticationv1.TokenRequest
	err := sas.Post(ctx, metav1.NamespaceSystem, s.name, "token", req, &got)
	if apierrors.IsNotFound(err) {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: s.name}}
		if _, err := sas.Create(ctx, sa); err != nil && !apierrors.IsAlreadyExists(err) {
			return "", err
		}
		err = sas.Post(ctx, metav1.NamespaceSystem, s.name, "token", req, &got)
	}
	if err != nil {
		return "", err
	}
	s.value = got.Status.Token
	s.renew = time.Now().Add(time.Until(got.Status.ExpirationTimestamp.Time) * 4 / 5)
	return s.value, nil
}
