package kinds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// Upstream: pkg/apis/core/validation/validation.go, validateService.
func validateService(svc *corev1.Service) field.ErrorList {
	const onlyBalancer = "may only be used when `type` is 'LoadBalancer'"
	var c checks
	s := &svc.Spec
	balancer := s.Type == corev1.ServiceTypeLoadBalancer
	if len(s.Ports) == 0 && !headless(s) && s.Type != corev1.ServiceTypeExternalName {
		c.add(field.Required(specPath.Child("ports"), ""))
	}
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(s) {
			c.add(field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", s.Type)))
		}
	case corev1.ServiceTypeExternalName:
		const notHere = "may not be set for ExternalName services"
		c.forbidden(len(s.ClusterIPs) > 0, specPath.Child("clusterIPs"), notHere)
		c.forbidden(len(s.IPFamilies) > 0, specPath.Child("ipFamilies"), notHere)
		c.forbidden(s.IPFamilyPolicy != nil, specPath.Child("ipFamilyPolicy"), notHere)
		if name := strings.TrimSuffix(s.ExternalName, "."); c.required(name, specPath.Child("externalName"), "") {
			c.texts(name, specPath.Child("externalName"), utilvalidation.IsDNS1123Subdomain(name))
		}
	}
	c.servicePorts(s)
	c.labels(s.Selector, specPath.Child("selector"))
	oneOf(&c, s.SessionAffinity, specPath.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	if cfg := s.SessionAffinityConfig; s.SessionAffinity == corev1.ServiceAffinityClientIP && cfg != nil && cfg.ClientIP != nil && cfg.ClientIP.TimeoutSeconds != nil {
		if t := *cfg.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			c.add(field.Invalid(specPath.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than 86400"))
		}
	}
	c.addAll(ValidateClusterIPs(svc))
	for i, ip := range s.ExternalIPs {
		at := specPath.Child("externalIPs").Index(i)
		if errs := utilvalidation.IsValidIP(at, ip); len(errs) > 0 {
			c.addAll(errs)
		} else {
			c.endpointIP(ip, at)
		}
	}
	oneOf(&c, s.Type, specPath.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	c.distinctPorts(s)
	at := specPath.Child("LoadBalancerSourceRanges")
	c.forbidden(len(s.LoadBalancerSourceRanges) > 0 && !balancer, at, onlyBalancer)
	for i, cidr := range s.LoadBalancerSourceRanges {
		c.addAll(utilvalidation.IsValidCIDR(at.Index(i), strings.TrimSpace(cidr)))
	}
	c.forbidden(s.AllocateLoadBalancerNodePorts != nil && !balancer, specPath.Child("allocateLoadBalancerNodePorts"), onlyBalancer)
	if class := s.LoadBalancerClass; class != nil && balancer {
		c.texts(*class, specPath.Child("loadBalancerClass"), utilvalidation.IsQualifiedName(*class))
	}
	c.forbidden(s.LoadBalancerClass != nil && !balancer, specPath.Child("loadBalancerClass"), onlyBalancer)
	c.trafficPolicies(s)
	return c.errs
}

func headless(s *corev1.ServiceSpec) bool {
	return len(s.ClusterIPs) == 1 && s.ClusterIPs[0] == corev1.ClusterIPNone
}

// exposed reports whether a service can be reached through the nodes.
func exposed(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
}

// ValidateClusterIPs checks the addresses and IP families that a service asks for. The
// allocator asks first, since it could do nothing with what is malformed.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateServiceClusterIPsRelatedFields.
func ValidateClusterIPs(svc *corev1.Service) field.ErrorList {
	var c checks
	s, at := &svc.Spec, specPath.Child("clusterIPs")
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	first := ""
	if len(s.ClusterIPs) > 0 {
		first = s.ClusterIPs[0]
	}
	switch {
	case s.ClusterIP == "" && first != "":
		c.add(field.Invalid(at, s.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case s.ClusterIP != "" && first == "":
		c.add(field.Required(at, ""))
	case s.ClusterIP != first:
		c.add(field.Invalid(at, s.ClusterIPs, "first value must match `clusterIP`"))
	}
	for i, family := range s.IPFamilies {
		at := specPath.Child("ipFamilies").Index(i)
		optionOf(&c, family, at, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if slices.Contains(s.IPFamilies[:i], family) {
			c.add(field.Duplicate(at, family))
		}
	}
	if p := s.IPFamilyPolicy; p != nil {
		listed(&c, *p, specPath.Child("ipFamilyPolicy"), corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	before := len(c.errs)
	var families []corev1.IPFamily
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				c.add(field.Invalid(at, s.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		c.addAll(utilvalidation.IsValidIP(at.Index(i), ip))
		if strings.Contains(ip, ":") {
			families = append(families, corev1.IPv6Protocol)
		} else {
			families = append(families, corev1.IPv4Protocol)
		}
	}
	if len(c.errs) > before {
		return c.errs
	}
	if len(families) > 2 {
		c.add(field.Invalid(at, s.ClusterIPs, "may only hold up to 2 values"))
	}
	if len(families) > 1 && len(sets.New(families...)) < 2 {
		c.add(field.Invalid(at, s.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	for i, is := range families {
		if i < len(s.IPFamilies) && is != s.IPFamilies[i] {
			c.add(field.Invalid(at.Index(i), s.ClusterIPs[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.IPFamilies[i], i)))
		}
	}
	return c.errs
}

func (c *checks) servicePorts(s *corev1.ServiceSpec) {
	names := sets.New[string]()
	for i, p := range s.Ports {
		at := specPath.Child("ports").Index(i)
		if p.Name == "" && len(s.Ports) > 1 {
			c.add(field.Required(at.Child("name"), ""))
		} else if p.Name != "" {
			c.texts(p.Name, at.Child("name"), utilvalidation.IsDNS1123Label(p.Name))
			if names.Has(p.Name) {
				c.add(field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		c.port(p.Port, at.Child("port"))
		oneOf(c, p.Protocol, at.Child("protocol"), protocols...)
		c.portOrName(p.TargetPort, at.Child("targetPort"))
		c.qualified(p.AppProtocol, at.Child("appProtocol"))
	}
}

// distinctPorts: no two ports of a service may have the same protocol and number, inside or on the nodes.
func (c *checks) distinctPorts(s *corev1.ServiceSpec) {
	for i, p := range s.Ports {
		c.forbidden(p.NodePort != 0 && s.Type == corev1.ServiceTypeClusterIP, specPath.Child("ports").Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
	}
	for i, p := range s.Ports {
		if p.NodePort != 0 && slices.ContainsFunc(s.Ports[:i], func(q corev1.ServicePort) bool { return q.Protocol == p.Protocol && q.NodePort == p.NodePort }) {
			c.add(field.Duplicate(specPath.Child("ports").Index(i).Child("nodePort"), p.NodePort))
		}
	}
	for i, p := range s.Ports {
		if slices.ContainsFunc(s.Ports[:i], func(q corev1.ServicePort) bool { return q.Protocol == p.Protocol && q.Port == p.Port }) {
			c.add(field.Duplicate(specPath.Child("ports").Index(i), corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
	}
}

func (c *checks) trafficPolicies(s *corev1.ServiceSpec) {
	at := specPath.Child("externalTrafficPolicy")
	if exposed(s) || s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0 {
		oneOf(c, s.ExternalTrafficPolicy, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.ExternalTrafficPolicy != "" {
		c.add(field.Invalid(at, s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if port := s.HealthCheckNodePort; port != 0 && !needsHealthPort(s) {
		c.add(field.Invalid(specPath.Child("healthCheckNodePort"), port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if p := s.InternalTrafficPolicy; p != nil {
		oneOf(c, *p, specPath.Child("internalTrafficPolicy"), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	if d := s.TrafficDistribution; d != nil {
		oneOf(c, *d, specPath.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}

// validateServiceUpdate: clients remember a service's address, so it stays.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateServiceUpdate.
func validateServiceUpdate(svc, old *corev1.Service) field.ErrorList {
	var c checks
	s, o := &svc.Spec, &old.Spec
	if needsIP(s) && needsIP(o) && len(o.ClusterIPs) > 0 {
		at := specPath.Child("clusterIPs").Index(0)
		switch {
		case len(s.ClusterIPs) == 0:
			c.add(field.Invalid(at, s.ClusterIPs, "primary clusterIP can not be unset"))
		case s.ClusterIPs[0] != o.ClusterIPs[0]:
			c.add(field.Invalid(at, s.ClusterIPs, "may not change once set"))
		}
	}
	return append(c.errs, validateService(svc)...)
}

func validateServiceStatus(svc, _ *corev1.Service) field.ErrorList {
	var c checks
	at, ingress := field.NewPath("status", "loadBalancer", "ingress"), svc.Status.LoadBalancer.Ingress
	if len(ingress) > 0 && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	for i, in := range ingress {
		c.balancer(in.IP, in.Hostname, at.Index(i))
	}
	return c.errs
}

// balancer checks where a load balancer says that it is.
func (c *checks) balancer(ip, hostname string, at *field.Path) {
	if ip != "" {
		c.addAll(utilvalidation.IsValidIP(at.Child("ip"), ip))
	}
	c.name(hostname, at.Child("hostname"), utilvalidation.IsDNS1123Subdomain)
	if _, err := netip.ParseAddr(hostname); err == nil {
		c.add(field.Invalid(at.Child("hostname"), hostname, "must be a DNS name, not an IP address"))
	}
}

// endpointIP refuses addresses that mean another host on every host.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateEndpointIP.
func (c *checks) endpointIP(text string, at *field.Path) {
	switch ip, err := netip.ParseAddr(text); {
	case err != nil:
		c.add(field.Invalid(at, text, "must be a valid IP address"))
	case ip.IsUnspecified():
		c.add(field.Invalid(at, text, "may not be unspecified ("+text+")"))
	case ip.IsLoopback():
		c.add(field.Invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	case ip.IsLinkLocalUnicast():
		c.add(field.Invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	case ip.IsLinkLocalMulticast():
		c.add(field.Invalid(at, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
}

// ownEndpoints reports whether these are the API server's own, which may listen on the loopback interface alone: in tests it does.
func ownEndpoints(o metav1.Object) bool {
	return o.GetNamespace() == metav1.NamespaceDefault && o.GetName() == "kubernetes"
}

// Upstream: pkg/apis/core/validation/validation.go, validateEndpointSubsets.
func validateEndpoints(ep *corev1.Endpoints) field.ErrorList {
	var c checks
	addresses := func(list []corev1.EndpointAddress, at *field.Path) {
		for i, a := range list {
			at := at.Index(i)
			c.addAll(utilvalidation.IsValidIP(at.Child("ip"), a.IP))
			c.name(a.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Label)
			if a.NodeName != nil {
				c.texts(*a.NodeName, at.Child("nodeName"), subdomain(*a.NodeName))
			}
			if !ownEndpoints(ep) {
				c.endpointIP(a.IP, at.Child("ip"))
			}
		}
	}
	for i, set := range ep.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(set.Addresses)+len(set.NotReadyAddresses) == 0 {
			c.add(field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		addresses(set.Addresses, at.Child("addresses"))
		addresses(set.NotReadyAddresses, at.Child("notReadyAddresses"))
		for j, p := range set.Ports {
			at := at.Child("ports").Index(j)
			if len(set.Ports) > 1 {
				c.required(p.Name, at.Child("name"), "")
			}
			c.name(p.Name, at.Child("name"), utilvalidation.IsDNS1123Label)
			c.port(p.Port, at.Child("port"))
			oneOf(&c, p.Protocol, at.Child("protocol"), protocols...)
			c.qualified(p.AppProtocol, at.Child("appProtocol"))
		}
	}
	return c.errs
}

// Upstream: pkg/apis/discovery/validation/validation.go, ValidateEndpointSlice.
func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	const maxEndpoints, maxPorts = 1000, 20000
	var c checks
	oneOf(&c, s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if n := len(s.Ports); n > maxPorts {
		c.add(field.TooMany(field.NewPath("ports"), n, maxPorts))
	}
	names := sets.New[string]()
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		name := show(p.Name, "")
		c.name(name, at.Child("name"), utilvalidation.IsDNS1123Label)
		if names.Has(name) {
			c.add(field.Duplicate(at.Child("name"), name))
		}
		names.Insert(name)
		if p.Protocol != nil {
			oneOf(&c, *p.Protocol, at.Child("protocol"), protocols...)
		}
		c.qualified(p.AppProtocol, at.Child("appProtocol"))
	}
	if n := len(s.Endpoints); n > maxEndpoints {
		c.add(field.TooMany(field.NewPath("endpoints"), n, maxEndpoints))
		return c.errs
	}
	for i := range s.Endpoints {
		c.endpoint(&s.Endpoints[i], s.AddressType, ownEndpoints(s), field.NewPath("endpoints").Index(i))
	}
	return c.errs
}

func (c *checks) endpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, own bool, at *field.Path) {
	const maxAddresses = 100
	addresses := at.Child("addresses")
	if n := len(e.Addresses); n == 0 {
		c.add(field.Required(addresses, "must contain at least 1 address"))
	} else if n > maxAddresses {
		c.add(field.TooMany(addresses, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		at := addresses.Index(i)
		switch ip, err := netip.ParseAddr(a); {
		case kind == discoveryv1.AddressTypeFQDN:
			c.addAll(utilvalidation.IsFullyQualifiedDomainName(at, a))
		case kind != discoveryv1.AddressTypeIPv4 && kind != discoveryv1.AddressTypeIPv6:
		case err != nil:
			c.addAll(utilvalidation.IsValidIP(at, a))
		default:
			if ip.Is4() != (kind == discoveryv1.AddressTypeIPv4) {
				c.add(field.Invalid(addresses, a, "must be an "+string(kind)+" address"))
			}
			if !own {
				c.endpointIP(a, at)
			}
		}
	}
	if e.NodeName != nil {
		c.texts(*e.NodeName, at.Child("nodeName"), subdomain(*e.NodeName))
	}
	if e.Hostname != nil {
		c.texts(*e.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Label(*e.Hostname))
	}
}

func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var c checks
	c.same(s.AddressType, old.AddressType, field.NewPath("addressType"))
	return c.errs
}
