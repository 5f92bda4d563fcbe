package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The commands of kubectl that people use, with the current kubectl and with the
// one of the machine.
func TestKubectl(t *testing.T) {
	need(t)
	versions := map[string]string{"built": filepath.Join(bin, "kubectl")}
	if path, err := exec.LookPath("kubectl"); err == nil {
		versions["installed"] = path
	}
	for name, path := range versions {
		t.Run(name, func(t *testing.T) {
			kubectlPath = path
			defer func() { kubectlPath = filepath.Join(bin, "kubectl") }()
			t.Logf("%s", strings.TrimSpace(kubectl(t, "version")))
			ns := "kubectl-" + name
			must(t, contains(kubectl(t, "create", "namespace", ns), "namespace/"+ns+" created"))
			eventually(t, 10*time.Second, func() error { _, err := tryKubectl("get", "serviceaccount", "default", "-n", ns); return err })
			for _, tt := range []struct {
				name string
				run  func(*testing.T, string)
			}{
				{"get", testGet}, {"deployment", testDeployment}, {"rollout", testRollout}, {"labels and patches", testLabels},
				{"logs and exec", testLogsAndExec}, {"port-forward", testPortForward}, {"run", testRun}, {"errors", testErrors},
				{"config", testConfig}, {"watch", testWatch},
			} {
				t.Run(tt.name, func(t *testing.T) { tt.run(t, ns) })
			}
			must(t, contains(kubectl(t, "delete", "namespace", ns, "--timeout=90s"), `namespace "`+ns+`" deleted`))
			if _, err := tryKubectl("get", "namespace", ns); err == nil {
				t.Error("the namespace is still there")
			}
		})
	}
}

func testGet(t *testing.T, ns string) {
	must(t, contains(kubectl(t, "get", "pods", "-A", "-l", "app=hello", "--no-headers"), "default", "hello-world-"))
	must(t, contains(kubectl(t, "get", "nodes", "-o", "yaml"), "kind: Node", "kubeletVersion:"))
	must(t, contains(kubectl(t, "get", "all"), "pod/hello-world-", "service/hello", "deployment.apps/hello-world", "replicaset.apps/hello-world-"))
	must(t, contains(kubectl(t, "cluster-info"), "Kubernetes control plane", "is running at", "CoreDNS"))
	must(t, contains(kubectl(t, "api-resources"), "deployments", "deploy", "apps/v1", "Deployment"))
	must(t, contains(kubectl(t, "explain", "deployment.spec.replicas"), "FIELD: replicas <integer>"))
	must(t, contains(kubectl(t, "describe", "node", worker2), "Allocatable:", "Non-terminated Pods:", "hello-world-", "MemoryPressure"))
	must(t, contains(kubectl(t, "describe", "service", "hello"), "NodePort", "Endpoints:", ":9898"))
	must(t, contains(kubectl(t, "auth", "can-i", "create", "deployments", "-n", ns), "yes"))
	must(t, contains(kubectl(t, "auth", "whoami"), "kubernetes-admin"))
	must(t, contains(kubectl(t, "get", "--raw", "/swagger-ui/"), "swagger-ui-bundle.js"))
	must(t, contains(strings.Join(strings.Fields(kubectl(t, "get", "componentstatuses")), " "), "Warning: v1 ComponentStatus is deprecated in v1.19+",
		"controller-manager Healthy ok", "etcd-0 Healthy ok", "scheduler Healthy ok"))
}

func testDeployment(t *testing.T, ns string) {
	must(t, contains(kubectl(t, "create", "deployment", "web", "--image="+podinfo, "--replicas=2", "-n", ns), "deployment.apps/web created"))
	kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
	must(t, contains(kubectl(t, "expose", "deployment", "web", "--port=80", "--target-port=9898", "-n", ns), "service/web exposed"))
	must(t, contains(kubectl(t, "scale", "deployment/web", "--replicas=3", "-n", ns), "deployment.apps/web scaled"))
	eventually(t, time.Minute, is("3", "{.status.readyReplicas}", "deployment", "web", "-n", ns))
	must(t, contains(kubectl(t, "describe", "deployment", "web", "-n", ns), "ScalingReplicaSet", "from 2 to 3", "RollingUpdateStrategy:  25% max unavailable, 25% max surge"))
	pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app=web", "-n", ns)
	must(t, contains(kubectl(t, "describe", "pod", pod, "-n", ns), "Successfully assigned "+ns+"/web-", "Container created", "Container started", "kube-api-access-"))
	ip := eventuallyGet(t, "{.spec.clusterIP}", "service", "web", "-n", ns)
	eventually(t, 20*time.Second, func() error { _, err := hostname(worker2, "http://"+ip); return err })
}

func testRollout(t *testing.T, ns string) {
	must(t, contains(kubectl(t, "set", "image", "deployment/web", "podinfo=docker.io/orrery/podinfo:2023.03", "-n", ns), "deployment.apps/web image updated"))
	must(t, contains(kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=90s"), "successfully rolled out"))
	must(t, contains(kubectl(t, "rollout", "history", "deployment/web", "-n", ns), "REVISION", "1", "2"))
	must(t, contains(kubectl(t, "rollout", "undo", "deployment/web", "-n", ns), "deployment.apps/web rolled back"))
	kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=90s")
	must(t, is(podinfo, "{.spec.template.spec.containers[0].image}", "deployment", "web", "-n", ns)())
	must(t, contains(kubectl(t, "rollout", "restart", "deployment/web", "-n", ns), "restarted"))
	kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=90s")
	// edit opens an editor; ours changes one line.
	editor := filepath.Join(t.TempDir(), "editor")
	must(t, os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/^  replicas: 3/  replicas: 1/' \"$1\"\n"), 0o755))
	t.Setenv("KUBE_EDITOR", editor)
	must(t, contains(kubectl(t, "edit", "deployment/web", "-n", ns), "deployment.apps/web edited"))
	eventually(t, time.Minute, is("1", "{.status.replicas}", "deployment", "web", "-n", ns))
}

func testLabels(t *testing.T, ns string) {
	must(t, contains(kubectl(t, "label", "deployment", "web", "tier=front", "-n", ns), "deployment.apps/web labeled"))
	must(t, contains(kubectl(t, "get", "deployments", "-l", "tier=front", "-n", ns), "web"))
	must(t, contains(kubectl(t, "annotate", "deployment", "web", "why=test", "-n", ns), "deployment.apps/web annotated"))
	must(t, contains(kubectl(t, "patch", "deployment", "web", "-p", `{"spec":{"paused":true}}`, "-n", ns), "deployment.apps/web patched"))
	must(t, contains(kubectl(t, "patch", "deployment", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/paused"}]`, "-n", ns), "patched"))
	must(t, contains(kubectl(t, "label", "deployment", "web", "tier-", "-n", ns), "unlabeled"))
	manifest := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"ssa","namespace":"` + ns + `"},"data":{"k":"%s"}}`
	file := filepath.Join(t.TempDir(), "cm.json")
	write := func(v string) { must(t, os.WriteFile(file, fmt.Appendf(nil, manifest, v), 0o600)) }
	write("one")
	must(t, contains(kubectl(t, "apply", "--server-side", "-f", file), "configmap/ssa serverside-applied"))
	write("two")
	_, err := tryKubectl("apply", "--server-side", "--field-manager=other", "-f", file)
	if err == nil {
		t.Fatal("a second manager took a field without a conflict")
	}
	must(t, contains(err.Error(), `conflict with "kubectl": .data.k`))
	must(t, contains(kubectl(t, "apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", file), "serverside-applied"))
	must(t, contains(kubectl(t, "diff", "-f", file), ""))
}

func testLogsAndExec(t *testing.T, ns string) {
	// What the deployment was scaled down from is still ending.
	eventually(t, time.Minute, func() error {
		if pods := strings.Fields(kubectl(t, "get", "pods", "-l", "app=web", "-n", ns, "-o", "name")); len(pods) != 1 {
			return fmt.Errorf("pods: %v", pods)
		}
		return nil
	})
	pod := eventuallyGet(t, "{.items[0].metadata.name}", "pods", "-l", "app=web", "-n", ns)
	eventually(t, 30*time.Second, func() error { return contains(kubectl(t, "logs", pod, "-n", ns), "listening") })
	must(t, contains(kubectl(t, "logs", "deployment/web", "-n", ns, "--timestamps", "--tail=1"), "T"))
	must(t, contains(kubectl(t, "exec", pod, "-n", ns, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/version"), "6.3.4"))
	_, err := tryKubectl("exec", pod, "-n", ns, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:1/")
	if err == nil {
		t.Fatal("a command that fails ended well")
	}
	must(t, contains(err.Error(), "connection refused", "command terminated with exit code 1", "exit status 1"))
	_, err = tryKubectl("exec", pod, "-n", ns, "--", "no-such-program")
	if err == nil {
		t.Fatal("a program that is not there ran")
	}
	// A terminal, which script(1) gives to kubectl too.
	kubectl(t, "run", "shell", "--image="+busybox, "-n", ns, "--", "sleep", "3600")
	kubectl(t, "wait", "--for=condition=Ready", "pod/shell", "-n", ns, "--timeout=60s")
	out, err := command(time.Minute, "script", "-qec", kubectlPath+" exec -it -n "+ns+" shell -- sh -c 'test -t 0 && echo a terminal of $(hostname)'", "/dev/null")
	must(t, err)
	must(t, contains(out, "a terminal of shell"))

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	follow := exec.CommandContext(ctx, kubectlPath, "logs", "-f", "--tail=0", pod, "-n", ns)
	follow.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	pipe, err := follow.StdoutPipe()
	must(t, err)
	must(t, follow.Start())
	defer follow.Wait()
	defer cancel()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	eventually(t, 20*time.Second, func() error {
		kubectl(t, "exec", pod, "-n", ns, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/followed")
		select {
		case line := <-lines:
			return contains(line, "/followed")
		case <-time.After(time.Second):
			return errNone
		}
	})
}

func testPortForward(t *testing.T, ns string) { portForward(t, ns, "service/web", ":80") }

// portForward asks podinfo for its version through kubectl port-forward, three times.
func portForward(t *testing.T, ns, target, port string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	forward := exec.CommandContext(ctx, kubectlPath, "port-forward", target, port, "-n", ns)
	forward.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	pipe, err := forward.StdoutPipe()
	must(t, err)
	must(t, forward.Start())
	defer forward.Wait()
	defer cancel()
	line, err := bufio.NewReader(pipe).ReadString('\n')
	must(t, err)
	m := regexp.MustCompile(`Forwarding from 127.0.0.1:(\d+) -> 9898`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("port-forward says %q", line)
	}
	for range 3 {
		resp, err := http.Get("http://127.0.0.1:" + m[1] + "/version")
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("answer %s", resp.Status)
		}
	}
}

func testRun(t *testing.T, ns string) {
	must(t, contains(kubectl(t, "run", "once", "--image="+podinfo, "--restart=Never", "-n", ns, "--", "--get", "http://web/version"), "pod/once created"))
	eventually(t, time.Minute, is("Succeeded", "{.status.phase}", "pod", "once", "-n", ns))
	must(t, contains(kubectl(t, "logs", "once", "-n", ns), "6.3.4"))
	must(t, contains(kubectl(t, "get", "pod", "once", "-n", ns), "0/1", "Completed"))
	out := kubectl(t, "run", "attached", "--image="+podinfo, "--restart=Never", "--rm", "-i", "-n", ns, "--", "--get", "http://web/version")
	must(t, contains(out, "6.3.4", `pod "attached" deleted`))
	must(t, contains(kubectl(t, "delete", "pod", "once", "-n", ns), `pod "once" deleted`))
}

func testErrors(t *testing.T, ns string) {
	for _, tt := range []struct{ args, want string }{
		{"get pod nope -n " + ns, `Error from server (NotFound): pods "nope" not found`},
		{"get nonsense", `error: the server doesn't have a resource type "nonsense"`},
		{"create namespace " + ns, `Error from server (AlreadyExists): namespaces "` + ns + `" already exists`},
		{"get secrets -n " + ns + " --as=alice", `Error from server (Forbidden): secrets is forbidden: User "alice" cannot list resource "secrets" in API group "" in the namespace "` + ns + `"`},
		{"scale deployment/web --replicas=-1 -n " + ns, "The --replicas=COUNT flag is required"},
		{"expose deployment web --port=80 --name=web -n " + ns, `Error from server (AlreadyExists): services "web" already exists`},
		{"run Bad --image=x -n " + ns, "The Pod \"Bad\" is invalid: \n* metadata.name: Invalid value: \"Bad\": a lowercase RFC 1123 subdomain must consist of"},
	} {
		out, err := tryKubectl(strings.Fields(tt.args)...)
		if err == nil {
			t.Errorf("kubectl %s: succeeded with %s", tt.args, out)
			continue
		}
		if err := contains(out, tt.want); err != nil {
			t.Errorf("kubectl %s: %v", tt.args, err)
		}
	}
	out, err := commandWith(time.Minute, []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: typo, namespace: "+ns+"}\nspec: {replica: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}}\n"),
		kubectlPath, "apply", "-f", "-")
	if err == nil {
		t.Errorf("a misspelt field passed: %s", out)
	} else if err := contains(out, `unknown field "spec.replica"`); err != nil {
		t.Error(err)
	}
}

// ConfigMaps, Secrets and the downward API reach the container.
func testConfig(t *testing.T, ns string) {
	kubectl(t, "create", "configmap", "settings", "--from-literal=COLOUR=blue", "-n", ns)
	kubectl(t, "create", "secret", "generic", "keys", "--from-literal=PASSWORD=s3cret", "-n", ns)
	apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: configured, namespace: `+ns+`, labels: {app: configured}}
spec:
  initContainers:
  - {name: first, image: `+podinfo+`, args: [--get, "http://web/healthz"]}
  containers:
  - name: c
    image: `+podinfo+`
    envFrom: [{configMapRef: {name: settings}}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: PASSWORD}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: BOTH, value: "$(COLOUR)-$(NODE)"}
    startupProbe: {httpGet: {path: /healthz, port: 9898}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 9898}}
    volumeMounts: [{name: scratch, mountPath: /scratch}, {name: settings, mountPath: /settings}]
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
`)
	kubectl(t, "wait", "--for=condition=Ready", "pod/configured", "-n", ns, "--timeout=60s")
	node := eventuallyGet(t, "{.spec.nodeName}", "pod", "configured", "-n", ns)
	must(t, contains(kubectl(t, "exec", "configured", "-n", ns, "--", "/usr/local/bin/podinfo", "--get", "http://127.0.0.1:9898/env"),
		"COLOUR=blue", "PASSWORD=s3cret", "NODE="+node, "BOTH=blue-"+node, "WEB_SERVICE_HOST="))
	must(t, is("Completed", "{.status.initContainerStatuses[0].state.terminated.reason}", "pod", "configured", "-n", ns)())
}

func testWatch(t *testing.T, ns string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch := exec.CommandContext(ctx, kubectlPath, "get", "pods", "-w", "-n", ns)
	watch.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	pipe, err := watch.StdoutPipe()
	must(t, err)
	must(t, watch.Start())
	defer watch.Wait()
	defer cancel()
	lines := bufio.NewScanner(pipe)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "NAME") {
		t.Fatalf("the watch begins with %q", lines.Text())
	}
	kubectl(t, "run", "watched", "--image="+podinfo, "-n", ns)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[0] == "watched" && f[1] == "1/1" && f[2] == "Running" {
			return
		}
	}
	t.Error("the watch never showed the pod running")
}
