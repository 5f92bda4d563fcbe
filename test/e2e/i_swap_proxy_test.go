package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// swapProxy has the DaemonSet's pods run the kube-proxy that lies on their nodes instead of the image's.
const swapProxy = `{"spec":{"template":{"spec":{
  "volumes":[{"name":"swap","hostPath":{"path":"/usr/bin/kube-proxy","type":"File"}}],
  "containers":[{"name":"kube-proxy","volumeMounts":[{"name":"swap","mountPath":"/usr/local/bin/kube-proxy"}]}]}}}}`

// Upstream's kube-proxy in the pods of ours keeps the same rules, and ours takes them over again.
func TestSwapKubeProxy(t *testing.T) {
	needSwap(t, "kube-proxy")
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: proxied}
spec:
  replicas: 2
  selector: {matchLabels: {app: proxied}}
  template:
    metadata: {labels: {app: proxied}}
    spec: {containers: [{name: c, image: `+podinfo+`}]}
---
apiVersion: v1
kind: Service
metadata: {name: proxied}
spec: {type: NodePort, selector: {app: proxied}, ports: [{name: web, port: 80, targetPort: 9898, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: proxied}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 9898}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: proxied}, ports: [{port: 80, targetPort: 9898, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`)
	t.Cleanup(func() {
		kubectl(t, "delete", "deployment/proxied", "service/proxied", "service/sticky", "service/local", "service/nobody")
	})
	kubectl(t, "rollout", "status", "deployment/proxied", "--timeout=60s")
	for node := range addresses(t) {
		putProgram(t, node, upstream, "kube-proxy")
	}
	reachable(t, "proxied")
	before := rules(t, worker2)

	kubectl(t, "patch", "daemonset", "kube-proxy", "-n", "kube-system", "--patch", swapProxy)
	t.Cleanup(func() {
		volumes, err := jsonPath("{.spec.template.spec.volumes[*].name}", "daemonset", "kube-proxy", "-n", "kube-system")
		must(t, err)
		if strings.Contains(volumes, "swap") { // the test ended early
			kubectl(t, "rollout", "undo", "daemonset", "kube-proxy", "-n", "kube-system")
			kubectl(t, "rollout", "status", "daemonset", "kube-proxy", "-n", "kube-system", "--timeout=120s")
		}
	})
	t.Run("upstream's in the place of ours", func(t *testing.T) { proxies(t, upstream, before) })

	kubectl(t, "rollout", "undo", "daemonset", "kube-proxy", "-n", "kube-system")
	t.Run("ours in its place again", func(t *testing.T) { proxies(t, ours, before) })
}

// proxies waits until every node's kube-proxy is of one side, and checks what it does.
func proxies(t *testing.T, by side, want []string) {
	kubectl(t, "rollout", "status", "daemonset", "kube-proxy", "-n", "kube-system", "--timeout=180s")
	version := "Kubernetes v1.36.3+orrery"
	if by == upstream {
		version = "Kubernetes v1.36.3"
	}
	for node := range addresses(t) {
		pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-n", "kube-system", "-l", "k8s-app=kube-proxy", "--field-selector", "spec.nodeName="+node)
		if out := strings.TrimSpace(kubectl(t, "exec", "-n", "kube-system", pod, "--", "/usr/local/bin/kube-proxy", "--version")); out != version {
			t.Fatalf("kube-proxy on %s is %q, want %q", node, out, version)
		}
		must(t, contains(inNode(t, node, "curl -s http://127.0.0.1:10249/proxyMode"), "iptables"))
		must(t, contains(inNode(t, node, "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:10256/healthz"), "200"))
	}
	reachable(t, "proxied")
	// The rules follow a change, and are then the same again.
	kubectl(t, "expose", "deployment", "proxied", "--name=late", "--port=80", "--target-port=9898", "--type=NodePort")
	reachable(t, "late")
	kubectl(t, "delete", "service", "late")
	eventually(t, 30*time.Second, func() error {
		got := rules(t, worker2)
		var differ []string
		for _, line := range want {
			if !slices.Contains(got, line) {
				differ = append(differ, "missing: "+line)
			}
		}
		for _, line := range got {
			if !slices.Contains(want, line) {
				differ = append(differ, "new:     "+line)
			}
		}
		if len(differ) > 0 {
			return fmt.Errorf("the rules of %s differ from those of ours:\n%s", by, strings.Join(differ, "\n"))
		}
		return nil
	})
}

// reachable asks a Service from every node at its cluster IP and at its node port on every node.
func reachable(t *testing.T, name string) {
	t.Helper()
	ip := eventuallyGet(t, "{.spec.clusterIP}", "service", name)
	port := eventuallyGet(t, "{.spec.ports[0].nodePort}", "service", name)
	urls := []string{"http://" + ip + "/"}
	for _, address := range addresses(t) {
		urls = append(urls, "http://"+address+":"+port+"/")
	}
	for from := range addresses(t) {
		for _, url := range urls {
			eventually(t, 20*time.Second, func() error { _, err := hostname(from, url); return err })
		}
	}
}

// rules are the chains and rules of kube-proxy on a node, sorted: services come in no order.
func rules(t *testing.T, node string) []string {
	t.Helper()
	var out []string
	for _, table := range []string{"nat", "filter"} {
		for line := range strings.Lines(inNode(t, node, "iptables-save -t "+table)) {
			// Counters, and the chains of the kubelet, are no business of the proxy's.
			line = regexp.MustCompile(` \[\d+:\d+\]$`).ReplaceAllString(strings.TrimSpace(line), "")
			if strings.Contains(line, "KUBE-") && !strings.Contains(line, "KUBE-KUBELET") {
				out = append(out, table+" "+line)
			}
		}
	}
	slices.Sort(out)
	return out
}
