package proxy

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// install puts rules into the kernel of a namespace.
func install(t *testing.T, ns string, r Ruleset) {
	t.Helper()
	within(t, ns, func() {
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
	within(t, ns, func() { o.Counters = makeCounters(slog.New(slog.DiscardHandler)) })
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
		within(t, ns, func() {
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
