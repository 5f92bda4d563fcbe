package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"orrery/client"
	"orrery/test/cluster"
)

// world is an API server with the namespace of the controller, in a bubble.
type world struct {
	*cluster.Cluster
	c   *client.Client
	ctx context.Context
}

func inWorld(t *testing.T, test func(t *testing.T, w world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := cluster.Start(t)
		c, err := client.New(server.Config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		w := world{server, c, t.Context()}
		create(t, w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "orrery-ingress"}})
		create(t, w, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "orrery-ingress", Name: "default"}})
		create(t, w, class("orrery", ControllerName, true))
		test(t, w)
	})
}

func create[T client.Object](t *testing.T, w world, obj T) T {
	t.Helper()
	out, err := client.For[T](w.c).Create(w.ctx, obj)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return out
}

// start runs a replica that listens nowhere; its pods answer with their address.
func (w world) start(t *testing.T, identity string) (c *Controller, stop func()) {
	t.Helper()
	cl, err := client.New(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	c = New(Config{Namespace: "orrery-ingress", Selector: "app=orrery-ingress", Identity: identity}, cl)
	c.log = slog.New(slog.DiscardHandler)
	c.transport = transportFunc(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(r.URL.Host))}, nil
	})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = func() {
		cancel()
		if err, ok := <-done; ok && err != nil {
			t.Errorf("Run: %v", err)
		}
		close(done)
		cl.Close()
	}
	synctest.Wait()
	return c, stop
}

// ownPod is a pod of the controller that is ready on a node.
func ownPod(t *testing.T, w world, name, hostIP string) *corev1.Pod {
	t.Helper()
	p := create(t, w, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "orrery-ingress", Name: name, Labels: map[string]string{"app": "orrery-ingress"}},
		Spec: corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, HostIP: hostIP, HostIPs: []corev1.HostIP{{IP: hostIP}}}
	return setReady(t, w, p, corev1.ConditionTrue)
}

func setReady(t *testing.T, w world, p *corev1.Pod, ready corev1.ConditionStatus) *corev1.Pod {
	t.Helper()
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p, err := client.For[*corev1.Pod](w.c).UpdateStatus(w.ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return p
}

func get(c *Controller, url string) string {
	code, text := ask(c, "GET", url, nil)
	return fmt.Sprint(code, " ", strings.TrimSpace(text))
}

func TestRoutesFollowTheObjectsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w world) {
		c, stop := w.start(t, "a")
		defer stop()
		step := func(what, want string) {
			t.Helper()
			if got := get(c, "http://any.example/"); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		step("nothing yet", "404 404 page not found")
		ing := newIngress("i", "- Prefix / web")
		ing.Spec.IngressClassName = nil // admission fills in the default
		if ing = create(t, w, ing); ing.Spec.IngressClassName == nil || *ing.Spec.IngressClassName != "orrery" {
			t.Errorf("class %v", ing.Spec.IngressClassName)
		}
		step("an Ingress without its Service", "503 no available server")
		create(t, w, webService())
		step("a Service without endpoints", "503 no available server")
		create(t, w, sliceOf("web-1", endpoint("10.244.1.2", true, true, false)))
		step("an endpoint", "200 10.244.1.2:8080")

		w.Stop() // the API server is gone, and stays so
		time.Sleep(10 * time.Minute)
		step("without an API server", "200 10.244.1.2:8080")
	})
}

func TestAnEndpointThatIsNotReadyGetsNothingMore(t *testing.T) {
	inWorld(t, func(t *testing.T, w world) {
		create(t, w, newIngress("i", "- Prefix / web"))
		create(t, w, webService())
		slice := create(t, w, sliceOf("web-1", endpoint("10.244.1.2", true, true, false), endpoint("10.244.2.2", true, true, false)))
		c, stop := w.start(t, "a")
		defer stop()
		slice.Endpoints[0] = endpoint("10.244.1.2", false, false, false)
		if _, err := client.For[*discoveryv1.EndpointSlice](w.c).Update(w.ctx, slice); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 4 {
			if got := get(c, "/"); got != "200 10.244.2.2:8080" {
				t.Errorf("answered: %s", got)
			}
		}
	})
}

func TestStatusNamesTheNodesThatAnswer(t *testing.T) {
	inWorld(t, func(t *testing.T, w world) {
		for _, name := range []string{"i", "not-ours"} {
			ing := newIngress(name, "- Prefix / web")
			if name == "not-ours" {
				ing.Spec.IngressClassName = new("nginx")
			}
			create(t, w, ing)
		}
		second := ownPod(t, w, "m03", "172.30.0.4")
		ownPod(t, w, "m02", "172.30.0.3")
		_, stopA := w.start(t, "a")
		_, stopB := w.start(t, "b")
		defer stopB()

		status := func(what, name, want string) string {
			t.Helper()
			ing, err := client.For[*networkingv1.Ingress](w.c).Get(w.ctx, "default", name)
			if err != nil {
				t.Fatal(err)
			}
			var ips []string
			for _, in := range ing.Status.LoadBalancer.Ingress {
				ips = append(ips, in.IP)
			}
			if got := strings.Join(ips, " "); got != want {
				t.Errorf("%s: %s has addresses %q, want %q", what, name, got, want)
			}
			return ing.ResourceVersion
		}
		time.Sleep(2 * time.Second)
		version := status("at first", "i", "172.30.0.3 172.30.0.4")
		status("at first", "not-ours", "")
		time.Sleep(10 * time.Minute)
		if again := status("ten minutes later", "i", "172.30.0.3 172.30.0.4"); again != version {
			t.Error("a status that was right was written again")
		}
		setReady(t, w, second, corev1.ConditionFalse)
		time.Sleep(statusPeriod)
		synctest.Wait()
		status("after one is not ready any more", "i", "172.30.0.3")

		stopA() // it led, and gives the lease back
		ownPod(t, w, "m04", "172.30.0.5")
		time.Sleep(6 * time.Second) // less than the 15 s that a lease lives
		status("written by the other", "i", "172.30.0.3 172.30.0.5")
	})
}

// Certificates are chosen for each connection from the table as it is then.
func TestHTTPSIsServedWithTheNamesCertificate(t *testing.T) {
	c, _ := front(t, all(says(t, "ok")))
	withCert, err := newTable(objects{ingresses: []*networkingv1.Ingress{func() *networkingv1.Ingress {
		ing := newIngress("i")
		ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"shop.example"}, SecretName: "shop"}}
		return ing
	}()}, classes: []*networkingv1.IngressClass{class("orrery", ControllerName, false)}, secrets: []*corev1.Secret{tlsSecret(t, "shop", "shop.example")}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := c.certificates()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.serve(ctx, l, certs) }()
	subject := func(name string) string {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode == 200 && string(body) != "ok" {
			t.Errorf("%s answered %q", name, body)
		}
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := subject("shop.example"); got != "ORRERY DEFAULT CERT" {
		t.Errorf("before there is a Secret: %s", got)
	}
	c.table.Store(withCert)
	if got := subject("shop.example"); got != "shop.example" {
		t.Errorf("with a Secret: %s", got)
	}
	if got := subject("other.example"); got != "ORRERY DEFAULT CERT" {
		t.Errorf("another name: %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A request that is under way when the controller ends gets its answer.
func TestRequestsAreDrained(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	c, _ := front(t, all(serve(t, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		io.WriteString(w, "late")
	})))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.serve(ctx, l, nil) }()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-began
	cancel()
	close(finish)
	if got := <-answer; got != "late" {
		t.Errorf("answer: %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The manifest that a student applies is one that a strict server takes, and it
// fits the program.
func TestTheManifestIsSound(t *testing.T) {
	data, err := os.ReadFile("../../deploy/ingress.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var set *appsv1.DaemonSet
	granted := map[string]string{}
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		rules := []rbacv1.PolicyRule{}
		switch obj := obj.(type) {
		case *networkingv1.IngressClass:
			if obj.Spec.Controller != ControllerName || obj.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
				t.Errorf("class %+v", obj)
			}
		case *appsv1.DaemonSet:
			set = obj
		case *rbacv1.ClusterRole:
			rules = obj.Rules
		case *rbacv1.Role:
			rules = obj.Rules
		}
		for _, r := range rules {
			for _, resource := range r.Resources {
				granted[resource] = strings.Join(r.Verbs, " ")
			}
		}
	}
	pod := set.Spec.Template.Spec
	if !pod.HostNetwork || pod.Containers[0].Image != "docker.io/orrery/ingress:v1.36.3" || len(pod.Tolerations) != 0 {
		t.Errorf("hostNetwork %v, image %s, tolerations %v", pod.HostNetwork, pod.Containers[0].Image, pod.Tolerations)
	}
	if set.Spec.Template.Labels["app"] != "orrery-ingress" {
		t.Errorf("--pod-selector does not find the pods: %v", set.Spec.Template.Labels)
	}
	read := "get list watch"
	for resource, verbs := range map[string]string{"ingresses": read, "ingressclasses": read, "services": read, "endpointslices": read,
		"secrets": read, "pods": read, "ingresses/status": "update", "leases": "get create update"} {
		if granted[resource] != verbs {
			t.Errorf("%s: granted %q, needed %q", resource, granted[resource], verbs)
		}
	}
}
