package proxy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"orrery/test/netns"
)

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
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("orreryproxy-%d-%s", os.Getpid(), label)
	sh(t, "ip", "netns", "add", name)
	t.Cleanup(func() { sh(t, "ip", "netns", "del", name) })
	sh(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

// cluster is a node with two pods and a client outside, each in a namespace.
type cluster struct {
	node, outside string
	pods          [2]string
}

const (
	nodeIP    = "172.30.98.2"
	outsideIP = "172.30.98.9"
)

var podIPs = [2]string{"10.244.1.23", "10.244.1.24"}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{node: newNetns(t, "node"), outside: newNetns(t, "out")}
	sh(t, "ip", "netns", "exec", c.node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	wire := func(peer, name, gateway, addr string) {
		sh(t, "ip", "-n", c.node, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", peer)
		sh(t, "ip", "-n", c.node, "addr", "add", gateway, "dev", name)
		sh(t, "ip", "-n", c.node, "link", "set", name, "up")
		sh(t, "ip", "-n", peer, "addr", "add", addr, "dev", "eth0")
		sh(t, "ip", "-n", peer, "link", "set", "eth0", "up")
	}
	wire(c.outside, "eth0", nodeIP+"/24", outsideIP+"/24")
	for i, ip := range podIPs {
		c.pods[i] = newNetns(t, fmt.Sprint("pod", i))
		wire(c.pods[i], fmt.Sprint("veth", i), "10.244.1.1/32", ip+"/32")
		sh(t, "ip", "-n", c.node, "route", "add", ip+"/32", "dev", fmt.Sprint("veth", i))
		sh(t, "ip", "-n", c.pods[i], "route", "add", "10.244.1.1/32", "dev", "eth0")
		sh(t, "ip", "-n", c.pods[i], "route", "add", "default", "via", "10.244.1.1")
	}
	// Addresses of Services are nowhere; a node has a default route for them to start on.
	sh(t, "ip", "-n", c.node, "route", "add", "default", "via", outsideIP)
	return c
}

// serveIn answers in a pod with "NAME CLIENT-ADDRESS" until the test ends.
func serveIn(t *testing.T, ns, network, address, name string) {
	t.Helper()
	var err error
	netns.Within(t, ns, func() {
		if network == "udp" {
			var conn net.PacketConn
			if conn, err = net.ListenPacket("udp", address); err == nil {
				t.Cleanup(func() { conn.Close() })
				go answerUDP(conn, name)
			}
			return
		}
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			t.Cleanup(func() { l.Close() })
			go answerTCP(l, name)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func answerTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		fmt.Fprintf(conn, "%s %s", name, host)
		conn.Close()
	}
}

func answerUDP(conn net.PacketConn, name string) {
	buf := make([]byte, 100)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		conn.WriteTo([]byte(name), from)
	}
}

// get connects from a namespace and returns what the server says.
func get(t *testing.T, ns, address string) (said string, err error) {
	t.Helper()
	netns.Within(t, ns, func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, 5*time.Second); err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 100)
		n, _ := conn.Read(buf)
		said = string(buf[:n])
	})
	return said, err
}
