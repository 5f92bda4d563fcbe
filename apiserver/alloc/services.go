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
	"orrery/apiserver/store"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
// Left out: IPv6 and dual stack.
type Services struct {
	config Config
	ips    *addresses
	ports  *ports

	mu sync.Mutex // of repair
	// complete: the records have been compared with the services once.
	complete bool
	// nobodys are ports in use without a service, with how many comparisons have found them so.
	nobodys map[int32]int
}

// New makes the allocator and puts it into the Service row of the table. Repair is to be called every RepairInterval.
func New(c Config, o objects.Client, st store.Store, table *kinds.Table) (*Services, error) {
	if !c.ServiceCIDR.Addr().Is4() || c.ServiceCIDR.Bits() > 30 {
		return nil, fmt.Errorf("service range %s: want an IPv4 range of at least four addresses", c.ServiceCIDR)
	}
	if c.FirstPort == 0 && c.LastPort == 0 {
		c.FirstPort, c.LastPort = 30000, 32767
	}
	s := &Services{config: c, ips: &addresses{objects: o, span: addressSpan(c.ServiceCIDR)}, ports: &ports{store: st, span: portSpan(c.FirstPort, c.LastPort)}}
	row := table.Stored(schema.GroupResource{Resource: "services"})
	if row == nil {
		return nil, errors.New("the table has no services")
	}
	row.Begin, row.AfterDelete = s.begin, s.afterDelete
	return s, nil
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
		if p.NodePort != 0 && exposed(svc) {
			ports = append(ports, p.NodePort)
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		ports = append(ports, p)
	}
	return ips, ports
}

// exposed reports whether a service has ports on the nodes.
func exposed(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// begin allocates what the service lacks. Nothing is given back before the write has succeeded, and everything new when it has not.
func (s *Services) begin(ctx context.Context, o, before runtime.Object, dryRun bool) (func(bool), error) {
	svc, ok := o.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	if err := s.repaired(ctx); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	old, _ := before.(*corev1.Service)
	t := &taking{s: s, svc: svc, dryRun: dryRun}
	t.oldIPs, t.oldPorts = holdings(old)
	if err := t.all(ctx); err != nil {
		t.finish(ctx, false)
		return nil, err
	}
	return func(written bool) { t.finish(ctx, written) }, nil
}

// afterDelete gives back all that a deleted service had.
func (s *Services) afterDelete(ctx context.Context, o runtime.Object) {
	if svc, ok := o.(*corev1.Service); ok {
		ips, ports := holdings(svc)
		s.release(ctx, ips, ports)
	}
}

// release gives back, even for a client that has gone.
func (s *Services) release(ctx context.Context, ips []netip.Addr, ports []int32) {
	ctx = context.WithoutCancel(ctx)
	s.ips.release(ctx, ips)
	if err := s.ports.release(ctx, ports); err != nil {
		slog.WarnContext(ctx, "cannot give back node ports", "component", "kube-apiserver", "err", err)
	}
}

// taking is one write on its way.
type taking struct {
	s                  *Services
	svc                *corev1.Service
	dryRun             bool
	oldIPs, newIPs     []netip.Addr
	oldPorts, newPorts []int32
}

func (t *taking) all(ctx context.Context) error {
	if errs := kinds.ValidateClusterIPs(t.svc); len(errs) > 0 {
		return t.invalid(errs)
	}
	if errs := t.families(); len(errs) > 0 {
		return t.invalid(errs)
	}
	if err := t.clusterIP(ctx); err != nil {
		return err
	}
	return t.nodePorts(ctx)
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

func (t *taking) clusterIP(ctx context.Context) error {
	spec := &t.svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if len(spec.ClusterIPs) == 0 {
		ip, err := t.s.ips.next(ctx, t.svc, t.dryRun)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		t.newIPs = append(t.newIPs, ip)
		spec.ClusterIPs = []string{ip.String()}
	} else if spec.ClusterIPs[0] != corev1.ClusterIPNone {
		ip, err := netip.ParseAddr(spec.ClusterIPs[0])
		if err != nil {
			return nil // validation says so; and that an address may not change, too
		}
		if len(t.oldIPs) == 0 {
			if err := t.s.ips.take(ctx, t.svc, ip, t.dryRun); err != nil {
				return t.invalid(field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", ip, err))})
			}
			t.newIPs = append(t.newIPs, ip)
		}
	}
	spec.ClusterIP = spec.ClusterIPs[0]
	return nil
}

// nodePorts takes all ports of the service in one write.
func (t *taking) nodePorts(ctx context.Context) error {
	spec := &t.svc.Spec
	wanted := spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && (spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts)
	checked := spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !exposed(t.svc) || !wanted && !checked && !slices.ContainsFunc(spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 }) {
		return nil
	}
	given := spec.DeepCopy()
	err := t.s.ports.swap(ctx, t.dryRun, func(u *used) error {
		*spec, t.newPorts = *given.DeepCopy(), nil // a second try begins anew
		for i := range spec.Ports {
			p := &spec.Ports[i]
			if p.NodePort == 0 && wanted {
				p.NodePort = t.samePort(i)
			}
			if p.NodePort == 0 && !wanted || p.NodePort != 0 && p.NodePort == t.samePort(i) {
				continue
			}
			if err := t.port(u, &p.NodePort, field.NewPath("spec", "ports").Index(i).Child("nodePort")); err != nil {
				return err
			}
		}
		if checked {
			return t.port(u, &spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
		}
		return nil
	})
	if err != nil {
		t.newPorts = nil // they are not ours to give back
	}
	return err
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

func (t *taking) port(u *used, port *int32, at *field.Path) error {
	switch {
	case *port == 0:
		n, err := u.next()
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		*port = n
	case slices.Contains(t.oldPorts, *port):
		return nil
	default:
		switch err := u.take(*port); {
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
func (t *taking) finish(ctx context.Context, written bool) {
	if t.dryRun {
		return
	}
	if !written {
		t.s.release(ctx, t.newIPs, t.newPorts)
		return
	}
	ips, ports := holdings(t.svc)
	t.s.release(ctx,
		slices.DeleteFunc(slices.Clone(t.oldIPs), func(ip netip.Addr) bool { return slices.Contains(ips, ip) }),
		slices.DeleteFunc(slices.Clone(t.oldPorts), func(p int32) bool { return slices.Contains(ports, p) }))
}
