package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery/test/netns"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// install puts rules into the kernel of a namespace.
func install(t *testing.T, ns string, r Ruleset) {
	t.Helper()
	netns.Within(t, ns, func() {
		if err := r.apply(t.Context()); err != nil {
			t.Error(err)
		}
		if err := ensureJumps(t.Context()); err != nil {
			t.Error(err)
		}
		if err := routeLocalnet(); err != nil {
			t.Error(err)
		}
	})
}

var (
	kernelChain = regexp.MustCompile(`^:(INPUT|OUTPUT|FORWARD|PREROUTING|POSTROUTING) `)
	counter     = regexp.MustCompile(` -m nfacct --nfacct-name +\w+`)
)

// normal sorts what iptables-save prints by table and chain: the order of rules
// within a chain counts, that of chains does not.
func normal(saved string) string {
	byChain, table := map[string][]string{}, ""
	for line := range strings.Lines(saved) {
		switch {
		case line[0] == '*':
			table = strings.TrimSpace(line)
		case line[0] == ':' && !kernelChain.MatchString(line):
			chain := strings.Fields(line[1:])[0]
			byChain[table+" "+chain] = append(byChain[table+" "+chain], line)
		case strings.HasPrefix(line, "-A "):
			chain := strings.Fields(line)[1]
			byChain[table+" "+chain] = append(byChain[table+" "+chain], line)
		}
	}
	var out strings.Builder
	keys := make([]string, 0, len(byChain))
	for k := range byChain {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		out.WriteString(k + "\n" + strings.Join(byChain[k], ""))
	}
	return out.String()
}

func saved(t *testing.T, ns string) string {
	return sh(t, "ip", "netns", "exec", ns, "iptables-save")
}

// The file was recorded on a worker of a cluster that kubeadm v1.36.3 made, and
// holds all rules of its kube-proxy.
func TestTheRulesAreThoseOfUpstreamForTheSameServices(t *testing.T) {
	ns := newNetns(t, "n")
	services, endpointSlices := recorded()
	o := options()
	netns.Within(t, ns, func() { o.Counters = makeCounters(slog.New(slog.DiscardHandler)) })
	t.Log("the kernel has nfacct:", o.Counters)
	install(t, ns, Compute(services, endpointSlices, o))
	data, err := os.ReadFile("testdata/kubeadm-v1.36.3.rules")
	if err != nil {
		t.Fatal(err)
	}
	// Where the kernel has no nfacct upstream leaves out the counters, and with
	// them the rule for 127.0.0.0/8 which does nothing else.
	var want strings.Builder
	for line := range strings.Lines(string(data)) {
		if o.Counters {
			want.WriteString(line)
		} else if !strings.Contains(line, counterLocalhost) {
			want.WriteString(counter.ReplaceAllString(line, ""))
		}
	}
	if got := normal(saved(t, ns)); got != normal(want.String()) {
		t.Errorf("rules are\n%s\nwant\n%s", got, normal(want.String()))
	}
}

func TestRulesOfADeletedServiceAreRemovedAndTheRestStays(t *testing.T) {
	ns := newNetns(t, "n")
	sh(t, "ip", "netns", "exec", ns, "iptables", "-t", "nat", "-N", "SOMEBODY-ELSES")
	services, endpointSlices := recorded()
	install(t, ns, Compute(services, endpointSlices, options()))
	install(t, ns, Compute(services[:1], endpointSlices, options()))
	after := saved(t, ns)
	if strings.Contains(after, "default/hello") || strings.Contains(after, "KUBE-SEP-I7QWKKGOLP5SD2WS") {
		t.Errorf("rules of default/hello are left:\n%s", after)
	}
	for _, want := range []string{"KUBE-SVC-NPX46M4PTMTKRN6Y", ":SOMEBODY-ELSES"} {
		if !strings.Contains(after, want) {
			t.Errorf("%s is gone", want)
		}
	}
}

func TestCleanupRemovesEverythingOfOursAndOnlyThat(t *testing.T) {
	ns := newNetns(t, "n")
	sh(t, "ip", "netns", "exec", ns, "iptables", "-t", "nat", "-N", "SOMEBODY-ELSES")
	services, endpointSlices := recorded()
	install(t, ns, Compute(services, endpointSlices, options()))
	for range 2 {
		netns.Within(t, ns, func() {
			if err := Cleanup(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	after := saved(t, ns)
	for line := range strings.Lines(after) {
		if strings.Contains(line, "KUBE-") && !strings.Contains(line, chainFirewall) {
			t.Errorf("left: %s", line)
		}
	}
	if !strings.Contains(after, ":SOMEBODY-ELSES") {
		t.Error("a chain of somebody else is gone")
	}
}

func TestTrafficReachesBothPodsByEveryAddress(t *testing.T) {
	c := newCluster(t)
	services, endpointSlices := recorded()
	endpointSlices[1] = slice("default", "hello", "", 9898, on("w2", podIPs[:]...)...)
	install(t, c.node, Compute(services, endpointSlices, options()))
	for i, pod := range c.pods {
		serveIn(t, pod, "tcp", ":9898", podIPs[i])
	}
	for _, way := range []struct{ name, from, to, client string }{
		{"cluster IP from the node", c.node, "10.105.84.38:80", ""},
		{"cluster IP from a pod", c.pods[0], "10.105.84.38:80", podIPs[0]},
		{"node port from outside", c.outside, nodeIP + ":31285", "10.244.1.1"},
		{"node port from a pod", c.pods[0], nodeIP + ":31285", ""},
		{"node port on 127.0.0.1", c.node, "127.0.0.1:31285", ""},
	} {
		seen := map[string]bool{}
		for range 100 { // of both pods with all but certainty: 2 in 2^100
			said, err := get(t, way.from, way.to)
			if err != nil {
				t.Fatalf("%s: %v", way.name, err)
			}
			pod, client, _ := strings.Cut(said, " ")
			seen[pod] = true
			if pod != podIPs[0] && way.client != "" && client != way.client {
				t.Errorf("%s: the pod sees the client as %s, want %s", way.name, client, way.client)
			}
			if len(seen) == 2 {
				break
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: only %v answered", way.name, seen)
		}
	}
}

func TestAServiceWithoutEndpointsRefuses(t *testing.T) {
	c := newCluster(t)
	services, endpointSlices := recorded()
	services[1].Spec.Ports[0].NodePort = 31285
	install(t, c.node, Compute(services, endpointSlices[:1], options()))
	for _, way := range []struct{ from, to string }{
		{c.node, "10.105.84.38:80"}, {c.pods[0], "10.105.84.38:80"}, {c.outside, nodeIP + ":31285"},
	} {
		if _, err := get(t, way.from, way.to); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v, want connection refused", way.to, err)
		}
	}
}

func TestAClientStaysWithItsPodUnderSessionAffinity(t *testing.T) {
	c := newCluster(t)
	s := service("default", "sticky", "10.96.1.1", port("", 80, 0), func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	})
	eps := slice("default", "sticky", "", 9898, on("w2", podIPs[:]...)...)
	install(t, c.node, Compute([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{eps}, options()))
	for i, pod := range c.pods {
		serveIn(t, pod, "tcp", ":9898", podIPs[i])
	}
	first, err := get(t, c.node, "10.96.1.1:80")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := get(t, c.node, "10.96.1.1:80"); err != nil || again != first {
			t.Fatalf("first %q, then %q, %v", first, again, err)
		}
	}
}

func TestExternalTrafficPolicyLocalKeepsTheClientsAddress(t *testing.T) {
	c := newCluster(t)
	s := service("default", "local", "10.96.1.1", port("", 80, 31000), func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	})
	eps := slice("default", "local", "", 9898, append(on("w2", podIPs[0]), on("w3", "10.244.2.12")...)...)
	install(t, c.node, Compute([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{eps}, options()))
	serveIn(t, c.pods[0], "tcp", ":9898", "pod")
	for range 10 { // never the pod on the other node, which does not exist here
		if said, err := get(t, c.outside, nodeIP+":31000"); err != nil || said != "pod "+outsideIP {
			t.Fatalf("%q, %v; want the pod to see %s", said, err, outsideIP)
		}
	}
}

// exchange sends one datagram on a connected socket and waits for the answer.
func exchange(conn net.Conn) (string, error) {
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func TestAUDPClientIsMovedWhenItsPodGoes(t *testing.T) {
	c := newCluster(t)
	s := service("kube-system", "kube-dns", "10.96.0.10", []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}}, nil)
	for i, pod := range c.pods {
		serveIn(t, pod, "udp", podIPs[i]+":53", podIPs[i])
	}
	with := func(ip string) []*servicePort {
		eps := slice("kube-system", "kube-dns", "dns", 53, on("w2", ip)...)
		ports := servicePorts([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{eps})
		install(t, c.node, compute(ports, options()))
		return ports
	}
	with(podIPs[0])
	var conn net.Conn
	var err error
	netns.Within(t, c.node, func() { conn, err = net.Dial("udp", "10.96.0.10:53") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := exchange(conn); err != nil || said != podIPs[0] {
		t.Fatalf("%q, %v", said, err)
	}
	ports := with(podIPs[1])
	if said, err := exchange(conn); err != nil || said != podIPs[0] {
		t.Fatalf("%q, %v: the kernel no longer remembers conversations, and this test shows nothing", said, err)
	}
	netns.Within(t, c.node, func() {
		if err := forgetStale(ports); err != nil {
			t.Error(err)
		}
	})
	if said, err := exchange(conn); err != nil || said != podIPs[1] {
		t.Errorf("%q, %v; want the answer of %s", said, err, podIPs[1])
	}
}

func TestALoadBalancerLearnsWhichNodeHasEndpoints(t *testing.T) {
	ns := newNetns(t, "n")
	h := &health{timeout: time.Minute, log: slog.Default(), servers: map[int32]*http.Server{}}
	defer h.close()
	ask := func() (code int, weight, body string) {
		netns.Within(t, ns, func() {
			// The transport dials on another thread, which is not in the namespace.
			conn, err := net.Dial("tcp", "127.0.0.1:32000")
			if err != nil {
				return
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
				DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
			resp, err := client.Get("http://node:32000/")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			data, _ := io.ReadAll(resp.Body)
			code, weight, body = resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(data)
		})
		return code, weight, body
	}
	set := func(endpoints ...discoveryv1.Endpoint) {
		s := service("ns", "lb", "10.96.1.1", port("p", 80, 31000), func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 32000
		})
		ports := servicePorts([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{slice("ns", "lb", "p", 80, endpoints...)})
		netns.Within(t, ns, func() { h.setServices(ports, "w2") })
	}
	set(on("w2", "10.244.1.2", "10.244.1.3")...)
	want := `{"localEndpoints":2,"service":{"name":"lb","namespace":"ns"},"serviceProxyHealthy":true}` + "\n"
	if code, weight, body := ask(); code != 200 || weight != "2" || body != want {
		t.Errorf("with two endpoints: %d, weight %s, %s", code, weight, body)
	}
	set(on("w3", "10.244.2.2")...)
	if code, weight, _ := ask(); code != 503 || weight != "0" {
		t.Errorf("with none: %d, weight %s", code, weight)
	}
	netns.Within(t, ns, func() { h.setServices(nil, "w2") })
	if code, _, _ := ask(); code != 0 {
		t.Error("the port of a deleted Service still answers")
	}
}
