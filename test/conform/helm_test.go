package conform

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery/lab/sim"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// chart has what charts have: a definition with an object of it, a hook, and
// templates that ask the cluster what it knows.
var chart = map[string]string{
	"Chart.yaml":          "apiVersion: v2\nname: shop\nversion: 0.1.0\nappVersion: \"1\"\nkubeVersion: '>=1.36.0-0'\n",
	"values.yaml":         "replicas: 2\nmessage: hello\n",
	"templates/NOTES.txt": "{{ .Values.replicas }} replicas say {{ .Values.message }} on {{ .Capabilities.KubeVersion.Version }}\n",
	"crds/crate.yaml": `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crates.demo.orrery}
spec:
  group: demo.orrery
  scope: Namespaced
  names: {kind: Crate, plural: crates}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {weight: {type: integer}}}}}}
`,
	"templates/crate.yaml": "apiVersion: demo.orrery/v1\nkind: Crate\nmetadata: {name: first}\nspec: {weight: {{ .Values.replicas }}}\n",
	"templates/hook.yaml": `
apiVersion: v1
kind: ConfigMap
metadata:
  name: before-upgrade
  annotations: {helm.sh/hook: pre-upgrade, helm.sh/hook-delete-policy: before-hook-creation}
data: {revision: "{{ .Release.Revision }}"}
`,
	"templates/settings.yaml": `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  message: {{ .Values.message }}
  seen: "{{ len (lookup "v1" "Node" "" "").items }} nodes"
  knows: "{{ .Capabilities.APIVersions.Has "apps/v1/Deployment" }} {{ .Capabilities.APIVersions.Has "no/v1" }}"
`,
	"templates/web.yaml": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {settings: "{{ .Values.message }}"}
    spec:
      containers:
      - {name: app, image: demo/app:1, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`,
}

// helm runs a program that was built from Helm's module, against a simulated cluster.
type helm struct {
	t              *testing.T
	program, chart string
	env            []string
	set            *kubernetes.Clientset
}

func startHelm(t *testing.T, program string) *helm {
	t.Helper()
	path := filepath.Join("..", "..", "bin", program)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("bin has no %s: run `make helm` first", program)
	}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
	dir := must(os.MkdirTemp("", "helm"))(t) // a socket's path is short
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := must(sim.New(sim.Config{Nodes: 2, Dir: filepath.Join(dir, "sim"), Address: "127.0.0.1:0", Version: "v1.36.3+test", Log: slog.New(slog.DiscardHandler)}))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	soon, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := s.AwaitReady(soon); err != nil {
		t.Fatal(err)
	}
	h := &helm{t: t, program: path, chart: filepath.Join(dir, "shop"), env: append(os.Environ(), "KUBECONFIG="+s.Kubeconfig(), "HOME="+dir, "HELM_NAMESPACE=shop")}
	for name, text := range chart {
		path := filepath.Join(h.chart, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.set = must(kubernetes.NewForConfig(must(clientcmd.BuildConfigFromFlags("", s.Kubeconfig()))(t)))(t)
	return h
}

func (h *helm) try(args ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = h.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run fails the test when helm fails, or does not say what it should.
func (h *helm) run(says []string, args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, want := range says {
		if !strings.Contains(out, want) {
			h.t.Errorf("helm %s: no %q in\n%s", strings.Join(args, " "), want, out)
		}
	}
	return out
}

// state is what the release has made of the cluster.
func (h *helm) state() string {
	h.t.Helper()
	ctx := h.t.Context()
	web := must(h.set.AppsV1().Deployments("shop").Get(ctx, "web", metav1.GetOptions{}))(h.t)
	settings := must(h.set.CoreV1().ConfigMaps("shop").Get(ctx, "settings", metav1.GetOptions{}))(h.t)
	crate := must(h.set.RESTClient().Get().AbsPath("/apis/demo.orrery/v1/namespaces/shop/crates/first").DoRaw(ctx))(h.t)
	var custom struct{ Spec struct{ Weight int } }
	if err := json.Unmarshal(crate, &custom); err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("%d of %d ready, %s to %s, crate %d", web.Status.ReadyReplicas, *web.Spec.Replicas, settings.Data["message"], settings.Data["seen"], custom.Spec.Weight)
}

func (h *helm) has(want string) {
	h.t.Helper()
	if got := h.state(); got != want {
		h.t.Errorf("%s, want %s", got, want)
	}
}

// Helm 3 merges what it sends by itself; Helm 4 applies on the server, and follows what it waits for by watches.
func TestHelmInstallsUpgradesRollsBackAndUninstalls(t *testing.T) {
	for _, program := range []string{"helm", "helm3"} {
		t.Run(program, func(t *testing.T) { lifeOfARelease(t, startHelm(t, program)) })
	}
}

func lifeOfARelease(t *testing.T, h *helm) {
	ctx := t.Context()
	h.run([]string{"STATUS: deployed", "REVISION: 1", "2 replicas say hello on v1.36.3+test"}, "install", "shop", h.chart, "--create-namespace", "--wait", "--timeout", "1m")
	h.has("2 of 2 ready, hello to 2 nodes, crate 2")
	if m := must(h.set.CoreV1().ConfigMaps("shop").Get(ctx, "settings", metav1.GetOptions{}))(t); m.Data["knows"] != "true false" {
		t.Errorf("the templates were told %q about apps/v1 and no/v1", m.Data["knows"])
	}

	h.run([]string{"STATUS: deployed", "REVISION: 2", "3 replicas say bye"}, "upgrade", "shop", h.chart, "--set", "replicas=3,message=bye", "--wait", "--timeout", "1m")
	h.has("3 of 3 ready, bye to 2 nodes, crate 3")
	if m := must(h.set.CoreV1().ConfigMaps("shop").Get(ctx, "before-upgrade", metav1.GetOptions{}))(t); m.Data["revision"] != "2" {
		t.Errorf("the hook ran before revision %q, want 2", m.Data["revision"])
	}

	// What the server refuses fails the upgrade, in the server's words, and leaves the rest as it was.
	out, err := h.try("upgrade", "shop", h.chart, "--set", "replicas=-1", "--wait", "--timeout", "1m")
	if err == nil || !strings.Contains(out, `Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0`) {
		t.Errorf("an upgrade to -1 replicas: %v\n%s", err, out)
	}

	h.run([]string{"Rollback was a success"}, "rollback", "shop", "1", "--wait", "--timeout", "1m")
	h.has("2 of 2 ready, hello to 2 nodes, crate 2")
	var history []struct {
		Revision int
		Status   string
	}
	if err := json.Unmarshal([]byte(h.run(nil, "history", "shop", "-o", "json")), &history); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(history); got != "[{1 superseded} {2 superseded} {3 failed} {4 deployed}]" {
		t.Errorf("history: %s", got)
	}
	h.run([]string{"kind: Deployment", "kind: Crate"}, "get", "manifest", "shop")
	h.run([]string{"shop", "deployed"}, "list")
	secrets := must(h.set.CoreV1().Secrets("shop").List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,status=deployed"}))(t)
	if len(secrets.Items) != 1 || secrets.Items[0].Type != "helm.sh/release.v1" || secrets.Items[0].Name != "sh.helm.release.v1.shop.v4" {
		t.Errorf("the deployed release lies in %v", secrets.Items)
	}

	h.run([]string{`release "shop" uninstalled`}, "uninstall", "shop", "--wait", "--timeout", "1m")
	if _, err := h.set.AppsV1().Deployments("shop").Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after uninstall the deployment: %v", err)
	}
	left := must(h.set.CoreV1().Secrets("shop").List(ctx, metav1.ListOptions{LabelSelector: "owner=helm"}))(t)
	if len(left.Items) != 0 {
		t.Errorf("after uninstall %d releases are kept", len(left.Items))
	}
}
