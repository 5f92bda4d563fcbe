package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery/test/netns"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// The test binary is the plugin when the runtime's environment is set.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main(context.Background(), "the plugin under test")
		return
	}
	os.Exit(m.Run())
}

// node is a network namespace in place of a node, with the plugin's files.
type node struct {
	t      *testing.T
	name   string
	subnet string
	data   string
}

func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newNetns makes a network namespace of the test's own and removes it at the end.
func newNetns(t *testing.T, label string) string {
	t.Helper()
	name := fmt.Sprintf("orrerycni-%d-%s", os.Getpid(), label)
	sh(t, "ip", "netns", "add", name)
	t.Cleanup(func() { sh(t, "ip", "netns", "del", name) })
	sh(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

func newNode(t *testing.T, label, subnet string) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	return &node{t: t, name: newNetns(t, label), subnet: subnet, data: t.TempDir()}
}

// run runs the plugin as the runtime does and returns its result or its error.
func (n *node) run(command, id, ns string, extra string) (*current.Result, *types.Error) {
	n.t.Helper()
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"orrery","type":"orrery-cni","bridge":"cni0",
		"ipam":{"subnet":%q,"dataDir":%q}%s}`, n.subnet, n.data, extra)
	cmd := exec.Command("ip", "netns", "exec", n.name, os.Args[0])
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_IFNAME=eth0", "CNI_PATH=/nowhere")
	if ns != "" {
		cmd.Env = append(cmd.Env, "CNI_NETNS=/run/netns/"+ns)
	}
	cmd.Stdin = strings.NewReader(conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		failure := &types.Error{}
		if json.Unmarshal(out, failure) != nil || failure.Msg == "" {
			n.t.Fatalf("%s %s: %v: no CNI error on stdout: %q %s", command, id, err, out, &stderr)
		}
		return nil, failure
	}
	if command != "ADD" {
		return nil, nil
	}
	result := &current.Result{}
	if err := json.Unmarshal(out, result); err != nil {
		n.t.Fatalf("ADD %s printed %q: %v", id, out, err)
	}
	return result, nil
}

// add makes a pod and returns its namespace and address.
func (n *node) add(id, extra string) (ns, addr string) {
	n.t.Helper()
	ns = newNetns(n.t, id)
	result, failure := n.run("ADD", id, ns, extra)
	if failure != nil {
		n.t.Fatalf("ADD %s: %v", id, failure)
	}
	return ns, result.IPs[0].Address.IP.String()
}

// reach connects to a server that listens in another namespace.
func reach(t *testing.T, from, to, addr string) {
	t.Helper()
	address := serve(t, to, addr+":0")
	conn, err := dial(t, from, address)
	if err != nil {
		t.Errorf("from %s to %s: %v", from, address, err)
		return
	}
	conn.Close()
}

func TestAddDescribesWhatItMade(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	ns := newNetns(t, "p")
	result, failure := n.run("ADD", "p", ns, "")
	if failure != nil {
		t.Fatal(failure)
	}
	if len(result.Interfaces) != 3 || result.Interfaces[0].Name != "cni0" || result.Interfaces[2].Name != "eth0" ||
		result.Interfaces[2].Sandbox != "/run/netns/"+ns {
		t.Errorf("interfaces: %v", result.Interfaces)
	}
	ip := result.IPs[0]
	if *ip.Interface != 2 || ip.Address.String() != "10.244.7.2/32" || ip.Gateway.String() != "10.244.7.1" {
		t.Errorf("ips: %v", ip)
	}
	if got := sh(t, "ip", "-n", ns, "route"); got != "default via 10.244.7.1 dev eth0 \n10.244.7.1 dev eth0 scope link \n" {
		t.Errorf("the pod's routes:\n%s", got)
	}
	if got := sh(t, "ip", "-n", n.name, "-o", "-4", "addr", "show", "cni0"); !strings.Contains(got, "inet 10.244.7.1/24 ") {
		t.Errorf("the bridge: %s", got)
	}
}

func TestPodsOfOneNodeReachEachOtherTheNodeAndThemselves(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	p1, a1 := n.add("p1", "")
	p2, a2 := n.add("p2", "")
	reach(t, p1, p2, a2)
	reach(t, p2, p1, a1)
	reach(t, p1, p1, a1)
	reach(t, n.name, p2, a2)
	reach(t, p1, n.name, "10.244.7.1")
}

// What a Service does: the client must get its answer from the address that it
// asked, although the pod that answers is its neighbour. Bridged frames may go
// through iptables or not.
func TestAPodReachesItsNeighbourAndItselfByTheAddressOfAService(t *testing.T) {
	for _, bridged := range []string{"0", "1"} {
		n := newNode(t, "n"+bridged, "10.244.7.0/24")
		if bridged == "1" {
			if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
				t.Log("the kernel has no br_netfilter: only the case without it is tested")
				continue
			}
		}
		p1, _ := n.add("p1"+bridged, "")
		p2, a2 := n.add("p2"+bridged, "")
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err == nil {
			sh(t, "ip", "netns", "exec", n.name, "sh", "-c", "echo "+bridged+" > /proc/sys/net/bridge/bridge-nf-call-iptables")
		}
		for _, rule := range []string{
			"PREROUTING -d 10.96.0.1 -p tcp -j DNAT --to-destination " + a2 + ":9898",
			"POSTROUTING -s " + a2 + " -d " + a2 + " -j MASQUERADE",
		} {
			sh(t, append([]string{"ip", "netns", "exec", n.name, "iptables", "-t", "nat", "-A"}, strings.Fields(rule)...)...)
		}
		serve(t, p2, a2+":9898")
		for _, from := range []string{p1, p2, p1} { // again: the kernel must not have learned a short cut
			conn, err := dial(t, from, "10.96.0.1:80")
			if err != nil {
				t.Fatalf("bridge-nf-call-iptables %s, from %s: %v", bridged, from, err)
			}
			conn.Close()
		}
	}
}

func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	a, b := newNode(t, "a", "10.244.7.0/24"), newNode(t, "b", "10.244.8.0/24")
	sh(t, "ip", "-n", a.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b.name)
	for i, n := range []*node{a, b} {
		sh(t, "ip", "-n", n.name, "addr", "add", fmt.Sprintf("172.30.99.%d/24", i+2), "dev", "eth0")
		sh(t, "ip", "-n", n.name, "link", "set", "eth0", "up")
	}
	pa, addrA := a.add("pa", "")
	pb, addrB := b.add("pb", "")
	sh(t, "ip", "-n", a.name, "route", "add", "10.244.8.0/24", "via", "172.30.99.3")
	sh(t, "ip", "-n", b.name, "route", "add", "10.244.7.0/24", "via", "172.30.99.2")
	reach(t, pa, pb, addrB)
	reach(t, pb, pa, addrA)
}

func TestDelTakesEverythingBackAlsoWithoutANamespaceAndTwice(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	_, addr := n.add("p", `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`)
	if _, err := os.Stat(filepath.Join(n.data, "orrery", addr)); err != nil {
		t.Fatalf("no file for the address: %v", err)
	}
	for range 2 {
		if _, failure := n.run("DEL", "p", "", ""); failure != nil {
			t.Fatalf("DEL: %v", failure)
		}
	}
	if _, err := os.Stat(filepath.Join(n.data, "orrery", addr)); err == nil {
		t.Error("the address is still reserved")
	}
	if got := sh(t, "ip", "-n", n.name, "-o", "link", "show", "type", "veth"); got != "" {
		t.Errorf("a veth pair is left: %s", got)
	}
	if got := sh(t, "ip", "netns", "exec", n.name, "iptables", "-t", "nat", "-S"); strings.Contains(got, "CNI-DN-") {
		t.Errorf("rules are left:\n%s", got)
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	ns, addr := n.add("p", "")
	prev := fmt.Sprintf(`,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"%s/32"}]}`, addr)
	if _, failure := n.run("CHECK", "p", ns, prev); failure != nil {
		t.Errorf("CHECK of a sound pod: %v", failure)
	}
	sh(t, "ip", "-n", ns, "addr", "flush", "dev", "eth0")
	if _, failure := n.run("CHECK", "p", ns, prev); failure == nil || !strings.Contains(failure.Details, "has not the address") {
		t.Errorf("CHECK of a pod without its address: %v", failure)
	}
}

func TestAFailedAddLeavesNothing(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	n.add("p", "")
	n.subnet = "10.244.9.0/24" // the node was given another range; its bridge has the old one
	ns := newNetns(t, "q")
	_, failure := n.run("ADD", "q", ns, "")
	if failure == nil || failure.Details != `"cni0" already has an IP address different from 10.244.9.1/24` {
		t.Fatalf("ADD: %v", failure)
	}
	if _, err := os.Stat(filepath.Join(n.data, "orrery", "10.244.9.2")); err == nil {
		t.Error("the address is still reserved")
	}
}

func TestErrorsAreOnesThatTheRuntimeUnderstands(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	if _, failure := n.run("ADD", "p", "no-such-netns", ""); failure == nil || failure.Code != types.ErrInvalidNetNS {
		t.Errorf("a missing namespace: %v", failure)
	}
	n.subnet = "not a range"
	if _, failure := n.run("ADD", "p", n.name, ""); failure == nil || failure.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("a bad subnet: %v", failure)
	}
}

func TestGCRemovesWhatTheRuntimeForgot(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	_, kept := n.add("kept", "")
	_, lost := n.add("lost", "")
	valid := `,"cni.dev/valid-attachments":[{"containerID":"kept","ifname":"eth0"}]`
	if _, failure := n.run("GC", "kept", "", valid); failure != nil {
		t.Fatal(failure)
	}
	if _, err := os.Stat(filepath.Join(n.data, "orrery", kept)); err != nil {
		t.Errorf("an address in use was released: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.data, "orrery", lost)); err == nil {
		t.Error("a forgotten address is still reserved")
	}
	if _, failure := n.run("STATUS", "", "", ""); failure != nil {
		t.Errorf("STATUS: %v", failure)
	}
}

func TestAHostPortLeadsToThePod(t *testing.T) {
	n := newNode(t, "n", "10.244.7.0/24")
	outside := newNetns(t, "o")
	sh(t, "ip", "-n", n.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", outside)
	sh(t, "ip", "-n", n.name, "addr", "add", "172.30.99.2/24", "dev", "eth0")
	sh(t, "ip", "-n", outside, "addr", "add", "172.30.99.3/24", "dev", "eth0")
	sh(t, "ip", "-n", n.name, "link", "set", "eth0", "up")
	sh(t, "ip", "-n", outside, "link", "set", "eth0", "up")
	pod, addr := n.add("p", `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`)

	serve(t, pod, addr+":80")
	for _, c := range []struct{ from, to string }{
		{outside, "172.30.99.2:8080"}, {n.name, "172.30.99.2:8080"}, {n.name, "127.0.0.1:8080"}, {pod, "172.30.99.2:8080"},
	} {
		conn, err := dial(t, c.from, c.to)
		if err != nil {
			t.Errorf("from %s to %s: %v", c.from, c.to, err)
			continue
		}
		conn.Close()
	}
}

func dial(t *testing.T, ns, address string) (conn net.Conn, err error) {
	netns.Within(t, ns, func() { conn, err = net.DialTimeout("tcp", address, 5*time.Second) })
	return conn, err
}

// serve listens in a namespace until the test ends and returns its address.
func serve(t *testing.T, ns, address string) string {
	t.Helper()
	var l net.Listener
	var err error
	netns.Within(t, ns, func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}
