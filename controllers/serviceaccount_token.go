package controllers

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// The service account token controller.
//
// Watches: Secrets, ServiceAccounts.
// Wants: a token that does not expire in each Secret of the type
// kubernetes.io/service-account-token whose annotation names a ServiceAccount,
// and no such Secret without its account. Since v1.24 nobody makes these Secrets
// unasked.
// Does: signs the token with the service account key; deletes the Secret with its
// account.
// Upstream: pkg/controller/serviceaccount/tokens_controller.go, TokensController.
func startServiceAccountToken(e *env) (func(context.Context) error, error) {
	if e.cfg.ServiceAccountKeyFile == "" {
		return nil, nil
	}
	signer, err := loadSigner(e.cfg.ServiceAccountKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--service-account-private-key-file: %w", err)
	}
	ca, err := e.cfg.rootCA()
	if err != nil {
		return nil, err
	}
	secrets, accounts, api := watching[*corev1.Secret](e), watching[*corev1.ServiceAccount](e), client.For[*corev1.Secret](e.client)
	live := client.For[*corev1.ServiceAccount](e.client)
	c := client.NewController("serviceaccount-token-controller", func(ctx context.Context, key string) (client.Result, error) {
		s, ok := secrets.GetKey(key)
		if !ok || s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil {
			return client.Result{}, nil
		}
		sa, ok := accounts.Get(s.Namespace, s.Annotations[corev1.ServiceAccountNameKey])
		uid := s.Annotations[corev1.ServiceAccountUIDKey]
		if !ok { // the cache may be behind
			found, err := live.Get(ctx, s.Namespace, s.Annotations[corev1.ServiceAccountNameKey])
			if ignoring(err, apierrors.IsNotFound) != nil {
				return client.Result{}, err
			}
			sa, ok = found, err == nil
		}
		if !ok || uid != "" && uid != string(sa.UID) {
			err := api.Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
			return client.Result{}, ignoring(err, apierrors.IsNotFound, apierrors.IsConflict)
		}
		if uid != "" && len(s.Data[corev1.ServiceAccountTokenKey]) > 0 && string(s.Data[corev1.ServiceAccountRootCAKey]) == string(ca) && len(s.Data[corev1.ServiceAccountNamespaceKey]) > 0 {
			return client.Result{}, nil
		}
		s = s.DeepCopy()
		setAnnotation(&s.ObjectMeta, corev1.ServiceAccountUIDKey, string(sa.UID))
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[corev1.ServiceAccountRootCAKey], s.Data[corev1.ServiceAccountNamespaceKey] = ca, []byte(s.Namespace)
		if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
			token, err := signer.sign(sa, s)
			if err != nil {
				return client.Result{}, err
			}
			s.Data[corev1.ServiceAccountTokenKey] = []byte(token)
		}
		_, err := api.Update(ctx, s)
		return client.Result{}, err
	})
	secrets.AddHandler(client.On[*corev1.Secret](c))
	accounts.AddHandler(client.HandlerFunc(func(sa *corev1.ServiceAccount) {
		for _, s := range secrets.List() {
			if s.Namespace == sa.Namespace && s.Annotations[corev1.ServiceAccountNameKey] == sa.Name {
				c.Enqueue(s)
			}
		}
	}))
	return c.Run, nil
}

// tokenSigner signs tokens of the form that was usual before v1.24.
type tokenSigner struct {
	key    any
	method jwt.SigningMethod
	id     string
}

func loadSigner(file string) (*tokenSigner, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	s := &tokenSigner{}
	var public any
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		s.key = key
	} else if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		s.key = key
	} else if s.key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		return nil, err
	}
	switch key := s.key.(type) {
	case *rsa.PrivateKey:
		s.method, public = jwt.SigningMethodRS256, key.Public()
	case *ecdsa.PrivateKey:
		s.method, public = jwt.SigningMethodES256, key.Public()
	default:
		return nil, fmt.Errorf("a key of type %T cannot sign tokens", key)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	sum := sha256.Sum256(der)
	s.id = base64.RawURLEncoding.EncodeToString(sum[:])
	return s, err
}

func (t *tokenSigner) sign(sa *corev1.ServiceAccount, s *corev1.Secret) (string, error) {
	token := jwt.NewWithClaims(t.method, jwt.MapClaims{
		"iss":                                    "kubernetes/serviceaccount",
		"sub":                                    "system:serviceaccount:" + sa.Namespace + ":" + sa.Name,
		"kubernetes.io/serviceaccount/namespace": sa.Namespace,
		"kubernetes.io/serviceaccount/secret.name":          s.Name,
		"kubernetes.io/serviceaccount/service-account.name": sa.Name,
		"kubernetes.io/serviceaccount/service-account.uid":  string(sa.UID),
	})
	delete(token.Header, "typ")
	token.Header["kid"] = t.id
	return token.SignedString(t.key)
}
