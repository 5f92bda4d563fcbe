package controllers

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/cluster-bootstrap/util/secrets"

	"orrery/client"
)

func logFailure(component, key string, err error) {
	slog.Warn("not done, will be tried again", "component", component, "key", key, "err", err)
}

// bootstrapSecrets is an informer of the bootstrap tokens alone.
func bootstrapSecrets(e *env) *client.Informer[*corev1.Secret] {
	inf := client.NewInformer(client.For[*corev1.Secret](e.client), metav1.NamespaceSystem,
		metav1.ListOptions{FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken)})
	e.needs = append(e.needs, inf.Synced())
	e.own = append(e.own, inf.Run)
	return inf
}

// The bootstrap signer.
//
// Watches: the ConfigMap kube-public/cluster-info, bootstrap token Secrets.
// Wants: a signature of the kubeconfig in cluster-info for each token that may
// sign, so that a joining node that knows a token can trust what it reads.
// Does: writes and removes the keys jws-kubeconfig-<token id>.
// Upstream: pkg/controller/bootstrap/bootstrapsigner.go.
func startBootstrapSigner(e *env) (func(context.Context) error, error) {
	tokens := bootstrapSecrets(e)
	infos := client.NewInformer(client.For[*corev1.ConfigMap](e.client), metav1.NamespacePublic,
		metav1.ListOptions{FieldSelector: "metadata.name=" + bootstrapapi.ConfigMapClusterInfo})
	e.needs = append(e.needs, infos.Synced())
	e.own = append(e.own, infos.Run)
	api := client.For[*corev1.ConfigMap](e.client)
	const key = metav1.NamespacePublic + "/" + bootstrapapi.ConfigMapClusterInfo
	c := client.NewController("bootstrap-signer-controller", func(ctx context.Context, key string) (client.Result, error) {
		info, ok := infos.GetKey(key)
		if !ok {
			return client.Result{}, nil
		}
		data, err := signed(info.Data, tokens.List(), time.Now())
		if err != nil || equality.Semantic.DeepEqual(data, info.Data) {
			return client.Result{}, err
		}
		info = info.DeepCopy()
		info.Data = data
		_, err = api.Update(ctx, info)
		return client.Result{}, err
	})
	c.Workers = 1
	infos.AddHandler(client.On[*corev1.ConfigMap](c))
	tokens.AddHandler(client.HandlerFunc(func(*corev1.Secret) { c.Queue.Add(key) }))
	return c.Run, nil
}

// signed is cluster-info with the signatures of all tokens that may sign, and no
// others.
func signed(data map[string]string, tokens []*corev1.Secret, now time.Time) (map[string]string, error) {
	content, ok := data[bootstrapapi.KubeConfigKey]
	if !ok {
		return data, nil
	}
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, bootstrapapi.JWSSignatureKeyPrefix) })
	for _, s := range tokens {
		id, secret, ok := usableToken(s, now)
		if !ok || secrets.GetData(s, bootstrapapi.BootstrapTokenUsageSigningKey) != "true" {
			continue
		}
		sig, err := jws.ComputeDetachedSignature(content, id, secret)
		if err != nil {
			return nil, err
		}
		out[bootstrapapi.JWSSignatureKeyPrefix+id] = sig
	}
	return out, nil
}

// usableToken is the id and the secret of a token Secret that is in order.
func usableToken(s *corev1.Secret, now time.Time) (id, secret string, ok bool) {
	name, ok := secrets.ParseName(s.Name)
	id, secret = secrets.GetData(s, bootstrapapi.BootstrapTokenIDKey), secrets.GetData(s, bootstrapapi.BootstrapTokenSecretKey)
	return id, secret, ok && s.Type == bootstrapapi.SecretTypeBootstrapToken && name == id && secret != "" && !secrets.HasExpired(s, now)
}

// The token cleaner.
//
// Watches: bootstrap token Secrets.
// Wants: none that has expired.
// Does: deletes it when its time has come.
// Upstream: pkg/controller/bootstrap/tokencleaner.go.
func startTokenCleaner(e *env) (func(context.Context) error, error) {
	tokens, api := bootstrapSecrets(e), client.For[*corev1.Secret](e.client)
	c := client.NewController("token-cleaner-controller", func(ctx context.Context, key string) (client.Result, error) {
		s, ok := tokens.GetKey(key)
		if !ok {
			return client.Result{}, nil
		}
		left, expired := secrets.GetExpiration(s, time.Now())
		if !expired {
			return client.Result{RequeueAfter: left}, nil
		}
		err := api.Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		return client.Result{}, ignoring(err, apierrors.IsNotFound, apierrors.IsConflict)
	})
	tokens.AddHandler(client.On[*corev1.Secret](c))
	return c.Run, nil
}
