package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	namespaces      = schema.GroupResource{Resource: "namespaces"}
	configMaps      = schema.GroupResource{Resource: "configmaps"}
	priorityClasses = schema.GroupResource{Group: schedulingv1.GroupName, Resource: "priorityclasses"}
	serviceCIDRs    = schema.GroupResource{Group: networkingv1.GroupName, Resource: "servicecidrs"}
)

// createIfMissing creates obj unless an object of its name is there.
func (b *Bootstrap) createIfMissing(ctx context.Context, resource schema.GroupResource, obj runtime.Object) error {
	m := obj.(metav1.Object)
	_, err := b.config.Objects.Get(ctx, resource, m.GetNamespace(), m.GetName())
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = b.config.Objects.Create(ctx, resource, obj)
	return ignore(err, apierrors.IsAlreadyExists)
}

// ensureNamespaces creates the four namespaces of every cluster.
//
// Upstream: pkg/controlplane/controller/systemnamespaces/system_namespaces_controller.go, Controller.
func (b *Bootstrap) ensureNamespaces(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault} {
		if err := b.createIfMissing(ctx, namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
	}
	return nil
}

// ensurePriorityClasses creates the two classes of system pods.
//
// Upstream: pkg/registry/scheduling/rest/storage_scheduling.go, AddSystemPriorityClasses.
func (b *Bootstrap) ensurePriorityClasses(ctx context.Context) error {
	const highest = 2000000000
	policy := corev1.PreemptLowerPriority
	for _, class := range []*schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: highest + 1000,
			Description: "Used for system critical pods that must not be moved from their current node."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: highest,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
	} {
		class.PreemptionPolicy = &policy
		class.Generation = 1
		if err := b.createIfMissing(ctx, priorityClasses, class); err != nil {
			return err
		}
	}
	return nil
}

// ensureServiceCIDR publishes the range of cluster IPs.
//
// Upstream: pkg/controlplane/controller/defaultservicecidr/default_servicecidr_controller.go, Controller.
func (b *Bootstrap) ensureServiceCIDR(ctx context.Context) error {
	const name = "kubernetes"
	cidr := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{b.config.ServiceCIDR.String()}},
	}
	if err := b.createIfMissing(ctx, serviceCIDRs, cidr); err != nil {
		return err
	}
	_, err := b.config.Objects.Update(ctx, serviceCIDRs, "", name, "status", func(obj runtime.Object) error {
		cidr := obj.(*networkingv1.ServiceCIDR)
		if len(cidr.Status.Conditions) > 0 {
			return errUnchanged
		}
		cidr.Status.Conditions = []metav1.Condition{{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
			Message: "Kubernetes default Service CIDR is ready", LastTransitionTime: metav1.Now(),
		}}
		return nil
	})
	return ignore(err, func(err error) bool { return errors.Is(err, errUnchanged) })
}

// ensureAuthentication publishes how this server authenticates; the scheduler and the
// controller manager read it before they serve.
//
// Upstream: pkg/controlplane/controller/clusterauthenticationtrust/cluster_authentication_trust_controller.go, Controller.
func (b *Bootstrap) ensureAuthentication(ctx context.Context) error {
	const name = "extension-apiserver-authentication"
	data, err := b.config.Authentication.data()
	if err != nil {
		return err
	}
	err = b.createIfMissing(ctx, configMaps, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}, Data: data,
	})
	if err != nil {
		return err
	}
	_, err = b.config.Objects.Update(ctx, configMaps, metav1.NamespaceSystem, name, "", func(obj runtime.Object) error {
		cm := obj.(*corev1.ConfigMap)
		if maps.Equal(cm.Data, data) {
			return errUnchanged
		}
		cm.Data = data
		return nil
	})
	return ignore(err, func(err error) bool { return errors.Is(err, errUnchanged) })
}

// data is the content of the ConfigMap.
func (a *Authentication) data() (map[string]string, error) {
	data := map[string]string{}
	if len(a.ClientCA) > 0 {
		data["client-ca-file"] = string(a.ClientCA)
	}
	if len(a.RequestHeaderCA) == 0 {
		return data, nil
	}
	data["requestheader-client-ca-file"] = string(a.RequestHeaderCA)
	for key, values := range map[string][]string{
		"requestheader-allowed-names":        a.AllowedNames,
		"requestheader-username-headers":     a.UsernameHeaders,
		"requestheader-group-headers":        a.GroupHeaders,
		"requestheader-extra-headers-prefix": a.ExtraHeaderPrefixes,
	} {
		if values == nil {
			values = []string{}
		}
		encoded, err := json.Marshal(values)
		if err != nil {
			return nil, err
		}
		data[key] = string(encoded)
	}
	return data, nil
}
