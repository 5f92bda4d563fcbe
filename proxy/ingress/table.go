package ingress

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// ControllerName is what the IngressClasses say that are ours.
const ControllerName = "orrery.dev/ingress-controller"

// objects is all that a table is made of.
type objects struct {
	ingresses []*networkingv1.Ingress
	classes   []*networkingv1.IngressClass
	services  []*corev1.Service
	slices    []*discoveryv1.EndpointSlice
	secrets   []*corev1.Secret
}

// table says for each host and path who answers. It never changes.
type table struct {
	// hosts holds the routes of a host, the one to try first in front. A host is a
	// name, "*." and a name, or "" for any.
	hosts map[string][]route
	// fallback answers what no host and path is there for; it may be nil.
	fallback *backend
	// certs holds the certificates by the same hosts.
	certs map[string]*tls.Certificate
}

// route is one path of one rule.
type route struct {
	path    string // of a prefix without the slash at its end
	exact   bool
	rank    int // the higher the earlier
	backend *backend
}

// backend is one port of one Service.
type backend struct {
	name      string   // "namespace/service:port"
	endpoints []string // "address:port", in order
	turn      atomic.Uint64
}

// lookup finds who answers a request; nil is nobody. The host decides first, as
// the API says: a name before a wildcard before no host at all, and only the
// paths of that host count.
func (t *table) lookup(host, p string) *backend {
	clean := path.Clean("/" + p) // else /public/../admin would go where /public goes
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	routes, _ := forHost(t.hosts, host)
	for _, r := range routes {
		if r.matches(clean) {
			return r.backend
		}
	}
	return t.fallback
}

// forHost is what a map by hosts has for the host of a request.
func forHost[V any](of map[string]V, host string) (V, bool) {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	for _, h := range []string{host, "*." + parent, ""} { // a wildcard stands for one label
		if v, ok := of[h]; ok {
			return v, true
		}
	}
	var none V
	return none, false
}

// matches compares element by element: /foo is a prefix of /foo/bar and not of
// /foobar.
func (r route) matches(p string) bool {
	return p == r.path || !r.exact && strings.HasPrefix(p, r.path+"/")
}

// newTable reads the objects. The table is good even if there is an error, which
// says what had to be left out of it.
func newTable(o objects) (*table, error) {
	b := &builder{objects: o, backends: map[string]*backend{},
		table: &table{hosts: map[string][]route{}, certs: map[string]*tls.Certificate{}}}
	for _, ing := range o.ours() {
		b.addTLS(ing)
		b.addRules(ing)
	}
	for _, routes := range b.table.hosts {
		// Stable: of two that are the same, the older Ingress has it.
		slices.SortStableFunc(routes, func(x, y route) int { return cmp.Compare(y.rank, x.rank) })
	}
	return b.table, errors.Join(b.errs...)
}

// ours are the Ingresses of a class of ours, oldest first. Those without a class
// are ours if one of our classes is the default: they may be older than it.
func (o objects) ours() []*networkingv1.Ingress {
	classes := map[string]bool{}
	for _, c := range o.classes {
		if c.Spec.Controller == ControllerName {
			classes[c.Name] = true
			classes[""] = classes[""] || c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
		}
	}
	var out []*networkingv1.Ingress
	for _, ing := range o.ingresses {
		class := ing.Annotations["kubernetes.io/ingress.class"] // how it was said before v1.18
		if ing.Spec.IngressClassName != nil {
			class = *ing.Spec.IngressClassName
		}
		if classes[class] {
			out = append(out, ing)
		}
	}
	slices.SortFunc(out, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return out
}

type builder struct {
	objects
	table    *table
	backends map[string]*backend // by name
	errs     []error
}

func (b *builder) addRules(ing *networkingv1.Ingress) {
	var otherwise *backend
	if d := ing.Spec.DefaultBackend; d != nil {
		otherwise = b.backend(ing.Namespace, *d)
		b.table.fallback = cmp.Or(b.table.fallback, otherwise)
	}
	for _, rule := range ing.Spec.Rules {
		host := strings.ToLower(rule.Host)
		routes := b.table.hosts[host]
		if rule.HTTP != nil {
			for _, p := range rule.HTTP.Paths {
				routes = append(routes, newRoute(p, b.backend(ing.Namespace, p.Backend)))
			}
		}
		if otherwise != nil {
			routes = append(routes, route{rank: -1, backend: otherwise})
		}
		b.table.hosts[host] = routes
	}
}

// newRoute is a path as a route: the longest path counts first, and of two as
// long the exact one. ImplementationSpecific is a prefix here.
func newRoute(p networkingv1.HTTPIngressPath, to *backend) route {
	if p.PathType != nil && *p.PathType == networkingv1.PathTypeExact {
		return route{path: p.Path, exact: true, rank: 2*len(p.Path) + 1, backend: to}
	}
	prefix := strings.TrimRight(p.Path, "/")
	return route{path: prefix, rank: 2 * len(prefix), backend: to}
}

// addTLS files the certificates of an Ingress under its hosts; without hosts it
// is the one for names that have none.
func (b *builder) addTLS(ing *networkingv1.Ingress) {
	for _, entry := range ing.Spec.TLS {
		if entry.SecretName == "" {
			continue // the controller's own certificate will do
		}
		cert, err := b.certificate(ing.Namespace, entry.SecretName)
		if err != nil {
			b.errs = append(b.errs, fmt.Errorf("ingress %s/%s: secret %s: %w", ing.Namespace, ing.Name, entry.SecretName, err))
			continue
		}
		hosts := entry.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, host := range hosts {
			if host = strings.ToLower(host); b.table.certs[host] == nil {
				b.table.certs[host] = cert
			}
		}
	}
}

func (b *builder) certificate(namespace, name string) (*tls.Certificate, error) {
	for _, s := range b.secrets {
		if s.Namespace == namespace && s.Name == name {
			cert, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
			return &cert, err
		}
	}
	return nil, errors.New("there is none of type " + string(corev1.SecretTypeTLS))
}

// backend is the Service's port that a rule names; without endpoints if it is
// not there. All rules that name it share it, and its turn.
func (b *builder) backend(namespace string, ref networkingv1.IngressBackend) *backend {
	if ref.Service == nil {
		return &backend{name: namespace + "/ (not a Service)"}
	}
	service, port := ref.Service.Name, ref.Service.Port
	name := namespace + "/" + service + ":" + cmp.Or(port.Name, strconv.Itoa(int(port.Number)))
	if found, ok := b.backends[name]; ok {
		return found
	}
	out := &backend{name: name}
	b.backends[name] = out
	for _, svc := range b.services {
		if svc.Namespace != namespace || svc.Name != service {
			continue
		}
		for _, p := range svc.Spec.Ports {
			named := port.Name != "" && p.Name == port.Name || port.Name == "" && p.Port == port.Number
			if named && cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
				out.endpoints = b.endpoints(svc, p.Name)
			}
		}
	}
	return out
}

// endpoints are the addresses behind a port: those that are ready or, if there is
// none, those that are on their way out and still serve.
func (b *builder) endpoints(svc *corev1.Service, port string) []string {
	var ready, leaving []string
	for _, s := range b.slices {
		if s.Namespace != svc.Namespace || s.Labels[discoveryv1.LabelServiceName] != svc.Name || s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || deref(p.Name, "") != port {
				continue
			}
			for _, e := range s.Endpoints {
				switch {
				case len(e.Addresses) == 0:
				case deref(e.Conditions.Ready, true):
					ready = append(ready, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				case deref(e.Conditions.Serving, true) && deref(e.Conditions.Terminating, false):
					leaving = append(leaving, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = leaving
	}
	slices.Sort(ready)
	return slices.Compact(ready) // an address may stand in two slices for a moment
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
