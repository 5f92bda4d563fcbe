package stream_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store/memory"
	"orrery/apiserver/stream"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	restclient "k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	clientremote "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// kubelet is a kubelet with a container in which three commands exist: cat, size and fail.
type kubelet struct{}

// ExecInContainer implements remotecommand.Executor.
func (kubelet) ExecInContainer(_ context.Context, _, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "size":
		size := <-resize
		_, err := fmt.Fprintf(out, "%dx%d", size.Width, size.Height)
		return err
	case "fail":
		fmt.Fprintf(out, "in %s", container)
		fmt.Fprint(errOut, "it broke")
		return utilexec.CodeExitError{Err: errors.New("exit"), Code: 7}
	}
	return fmt.Errorf("no command %q", cmd)
}

// PortForward implements portforward.PortForwarder: every port answers with its number and what it was sent.
func (kubelet) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	buffer := make([]byte, 5)
	if _, err := io.ReadFull(stream, buffer); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%d:%s", port, buffer)
	return err
}

// ServeHTTP is the kubelet's server.
func (k kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch parts[0] {
	case "exec":
		opts, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeExec(w, r, k, parts[2], "", parts[3], r.URL.Query()["command"], opts, time.Minute, time.Minute, remotecommand.SupportedStreamingProtocols)
	case "portForward":
		portforward.ServePortForward(w, r, k, parts[2], "", &portforward.V4Options{}, time.Minute, time.Minute, portforward.SupportedProtocols)
	case "containerLogs":
		if r.URL.Query().Get("previous") == "true" {
			http.Error(w, `previous terminated container "c" in pod "web" not found`, http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "log of %s %s", strings.Join(parts[1:], "/"), r.URL.RawQuery)
	default:
		fmt.Fprintf(w, "%s %s authorization=%q", r.Method, r.URL, r.Header.Get("Authorization"))
	}
}

// front is an API server of which only the streams are there; the path is /<resource>/<name>/<subresource>/<rest>.
type front struct {
	t   *testing.T
	url *url.URL
}

func start(t *testing.T) *front {
	t.Helper()
	node := httptest.NewTLSServer(kubelet{})
	t.Cleanup(node.Close)
	backend := httptest.NewServer(kubelet{}) // a pod with a web server
	t.Cleanup(backend.Close)
	table := kinds.NewTable()
	table.Stored(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}).Validate = nil // the pod is on the loopback interface
	reg := registry.New(table, memory.New(), slog.New(slog.DiscardHandler))
	t.Cleanup(reg.Close)
	put := func(group, resource string, obj runtime.Object) {
		if _, err := reg.Create(t.Context(), schema.GroupResource{Group: group, Resource: resource}, obj); err != nil {
			t.Fatal(err)
		}
	}
	put("", "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: portOf(t, node.URL)}}}})
	port := portOf(t, backend.URL)
	pod := func(name, node string, containers ...string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
		for _, c := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: port, Protocol: corev1.ProtocolTCP}}})
		}
		put("", "pods", p)
		if _, err := reg.Update(t.Context(), schema.GroupResource{Resource: "pods"}, "default", name, "status", func(obj runtime.Object) error {
			obj.(*corev1.Pod).Status.PodIP = "127.0.0.1"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	pod("web", "n1", "c")
	pod("two", "n1", "c", "d")
	pod("waiting", "", "c")
	pod("lost", "n2", "c")
	put("", "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 1}}}})
	ready, name := true, "http"
	put("", "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: name, Port: 80}}}})
	put("", "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "empty"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80}}}})
	put("discovery.k8s.io", "endpointslices", &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{"kubernetes.io/service-name": "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}})

	streams := stream.New(stream.Config{Objects: reg, AddressTypes: []corev1.NodeAddressType{corev1.NodeInternalIP}})
	t.Cleanup(streams.Close)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 4)
		rest := ""
		if len(parts) > 3 {
			rest = parts[3]
		}
		a := &auth.Attributes{IsResource: true, Namespace: "default", Resource: parts[0], Name: parts[1], Subresource: parts[2]}
		streams.Handlers()[parts[0]+"/"+parts[2]](w, r, nil, a, rest)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &front{t, u}
}

func portOf(t *testing.T, rawURL string) int32 {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(u.Port(), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}

func (f *front) get(path string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequest("GET", f.url.String()+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// executors are client-go's two ways to run a command, as kubectl uses them.
func (f *front) executors(command string, tty bool) map[string]clientremote.Executor {
	f.t.Helper()
	return f.executorsIn("web", command, tty)
}

func (f *front) executorsIn(pod, command string, tty bool) map[string]clientremote.Executor {
	f.t.Helper()
	u := *f.url
	u.Path = "/pods/" + pod + "/exec"
	q := url.Values{"command": {command}, "container": {"c"}, "stdin": {"true"}, "stdout": {"true"}}
	if tty {
		q.Set("tty", "true")
	} else {
		q.Set("stderr", "true")
	}
	u.RawQuery = q.Encode()
	config := &restclient.Config{Host: f.url.Host}
	ws, err := clientremote.NewWebSocketExecutor(config, "GET", u.String())
	if err != nil {
		f.t.Fatal(err)
	}
	old, err := clientremote.NewSPDYExecutor(config, "POST", &u)
	if err != nil {
		f.t.Fatal(err)
	}
	return map[string]clientremote.Executor{"websocket": ws, "spdy": old}
}

func TestExecPassesInputAndItsEnd(t *testing.T) {
	f := start(t)
	payload := strings.Repeat("0123456789", 100_000)
	for protocol, executor := range f.executors("cat", false) {
		var out, errOut bytes.Buffer
		err := executor.StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: strings.NewReader(payload), Stdout: &out, Stderr: &errOut})
		if err != nil || out.String() != payload || errOut.Len() != 0 {
			t.Errorf("%s: %v, %d of %d bytes, stderr %q", protocol, err, out.Len(), len(payload), errOut.String())
		}
	}
}

func TestExecReportsTheExitCode(t *testing.T) {
	f := start(t)
	for protocol, executor := range f.executors("fail", false) {
		var out, errOut bytes.Buffer
		err := executor.StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut})
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 7 || out.String() != "in c" || errOut.String() != "it broke" {
			t.Errorf("%s: %v, %q, %q", protocol, err, out.String(), errOut.String())
		}
	}
}

func TestExecOnADeadNodeSaysWhatFailed(t *testing.T) {
	f := start(t)
	err := f.executorsIn("lost", "cat", false)["spdy"].StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "error dialing backend: dial tcp 127.0.0.1:1: connect: connection refused") {
		t.Errorf("%v", err)
	}
	if code, body := f.get("/pods/lost/log"); code != 500 || !strings.Contains(body, `containerLogs/default/lost/c\": dial tcp 127.0.0.1:1: connect: connection refused`) {
		t.Errorf("%d %s", code, body)
	}
}

type window struct {
	sizes chan clientremote.TerminalSize
}

func (w window) Next() *clientremote.TerminalSize {
	size, ok := <-w.sizes
	if !ok {
		return nil
	}
	return &size
}

func TestExecResizesTheTerminal(t *testing.T) {
	f := start(t)
	for protocol, executor := range f.executors("size", true) {
		w := window{make(chan clientremote.TerminalSize, 1)}
		w.sizes <- clientremote.TerminalSize{Width: 80, Height: 24}
		var out bytes.Buffer
		stdin, hold := io.Pipe()
		err := executor.StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: stdin, Stdout: &out, Tty: true, TerminalSizeQueue: w})
		_ = hold.Close()
		close(w.sizes)
		if err != nil || out.String() != "80x24" {
			t.Errorf("%s: %v, %q", protocol, err, out.String())
		}
	}
}

func TestPortForwardByWebSocketAndSPDY(t *testing.T) {
	f := start(t)
	u := *f.url
	u.Path = "/pods/web/portforward"
	config := &restclient.Config{Host: f.url.Host}
	ws, err := clientportforward.NewSPDYOverWebsocketDialer(&u, config)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for protocol, forwarder := range map[string]func(stop, ready chan struct{}) (*clientportforward.PortForwarder, error){
		"websocket": func(stop, ready chan struct{}) (*clientportforward.PortForwarder, error) {
			return clientportforward.NewOnAddresses(ws, []string{"127.0.0.1"}, []string{"0:9898"}, stop, ready, io.Discard, io.Discard)
		},
		"spdy": func(stop, ready chan struct{}) (*clientportforward.PortForwarder, error) {
			return clientportforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", &u), []string{"127.0.0.1"}, []string{"0:9898"}, stop, ready, io.Discard, io.Discard)
		},
	} {
		stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		forward, err := forwarder(stop, ready)
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- forward.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("%s: %v", protocol, err)
		}
		ports, err := forward.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, "hello")
			answer := make([]byte, 10)
			if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "9898:hello" {
				t.Errorf("%s: %v, %q", protocol, err, answer)
			}
			_ = conn.Close()
		}
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", protocol, err)
		}
	}
}

func TestLogsComeFromTheKubelet(t *testing.T) {
	f := start(t)
	if code, body := f.get("/pods/web/log?tailLines=10&follow=true"); code != 200 || body != "log of default/web/c follow=true&tailLines=10" {
		t.Errorf("%d %s", code, body)
	}
	if code, body := f.get("/pods/waiting/log"); code != 200 || body != "" {
		t.Errorf("a pod without a node: %d %s", code, body)
	}
}

// What a browser's WebSocket gets: an empty message at once, then the log, as
// bytes or in base64 as it asks.
func TestLogsOverAWebSocket(t *testing.T) {
	f := start(t)
	for protocol, want := range map[string]string{
		"":                     "log of default/web/c tailLines=10",
		"binary.k8s.io":        "log of default/web/c tailLines=10",
		"base64.binary.k8s.io": base64.StdEncoding.EncodeToString([]byte("log of default/web/c tailLines=10")),
	} {
		dialer := websocket.Dialer{}
		if protocol != "" {
			dialer.Subprotocols = []string{protocol}
		}
		conn, resp, err := dialer.DialContext(t.Context(), "ws://"+f.url.Host+"/pods/web/log?tailLines=10", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != protocol {
			t.Errorf("asked for %q, got %q", protocol, got)
		}
		var messages []string
		for {
			_, b, err := conn.ReadMessage()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, string(b))
		}
		if len(messages) < 2 || messages[0] != "" || strings.Join(messages, "") != want {
			t.Errorf("%q: messages %q, want an empty one and %q", protocol, messages, want)
		}
	}
}

func TestWhatCannotBeStreamedIsRefusedInUpstreamsWords(t *testing.T) {
	f := start(t)
	for path, want := range map[string]string{
		"/pods/two/log":               `a container name must be specified for pod two, choose one of: [c d]`,
		"/pods/web/log?container=zz":  `container zz is not valid for pod web`,
		"/pods/nope/log":              `pods \"nope\" not found`,
		"/pods/web/log?tailLines=-1":  `tailLines: Invalid value: -1: must be greater than or equal to 0`,
		"/pods/web/log?previous=true": `previous terminated container \"c\" in pod \"web\" not found`,
		"/pods/web/exec?command=ls":   `Upgrade request required`,
		"/pods/waiting/exec":          `pod waiting does not have a host assigned`,
		"/pods/waiting/portforward":   `pod waiting does not have a host assigned`,
		"/services/empty/proxy/":      `no endpoints available for service \"empty\"`,
		"/services/web:81/proxy/":     `no service port 81 found for service \"web\"`,
	} {
		if code, body := f.get(path); code < 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
}

func TestProxiesReachPodsServicesAndNodes(t *testing.T) {
	f := start(t)
	for path, want := range map[string]string{
		"/pods/web/proxy/a/b?c=d":         `GET /a/b?c=d authorization=""`,
		"/services/web:http/proxy/a":      `GET /a authorization=""`,
		"/services/web:80/proxy/":         `GET / authorization=""`,
		"/services/http:web:http/proxy/x": `GET /x authorization=""`,
		"/nodes/n1/proxy/stats":           `GET /stats authorization=""`,
	} {
		if code, body := f.get(path); code != 200 || body != want {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
	if code, _ := f.get("/pods/web/proxy"); code != 301 {
		t.Errorf("without the slash at the end: %d", code)
	}
}
