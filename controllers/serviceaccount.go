package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// The service account controller.
//
// Watches: Namespaces, ServiceAccounts.
// Wants: a ServiceAccount "default" in each namespace that is not ending.
// Does: creates it.
// Upstream: pkg/controller/serviceaccount/serviceaccounts_controller.go.
func startServiceAccount(e *env) (func(context.Context) error, error) {
	namespaces, accounts := watching[*corev1.Namespace](e), watching[*corev1.ServiceAccount](e)
	api := client.For[*corev1.ServiceAccount](e.client)
	c := client.NewController("serviceaccount-controller", func(ctx context.Context, name string) (client.Result, error) {
		ns, ok := namespaces.GetKey(name)
		if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
			return client.Result{}, nil
		}
		if _, ok := accounts.Get(name, "default"); ok {
			return client.Result{}, nil
		}
		_, err := api.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}})
		return client.Result{}, ignoring(err, apierrors.IsAlreadyExists, namespaceEnds)
	})
	namespaces.AddHandler(client.On[*corev1.Namespace](c))
	accounts.AddHandler(client.Handler[*corev1.ServiceAccount]{Delete: func(sa *corev1.ServiceAccount) { c.Queue.Add(sa.Namespace) }})
	return c.Run, nil
}

// namespaceEnds recognises the refusal to create in a namespace that is ending.
func namespaceEnds(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// ignoring is err, or nil if one of the tests recognises it.
func ignoring(err error, tests ...func(error) bool) error {
	for _, t := range tests {
		if err != nil && t(err) {
			return nil
		}
	}
	return err
}

const (
	rootCAName            = "kube-root-ca.crt"
	descriptionAnnotation = "kubernetes.io/description"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// The root CA publisher.
//
// Watches: Namespaces, ConfigMaps.
// Wants: a ConfigMap kube-root-ca.crt with the cluster's CA in each namespace, so
// that pods can check whom they talk to.
// Does: creates it and puts it right.
// Upstream: pkg/controller/certificates/rootcacertpublisher/publisher.go.
func startRootCA(e *env) (func(context.Context) error, error) {
	ca, err := e.cfg.rootCA()
	if err != nil || len(ca) == 0 {
		return nil, err
	}
	namespaces, maps := watching[*corev1.Namespace](e), watching[*corev1.ConfigMap](e)
	api := client.For[*corev1.ConfigMap](e.client)
	want := map[string]string{"ca.crt": string(ca)}
	c := client.NewController("root-ca-certificate-publisher-controller", func(ctx context.Context, name string) (client.Result, error) {
		ns, ok := namespaces.GetKey(name)
		if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
			return client.Result{}, nil
		}
		cm, ok := maps.Get(name, rootCAName)
		if !ok {
			cm = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: rootCAName}, Data: want}
			cm.Annotations = map[string]string{descriptionAnnotation: rootCADescription}
			_, err := api.Create(ctx, cm)
			return client.Result{}, ignoring(err, apierrors.IsAlreadyExists, namespaceEnds)
		}
		if len(cm.Data) == 1 && cm.Data["ca.crt"] == want["ca.crt"] && cm.Annotations[descriptionAnnotation] != "" {
			return client.Result{}, nil
		}
		cm = cm.DeepCopy()
		cm.Data = want
		setAnnotation(&cm.ObjectMeta, descriptionAnnotation, rootCADescription)
		_, err := api.Update(ctx, cm)
		return client.Result{}, err
	})
	namespaces.AddHandler(client.On[*corev1.Namespace](c))
	again := func(cm *corev1.ConfigMap) {
		if cm.Name == rootCAName {
			c.Queue.Add(cm.Namespace)
		}
	}
	maps.AddHandler(client.Handler[*corev1.ConfigMap]{Update: func(_, cm *corev1.ConfigMap) { again(cm) }, Delete: again})
	return c.Run, nil
}
