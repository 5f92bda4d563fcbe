package alloc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// RepairInterval is how often services and records are compared.
	RepairInterval = 3 * time.Minute
	// addressGrace is how old a record without a service must be: another server may be about to write the service.
	addressGrace = time.Minute
	// portGrace is for the same reason: in how many comparisons on end a port must be nobody's.
	portGrace = 3
)

// Repair makes the records agree with the services: a server may have died between the two. What a service has and no record says
// is taken at once; what nobody has is given back after a while.
//
// Upstream: pkg/registry/core/service/ipallocator/controller/repairip.go, RepairIPAddress, and portallocator/controller/repair.go, Repair.
// Left out: events about two services with one address.
func (s *Services) Repair(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repair(ctx)
}

// repaired lets the first write wait for the first repair: records may be older than their keeping.
func (s *Services) repaired(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.complete {
		return nil
	}
	return s.repair(ctx)
}

func (s *Services) repair(ctx context.Context) error {
	// The records first: each of them is older than the services that are read then.
	records, err := s.ips.objects.List(ctx, ipAddresses, "", labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: managedBy}))
	if err != nil {
		return fmt.Errorf("reading addresses: %w", err)
	}
	orphans := map[netip.Addr]*networkingv1.IPAddress{}
	for _, o := range records {
		if r, ok := o.(*networkingv1.IPAddress); ok {
			if ip, err := netip.ParseAddr(r.Name); err == nil {
				orphans[ip] = r
			}
		}
	}
	stored, err := s.ips.objects.List(ctx, schema.GroupResource{Resource: "services"}, "", nil)
	if err != nil {
		return fmt.Errorf("reading services: %w", err)
	}
	inUse := &used{span: s.ports.span}
	for _, o := range stored {
		svc, ok := o.(*corev1.Service)
		if !ok {
			continue
		}
		ips, ports := holdings(svc)
		for _, port := range ports {
			inUse.set(port, true)
		}
		for _, ip := range ips {
			if _, known := orphans[ip]; known {
				delete(orphans, ip)
			} else if err := s.ips.take(ctx, svc, ip, false); err != nil && !errors.Is(err, errTaken) && !errors.Is(err, errRange) {
				return fmt.Errorf("recording the address of service %s/%s: %w", svc.Namespace, svc.Name, err)
			}
		}
	}
	for ip, r := range orphans {
		if time.Since(r.CreationTimestamp.Time) > addressGrace {
			s.ips.release(ctx, []netip.Addr{ip})
		}
	}
	if err := s.repairPorts(ctx, inUse); err != nil {
		return err
	}
	s.complete = true
	return nil
}

// repairPorts takes what services have, and gives back what has been nobody's for long.
func (s *Services) repairPorts(ctx context.Context, inUse *used) error {
	var nobodys map[int32]int
	err := s.ports.swap(ctx, false, func(u *used) error {
		nobodys = map[int32]int{}
		for n := s.ports.first; n <= s.ports.last; n++ {
			port := int32(n)
			switch {
			case inUse.has(port):
				u.set(port, true)
			case u.has(port) && s.nobodys[port]+1 >= portGrace:
				u.set(port, false)
			case u.has(port):
				nobodys[port] = s.nobodys[port] + 1
			}
		}
		return nil
	})
	if err == nil {
		s.nobodys = nobodys
	}
	return err
}
