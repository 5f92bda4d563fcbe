package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Images that every node has.
const (
	podinfo = "docker.io/orrery/podinfo:v1.36.3"
	busybox = "docker.io/orrery/busybox:v1.36.3"
)

// The course's application: two replicas on two workers, one address.
func TestApplication(t *testing.T) {
	need(t)
	must(t, contains(kubectl(t, "apply", "-f", "deploy/demo/app.yaml"), "deployment.apps/hello-world created", "service/hello created"))
	must(t, contains(kubectl(t, "rollout", "status", "deployment/hello-world", "--timeout=60s"), `deployment "hello-world" successfully rolled out`))
	nodes, err := jsonPath("{.items[*].spec.nodeName}", "pods", "-l", "app=hello")
	must(t, err)
	if err := contains(nodes, worker2, worker3); err != nil {
		t.Errorf("the two replicas are not on the two workers: %v", err)
	}
	must(t, contains(kubectl(t, "apply", "-f", "deploy/demo/app.yaml"), "deployment.apps/hello-world unchanged", "service/hello unchanged"))
}

// service tells the addresses of the application's service.
func service(t *testing.T) (clusterIP, nodePort string) {
	t.Helper()
	clusterIP, err := jsonPath("{.spec.clusterIP}", "service", "hello")
	must(t, err)
	nodePort, err = jsonPath("{.spec.ports[0].nodePort}", "service", "hello")
	must(t, err)
	return clusterIP, nodePort
}

// addresses are the nodes' addresses by name.
func addresses(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(orrery(t, "node", "list")), "\n") {
		if f := strings.Fields(line); len(f) >= 2 {
			out[f[0]] = f[1]
		}
	}
	if len(out) < 3 {
		t.Fatalf("node list: %v", out)
	}
	return out
}

// hostname asks the application from a node and returns which pod answered.
func hostname(node, url string) (string, error) {
	out, err := tryInNode(node, "curl -s --max-time 3 "+url)
	if err != nil {
		return "", err
	}
	var answer struct{ Hostname string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Hostname == "" {
		return "", fmt.Errorf("%s answered %q", url, out)
	}
	return answer.Hostname, nil
}

// Every way to the application works from every node, and both replicas answer.
func TestServiceAnswers(t *testing.T) {
	need(t)
	clusterIP, port := service(t)
	for from := range addresses(t) {
		urls := []string{"http://" + clusterIP + "/"}
		for _, ip := range addresses(t) {
			urls = append(urls, "http://"+ip+":"+port+"/")
		}
		for _, url := range urls {
			seen := map[string]bool{}
			eventually(t, 20*time.Second, func() error {
				who, err := hostname(from, url)
				if err != nil {
					return err
				}
				if seen[who] = true; len(seen) < 2 {
					return fmt.Errorf("from %s at %s only %v answered", from, url, seen)
				}
				return nil
			})
		}
	}
}

// Pods reach pods on other nodes, services by address and by name, and the API
// server by its service.
func TestPodsReachEachOther(t *testing.T) {
	need(t)
	clusterIP, _ := service(t)
	pods, err := jsonPath(`{range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`, "pods", "-l", "app=hello")
	must(t, err)
	rows := strings.Split(pods, "\n")
	if len(rows) != 2 {
		t.Fatalf("pods: %q", pods)
	}
	first, second := strings.Fields(rows[0]), strings.Fields(rows[1])
	get := func(url string, parts ...string) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			out, err := tryKubectl("exec", first[0], "--", "/usr/local/bin/podinfo", "--get", url)
			if err != nil {
				return err
			}
			return contains(out, parts...)
		})
	}
	get("http://"+second[1]+":9898/", second[0])
	get("http://"+clusterIP+"/", "hello-world-")
	get("http://hello.default.svc.cluster.local/", "hello-world-")
	get("http://hello/", "hello-world-")
	env, err := tryKubectl("exec", first[0], "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/env")
	must(t, err)
	must(t, contains(env, "KUBERNETES_SERVICE_HOST=10.96.0.1", "HOSTNAME="+first[0]))
	// The service kubernetes: the server asks for TLS, which is answer enough.
	get("http://10.96.0.1:443/", "Client sent an HTTP request to an HTTPS server")
}

// Endpoints come and go with readiness.
func TestEndpointsFollowReadiness(t *testing.T) {
	need(t)
	pod, err := jsonPath("{.items[0].metadata.name}", "pods", "-l", "app=hello")
	must(t, err)
	apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: ready, labels: {app: ready}}
spec:
  containers:
  - name: c
    image: `+podinfo+`
    readinessProbe: {httpGet: {path: /readyz, port: 9898}, periodSeconds: 1, failureThreshold: 1}
    ports: [{containerPort: 9898}]
---
apiVersion: v1
kind: Service
metadata: {name: ready}
spec: {selector: {app: ready}, ports: [{name: web, port: 80, targetPort: 9898}, {name: alt, port: 8080, targetPort: 9898}]}
`)
	ip := eventuallyGet(t, "{.spec.clusterIP}", "service", "ready")
	for _, port := range []string{"80", "8080"} {
		eventually(t, 30*time.Second, func() error { _, err := hostname(worker2, "http://"+ip+":"+port); return err })
	}
	kubectl(t, "exec", pod, "--", "/usr/local/bin/podinfo", "--get", "http://"+ip+"/readyz")
	podIP := eventuallyGet(t, "{.status.podIP}", "pod", "ready")
	inNode(t, worker2, "curl -sf -X POST http://"+podIP+":9898/readyz/disable")
	eventually(t, 20*time.Second, is("false", `{.items[0].endpoints[0].conditions.ready}`, "endpointslices", "-l", "kubernetes.io/service-name=ready"))
	eventually(t, 20*time.Second, func() error {
		out, err := tryInNode(worker3, "curl -s --max-time 3 http://"+ip+"/")
		if err == nil {
			return fmt.Errorf("a service without ready endpoints answers %q", out)
		}
		return contains(err.Error(), "exit status 7") // refused, at once
	})
	inNode(t, worker2, "curl -sf -X POST http://"+podIP+":9898/readyz/enable")
	eventually(t, 20*time.Second, func() error { _, err := hostname(worker2, "http://"+ip); return err })
	kubectl(t, "delete", "pod/ready", "service/ready")
}

func eventuallyGet(t *testing.T, path string, args ...string) (value string) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		v, err := jsonPath(path, args...)
		if err != nil {
			return err
		}
		if v == "" {
			return errNone
		}
		value = v
		return nil
	})
	return value
}
