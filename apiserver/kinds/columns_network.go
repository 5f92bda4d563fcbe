package kinds

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// The cells of services and what leads to them, and of the objects that govern requests.
//
// Upstream: pkg/printers/internalversion/printers.go.

func serviceCells(svc *corev1.Service) []any {
	ip := none
	if len(svc.Spec.ClusterIPs) > 0 {
		ip = svc.Spec.ClusterIPs[0]
	}
	var ports []string
	for _, p := range svc.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.NodePort > 0 {
			port += ":" + strconv.Itoa(int(p.NodePort))
		}
		ports = append(ports, port+"/"+string(p.Protocol))
	}
	return []any{svc.Name, string(svc.Spec.Type), ip, externalIP(svc), or(strings.Join(ports, ","), none),
		age(svc.CreationTimestamp), labels.FormatLabels(svc.Spec.Selector)}
}

func externalIP(svc *corev1.Service) string {
	switch ips := svc.Spec.ExternalIPs; svc.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return or(strings.Join(ips, ","), none)
	case corev1.ServiceTypeLoadBalancer:
		var in []string
		for _, i := range svc.Status.LoadBalancer.Ingress {
			in = append(in, or(i.IP, i.Hostname))
		}
		slices.Sort(in)
		return or(strings.Join(append(slices.Compact(in), ips...), ","), "<pending>")
	case corev1.ServiceTypeExternalName:
		return svc.Spec.ExternalName
	}
	return unknown
}

func endpointsCells(ep *corev1.Endpoints) []any {
	var list []string
	for _, set := range ep.Subsets {
		for _, a := range set.Addresses {
			if len(set.Ports) == 0 {
				list = append(list, a.IP)
			}
			for _, p := range set.Ports {
				list = append(list, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return []any{ep.Name, or(atMost(list, 3, ","), none), age(ep.CreationTimestamp)}
}

func endpointSliceCells(s *discoveryv1.EndpointSlice) []any {
	var ports, addresses []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return []any{s.Name, string(s.AddressType), or(atMost(ports, 3, ","), unset), or(atMost(addresses, 3, ","), unset), age(s.CreationTimestamp)}
}

func ingressCells(in *networkingv1.Ingress) []any {
	var hosts, addresses []string
	for _, r := range in.Spec.Rules {
		if r.Host != "" || len(hosts) >= 3 {
			hosts = append(hosts, r.Host)
		}
	}
	for _, i := range in.Status.LoadBalancer.Ingress {
		addresses = append(addresses, or(i.IP, i.Hostname))
	}
	ports := "80"
	if len(in.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{in.Name, show(in.Spec.IngressClassName, none), or(atMost(hosts, 3, ","), "*"), strings.Join(addresses, ","), ports, age(in.CreationTimestamp)}
}

func ingressClassCells(c *networkingv1.IngressClass) []any {
	params := none
	if p := c.Spec.Parameters; p != nil {
		params = p.Kind
		if p.APIGroup != nil {
			params += "." + *p.APIGroup
		}
		params += "/" + p.Name
	}
	return []any{c.Name, c.Spec.Controller, params, age(c.CreationTimestamp)}
}

func networkPolicyCells(np *networkingv1.NetworkPolicy) []any {
	return []any{np.Name, metav1.FormatLabelSelector(&np.Spec.PodSelector), age(np.CreationTimestamp)}
}

func ipAddressCells(ip *networkingv1.IPAddress) []any {
	parent := none
	if ref := ip.Spec.ParentRef; ref != nil {
		parent = ref.Resource
		if ref.Group != "" {
			parent += "." + ref.Group
		}
		if ref.Namespace != "" {
			parent += "/" + ref.Namespace
		}
		parent += "/" + ref.Name
	}
	return []any{ip.Name, parent}
}

func serviceCIDRCells(c *networkingv1.ServiceCIDR) []any {
	return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp)}
}

func validatingWebhookCells(c *admissionv1.ValidatingWebhookConfiguration) []any {
	return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp)}
}

func mutatingWebhookCells(c *admissionv1.MutatingWebhookConfiguration) []any {
	return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp)}
}

func validatingPolicyCells(p *admissionv1.ValidatingAdmissionPolicy) []any {
	return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp)}
}

func mutatingPolicyCells(p *admissionv1.MutatingAdmissionPolicy) []any {
	return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp)}
}

func validatingPolicyBindingCells(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp)}
}

func mutatingPolicyBindingCells(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp)}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(ref *admissionv1.ParamRef) string {
	switch {
	case ref == nil:
		return unset
	case ref.Name == "":
		return "*"
	case ref.Namespace == "":
		return ref.Name
	}
	return ref.Namespace + "/" + ref.Name
}

func flowSchemaCells(f *flowv1.FlowSchema) []any {
	how, missing := none, "?"
	if d := f.Spec.DistinguisherMethod; d != nil {
		how = string(d.Type)
	}
	for _, c := range f.Status.Conditions {
		if c.Type == flowv1.FlowSchemaConditionDangling {
			missing = string(c.Status)
		}
	}
	return []any{f.Name, f.Spec.PriorityLevelConfiguration.Name, fmt.Sprint(f.Spec.MatchingPrecedence), how, age(f.CreationTimestamp), missing}
}

func priorityLevelCells(p *flowv1.PriorityLevelConfiguration) []any {
	shares, queues, hand, limit := none, none, none, none
	if l := p.Spec.Limited; l != nil {
		shares = show(l.NominalConcurrencyShares, none)
		if q := l.LimitResponse.Queuing; q != nil {
			queues, hand, limit = fmt.Sprint(q.Queues), fmt.Sprint(q.HandSize), fmt.Sprint(q.QueueLengthLimit)
		}
	} else if e := p.Spec.Exempt; e != nil {
		shares = show(e.NominalConcurrencyShares, none)
	}
	return []any{p.Name, string(p.Spec.Type), shares, queues, hand, limit, age(p.CreationTimestamp)}
}
