package alloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is what there is to hand out.
type Config struct {
	// ServiceCIDR is the range of cluster IPs, of IPv4: --service-cluster-ip-range.
	ServiceCIDR netip.Prefix
	// FirstPort and LastPort bound the node ports: --service-node-port-range. Zero means 30000-32767.
	FirstPort, LastPort uint32
}

// Services allocates for the Service row of a table of kinds.
//
// Upstream: pkg/registry/core/service/storage/alloc.go, Allocators.
// Left out: IPv6 and dual stack; several API servers over one store (each would keep pools of its own).
type Services struct {
	objects objects.Client
	config  Config

	mu     sync.Mutex
	loaded bool
	ips    *pool
	ports  *pool
}

// New makes the allocator and puts it into the Service row of the table. Stored services are read at the first write.
func New(c Config, o objects.Client, table *kinds.Table) (*Services, error) {
	if !c.ServiceCIDR.Addr().Is4() || c.ServiceCIDR.Bits() > 30 {
		return nil, fmt.Errorf("service range %s: want an IPv4 range of at least four addresses", c.ServiceCIDR)
	}
	if c.FirstPort == 0 && c.LastPort == 0 {
		c.FirstPort, c.LastPort = 30000, 32767
	}
	s := &Services{objects: o, config: c, ips: addresses(c.ServiceCIDR), ports: ports(c.FirstPort, c.LastPort)}
	row := table.Stored(schema.GroupResource{Resource: "services"})
	if row == nil {
		return nil, errors.New("the table has no services")
	}
	row.Begin, row.AfterDelete = s.begin, s.afterDelete
	return s, nil
}

// load takes from the pools what stored services have, and makes the records of addresses agree with them: a crash may have come between
// a service and its record.
//
// Upstream: pkg/registry/core/service/ipallocator/controller/repairip.go and portallocator/controller/repair.go, RunUntil.
func (s *Services) load(ctx context.Context) error {
	if s.loaded {
		return nil
	}
	stored, err := s.objects.List(ctx, schema.GroupResource{Resource: "services"}, "", nil)
	if err != nil {
		return fmt.Errorf("reading services: %w", err)
	}
	for _, o := range stored {
		svc, ok := o.(*corev1.Service)
		if !ok {
			continue
		}
		ips, ports := holdings(svc)
		for _, ip := range ips {
			if s.ips.contains(number(ip)) {
				s.ips.taken[number(ip)] = true
			}
		}
		for _, port := range ports {
			s.ports.taken[uint32(port)] = true
		}
		s.remember(ctx, svc, ips)
	}
	records, err := s.objects.List(ctx, ipAddresses, "", labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: managedBy}))
	if err != nil {
		return fmt.Errorf("reading addresses: %w", err)
	}
	for _, o := range records {
		if r, ok := o.(*networkingv1.IPAddress); ok {
			if ip, err := netip.ParseAddr(r.Name); err == nil && ip.Is4() && !s.ips.taken[number(ip)] {
				s.forget(ctx, []netip.Addr{ip})
			}
		}
	}
	s.loaded = true
	return nil
}

// holdings are the addresses and node ports that a service has.
func holdings(svc *corev1.Service) (ips []netip.Addr, ports []int32) {
	if svc == nil {
		return nil, nil
	}
	if svc.Spec.Type != corev1.ServiceTypeExternalName {
		for _, text := range svc.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() {
				ips = append(ips, ip)
			}
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		ports = append(ports, p)
	}
	return ips, ports
}

// begin allocates what the service lacks. Nothing is given back before the write has succeeded, and everything new when it has not.
func (s *Services) begin(ctx context.Context, o, before runtime.Object, dryRun bool) (func(bool), error) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	old, _ := before.(*corev1.Service)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	t := &taking{s: s, svc: svc}
	t.oldIPs, t.oldPorts = holdings(old)
	if err := t.all(); err != nil {
		t.giveBack(t.newIPs, t.newPorts)
		return nil, err
	}
	return func(written bool) { t.finish(ctx, old, written && !dryRun) }, nil
}

// afterDelete gives back all that a deleted service had.
func (s *Services) afterDelete(ctx context.Context, o runtime.Object) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return
	}
	ips, ports := holdings(svc)
	s.mu.Lock()
	t := &taking{s: s}
	t.giveBack(ips, ports)
	s.mu.Unlock()
	s.forget(ctx, ips)
}

// taking is one write on its way.
type taking struct {
	s                  *Services
	svc                *corev1.Service
	oldIPs, newIPs     []netip.Addr
	oldPorts, newPorts []int32
}

func (t *taking) all() error {
	if errs := t.families(); len(errs) > 0 {
		return t.invalid(errs)
	}
	if err := t.clusterIP(); err != nil {
		return err
	}
	return t.nodePorts()
}

func (t *taking) invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, t.svc.Name, errs)
}

// families settles the IP families: one, on a cluster that has one.
//
// Upstream: pkg/registry/core/service/storage/alloc.go, Allocators.initIPFamilyFields.
func (t *taking) families() field.ErrorList {
	spec := &t.svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	headless := spec.ClusterIP == corev1.ClusterIPNone || len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone
	if headless && len(spec.Selector) == 0 {
		// Its endpoints are written by hand and may be of both families.
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		}
		if len(spec.IPFamilies) == 1 && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			other := map[corev1.IPFamily]corev1.IPFamily{corev1.IPv4Protocol: corev1.IPv6Protocol, corev1.IPv6Protocol: corev1.IPv4Protocol}
			spec.IPFamilies = append(spec.IPFamilies, other[spec.IPFamilies[0]])
		}
		return nil
	}
	var errs field.ErrorList
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	} else if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return errs
}

func (t *taking) clusterIP() error {
	spec := &t.svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if len(spec.ClusterIPs) == 0 {
		n, err := t.s.ips.next()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		ip := address(n)
		t.newIPs = append(t.newIPs, ip)
		spec.ClusterIPs = []string{ip.String()}
	} else if spec.ClusterIPs[0] != corev1.ClusterIPNone {
		ip, err := netip.ParseAddr(spec.ClusterIPs[0])
		if err != nil {
			return nil // validation says so; and that an address may not change, too
		}
		if len(t.oldIPs) == 0 {
			err = errRange
			if ip.Is4() {
				err = t.s.ips.take(number(ip))
			}
			if err != nil {
				return t.invalid(field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", ip, err))})
			}
			t.newIPs = append(t.newIPs, ip)
		}
	}
	spec.ClusterIP = spec.ClusterIPs[0]
	return nil
}

func (t *taking) nodePorts() error {
	spec := &t.svc.Spec
	wanted := spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && (spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.NodePort == 0 && wanted {
			p.NodePort = t.samePort(i)
		}
		if p.NodePort == 0 && !wanted {
			continue
		}
		if err := t.port(&p.NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort")); err != nil {
			return err
		}
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return t.port(&spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
	}
	return nil
}

// samePort is the node port of an earlier port of the same number and another protocol: DNS wants both on one.
func (t *taking) samePort(i int) int32 {
	p := t.svc.Spec.Ports[i]
	for _, q := range t.svc.Spec.Ports[:i] {
		if q.Port == p.Port && q.Protocol != p.Protocol {
			return q.NodePort
		}
	}
	return 0
}

func (t *taking) port(port *int32, at *field.Path) error {
	switch {
	case *port == 0:
		n, err := t.s.ports.next()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		*port = int32(n)
	case slices.Contains(t.oldPorts, *port) || slices.Contains(t.newPorts, *port):
		return nil
	default:
		switch err := t.s.ports.take(uint32(*port)); {
		case errors.Is(err, errRange):
			return t.invalid(field.ErrorList{field.Invalid(at, *port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", t.s.config.FirstPort, t.s.config.LastPort))})
		case err != nil:
			return t.invalid(field.ErrorList{field.Invalid(at, *port, "provided port is already allocated")})
		}
	}
	t.newPorts = append(t.newPorts, *port)
	return nil
}

// finish keeps the new and gives back the old, or the other way round.
func (t *taking) finish(ctx context.Context, old *corev1.Service, written bool) {
	ips, ports := holdings(t.svc)
	s := t.s
	s.mu.Lock()
	if !written {
		t.giveBack(t.newIPs, t.newPorts)
		s.mu.Unlock()
		return
	}
	goneIPs := slices.DeleteFunc(slices.Clone(t.oldIPs), func(ip netip.Addr) bool { return slices.Contains(ips, ip) })
	gonePorts := slices.DeleteFunc(slices.Clone(t.oldPorts), func(p int32) bool { return slices.Contains(ports, p) })
	t.giveBack(goneIPs, gonePorts)
	s.mu.Unlock()
	s.remember(ctx, t.svc, t.newIPs)
	s.forget(ctx, goneIPs)
}

// giveBack wants the lock held.
func (t *taking) giveBack(ips []netip.Addr, ports []int32) {
	for _, ip := range ips {
		t.s.ips.release(number(ip))
	}
	for _, p := range ports {
		t.s.ports.release(uint32(p))
	}
}

// managedBy marks the records that are ours.
const managedBy = "ipallocator.k8s.io"

var ipAddresses = schema.GroupResource{Group: networkingv1.GroupName, Resource: "ipaddresses"}

// remember writes an IPAddress for each address that a service has newly got: the list that people read, never the truth we go by.
//
// Upstream: pkg/registry/core/service/ipallocator/ipallocator.go, Allocator.createIPAddress.
func (s *Services) remember(ctx context.Context, svc *corev1.Service, ips []netip.Addr) {
	for _, ip := range ips {
		_, err := s.objects.Create(ctx, ipAddresses, &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol),
				networkingv1.LabelManagedBy:       managedBy,
			}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
		})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			slog.WarnContext(ctx, "cannot record the address of a service", "component", "kube-apiserver", "key", svc.Namespace+"/"+svc.Name, "err", err)
		}
	}
}

func (s *Services) forget(ctx context.Context, ips []netip.Addr) {
	for _, ip := range ips {
		if err := s.objects.Delete(ctx, ipAddresses, "", ip.String()); err != nil && !apierrors.IsNotFound(err) {
			slog.WarnContext(ctx, "cannot remove the record of an address", "component", "kube-apiserver", "key", ip.String(), "err", err)
		}
	}
}
