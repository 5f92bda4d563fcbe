package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNodesOnDocker makes real nodes from the programs in bin/. `make e2e` runs it.
func TestNodesOnDocker(t *testing.T) {
	if os.Getenv("ORRERY_E2E") == "" {
		t.Skip("needs Docker and bin/: run `make e2e`")
	}
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := &Cluster{Name: "orrery-e2e-nodes", Docker: &Docker{}, Out: t.Output(), Home: t.TempDir(), NodeBin: bin}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(node string, command ...string) string {
		t.Helper()
		out, err := c.Docker.Ask(ctx, append([]string{"exec", node}, command...)...)
		must(err)
		return out
	}
	must(c.Delete(ctx)) // what an earlier run left
	t.Cleanup(func() {
		if err := c.Delete(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		for _, what := range [][]string{{"ps", "--all"}, {"network", "ls"}} {
			left, err := c.Docker.Ask(context.WithoutCancel(ctx), append(what, "--quiet", "--filter", "label="+labelProfile+"="+c.Name)...)
			if err != nil || left != "" {
				t.Errorf("docker %s after the delete: %q, %v", what[0], left, err)
			}
		}
	})

	must(c.Start(ctx, StartOptions{Nodes: 2, NoKubernetes: true}))
	worker := c.NodeName(2)
	before, err := c.Nodes(ctx)
	must(err)
	if len(before) != 2 || before[0].Port == 0 || !before[1].Running {
		t.Fatalf("nodes = %+v", before)
	}
	if got := ask(worker, "getent", "hosts", c.Name); !strings.HasPrefix(got, before[0].IP.String()) {
		t.Errorf("the worker resolves the first node's name to %q", got)
	}
	id := ask(worker, "cat", "/etc/machine-id")
	if other := ask(c.Name, "cat", "/etc/machine-id"); id == other || len(id) != 32 {
		t.Errorf("machine ids %q and %q", id, other)
	}
	// The last images to be imported are the control plane's.
	ask(c.Name, "timeout", "60", "sh", "-c", "until [ -e /var/lib/orrery/images-imported ]; do sleep 0.2; done")
	if images := ask(c.Name, "ctr", "-n", "k8s.io", "images", "ls", "-q"); !strings.Contains(images, "docker.io/orrery/kube-apiserver:v1.36.3") {
		t.Errorf("images: %s", images)
	}

	local := filepath.Join(t.TempDir(), "file")
	must(os.WriteFile(local, []byte("a file\n"), 0o755))
	must(c.Copy(ctx, local, worker+":/tmp/file"))
	must(c.Copy(ctx, worker+":/tmp/file", local+".back"))
	if back, err := os.ReadFile(local + ".back"); err != nil || !bytes.Equal(back, []byte("a file\n")) {
		t.Errorf("the file came back as %q, %v", back, err)
	}
	ask(worker, "touch", "/var/lib/kept")

	n, err := c.Node(ctx, "m02")
	must(err)
	must(c.StopNode(ctx, n))
	if n, err = c.Node(ctx, "m02"); err != nil || n.Running {
		t.Fatalf("after the stop: %+v, %v", n, err)
	}
	must(c.Start(ctx, StartOptions{Nodes: 2, NoKubernetes: true})) // finds it stopped, and starts it
	after, err := c.Nodes(ctx)
	must(err)
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("node %+v became %+v", before[i], after[i])
		}
	}
	if again := ask(worker, "cat", "/etc/machine-id"); again != id {
		t.Errorf("machine id %s became %s", id, again)
	}
	ask(worker, "test", "-e", "/var/lib/kept")
	if addr := ask(worker, "hostname", "-I"); !strings.Contains(addr, n.IP.String()) {
		t.Errorf("the worker's addresses are %q, not %s", addr, n.IP)
	}
}
