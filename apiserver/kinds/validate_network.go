package kinds

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Upstream: pkg/apis/networking/validation/validation.go, ValidateIngressSpec.
func validateIngress(in *networkingv1.Ingress) field.ErrorList {
	var c checks
	s := &in.Spec
	if s.DefaultBackend == nil && len(s.Rules) == 0 {
		c.add(field.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		c.backend(s.DefaultBackend, specPath.Child("defaultBackend"))
	}
	for i, r := range s.Rules {
		at := specPath.Child("rules").Index(i)
		if r.Host != "" {
			if _, err := netip.ParseAddr(r.Host); err == nil {
				c.add(field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
			}
			c.host(r.Host, at.Child("host"))
		}
		if r.HTTP == nil {
			continue
		}
		at = at.Child("http", "paths")
		if len(r.HTTP.Paths) == 0 {
			c.add(field.Required(at, ""))
		}
		for j := range r.HTTP.Paths {
			c.httpPath(&r.HTTP.Paths[j], at.Index(j))
		}
	}
	for i, t := range s.TLS {
		at := specPath.Child("tls").Index(i)
		for j, host := range t.Hosts {
			c.host(host, at.Child("hosts").Index(j))
		}
		c.name(t.SecretName, at.Child("secretName"), subdomain)
	}
	if s.IngressClassName != nil {
		c.texts(*s.IngressClassName, specPath.Child("ingressClassName"), subdomain(*s.IngressClassName))
	}
	return c.errs
}

func validateIngressStatus(in, _ *networkingv1.Ingress) field.ErrorList {
	var c checks
	for i, lb := range in.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(i)
		c.balancer(lb.IP, lb.Hostname, at)
	}
	return c.errs
}

// host checks the name of a host that may stand for many.
func (c *checks) host(name string, at *field.Path) {
	if strings.Contains(name, "*") {
		c.texts(name, at, utilvalidation.IsWildcardDNS1123Subdomain(name))
	} else {
		c.texts(name, at, utilvalidation.IsDNS1123Subdomain(name))
	}
}

// httpPath wants paths that cannot be read in two ways.
//
// Upstream: pkg/apis/networking/validation/validation.go, validateHTTPIngressPath.
func (c *checks) httpPath(p *networkingv1.HTTPIngressPath, at *field.Path) {
	if p.PathType == nil {
		c.add(field.Required(at.Child("pathType"), "pathType must be specified"))
		return
	}
	optionOf(c, *p.PathType, at.Child("pathType"), networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	literal := *p.PathType == networkingv1.PathTypeExact || *p.PathType == networkingv1.PathTypePrefix
	if (literal || *p.PathType == networkingv1.PathTypeImplementationSpecific && p.Path != "") && !strings.HasPrefix(p.Path, "/") {
		c.add(field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if literal && strings.Contains(p.Path, part) {
			c.add(field.Invalid(at.Child("path"), p.Path, "must not contain '"+part+"'"))
		}
	}
	for _, end := range []string{"/..", "/."} {
		if literal && strings.HasSuffix(p.Path, end) {
			c.add(field.Invalid(at.Child("path"), p.Path, "cannot end with '"+end+"'"))
		}
	}
	c.backend(&p.Backend, at.Child("backend"))
}

func (c *checks) backend(b *networkingv1.IngressBackend, at *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		c.add(field.Invalid(at, "", "cannot set both resource and service backends"))
	case b.Resource != nil:
		c.reference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, at.Child("resource"))
	case b.Service == nil:
		c.add(field.Invalid(at, "", "resource or service backend is required"))
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

// reference checks what names another object.
func (c *checks) reference(group *string, kind, name string, at *field.Path) {
	if group != nil {
		c.texts(*group, at.Child("apiGroup"), utilvalidation.IsDNS1123Subdomain(*group))
	}
	if c.required(kind, at.Child("kind"), "") {
		c.texts(kind, at.Child("kind"), path.IsValidPathSegmentName(kind))
	}
	if c.required(name, at.Child("name"), "") {
		c.texts(name, at.Child("name"), path.IsValidPathSegmentName(name))
	}
}

// Upstream: pkg/apis/networking/validation/validation.go, validateIngressClassSpec.
func validateIngressClass(k *networkingv1.IngressClass) field.ErrorList {
	const longest = 250
	var c checks
	if len(k.Spec.Controller) > longest {
		c.add(field.TooLong(specPath.Child("controller"), "", longest))
	}
	c.addAll(utilvalidation.IsDomainPrefixedPath(specPath.Child("controller"), k.Spec.Controller))
	p, at := k.Spec.Parameters, specPath.Child("parameters")
	if p == nil {
		return c.errs
	}
	c.reference(p.APIGroup, p.Kind, p.Name, at)
	switch scope := show(p.Scope, ""); {
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		c.add(field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		c.texts(*p.Namespace, at.Child("namespace"), validation.ValidateNamespaceName(*p.Namespace, false))
	case scope == networkingv1.IngressClassParametersReferenceScopeCluster:
		c.forbidden(p.Namespace != nil, at.Child("namespace"), "`parameters.scope` is set to 'Cluster'")
	default:
		oneOf(&c, scope, at.Child("scope"), networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
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
	if len(np.Spec.PolicyTypes) > 2 {
		c.add(field.Invalid(specPath.Child("policyTypes"), np.Spec.PolicyTypes, "may not specify more than two policyTypes"))
		return c.errs
	}
	for i, t := range np.Spec.PolicyTypes {
		listed(&c, t, specPath.Child("policyTypes").Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return c.errs
}

func (c *checks) policyPorts(ports []networkingv1.NetworkPolicyPort, at *field.Path) {
	for i, p := range ports {
		at := at.Index(i)
		if p.Protocol != nil {
			optionOf(c, *p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		switch end := at.Child("endPort"); {
		case p.EndPort == nil && p.Port == nil:
		case p.EndPort == nil:
			c.portOrName(*p.Port, at.Child("port"))
		case p.Port == nil:
			c.add(field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		case p.Port.Type == intstr.String:
			c.add(field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
			c.portOrName(*p.Port, at.Child("port"))
		default:
			c.portOrName(*p.Port, at.Child("port"))
			if *p.EndPort < p.Port.IntVal {
				c.add(field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			c.port(*p.EndPort, end)
		}
	}
}

func (c *checks) peers(peers []networkingv1.NetworkPolicyPeer, at *field.Path) {
	for i, p := range peers {
		at := at.Index(i)
		c.selector(p.PodSelector, at.Child("podSelector"))
		c.selector(p.NamespaceSelector, at.Child("namespaceSelector"))
		if p.IPBlock != nil {
			c.ipBlock(p.IPBlock, at.Child("ipBlock"))
		}
		if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
			c.add(field.Required(at, "must specify a peer"))
		}
		c.forbidden(p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil), at, "may not specify both ipBlock and another peer")
	}
}

// ipBlock: what is excepted lies within the block.
func (c *checks) ipBlock(b *networkingv1.IPBlock, at *field.Path) {
	if !c.required(b.CIDR, at.Child("cidr"), "") {
		return
	}
	c.addAll(utilvalidation.IsValidCIDR(at.Child("cidr"), b.CIDR))
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return // said above
	}
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		c.addAll(utilvalidation.IsValidCIDR(at, text))
		if p, err := netip.ParsePrefix(text); err == nil && (!cidr.Contains(p.Addr()) || cidr.Bits() >= p.Bits()) {
			c.add(field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
}
