package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// etcd is killed: the kubelet starts it again on the same data. Nothing that was acknowledged is lost, watches go on, and
// the API server stays.
func TestKillEtcd(t *testing.T) {
	need(t)
	pod := "etcd-" + head
	restarts := func() string {
		return eventuallyGet(t, `{range .items[*]}{.status.containerStatuses[0].restartCount} {end}`, "pods", "-n", "kube-system", "-l", "component=kube-apiserver")
	}
	before := restarts()
	seen := watchConfigMaps(t)
	for _, how := range []struct{ name, command string }{
		{"SIGKILL", "ctr -n k8s.io task kill --signal SIGKILL $(crictl ps -q --name '^etcd$')"},
		{"crictl stop", "crictl stop $(crictl ps -q --name '^etcd$')"},
	} {
		t.Run(how.name, func(t *testing.T) {
			id := eventuallyGet(t, "{.status.containerStatuses[0].containerID}", "pod", "-n", "kube-system", pod)
			ctx, cancel := context.WithCancel(t.Context())
			acked := writeConfigMaps(ctx, strings.ToLower(strings.ReplaceAll(how.name, " ", "-")))
			eventually(t, 20*time.Second, func() error { return more(len(acked()), 0) })
			inNode(t, head, how.command)
			killed, written := time.Now(), len(acked())
			eventually(t, time.Minute, func() error { return more(len(acked()), written) })
			works := time.Since(killed)
			eventually(t, time.Minute, func() error {
				now, err := jsonPath("{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].ready}", "pod", "-n", "kube-system", pod)
				if err == nil && (strings.Contains(now, id) || !strings.HasSuffix(now, " true")) {
					err = fmt.Errorf("%s is %s, was %s", pod, now, id)
				}
				return err
			})
			t.Logf("a write succeeds %v after etcd was killed, its pod is ready after %v", works.Round(100*time.Millisecond), time.Since(killed).Round(100*time.Millisecond))
			cancel()
			all := acked()
			names := strings.Fields(kubectl(t, "get", "configmaps", "-o", "name"))
			for _, name := range all {
				if !slices.Contains(names, "configmap/"+name) {
					t.Errorf("%s was acknowledged and is lost", name)
				}
			}
			last := all[len(all)-1]
			eventually(t, 20*time.Second, func() error { return contains(seen(), "configmap/"+last) })
			t.Logf("%d writes were acknowledged and are there", len(all))
		})
	}
	if now := restarts(); now != before {
		t.Errorf("the API server's restarts were %s and are %s", before, now)
	}
	kubectl(t, "delete", "--raw", "/api/v1/namespaces/default/configmaps?labelSelector=by%3Dwriter")
}

// etcd goes away for good: reads from the cache are answered, writes are not, the API server is unready and then restarted
// in vain. When etcd is back everything is.
func TestEtcdGoesAway(t *testing.T) {
	need(t)
	kubectl(t, "create", "configmap", "kept")
	api := "https://" + strings.TrimSpace(orrery(t, "ip")) + ":6443"
	server := func() string { return strings.TrimSpace(inNode(t, head, "crictl ps -q --name kube-apiserver")) }
	before := server()
	inNode(t, head, "mv /etc/kubernetes/manifests/etcd.yaml /etc/kubernetes/")
	back := sync.OnceFunc(func() { inNode(t, head, "mv /etc/kubernetes/etcd.yaml /etc/kubernetes/manifests/") })
	t.Cleanup(back)
	eventually(t, time.Minute, func() error {
		if id := inNode(t, head, "crictl ps -q --name '^etcd$'"); id != "" {
			return fmt.Errorf("etcd runs as %s", id)
		}
		return nil
	})
	gone := time.Now()
	eventually(t, 5*time.Second, func() error {
		return contains(inNode(t, head, "curl -sk --max-time 10 "+api+"/readyz"), "[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\n", "readyz check failed")
	})
	must(t, contains(kubectl(t, "get", "--raw", "/api/v1/namespaces/default/configmaps?resourceVersion=0"), `"name":"kept"`))
	must(t, contains(kubectl(t, "get", "--raw", "/api/v1/nodes/"+worker2+"?resourceVersion=0"), `"Ready"`))
	const lost = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"lost"}}`
	_, err := commandWith(time.Minute, []byte(lost), kubectlPath, "create", "--raw", "/api/v1/namespaces/default/configmaps?timeout=2s", "-f", "-")
	if err == nil {
		t.Fatal("a write succeeds without etcd")
	}
	must(t, contains(err.Error(), "Error from server (Timeout): the server was unable to return a response in the time allotted, but may still be processing the request"))
	// The kubelet cannot tell the API server so; it tells who asks itself.
	eventually(t, 40*time.Second, func() error {
		if ready := readyAtKubelet(t, "kube-apiserver-"+head); ready != "False" {
			return fmt.Errorf("the kubelet says Ready=%s", ready)
		}
		return nil
	})
	t.Logf("the API server is unready %v after etcd went", time.Since(gone).Round(100*time.Millisecond))
	eventually(t, 2*time.Minute, func() error {
		if id := server(); id == before {
			return fmt.Errorf("still %s", id)
		}
		return nil
	})
	restarted := time.Since(gone)
	t.Logf("the API server is restarted %v after etcd went", restarted.Round(100*time.Millisecond))
	// Eight failures in a row, 10 s apart, of which the first comes within 10 s.
	if restarted < 65*time.Second || restarted > 100*time.Second {
		t.Errorf("the API server is restarted %v after etcd went, want about 80 s", restarted)
	}
	back()
	returned := time.Now()
	eventually(t, 3*time.Minute, func() error {
		_, err := tryKubectl("create", "configmap", "after", "--request-timeout=5s")
		if err != nil && strings.Contains(err.Error(), "already exists") {
			err = nil
		}
		return err
	})
	t.Logf("the first write %v after the manifest is back", time.Since(returned).Round(100*time.Millisecond))
	kubectl(t, "get", "configmap", "kept")
	// What the API server has of its own pod may be old news.
	for _, part := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		eventually(t, 3*time.Minute, func() error {
			if ready := readyAtKubelet(t, part+"-"+head); ready != "True" {
				return fmt.Errorf("the kubelet says Ready=%s of %s", ready, part)
			}
			return nil
		})
	}
	t.Logf("the whole control plane is ready %v after the manifest is back", time.Since(returned).Round(time.Second))
	kubectl(t, "create", "deployment", "afterwards", "--image=docker.io/orrery/podinfo:2023.03")
	kubectl(t, "wait", "deployment/afterwards", "--for=condition=Available", "--timeout=90s")
	t.Logf("a new deployment runs %v after the manifest is back", time.Since(returned).Round(time.Second))
	kubectl(t, "delete", "deployment", "afterwards")
	kubectl(t, "delete", "configmap", "kept", "after")
}

// readyAtKubelet is the Ready condition that the head's kubelet has for one of its pods.
func readyAtKubelet(t *testing.T, pod string) string {
	t.Helper()
	var list corev1.PodList
	must(t, json.Unmarshal([]byte(inNode(t, head, "curl -sk --max-time 10 --cert /etc/kubernetes/pki/apiserver-kubelet-client.crt --key /etc/kubernetes/pki/apiserver-kubelet-client.key https://127.0.0.1:10250/pods")), &list))
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if p.Name == pod && c.Type == corev1.PodReady {
				return string(c.Status)
			}
		}
	}
	return ""
}

func more(n, than int) error {
	if n > than {
		return nil
	}
	return fmt.Errorf("%d writes acknowledged, waiting for more than %d", n, than)
}

// writeConfigMaps creates one after the other until ctx ends. What it returns tells which were acknowledged.
func writeConfigMaps(ctx context.Context, prefix string) (acked func() []string) {
	var mu sync.Mutex
	var names []string
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s-%d", prefix, i)
			if _, err := commandWith(time.Minute, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"labels":{"by":"writer"}}}`, name), kubectlPath, "create", "-f", "-", "--request-timeout=5s"); err == nil {
				mu.Lock()
				names = append(names, name)
				mu.Unlock()
			}
		}
	})
	return func() []string {
		if ctx.Err() != nil {
			done.Wait()
		}
		mu.Lock()
		defer mu.Unlock()
		return names[:len(names):len(names)]
	}
}

// watchConfigMaps runs one kubectl that watches; what it returns tells what that has printed.
func watchConfigMaps(t *testing.T) (seen func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, kubectlPath, "get", "configmaps", "--watch-only", "-o", "name")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var mu sync.Mutex
	var text strings.Builder
	var ended bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			mu.Lock()
			text.WriteString(lines.Text() + "\n")
			mu.Unlock()
		}
		mu.Lock()
		ended = true
		mu.Unlock()
	})
	t.Cleanup(func() {
		mu.Lock()
		if ended {
			t.Error("the watch has ended")
		}
		mu.Unlock()
		cancel()
		reader.Wait()
		_ = cmd.Wait() // it was killed
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
}
