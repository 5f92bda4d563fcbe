package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func class(name, controller string, isDefault bool) *networkingv1.IngressClass {
	c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
	if isDefault {
		c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

func toService(name string, port int32) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: port}}}
}

// newIngress has the class orrery and rules of the form "host Type path service",
// all to port 80; "-" is no host.
func newIngress(name string, rules ...string) *networkingv1.Ingress {
	class := "orrery"
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: networkingv1.IngressSpec{IngressClassName: &class}}
	for _, r := range rules {
		f := strings.Fields(r)
		kind := networkingv1.PathType(f[1])
		ing.Spec.Rules = append(ing.Spec.Rules, networkingv1.IngressRule{
			Host: strings.TrimPrefix(f[0], "-"),
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: f[2], PathType: &kind, Backend: toService(f[3], 80)}}}}})
	}
	return ing
}

// name is what a lookup found: the service, or "" for nobody.
func name(b *backend) string {
	if b == nil {
		return ""
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(b.name, "default/"), ":")
	return service
}

func tableOf(t *testing.T, ingresses ...*networkingv1.Ingress) *table {
	t.Helper()
	table, err := newTable(objects{ingresses: ingresses, classes: []*networkingv1.IngressClass{class("orrery", ControllerName, false)}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// The examples of the API's documentation, and what is between them.
func TestPathsAreMatchedAsTheAPISays(t *testing.T) {
	for _, tt := range []struct {
		rules, path, want string
	}{
		{"Prefix / a", "/", "a"},
		{"Prefix / a", "/any/path", "a"},
		{"Exact /foo a", "/foo", "a"},
		{"Exact /foo a", "/bar", ""},
		{"Exact /foo a", "/foo/", ""},
		{"Exact /foo/ a", "/foo", ""},
		{"Exact /foo/ a", "/foo/", "a"},
		{"Exact /foo a", "/FOO", ""},
		{"Prefix /foo a", "/foo", "a"},
		{"Prefix /foo a", "/foo/", "a"},
		{"Prefix /foo/ a", "/foo", "a"},
		{"Prefix /foo/ a", "/foo/", "a"},
		{"Prefix /aaa/bb a", "/aaa/bbb", ""},
		{"Prefix /aaa/bbb a", "/aaa/bbb", "a"},
		{"Prefix /aaa/bbb/ a", "/aaa/bbb", "a"},
		{"Prefix /aaa/bbb a", "/aaa/bbb/", "a"},
		{"Prefix /aaa/bbb a", "/aaa/bbb/ccc", "a"},
		{"Prefix /aaa/bbb a", "/aaa/bbbxyz", ""},
		{"Prefix / a; Prefix /aaa b", "/aaa/ccc", "b"},
		{"Prefix /aaa b; Prefix / a", "/aaa/ccc", "b"},
		{"Prefix /aaa a; Prefix / b", "/ccc", "b"},
		{"Prefix /aaa a", "/ccc", ""},
		{"Prefix /foo a; Exact /foo b", "/foo", "b"},
		{"Prefix /foo a; Exact /foo b", "/foo/bar", "a"},
		{"Prefix /foo/ a; Exact /foo b", "/foo", "b"},
		{"ImplementationSpecific /foo a", "/foo/bar", "a"},
		{"Prefix /public a", "/public/../admin", ""},
		{"Prefix /public a; Prefix /admin b", "/public//.././admin/", "b"},
		{"Prefix / a", "", "a"},
	} {
		var rules []string
		for r := range strings.SplitSeq(tt.rules, "; ") {
			rules = append(rules, "- "+r)
		}
		if got := name(tableOf(t, newIngress("i", rules...)).lookup("any.example", tt.path)); got != tt.want {
			t.Errorf("with %q, %q goes to %q, want %q", tt.rules, tt.path, got, tt.want)
		}
	}
}

func TestTheHostDecidesFirst(t *testing.T) {
	table := tableOf(t, newIngress("i",
		"shop.example Prefix / exact", "*.example Prefix /wild wild", "Upper.Example Prefix / upper", "- Prefix / any"))
	for _, tt := range []struct{ host, path, want string }{
		{"shop.example", "/", "exact"},
		{"SHOP.example.", "/", "exact"},
		{"shop.example:8080", "/wild", "exact"},
		{"upper.example", "/", "upper"},
		{"other.example", "/wild", "wild"},
		{"other.example", "/", ""}, // the wildcard's host, and none of its paths
		{"a.b.example", "/", "any"},
		{"example", "/", "any"},
		{"172.30.0.3", "/wild", "any"},
		{"[::1]:80", "/", "any"},
		{"", "/", "any"},
	} {
		if got := name(table.lookup(tt.host, tt.path)); got != tt.want {
			t.Errorf("%q at %q goes to %q, want %q", tt.path, tt.host, got, tt.want)
		}
	}
}

func TestTheDefaultBackendTakesWhatIsLeft(t *testing.T) {
	named, bare := newIngress("a-named", "shop.example Prefix /shop shop"), newIngress("b-bare")
	for ing, service := range map[*networkingv1.Ingress]string{named: "own", bare: "bare"} {
		b := toService(service, 80)
		ing.Spec.DefaultBackend = &b
	}
	named.CreationTimestamp = metav1.Unix(2, 0)
	bare.CreationTimestamp = metav1.Unix(1, 0)
	table := tableOf(t, named, bare, newIngress("c", "- Prefix /x x", "other.example Prefix /y y"))
	for _, tt := range []struct{ host, path, want string }{
		{"shop.example", "/shop", "shop"},
		{"shop.example", "/", "own"},
		{"other.example", "/", "bare"}, // the oldest one's
		{"nobody.example", "/x", "x"},
		{"nobody.example", "/", "bare"},
	} {
		if got := name(table.lookup(tt.host, tt.path)); got != tt.want {
			t.Errorf("%q at %q goes to %q, want %q", tt.path, tt.host, got, tt.want)
		}
	}
}

func TestOfTwoThatSayTheSameTheOlderCounts(t *testing.T) {
	younger, older := newIngress("a", "- Prefix / younger"), newIngress("b", "- Prefix / older")
	younger.CreationTimestamp, older.CreationTimestamp = metav1.Unix(2, 0), metav1.Unix(1, 0)
	if got := name(tableOf(t, younger, older).lookup("", "/")); got != "older" {
		t.Errorf("goes to %q", got)
	}
}

func TestOnlyIngressesOfOurClassesCount(t *testing.T) {
	ours, ours2, other := class("orrery", ControllerName, false), class("second", ControllerName, false), class("nginx", "k8s.io/ingress-nginx", true)
	byDefault := class("orrery", ControllerName, true)
	with := func(className, annotation string) *networkingv1.Ingress {
		ing := newIngress("i", "- Prefix / a")
		ing.Spec.IngressClassName = nil
		if className != "" {
			ing.Spec.IngressClassName = &className
		}
		if annotation != "" {
			ing.Annotations = map[string]string{"kubernetes.io/ingress.class": annotation}
		}
		return ing
	}
	for _, tt := range []struct {
		title   string
		ing     *networkingv1.Ingress
		classes []*networkingv1.IngressClass
		want    bool
	}{
		{"our class", with("orrery", ""), []*networkingv1.IngressClass{ours, other}, true},
		{"our other class", with("second", ""), []*networkingv1.IngressClass{ours, ours2}, true},
		{"another's class", with("nginx", ""), []*networkingv1.IngressClass{ours, other}, false},
		{"a class that is not there", with("orrery", ""), nil, false},
		{"the old annotation", with("", "orrery"), []*networkingv1.IngressClass{ours}, true},
		{"the old annotation, another's", with("", "nginx"), []*networkingv1.IngressClass{byDefault, other}, false},
		{"no class, ours is the default", with("", ""), []*networkingv1.IngressClass{byDefault}, true},
		{"no class, another is the default", with("", ""), []*networkingv1.IngressClass{ours, other}, false},
	} {
		if got := len(objects{ingresses: []*networkingv1.Ingress{tt.ing}, classes: tt.classes}.ours()) == 1; got != tt.want {
			t.Errorf("%s: ours = %v", tt.title, got)
		}
	}
}

func endpoint(ip string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

// sliceOf is an EndpointSlice of the Service web with the port "http" at 8080.
func sliceOf(name string, of ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	port, number := "http", int32(8080)
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number}}, Endpoints: of}
}

func webService() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Name: "dns", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "admin", Port: 81}}}}
}

func TestRequestsGoToEndpointsThatServe(t *testing.T) {
	ready, leaving, gone := endpoint("10.244.1.2", true, true, false), endpoint("10.244.1.3", false, true, true), endpoint("10.244.1.4", false, false, true)
	unready := endpoint("10.244.1.5", false, false, false)
	unknown := discoveryv1.Endpoint{Addresses: []string{"10.244.1.6"}}
	six := sliceOf("six", endpoint("fd00::2", true, true, false))
	six.AddressType = discoveryv1.AddressTypeIPv6
	elsewhere := sliceOf("elsewhere", endpoint("10.244.9.9", true, true, false))
	elsewhere.Namespace = "other"
	byName := networkingv1.ServiceBackendPort{Name: "http"}
	for _, tt := range []struct {
		title  string
		slices []*discoveryv1.EndpointSlice
		port   networkingv1.ServiceBackendPort
		want   string
	}{
		{"ready ones only", []*discoveryv1.EndpointSlice{sliceOf("a", unready, leaving, ready, gone)}, byName, "10.244.1.2:8080"},
		{"by number", []*discoveryv1.EndpointSlice{sliceOf("a", ready)}, networkingv1.ServiceBackendPort{Number: 80}, "10.244.1.2:8080"},
		{"of all slices, each once, in order", []*discoveryv1.EndpointSlice{sliceOf("a", unknown, ready), sliceOf("b", ready), six, elsewhere}, byName, "10.244.1.2:8080 10.244.1.6:8080"},
		{"those that leave, if there is none else", []*discoveryv1.EndpointSlice{sliceOf("a", gone, leaving, unready)}, byName, "10.244.1.3:8080"},
		{"none", []*discoveryv1.EndpointSlice{sliceOf("a", gone, unready)}, byName, ""},
		{"another port", []*discoveryv1.EndpointSlice{sliceOf("a", ready)}, networkingv1.ServiceBackendPort{Number: 81}, ""},
		{"no such port", []*discoveryv1.EndpointSlice{sliceOf("a", ready)}, networkingv1.ServiceBackendPort{Number: 8080}, ""},
	} {
		ing := newIngress("i", "- Prefix / web")
		ing.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Port = tt.port
		table, err := newTable(objects{ingresses: []*networkingv1.Ingress{ing}, classes: []*networkingv1.IngressClass{class("orrery", ControllerName, false)},
			services: []*corev1.Service{webService()}, slices: tt.slices})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(table.lookup("", "/").endpoints, " "); got != tt.want {
			t.Errorf("%s: endpoints %q, want %q", tt.title, got, tt.want)
		}
	}
}

// A rule without a Service that is there has a backend without endpoints: 503
// says more than 404.
func TestARuleIsARuleWithoutItsService(t *testing.T) {
	ing := newIngress("i", "- Prefix / nowhere")
	ing.Spec.Rules[0].HTTP.Paths = append(ing.Spec.Rules[0].HTTP.Paths, networkingv1.HTTPIngressPath{Path: "/bucket",
		Backend: networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}})
	for _, path := range []string{"/", "/bucket"} {
		if b := tableOf(t, ing).lookup("", path); b == nil || len(b.endpoints) != 0 {
			t.Errorf("%s: %+v", path, b)
		}
	}
}

// tlsSecret is a certificate for a host that signed itself.
func tlsSecret(t *testing.T, name, host string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}}
}

func TestCertificatesAreChosenByName(t *testing.T) {
	ing := newIngress("i", "shop.example Prefix / shop")
	ing.Spec.TLS = []networkingv1.IngressTLS{
		{Hosts: []string{"Shop.example"}, SecretName: "shop"}, {Hosts: []string{"*.example", "shop.example"}, SecretName: "wild"},
		{Hosts: []string{"bad.test"}, SecretName: "bad"}, {Hosts: []string{"own.test"}}, {Hosts: []string{"missing.test"}, SecretName: "missing"}}
	elsewhere := tlsSecret(t, "missing", "missing.test")
	elsewhere.Namespace = "other"
	bad := tlsSecret(t, "bad", "bad.test")
	bad.Data[corev1.TLSPrivateKeyKey] = []byte("no key")
	table, err := newTable(objects{ingresses: []*networkingv1.Ingress{ing}, classes: []*networkingv1.IngressClass{class("orrery", ControllerName, false)},
		secrets: []*corev1.Secret{tlsSecret(t, "shop", "shop.example"), tlsSecret(t, "wild", "*.example"), bad, elsewhere}})
	for host, want := range map[string]string{"shop.example": "shop.example", "SHOP.example": "shop.example", "other.example": "*.example",
		"bad.test": "", "own.test": "", "missing.test": "", "": ""} {
		got := ""
		if cert, ok := forHost(table.certs, host); ok {
			got = cert.Leaf.Subject.CommonName
		}
		if got != want {
			t.Errorf("%q gets the certificate %q, want %q", host, got, want)
		}
	}
	complaints := strings.Split(err.Error(), "\n")
	slices.Sort(complaints)
	if len(complaints) != 2 || !strings.Contains(complaints[0], "ingress default/i: secret bad: ") ||
		complaints[1] != "ingress default/i: secret missing: there is none of type kubernetes.io/tls" {
		t.Errorf("complaints: %q", complaints)
	}
	if name(table.lookup("shop.example", "/")) != "shop" {
		t.Error("a bad certificate cost the routes")
	}
}
