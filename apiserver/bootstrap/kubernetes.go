package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"orrery/apiserver/registry"
	"orrery/apiserver/store"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	services       = schema.GroupResource{Resource: "services"}
	endpoints      = schema.GroupResource{Resource: "endpoints"}
	endpointSlices = schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}
)

const (
	// kubernetesName is the service under which pods reach the API server.
	kubernetesName = "kubernetes"
	httpsPort      = "https"
	// leasePrefix is where each API server says, for leaseTTL at a time, that it is there.
	leasePrefix = "/registry/masterleases/"
	leaseTTL    = 15 * time.Second
)

// ensureKubernetesService renews this server's lease and makes Service, Endpoints and
// EndpointSlice default/kubernetes lead to all servers that have one.
//
// Upstream: pkg/controlplane/controller/kubernetesservice/controller.go, Controller;
// pkg/controlplane/reconcilers/lease.go, leaseEndpointReconciler.
func (b *Bootstrap) ensureKubernetesService(ctx context.Context) error {
	if err := b.createIfMissing(ctx, services, b.kubernetesService()); err != nil {
		return err
	}
	if err := b.renewLease(ctx); err != nil {
		return err
	}
	addresses, err := b.leases(ctx)
	if err != nil {
		return err
	}
	if len(addresses) == 0 {
		return errors.New("no API server IP addresses were listed in storage, refusing to erase all endpoints for the kubernetes Service")
	}
	return errors.Join(b.publish(ctx, endpoints, b.endpoints(addresses)), b.publish(ctx, endpointSlices, b.endpointSlice(addresses)))
}

func (b *Bootstrap) kubernetesService() *corev1.Service {
	single := corev1.IPFamilyPolicySingleStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: kubernetesName,
			Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{
			Ports:           []corev1.ServicePort{{Name: httpsPort, Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(b.config.Port)}},
			ClusterIP:       b.config.ServiceCIDR.Masked().Addr().Next().String(),
			IPFamilyPolicy:  &single,
			SessionAffinity: corev1.ServiceAffinityNone,
			Type:            corev1.ServiceTypeClusterIP,
		},
	}
}

func (b *Bootstrap) endpoints(addresses []netip.Addr) *corev1.Endpoints {
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: httpsPort, Port: int32(b.config.Port), Protocol: corev1.ProtocolTCP}}}
	for _, address := range addresses {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address.String()})
	}
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: kubernetesName,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets: []corev1.EndpointSubset{subset},
	}
}

func (b *Bootstrap) endpointSlice(addresses []netip.Addr) *discoveryv1.EndpointSlice {
	name, port, protocol, ready := httpsPort, int32(b.config.Port), corev1.ProtocolTCP, true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: kubernetesName,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesName}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	if addresses[0].Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, address := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return slice
}

// publish creates an object or brings it to what it should be.
func (b *Bootstrap) publish(ctx context.Context, resource schema.GroupResource, want runtime.Object) error {
	m := want.(metav1.Object)
	have, err := b.config.Objects.Get(ctx, resource, m.GetNamespace(), m.GetName())
	if apierrors.IsNotFound(err) {
		_, err = b.config.Objects.Create(ctx, resource, want)
		return ignore(err, apierrors.IsAlreadyExists)
	}
	if err != nil || !assign(have.DeepCopyObject(), want) {
		return err
	}
	_, err = b.config.Objects.Update(ctx, resource, m.GetNamespace(), m.GetName(), "", func(obj runtime.Object) error {
		assign(obj, want)
		return nil
	})
	return err
}

// assign copies the content of want into obj and reports whether that changed it.
func assign(obj, want runtime.Object) (changed bool) {
	m := obj.(metav1.Object)
	labels, changed := union(m.GetLabels(), want.(metav1.Object).GetLabels())
	m.SetLabels(labels)
	switch obj := obj.(type) {
	case *corev1.Endpoints:
		want := want.(*corev1.Endpoints)
		if !reflect.DeepEqual(obj.Subsets, want.Subsets) {
			obj.Subsets, changed = want.Subsets, true
		}
	case *discoveryv1.EndpointSlice:
		want := want.(*discoveryv1.EndpointSlice)
		if !reflect.DeepEqual(obj.Endpoints, want.Endpoints) || !reflect.DeepEqual(obj.Ports, want.Ports) {
			obj.Endpoints, obj.Ports, changed = want.Endpoints, want.Ports, true
		}
	}
	return changed
}

// renewLease writes this server's lease anew. Its value is an Endpoints object whose
// generation counts the renewals: it must change, or the store would keep the old end of life.
func (b *Bootstrap) renewLease(ctx context.Context) error {
	key := leasePrefix + b.config.AdvertiseAddress.String()
	row := b.endpointsRow
	lease := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: b.config.AdvertiseAddress.String()}}}}}
	entry, err := b.config.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		value, err := registry.Encode(row, lease)
		if err != nil {
			return err
		}
		_, err = b.config.Store.Create(ctx, key, value, leaseTTL)
		return err
	}
	if err != nil {
		return fmt.Errorf("reading API server lease: %w", err)
	}
	if old, err := registry.Decode(row, entry.Value, entry.Revision); err == nil {
		lease.Generation = old.(metav1.Object).GetGeneration() + 1
	}
	value, err := registry.Encode(row, lease)
	if err != nil {
		return err
	}
	_, err = b.config.Store.Update(ctx, key, value, entry.Revision, leaseTTL)
	return err
}

// leases returns the addresses of all servers with a lease, in order.
func (b *Bootstrap) leases(ctx context.Context) ([]netip.Addr, error) {
	list, err := b.config.Store.List(ctx, leasePrefix, store.ListOptions{KeysOnly: true})
	if err != nil {
		return nil, fmt.Errorf("listing API server leases: %w", err)
	}
	found := map[netip.Addr]bool{}
	for _, entry := range list.Entries {
		if address, err := netip.ParseAddr(strings.TrimPrefix(entry.Key, leasePrefix)); err == nil {
			found[address] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), netip.Addr.Compare), nil
}

// removeLease says that this server goes away, and leaves the endpoints to the servers that remain.
func (b *Bootstrap) removeLease(ctx context.Context) error {
	if !b.config.AdvertiseAddress.IsValid() || !b.config.ServiceCIDR.IsValid() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := b.config.Store.Delete(ctx, leasePrefix+b.config.AdvertiseAddress.String(), 0)
	if err = ignore(err, func(err error) bool { return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrClosed) }); err != nil {
		return err
	}
	addresses, err := b.leases(ctx)
	if err != nil || len(addresses) == 0 {
		return nil
	}
	return errors.Join(b.publish(ctx, endpoints, b.endpoints(addresses)), b.publish(ctx, endpointSlices, b.endpointSlice(addresses)))
}
