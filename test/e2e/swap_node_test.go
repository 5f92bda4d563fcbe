package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// worksAsNode goes through what a kubelet and its runtime do for a cluster's users, on one node. It
// does not know whose kubelet and runtime they are.
func worksAsNode(t *testing.T, node, endpoint string) {
	t.Helper()
	daemons(t, node)
	ns := "swap-" + strconv.FormatInt(time.Now().Unix(), 36)
	kubectl(t, "create", "namespace", ns)
	eventually(t, 10*time.Second, func() error { _, err := tryKubectl("get", "serviceaccount", "default", "-n", ns); return err })
	n := nodeUnderTest{node: node, ns: ns, cri: "crictl --runtime-endpoint " + endpoint + " --image-endpoint " + endpoint + " "}
	apply(t, strings.NewReplacer("$NS", ns, "$NODE", node, "$PODINFO", podinfo, "$BUSYBOX", busybox).Replace(wholePod))
	kubectl(t, "wait", "--for=condition=Ready", "pod/whole", "-n", ns, "--timeout=90s")
	for _, s := range []struct {
		name string
		run  func(*testing.T, nodeUnderTest)
	}{
		{"volumes and environment", nodeConfig}, {"logs", nodeLogs}, {"exec", nodeExec}, {"port-forward", nodePortForward},
		{"network", nodeNetwork}, {"probes", nodeProbes}, {"failures", nodeFailures}, {"statistics", nodeStats},
		{"static pod", nodeStaticPod}, {"deletion", nodeDeletion},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, n) })
	}
	must(t, contains(kubectl(t, "delete", "namespace", ns, "--timeout=90s"), `namespace "`+ns+`" deleted`))
}

// nodeUnderTest is where the scenarios run: a node, a namespace of their own, and crictl on the node's runtime.
type nodeUnderTest struct{ node, ns, cri string }

func (n nodeUnderTest) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return kubectl(t, append([]string{"-n", n.ns}, args...)...)
}

// is waits for a field of an object in the namespace.
func (n nodeUnderTest) is(want, path string, args ...string) func() error {
	return is(want, path, append(args, "-n", n.ns)...)
}

// wholePod asks of a node most of what a pod can ask.
const wholePod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: $NS}
data: {COLOUR: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: $NS}
stringData: {PASSWORD: s3cret}
---
apiVersion: v1
kind: Service
metadata: {name: door, namespace: $NS}
spec: {selector: {app: whole}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: whole, namespace: $NS, labels: {app: whole}, annotations: {note: seen}}
spec:
  nodeSelector: {kubernetes.io/hostname: $NODE}
  terminationGracePeriodSeconds: 5
  initContainers:
  - {name: first, image: $BUSYBOX, command: [sh, -c, "echo one > /scratch/init && touch /scratch/alive"], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
  - name: web
    image: $PODINFO
    ports: [{name: http, containerPort: 9898}]
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
    startupProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: http}, periodSeconds: 2}
  - name: shell
    image: $BUSYBOX
    command: [sh, -c, "trap 'exit 0' TERM; touch /scratch/alive; echo up; while true; do sleep 0.2; done"]
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
    livenessProbe: {exec: {command: [cat, /scratch/alive]}, periodSeconds: 1, failureThreshold: 2}
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo hooked > /scratch/hook"]}}}
    envFrom: [{configMapRef: {name: settings}}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: PASSWORD}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {containerName: web, resource: limits.memory, divisor: 1Mi}}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: about, mountPath: /about}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: about, downwardAPI: {items: [{path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}]}}
`

func nodeConfig(t *testing.T, n nodeUnderTest) {
	out := n.kubectl(t, "exec", "whole", "-c", "shell", "--", "sh", "-c",
		`echo "$COLOUR $PASSWORD $NODE $LIMIT $POD_IP" $(for f in /settings/COLOUR /keys/PASSWORD /about/note /scratch/init /scratch/hook; do cat $f; echo; done) $(stat -Lc %a /keys/PASSWORD) $(hostname)`)
	ip := eventuallyGet(t, "{.status.podIP}", "pod", "whole", "-n", n.ns)
	must(t, contains(out, "blue s3cret "+n.node+" 64 "+ip+" blue s3cret seen one hooked 400 whole"))
	must(t, contains(n.kubectl(t, "exec", "whole", "-c", "shell", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"), n.ns))
	must(t, contains(n.kubectl(t, "exec", "whole", "-c", "shell", "--", "cat", "/etc/hosts"), ip+"\twhole"))
	if out, err := tryKubectl("exec", "-n", n.ns, "whole", "-c", "shell", "--", "touch", "/file"); err == nil {
		t.Errorf("a read-only root was written to: %s", out)
	}
	must(t, n.is("Burstable", "{.status.qosClass}", "pod", "whole")())
	must(t, n.is("Completed", "{.status.initContainerStatuses[0].state.terminated.reason}", "pod", "whole")())
	events := n.kubectl(t, "describe", "pod", "whole")
	must(t, contains(events, "Successfully assigned "+n.ns+"/whole to "+n.node, "Container created", "Container started", "already present on machine"))
}

func nodeLogs(t *testing.T, n nodeUnderTest) {
	eventually(t, 20*time.Second, func() error {
		out, err := tryKubectl("logs", "-n", n.ns, "whole", "-c", "web")
		if err != nil {
			return err
		}
		return contains(out, "listening")
	})
	if out := n.kubectl(t, "logs", "whole", "-c", "shell", "--timestamps", "--tail=1"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ up\n$`).MatchString(out) {
		t.Errorf("the log with times is %q", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	follow := exec.CommandContext(ctx, kubectlPath, "logs", "-f", "--tail=0", "-n", n.ns, "whole", "-c", "web")
	follow.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	pipe, err := follow.StdoutPipe()
	must(t, err)
	must(t, follow.Start())
	defer follow.Wait()
	defer cancel()
	go func() { // until the line is seen
		for ctx.Err() == nil {
			_, _ = tryKubectl("exec", "-n", n.ns, "whole", "-c", "shell", "--", "wget", "-qO-", "http://127.0.0.1:9898/version?followed")
		}
	}()
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"path":"/version"`) {
			return
		}
	}
	t.Error("a followed log did not show the request")
}

func nodeExec(t *testing.T, n nodeUnderTest) {
	_, err := tryKubectl("exec", "-n", n.ns, "whole", "-c", "shell", "--", "sh", "-c", "echo to stderr >&2; exit 3")
	if err == nil {
		t.Fatal("a command that fails ended well")
	}
	must(t, contains(err.Error(), "to stderr", "command terminated with exit code 3"))
	out, err := commandWith(time.Minute, []byte("through stdin\n"), kubectlPath, "exec", "-i", "-n", n.ns, "whole", "-c", "shell", "--", "cat")
	must(t, err)
	must(t, contains(out, "through stdin"))
	out, err = command(time.Minute, "script", "-qec", kubectlPath+" exec -it -n "+n.ns+" whole -c shell -- sh -c 'test -t 0 && echo a terminal of $(hostname)'", "/dev/null")
	must(t, err)
	must(t, contains(out, "a terminal of whole"))
	out = n.kubectl(t, "run", "attached", "--image="+busybox, "--restart=Never", "--rm", "-i", "--overrides",
		`{"spec":{"nodeSelector":{"kubernetes.io/hostname":"`+n.node+`"}}}`, "--", "sh", "-c", "sleep 2; echo attached to $(hostname)")
	must(t, contains(out, "attached to attached", `pod "attached" deleted`))
}

func nodePortForward(t *testing.T, n nodeUnderTest) { portForward(t, n.ns, "pod/whole", ":9898") }

func nodeNetwork(t *testing.T, n nodeUnderTest) {
	ip := eventuallyGet(t, "{.spec.clusterIP}", "service", "door", "-n", n.ns)
	for from := range addresses(t) {
		eventually(t, 20*time.Second, func() error {
			who, err := hostname(from, "http://"+ip+"/")
			if err == nil && who != "whole" {
				err = fmt.Errorf("%s answered", who)
			}
			return err
		})
	}
	for _, url := range []string{"http://door/", "http://door." + n.ns + ".svc.cluster.local/"} {
		eventually(t, 20*time.Second, func() error {
			out, err := tryKubectl("exec", "-n", n.ns, "whole", "-c", "shell", "--", "wget", "-qO-", "-T", "5", url)
			if err != nil {
				return err
			}
			return contains(out, `"hostname": "whole"`)
		})
	}
}

func nodeProbes(t *testing.T, n nodeUnderTest) {
	ip := eventuallyGet(t, "{.status.podIP}", "pod", "whole", "-n", n.ns)
	inNode(t, head, "curl -sf -X POST http://"+ip+":9898/readyz/disable")
	eventually(t, 20*time.Second, n.is("False", `{.status.conditions[?(@.type=="Ready")].status}`, "pod", "whole"))
	inNode(t, head, "curl -sf -X POST http://"+ip+":9898/readyz/enable")
	eventually(t, 20*time.Second, n.is("True", `{.status.conditions[?(@.type=="Ready")].status}`, "pod", "whole"))

	n.kubectl(t, "exec", "whole", "-c", "shell", "--", "rm", "/scratch/alive")
	eventually(t, time.Minute, n.is("1 true", `{.status.containerStatuses[?(@.name=="shell")].restartCount} {.status.containerStatuses[?(@.name=="shell")].ready}`, "pod", "whole"))
	must(t, n.is("0", `{.status.containerStatuses[?(@.name=="web")].restartCount}`, "pod", "whole")())
	must(t, contains(n.kubectl(t, "describe", "pod", "whole"), "Unhealthy", "Liveness probe failed: cat: can't open '/scratch/alive'",
		"Container shell failed liveness probe, will be restarted"))
}

// nodeFailures has a container that ends, an image and a ConfigMap that are not there.
func nodeFailures(t *testing.T, n nodeUnderTest) {
	pod := func(name, container string) string {
		return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: " + n.ns + "}\nspec:\n  nodeSelector: {kubernetes.io/hostname: " + n.node + "}\n" +
			"  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: c, " + container + "}\n"
	}
	apply(t, pod("crash", "image: "+busybox+`, command: [sh, -c, "echo last words > /dev/termination-log; echo $(hostname) ends; exit 7"]`)+
		pod("never", "image: docker.io/orrery/nowhere:v1, imagePullPolicy: Never")+
		pod("unset", "image: "+busybox+", env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: a}}}]")+
		pod("greedy", "image: "+busybox+`, resources: {limits: {memory: 16Mi}}, command: [sh, -c, "x=0123456789abcdef; while true; do x=$x$x; done"]`))
	wait := "{.status.containerStatuses[0].state.waiting.reason}"
	for name, reason := range map[string]string{"never": "ErrImageNeverPull", "unset": "CreateContainerConfigError"} {
		eventually(t, time.Minute, n.is(reason, wait, "pod", name))
	}
	// Between two runs it is in CrashLoopBackOff, which a kubelet writes into the status when it next looks.
	eventually(t, time.Minute, func() error {
		out, err := tryKubectl("describe", "pod", "-n", n.ns, "crash")
		if err != nil {
			return err
		}
		return contains(out, "Back-off restarting failed container c in pod crash_"+n.ns)
	})
	eventually(t, 20*time.Second, n.is("Error 7 last words", "{.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.message}", "pod", "crash"))
	must(t, contains(n.kubectl(t, "logs", "crash"), "crash ends"))
	must(t, contains(n.kubectl(t, "describe", "pod", "unset"), `configmap "nowhere" not found`))
	eventually(t, time.Minute, n.is("OOMKilled 137", "{.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}", "pod", "greedy"))
	n.kubectl(t, "delete", "pod", "crash", "never", "unset", "greedy", "--timeout=60s")
}

func nodeStats(t *testing.T, n nodeUnderTest) {
	proxy := "/api/v1/nodes/" + n.node + "/proxy"
	eventually(t, time.Minute, func() error {
		raw, err := tryKubectl("get", "--raw", proxy+"/stats/summary")
		if err != nil {
			return err
		}
		var summary struct {
			Node struct{ NodeName string }
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					Name   string
					CPU    struct{ UsageCoreNanoSeconds uint64 }
					Memory struct{ WorkingSetBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal([]byte(raw), &summary); err != nil {
			return err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name != "whole" || p.PodRef.Namespace != n.ns || summary.Node.NodeName != n.node {
				continue
			}
			for _, c := range p.Containers {
				if c.CPU.UsageCoreNanoSeconds == 0 || c.Memory.WorkingSetBytes == 0 {
					return fmt.Errorf("nothing is known of %+v", c)
				}
			}
			if len(p.Containers) == 2 {
				return nil
			}
		}
		return fmt.Errorf("the pod is not in %s", raw)
	})
	must(t, contains(kubectl(t, "get", "--raw", proxy+"/metrics"), "kubelet_running_pods"))
	must(t, contains(kubectl(t, "get", "--raw", proxy+"/pods"), `"name":"whole"`))
	must(t, contains(kubectl(t, "get", "--raw", proxy+"/healthz"), "ok"))
}

func nodeStaticPod(t *testing.T, n nodeUnderTest) {
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: static, namespace: " + n.ns + "}\nspec: {containers: [{name: c, image: " + podinfo + "}]}\n"
	inNode(t, n.node, "cat > /etc/kubernetes/manifests/static.yaml <<'EOF'\n"+manifest+"EOF")
	eventually(t, time.Minute, n.is("Running", "{.status.phase}", "pod", "static-"+n.node))
	must(t, n.is("Node", "{.metadata.ownerReferences[0].kind}", "pod", "static-"+n.node)())
	inNode(t, n.node, "rm /etc/kubernetes/manifests/static.yaml")
	eventually(t, 90*time.Second, n.gone("static-"+n.node))
}

// gone is an error while a pod is in the API.
func (n nodeUnderTest) gone(pod string) func() error {
	return func() error {
		out, err := tryKubectl("get", "pod", "-n", n.ns, pod)
		if err == nil {
			return fmt.Errorf("the pod is there: %s", out)
		}
		return contains(err.Error(), "NotFound")
	}
}

func nodeDeletion(t *testing.T, n nodeUnderTest) {
	began := time.Now()
	must(t, contains(n.kubectl(t, "delete", "pod", "whole", "--timeout=60s"), `pod "whole" deleted`))
	t.Logf("deleted after %v", time.Since(began).Round(100*time.Millisecond))
	eventually(t, 30*time.Second, func() error {
		out, err := tryInNode(n.node, n.cri+"pods --namespace "+n.ns+" --state Ready -q")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("sandboxes are left: %s", out)
		}
		return err
	})
}
