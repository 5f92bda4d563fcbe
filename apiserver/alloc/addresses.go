package alloc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// managedBy marks the records that are ours.
const managedBy = "ipallocator.k8s.io"

var ipAddresses = schema.GroupResource{Group: networkingv1.GroupName, Resource: "ipaddresses"}

// addresses hands out cluster IPs. An address is in use when there is an IPAddress of its name, which of several servers only one
// can create.
//
// Upstream: pkg/registry/core/service/ipallocator/ipallocator.go, Allocator.
// Left out: further ServiceCIDRs than the one of the flag.
type addresses struct {
	objects objects.Client
	span
}

// take gives the very address ip to a service.
func (a *addresses) take(ctx context.Context, svc *corev1.Service, ip netip.Addr, dryRun bool) error {
	if !ip.Is4() || !a.contains(number(ip)) {
		return errRange
	}
	if dryRun {
		_, err := a.objects.Get(ctx, ipAddresses, "", ip.String())
		if err == nil {
			return errTaken
		}
		return ignore(err, apierrors.IsNotFound)
	}
	_, err := a.objects.Create(ctx, ipAddresses, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol),
			networkingv1.LabelManagedBy:       managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	})
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

// next gives some free address to a service.
func (a *addresses) next(ctx context.Context, svc *corev1.Service, dryRun bool) (netip.Addr, error) {
	n, err := a.span.next(func(n uint32) (bool, error) {
		// The cache may not know what another server has just given; to create the record decides.
		if _, err := a.objects.Get(ctx, ipAddresses, "", address(n).String()); !apierrors.IsNotFound(err) {
			return false, err
		}
		err := a.take(ctx, svc, address(n), dryRun)
		if errors.Is(err, errTaken) {
			return false, nil
		}
		return err == nil, err
	})
	return address(n), err
}

// release gives addresses back. One that cannot be is found by repair.
func (a *addresses) release(ctx context.Context, ips []netip.Addr) {
	for _, ip := range ips {
		if err := a.objects.Delete(ctx, ipAddresses, "", ip.String()); err != nil && !apierrors.IsNotFound(err) {
			slog.WarnContext(ctx, "cannot give back the address of a service", "component", "kube-apiserver", "key", ip.String(), "err", err)
		}
	}
}

func ignore(err error, expected func(error) bool) error {
	if expected(err) {
		return nil
	}
	return err
}
