package proxy

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func loadBalancer(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
	}
}

// Each case is a file in testdata, to read as well as to compare with: the whole
// input of iptables-restore. `go test ./proxy -update` writes them.
func TestRules(t *testing.T) {
	type objects struct {
		services []*corev1.Service
		slices   []*discoveryv1.EndpointSlice
		change   func(*Options)
	}
	for name, o := range map[string]objects{
		"nothing": {},
		"two-ports-and-protocols": {
			services: []*corev1.Service{service("kube-system", "kube-dns", "10.96.0.10", []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}}, nil)},
			slices: []*discoveryv1.EndpointSlice{slice("kube-system", "kube-dns", "dns", 53, on("w2", "10.244.1.2")...),
				slice("kube-system", "kube-dns", "dns-tcp", 53, on("w2", "10.244.1.2")...)},
		},
		"external-policy-local-with-an-endpoint-here": {
			services: []*corev1.Service{service("ns", "lb", "10.96.1.1", port("p", 80, 31000), func(s *corev1.Service) {
				loadBalancer("192.0.2.7")(s)
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 32000
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "lb", "p", 8080, append(on("w2", "10.244.1.2"), on("w3", "10.244.2.2")...)...)},
		},
		"external-policy-local-with-endpoints-elsewhere": {
			services: []*corev1.Service{service("ns", "lb", "10.96.1.1", port("p", 80, 31000), func(s *corev1.Service) {
				loadBalancer("192.0.2.7")(s)
				s.Spec.ExternalTrafficPolicy, s.Spec.ExternalIPs = corev1.ServiceExternalTrafficPolicyLocal, []string{"192.0.2.8"}
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "lb", "p", 8080, on("w3", "10.244.2.2")...)},
		},
		"internal-policy-local-with-endpoints-elsewhere": {
			services: []*corev1.Service{service("ns", "agent", "10.96.1.1", port("", 80, 0), func(s *corev1.Service) {
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "agent", "", 8080, on("w3", "10.244.2.2")...)},
		},
		"internal-policy-local-with-an-endpoint-here": {
			services: []*corev1.Service{service("ns", "agent", "10.96.1.1", port("", 80, 0), func(s *corev1.Service) {
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "agent", "", 8080, append(on("w2", "10.244.1.2"), on("w3", "10.244.2.2")...)...)},
		},
		"source-ranges": {
			services: []*corev1.Service{service("ns5", "svc5", "10.96.1.5", port("p80", 80, 3002), func(s *corev1.Service) {
				loadBalancer("5.6.7.8")(s)
				s.Spec.LoadBalancerSourceRanges = []string{" 203.0.113.0/25", "172.30.98.0/24", "nonsense"}
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns5", "svc5", "p80", 80, on("w3", "10.180.0.3")...)},
		},
		"no-endpoints-at-all": {
			services: []*corev1.Service{service("ns", "lb", "10.96.1.1", port("p", 80, 31000), func(s *corev1.Service) {
				loadBalancer("192.0.2.7")(s)
				s.Spec.ExternalIPs = []string{"192.0.2.8"}
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "lb", "p", 8080, state(false, false, false, on("w2", "10.244.1.2"))...)},
		},
		"session-affinity": {
			services: []*corev1.Service{service("ns", "sticky", "10.96.1.1", port("", 80, 0), func(s *corev1.Service) {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(600))}}
			})},
			slices: []*discoveryv1.EndpointSlice{slice("ns", "sticky", "", 8080, on("w2", "10.244.1.2", "10.244.1.3")...)},
		},
		"masquerade-all-and-no-localhost": {
			services: []*corev1.Service{service("ns", "s", "10.96.1.1", port("", 80, 31000), nodePort)},
			slices:   []*discoveryv1.EndpointSlice{slice("ns", "s", "", 8080, on("w2", "10.244.1.2")...)},
			change: func(o *Options) {
				o.MasqueradeAll, o.LocalhostNodePorts, o.MasqueradeMark = true, false, 1<<15
			},
		},
		"node-ports-on-one-address-and-no-cluster-range": {
			services: []*corev1.Service{service("ns", "s", "10.96.1.1", port("", 80, 31000), nodePort)},
			slices:   []*discoveryv1.EndpointSlice{slice("ns", "s", "", 8080, on("w2", "10.244.1.2")...)},
			change: func(o *Options) {
				o.ClusterCIDR, o.NodePortIPs = "", []netip.Addr{netip.MustParseAddr("172.30.98.2")}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options()
			opts.NodeIP = netip.MustParseAddr("172.30.98.2")
			if o.change != nil {
				o.change(&opts)
			}
			got := Compute(o.services, o.slices, opts).String()
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Names that upstream gives to the chains of the same ports and endpoints.
func TestChainNamesAreUpstreams(t *testing.T) {
	sp := &servicePort{name: "ns2/svc2:p80", protocol: "tcp"}
	for got, want := range map[string]string{
		sp.chain(prefixService):  "KUBE-SVC-GNZBNJ2PO5MGZ6GT",
		sp.chain(prefixExternal): "KUBE-EXT-GNZBNJ2PO5MGZ6GT",
		sp.endpointChain(endpoint{addr: netip.MustParseAddrPort("10.180.0.2:80")}): "KUBE-SEP-RS4RBKLTHTF2IUXJ",
	} {
		if got != want {
			t.Errorf("chain %s, want %s", got, want)
		}
	}
}

func TestEndpointsThatAreChosen(t *testing.T) {
	local := func(s *servicePort) { s.internalLocal = true }
	ready := state(true, true, false, on("w2", "10.0.0.1"))
	far := state(true, true, false, on("w3", "10.0.0.2"))
	ending := state(false, true, true, on("w2", "10.0.0.3"))
	dead := state(false, false, false, on("w2", "10.0.0.4"))
	hinted := func(e []discoveryv1.Endpoint, node, zone string) []discoveryv1.Endpoint {
		out := []discoveryv1.Endpoint{*e[0].DeepCopy()}
		out[0].Hints = &discoveryv1.EndpointHints{}
		if node != "" {
			out[0].Hints.ForNodes = []discoveryv1.ForNode{{Name: node}}
		}
		if zone != "" {
			out[0].Hints.ForZones = []discoveryv1.ForZone{{Name: zone}}
		}
		return out
	}
	for _, c := range []struct {
		name           string
		policy         func(*servicePort)
		endpoints      [][]discoveryv1.Endpoint
		cluster, local []string
		any            bool
	}{
		{"ready ones", nil, [][]discoveryv1.Endpoint{ready, far, ending, dead}, []string{"10.0.0.1", "10.0.0.2"}, nil, true},
		{"those that end, when none is ready", nil, [][]discoveryv1.Endpoint{ending, dead}, []string{"10.0.0.3"}, nil, true},
		{"none", nil, [][]discoveryv1.Endpoint{dead}, nil, nil, false},
		{"those of the node", local, [][]discoveryv1.Endpoint{ready, far}, nil, []string{"10.0.0.1"}, true},
		{"one of the node that ends rather than none", local, [][]discoveryv1.Endpoint{far, ending}, nil, []string{"10.0.0.3"}, true},
		{"none of the node, but elsewhere there is one", local, [][]discoveryv1.Endpoint{far}, nil, nil, true},
		{"one hinted for the node", nil, [][]discoveryv1.Endpoint{hinted(ready, "w2", "z"), hinted(far, "w3", "z")}, []string{"10.0.0.1"}, nil, true},
		{"one hinted for the zone", nil, [][]discoveryv1.Endpoint{hinted(ready, "", "y"), hinted(far, "", "z")}, []string{"10.0.0.2"}, nil, true},
		{"all, when one has no hint", nil, [][]discoveryv1.Endpoint{ready, hinted(far, "", "z")}, []string{"10.0.0.1", "10.0.0.2"}, nil, true},
	} {
		sp := &servicePort{}
		if c.policy != nil {
			c.policy(sp)
		}
		var all []discoveryv1.Endpoint
		for _, e := range c.endpoints {
			all = append(all, e...)
		}
		sp.endpoints = endpointsOf([]*discoveryv1.EndpointSlice{slice("", "", "", 80, all...)}, "")
		got := choose(sp, "w2", "z")
		if diff := cmp.Diff(c.cluster, ips(got.cluster)); diff != "" {
			t.Errorf("%s: cluster: %s", c.name, diff)
		}
		if diff := cmp.Diff(c.local, ips(got.local)); diff != "" {
			t.Errorf("%s: local: %s", c.name, diff)
		}
		if got.any != c.any {
			t.Errorf("%s: any is %v", c.name, got.any)
		}
	}
}

func ips(endpoints []endpoint) (out []string) {
	for _, e := range endpoints {
		out = append(out, e.addr.Addr().String())
	}
	return out
}
