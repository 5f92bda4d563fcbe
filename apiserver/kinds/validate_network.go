package kinds

import (
	"fmt"
	"net/netip"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// Upstream: pkg/apis/core/validation/validation.go, ValidateService.
func validateService(svc *corev1.Service) field.ErrorList {
	var c checks
	s := &svc.Spec
	headless := len(s.ClusterIPs) > 0 && s.ClusterIPs[0] == corev1.ClusterIPNone || s.ClusterIP == corev1.ClusterIPNone
	if len(s.Ports) == 0 && !headless && s.Type != corev1.ServiceTypeExternalName {
		c.add(field.Required(specPath.Child("ports"), ""))
	}
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless {
			c.add(field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", s.Type)))
		}
	case corev1.ServiceTypeExternalName:
		if len(s.ClusterIPs) > 0 {
			c.add(field.Forbidden(specPath.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		if c.required(s.ExternalName, specPath.Child("externalName"), "") {
			c.texts(s.ExternalName, specPath.Child("externalName"), utilvalidation.IsDNS1123Subdomain(s.ExternalName))
		}
	}
	c.servicePorts(svc)
	c.labels(s.Selector, specPath.Child("selector"))
	oneOf(&c, s.SessionAffinity, specPath.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	if cfg := s.SessionAffinityConfig; s.SessionAffinity == corev1.ServiceAffinityClientIP && cfg != nil && cfg.ClientIP != nil && cfg.ClientIP.TimeoutSeconds != nil {
		if t := *cfg.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			c.add(field.Invalid(specPath.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than or equal to 86400"))
		}
	}
	if s.Type != corev1.ServiceTypeExternalName {
		for i, ip := range s.ClusterIPs {
			if ip != corev1.ClusterIPNone {
				c.addAll(utilvalidation.IsValidIP(specPath.Child("clusterIPs").Index(i), ip))
			}
		}
		if len(s.ClusterIPs) > 0 && s.ClusterIP != "" && s.ClusterIP != s.ClusterIPs[0] {
			c.add(field.Invalid(specPath.Child("clusterIPs"), s.ClusterIPs, "first value must match `clusterIP`"))
		}
	}
	for i, ip := range s.ExternalIPs {
		c.addAll(utilvalidation.IsValidIP(specPath.Child("externalIPs").Index(i), ip))
	}
	oneOf(&c, s.Type, specPath.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if s.ExternalTrafficPolicy != "" {
		at := specPath.Child("externalTrafficPolicy")
		if s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) == 0 || s.Type == corev1.ServiceTypeExternalName {
			c.add(field.Invalid(at, s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
		}
		optionOf(&c, s.ExternalTrafficPolicy, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	if p := s.InternalTrafficPolicy; p != nil {
		oneOf(&c, *p, specPath.Child("internalTrafficPolicy"), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	return c.errs
}

func (c *checks) servicePorts(svc *corev1.Service) {
	names, seen := sets.New[string](), sets.New[string]()
	for i, p := range svc.Spec.Ports {
		at := specPath.Child("ports").Index(i)
		if p.Name == "" && len(svc.Spec.Ports) > 1 {
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
		if p.NodePort != 0 && svc.Spec.Type == corev1.ServiceTypeClusterIP {
			c.add(field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		key := portKey(&p)
		if seen.Has(key) {
			c.add(field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		seen.Insert(key)
	}
}

// validateServiceUpdate: clients remember a service's address, so it stays.
//
// Upstream: pkg/apis/core/validation/validation.go, validateUpgradeDowngradeClusterIPs.
func validateServiceUpdate(svc, old *corev1.Service) field.ErrorList {
	var c checks
	s, o := &svc.Spec, &old.Spec
	if !needsIP(s) || !needsIP(o) || len(o.ClusterIPs) == 0 {
		return nil
	}
	at := specPath.Child("clusterIPs")
	switch {
	case len(s.ClusterIPs) == 0:
		c.add(field.Invalid(at.Index(0), s.ClusterIPs, "primary clusterIP can not be unset"))
	case s.ClusterIPs[0] != o.ClusterIPs[0]:
		c.add(field.Invalid(at.Index(0), s.ClusterIPs, "may not change once set"))
	}
	return c.errs
}

func validateEndpoints(ep *corev1.Endpoints) field.ErrorList {
	var c checks
	for i, set := range ep.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(set.Addresses)+len(set.NotReadyAddresses) == 0 {
			c.add(field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range set.Addresses {
			c.addAll(utilvalidation.IsValidIP(at.Child("addresses").Index(j).Child("ip"), a.IP))
		}
		for j, p := range set.Ports {
			at := at.Child("ports").Index(j)
			if len(set.Ports) > 1 {
				c.required(p.Name, at.Child("name"), "")
			}
			c.port(p.Port, at.Child("port"))
			oneOf(&c, p.Protocol, at.Child("protocol"), protocols...)
		}
	}
	return c.errs
}

// Upstream: pkg/apis/discovery/validation/validation.go, ValidateEndpointSlice.
func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	const maxEndpoints, maxAddresses, maxPorts = 1000, 100, 20000
	var c checks
	oneOf(&c, s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if n := len(s.Endpoints); n > maxEndpoints {
		c.add(field.TooMany(field.NewPath("endpoints"), n, maxEndpoints))
	}
	for i, e := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i)
		if n := len(e.Addresses); n == 0 {
			c.add(field.Required(at.Child("addresses"), "must contain at least 1 address"))
		} else if n > maxAddresses {
			c.add(field.TooMany(at.Child("addresses"), n, maxAddresses))
		}
		for j, a := range e.Addresses {
			at := at.Child("addresses").Index(j)
			switch ip, err := netip.ParseAddr(a); s.AddressType {
			case discoveryv1.AddressTypeIPv4:
				if err != nil || !ip.Is4() {
					c.add(field.Invalid(at, a, "must be a valid IPv4 address"))
				}
			case discoveryv1.AddressTypeIPv6:
				if err != nil || !ip.Is6() {
					c.add(field.Invalid(at, a, "must be a valid IPv6 address"))
				}
			}
		}
	}
	if n := len(s.Ports); n > maxPorts {
		c.add(field.TooMany(field.NewPath("ports"), n, maxPorts))
	}
	names := sets.New[string]()
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		if name := show(p.Name, ""); names.Has(name) {
			c.add(field.Duplicate(at.Child("name"), name))
		} else {
			names.Insert(name)
			c.name(name, at.Child("name"), utilvalidation.IsDNS1123Label)
		}
		if p.Protocol != nil {
			oneOf(&c, *p.Protocol, at.Child("protocol"), protocols...)
		}
	}
	return c.errs
}

func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var c checks
	c.same(s.AddressType, old.AddressType, field.NewPath("addressType"))
	return c.errs
}

// Upstream: pkg/apis/networking/validation/validation.go, ValidateIngressSpec.
func validateIngress(in *networkingv1.Ingress) field.ErrorList {
	var c checks
	s := &in.Spec
	if s.DefaultBackend != nil {
		c.backend(s.DefaultBackend, specPath.Child("defaultBackend"))
	}
	if s.DefaultBackend == nil && len(s.Rules) == 0 {
		c.add(field.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.IngressClassName != nil {
		c.texts(*s.IngressClassName, specPath.Child("ingressClassName"), subdomain(*s.IngressClassName))
	}
	for i, r := range s.Rules {
		at := specPath.Child("rules").Index(i)
		if r.Host != "" {
			if r.Host[0] == '*' {
				c.texts(r.Host, at.Child("host"), utilvalidation.IsWildcardDNS1123Subdomain(r.Host))
			} else {
				if ip, err := netip.ParseAddr(r.Host); err == nil && ip.IsValid() {
					c.add(field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
				}
				c.texts(r.Host, at.Child("host"), utilvalidation.IsDNS1123Subdomain(r.Host))
			}
		}
		if r.HTTP == nil {
			continue
		}
		at = at.Child("http", "paths")
		if len(r.HTTP.Paths) == 0 {
			c.add(field.Required(at, ""))
		}
		for j, p := range r.HTTP.Paths {
			at := at.Index(j)
			switch kind := p.PathType; {
			case kind == nil:
				c.add(field.Required(at.Child("pathType"), "pathType must be specified"))
			case *kind == networkingv1.PathTypeExact || *kind == networkingv1.PathTypePrefix:
				if !path.IsAbs(p.Path) {
					c.add(field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
				}
			case *kind == networkingv1.PathTypeImplementationSpecific:
				if p.Path != "" && !path.IsAbs(p.Path) {
					c.add(field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
				}
			default:
				optionOf(&c, *kind, at.Child("pathType"), networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
			}
			c.backend(&p.Backend, at.Child("backend"))
		}
	}
	return c.errs
}

func (c *checks) backend(b *networkingv1.IngressBackend, at *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		c.add(field.Invalid(at, "", "cannot set both resource and service backends"))
	case b.Resource != nil:
	case b.Service == nil:
		c.add(field.Required(at.Child("service", "name"), ""))
	default:
		s := b.Service
		if c.required(s.Name, at.Child("service", "name"), "") {
			c.texts(s.Name, at.Child("service", "name"), utilvalidation.IsDNS1123Label(s.Name))
		}
		switch hasName, hasNumber := s.Port.Name != "", s.Port.Number != 0; {
		case hasName && hasNumber:
			c.add(field.Invalid(at, "", "cannot set both port name & port number"))
		case hasName:
			c.texts(s.Port.Name, at.Child("service", "port", "name"), utilvalidation.IsValidPortName(s.Port.Name))
		case hasNumber:
			c.port(s.Port.Number, at.Child("service", "port", "number"))
		default:
			c.add(field.Required(at, "port name or number is required"))
		}
	}
}

func validateIngressClass(k *networkingv1.IngressClass) field.ErrorList {
	var c checks
	if p := k.Spec.Parameters; p != nil {
		c.required(p.Kind, specPath.Child("parameters", "kind"), "kind is required")
		c.required(p.Name, specPath.Child("parameters", "name"), "name is required")
	}
	return c.errs
}

func validateIngressClassUpdate(k, old *networkingv1.IngressClass) field.ErrorList {
	var c checks
	c.same(k.Spec.Controller, old.Spec.Controller, specPath.Child("controller"))
	return c.errs
}

// Upstream: pkg/apis/networking/validation/validation.go, ValidateNetworkPolicySpec.
func validateNetworkPolicy(np *networkingv1.NetworkPolicy) field.ErrorList {
	var c checks
	c.selector(&np.Spec.PodSelector, specPath.Child("podSelector"))
	for i, r := range np.Spec.Ingress {
		at := specPath.Child("ingress").Index(i)
		c.policyPorts(r.Ports, at.Child("ports"))
		c.peers(r.From, at.Child("from"))
	}
	for i, r := range np.Spec.Egress {
		at := specPath.Child("egress").Index(i)
		c.policyPorts(r.Ports, at.Child("ports"))
		c.peers(r.To, at.Child("to"))
	}
	for i, t := range np.Spec.PolicyTypes {
		optionOf(&c, t, specPath.Child("policyTypes").Index(i), networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress)
	}
	return c.errs
}

func (c *checks) policyPorts(ports []networkingv1.NetworkPolicyPort, at *field.Path) {
	for i, p := range ports {
		at := at.Index(i)
		if p.Protocol != nil && !slices.Contains(protocols, *p.Protocol) {
			c.add(field.NotSupported(at.Child("protocol"), *p.Protocol, protocols))
		}
		if p.Port != nil {
			c.portOrName(*p.Port, at.Child("port"))
		}
		if p.EndPort != nil && (p.Port == nil || p.Port.IntVal > *p.EndPort) {
			c.add(field.Invalid(at.Child("endPort"), *p.EndPort, "must be greater than or equal to `port`"))
		}
	}
}

func (c *checks) peers(peers []networkingv1.NetworkPolicyPeer, at *field.Path) {
	for i, p := range peers {
		at := at.Index(i)
		if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
			c.add(field.Required(at, "must specify a peer"))
		}
		if p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil) {
			c.add(field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
		c.selector(p.PodSelector, at.Child("podSelector"))
		c.selector(p.NamespaceSelector, at.Child("namespaceSelector"))
		if b := p.IPBlock; b != nil {
			if c.required(b.CIDR, at.Child("ipBlock", "cidr"), "") {
				c.addAll(utilvalidation.IsValidCIDR(at.Child("ipBlock", "cidr"), b.CIDR))
			}
		}
	}
}
