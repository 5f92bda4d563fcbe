package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// folder is short: a socket's path has a hundred letters at most.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestAClientFromOutside uses a simulation as kubectl and the command line do: over
// TLS, with the kubeconfig's certificate, under RBAC.
func TestAClientFromOutside(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := folder(t)
	s, err := New(Config{Nodes: 2, Dir: dir, Address: "127.0.0.1:0", Version: "v1.36.3+test"})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 2)
	go func() { done <- s.Run(running) }()
	go func() { done <- s.ServeCommands(running) }()
	defer func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	access, err := client.LoadKubeconfig(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(access)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	pods := client.For[*corev1.Pod](api)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "web"}, Spec: corev1.PodSpec{NodeName: "orrery-m02", Containers: []corev1.Container{{Name: "app", Image: "demo/app:1"}}}}
	await(ctx, t, "the pod is made, once there is a service account", func() bool { _, err := pods.Create(ctx, pod); return err == nil })
	running1 := func() bool {
		p, err := pods.Get(ctx, "kube-system", "web")
		return err == nil && p.Status.Phase == corev1.PodRunning && strings.HasPrefix(p.Status.PodIP, "10.244.")
	}
	await(ctx, t, "the pod runs", running1)
	logs, err := api.Stream(ctx, "/api/v1/namespaces/kube-system/pods/web/log", url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if text, err := io.ReadAll(logs); err != nil || !strings.Contains(string(text), "nothing runs here") {
		t.Errorf("the log is %q, %v", text, err)
	}
	for line, want := range map[string]string{"nodes": "kube-scheduler\t\trunning\n", "exit kube-system/web 3": "1 containers exited with 3\n", "cut orrery-m02": "orrery-m02 cut off\n"} {
		if got, err := Send(ctx, dir, line); err != nil || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	components := client.For[*corev1.ComponentStatus](api)
	health := func(name string) string {
		c, err := components.Get(ctx, "", name)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s %s", c.Conditions[0].Status, c.Conditions[0].Message)
	}
	if _, err := Send(ctx, dir, "stop kube-scheduler"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"etcd-0": "True ok", "controller-manager": "True ok",
		"scheduler": `False Get "https://127.0.0.1:10259/healthz": dial tcp: 127.0.0.1:10259: connection refused`} {
		if got := health(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, err := Send(ctx, dir, "heal nobody"); err == nil || err.Error() != `there is no node or component "nobody"` {
		t.Errorf("healing nobody: %v", err)
	}
	if _, err := Send(ctx, dir, "heal orrery-m02"); err != nil {
		t.Error(err)
	}
	await(ctx, t, "the container has been started again", func() bool {
		p, err := pods.Get(ctx, "kube-system", "web")
		return err == nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode == 3
	})
}

func await(ctx context.Context, t *testing.T, what string, cond func() bool) {
	t.Helper()
	for tick := time.NewTicker(50 * time.Millisecond); !cond(); {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		case <-tick.C:
		}
	}
}
