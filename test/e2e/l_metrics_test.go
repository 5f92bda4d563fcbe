package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The real metrics-server scrapes our kubelets, registers itself with our API server as an APIService, and answers
// kubectl top and our autoscaler.
func TestMetricsServer(t *testing.T) {
	need(t)
	if _, err := os.Stat(filepath.Join(bin, "metrics-server")); err != nil {
		t.Skip("bin has no metrics-server: run `make metrics-server` first")
	}
	if _, err := tryKubectl("top", "nodes"); err == nil || contains(err.Error(), "error: Metrics API not available") != nil {
		t.Errorf("without a metrics-server kubectl top says: %v", err)
	}
	must(t, contains(orrery(t, "addons", "enable", "metrics-server"), "The 'metrics-server' addon is enabled"))
	kubectl(t, "rollout", "status", "-n", "kube-system", "deployment/metrics-server", "--timeout=120s")
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("get", "apiservice", "v1beta1.metrics.k8s.io", "--no-headers")
		if err != nil {
			return err
		}
		return matches(out, `^v1beta1\.metrics\.k8s\.io +kube-system/metrics-server +True +\S+\n$`)
	})
	t.Run("kubectl top", top)
	t.Run("a HorizontalPodAutoscaler", autoscaler)
	must(t, contains(orrery(t, "addons", "disable", "metrics-server"), "The 'metrics-server' addon is disabled"))
	eventually(t, time.Minute, func() error {
		if out, err := tryKubectl("top", "nodes"); err == nil {
			return fmt.Errorf("without a metrics-server kubectl top says:\n%s", out)
		} else {
			return contains(err.Error(), "error: Metrics API not available")
		}
	})
}

// matches is an error unless text holds a match of every pattern, in which ^ and $ are the ends of a line.
func matches(text string, patterns ...string) error {
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(text) {
			return fmt.Errorf("no match of %q in:\n%s", p, text)
		}
	}
	return nil
}

// Every node and every pod has figures, none of them nothing.
func top(t *testing.T) {
	const figures = ` +[1-9]\d*m +\d+% +[1-9]\d*Mi +\d+% *$`
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("top", "nodes")
		if err != nil {
			return err
		}
		return matches(out, `^NAME +CPU\(cores\) +CPU\(%\) +MEMORY\(bytes\) +MEMORY\(%\)`, "^"+head+figures, "^"+worker2+figures, "^"+worker3+figures)
	})
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("top", "pods", "-A")
		if err != nil {
			return err
		}
		return matches(out, `^NAMESPACE +NAME +CPU\(cores\) +MEMORY\(bytes\)`, `^kube-system +kube-apiserver-`+head+` +[1-9]\d*m +[1-9]\d*Mi`,
			`^kube-system +coredns-\S+ +\d+m +[1-9]\d*Mi`, `^kube-system +metrics-server-\S+ +\d+m +[1-9]\d*Mi`)
	})
	must(t, matches(kubectl(t, "top", "pods", "-n", "kube-system", "--containers"), `^kube-apiserver-`+head+` +kube-apiserver +[1-9]\d*m +`))
	// The node's own processes count, too: it uses more memory than its static pods do together.
	node, pods := 0, 0
	for line := range strings.Lines(kubectl(t, "top", "nodes", "--no-headers")) {
		if f := strings.Fields(line); f[0] == head {
			node = mebibytes(t, f[3])
		}
	}
	for line := range strings.Lines(kubectl(t, "top", "pods", "-A", "--no-headers")) {
		if f := strings.Fields(line); strings.HasSuffix(f[1], "-"+head) {
			pods += mebibytes(t, f[3])
		}
	}
	if pods == 0 || node <= pods {
		t.Errorf("the node uses %d Mi, its static pods %d Mi", node, pods)
	}
}

func mebibytes(t *testing.T, text string) (n int) {
	t.Helper()
	_, err := fmt.Sscanf(text, "%dMi", &n)
	must(t, err)
	return n
}

// Load makes replicas, its end takes them away again.
func autoscaler(t *testing.T) {
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: elastic}
spec:
  selector: {matchLabels: {app: elastic}}
  template:
    metadata: {labels: {app: elastic}}
    spec:
      containers:
      - {name: c, image: `+podinfo+`, resources: {requests: {cpu: 20m}}, ports: [{containerPort: 9898}]}
---
apiVersion: v1
kind: Service
metadata: {name: elastic}
spec: {selector: {app: elastic}, ports: [{port: 80, targetPort: 9898}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: elastic}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: elastic}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 15}}
`)
	defer kubectl(t, "delete", "deployment/elastic", "service/elastic", "hpa/elastic")
	target := func(pattern string) func() error {
		return func() error {
			out, err := tryKubectl("get", "hpa", "elastic", "--no-headers")
			if err != nil {
				return err
			}
			return matches(out, `^elastic +Deployment/elastic +cpu: `+pattern+`/50% +1 +3 +`)
		}
	}
	eventually(t, 2*time.Minute, target(`[0-4]?\d%`))
	must(t, is("True ValidMetricFound", `{.status.conditions[?(@.type=="ScalingActive")]['status','reason']}`, "hpa", "elastic")())

	ip, err := jsonPath("{.spec.clusterIP}", "service", "elastic")
	must(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := command(10*time.Minute, "docker", "exec", head, "bash", "-c",
			"rm -f /tmp/enough; until [ -e /tmp/enough ]; do curl -s -o /dev/null --max-time 5 --rate 400/s 'http://"+ip+"/?[1-400]'; done")
		ended <- err
	}()
	enough := func() { inNode(t, head, "touch /tmp/enough") }
	defer enough() // should the load be there when the test fails
	took := eventually(t, 3*time.Minute, is("3 3", "{.spec.replicas} {.status.readyReplicas}", "deployment", "elastic"))
	t.Logf("three replicas after %v of load", took.Round(time.Second))
	must(t, target(`\d{2,}%`)())
	must(t, contains(events(t), "; reason: cpu resource utilization (percentage of request) above target"))

	enough()
	must(t, <-ended)
	took = eventually(t, 3*time.Minute, is("1", "{.spec.replicas}", "deployment", "elastic"))
	t.Logf("one replica %v after the load", took.Round(time.Second))
	eventually(t, time.Minute, target(`[0-4]?\d%`))
	must(t, contains(events(t), "New size: 1; reason: All metrics below target"))
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("describe", "hpa", "elastic")
		if err != nil {
			return err
		}
		return contains(out, "resource cpu on pods  (as a percentage of request):", "ReadyForNewScale", "recommended size matches current size")
	})
}

// events are the messages of the autoscaler's rescales.
func events(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "events", "--field-selector", "involvedObject.name=elastic,reason=SuccessfulRescale", "-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`)
}
