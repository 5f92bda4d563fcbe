package proxy

import (
	"flag"
	"log/slog"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

// service makes a Service with TCP ports; do changes it.
func service(namespace, name, ip string, ports []corev1.ServicePort, do func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, Ports: ports},
	}
	if do != nil {
		do(s)
	}
	return s
}

func port(name string, port, nodePort int32) []corev1.ServicePort {
	return []corev1.ServicePort{{Name: name, Protocol: corev1.ProtocolTCP, Port: port, NodePort: nodePort}}
}

// slice makes the EndpointSlice of a Service with one port.
func slice(namespace, service, portName string, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service + "-abcde",
			Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: ptr(corev1.ProtocolTCP)}},
		Endpoints:   endpoints,
	}
}

// on is a ready endpoint on a node.
func on(node string, addresses ...string) (out []discoveryv1.Endpoint) {
	for _, a := range addresses {
		out = append(out, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node})
	}
	return out
}

// state sets the conditions of endpoints.
func state(ready, serving, terminating bool, endpoints []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	for i := range endpoints {
		endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
	return endpoints
}

func nodePort(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }

// recorded are the Services of the cluster whose rules are in
// testdata/kubeadm-v1.36.3.rules.
func recorded() ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	return []*corev1.Service{
			service("default", "kubernetes", "10.96.0.1", port("https", 443, 0), nil),
			service("default", "hello", "10.105.84.38", port("", 80, 31285), nodePort),
			service("default", "empty", "10.105.12.187", port("81-81", 81, 0), nil),
			service("default", "headless", corev1.ClusterIPNone, port("", 80, 0), nil),
		}, []*discoveryv1.EndpointSlice{
			slice("default", "kubernetes", "https", 6443, on("", "172.30.0.2")...),
			slice("default", "hello", "", 9898, append(on("w3", "10.244.2.12"), on("w2", "10.244.1.24", "10.244.1.23")...)...),
		}
}

func options() Options {
	return Options{Node: "w2", ClusterCIDR: "10.244.0.0/16", MasqueradeMark: 0x4000, LocalhostNodePorts: true}
}

// The log of a test is of interest only with -v.
func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Verbose() {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	os.Exit(m.Run())
}
