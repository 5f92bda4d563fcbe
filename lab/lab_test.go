package lab

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orrery/deploy/images"
)

var update = flag.Bool("update", false, "write the golden files anew")

// aDocker answers questions as a Docker would that holds the given nodes (lines of docker ps) and networks.
func aDocker(nodes, networks string) *Docker {
	return &Docker{Run: func(_ context.Context, _ io.Reader, args []string) (string, error) {
		switch line := strings.Join(args, " "); {
		case strings.HasPrefix(line, "ps --all --quiet"):
			var ids []string
			for node := range strings.Lines(nodes) {
				ids = append(ids, "id-of-"+strings.Fields(node)[0])
			}
			return strings.Join(ids, "\n"), nil
		case strings.HasPrefix(line, "ps "):
			return nodes, nil
		case strings.HasPrefix(line, "network ls"):
			return networks, nil
		case strings.HasSuffix(line, "bridge"):
			return "1400", nil
		case strings.Contains(line, "(index .IPAM.Config 0).Subnet"):
			return "172.30.7.0/24", nil
		case strings.Contains(line, "test -e /etc/kubernetes/kubelet.conf"):
			return "", nil
		}
		return "", errors.New("an unexpected question: docker " + strings.Join(args, " "))
	}}
}

const threeNodes = "lab\trunning\t172.30.7.2\tcontrol-plane\t26443\n" +
	"lab-m03\texited\t172.30.7.4\tworker\t\n" +
	"lab-m02\trunning\t172.30.7.3\tworker\t"

func TestDryRunPrintsEveryCommand(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes, networks string
		do              func(ctx context.Context, c *Cluster) error
	}{
		"start-3": {do: func(ctx context.Context, c *Cluster) error {
			return c.Start(ctx, StartOptions{Nodes: 3, Port: 26443})
		}},
		"start-scaled": {do: func(ctx context.Context, c *Cluster) error {
			return c.Start(ctx, StartOptions{Nodes: 2, Port: 26443, TimeScale: 10})
		}},
		"node-add-scaled": {nodes: "lab\trunning\t172.30.7.2\tcontrol-plane\t26443\t10", networks: "net",
			do: func(ctx context.Context, c *Cluster) error { return c.AddNode(ctx) }},
		"start-no-kubernetes": {do: func(ctx context.Context, c *Cluster) error {
			return c.Start(ctx, StartOptions{Nodes: 2, NoKubernetes: true, Port: 26443})
		}},
		"start-again": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error {
			return c.Start(ctx, StartOptions{Nodes: 3})
		}},
		"node-add": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error { return c.AddNode(ctx) }},
		"node-stop-start-delete": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error {
			n, err := c.Node(ctx, "m02")
			return errors.Join(err, c.StopNode(ctx, n), c.StartNode(ctx, n), c.DeleteNode(ctx, n))
		}},
		"stop":   {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error { return c.Stop(ctx) }},
		"delete": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error { return c.Delete(ctx) }},
		"cp": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error {
			return errors.Join(c.Copy(ctx, "testdata/hello", "/tmp/hello"), c.Copy(ctx, "testdata/hello", "m02:/tmp/hello"))
		}},
		"ssh": {nodes: threeNodes, networks: "net", do: func(ctx context.Context, c *Cluster) error {
			return c.SSH(ctx, "lab-m02", []string{"cat", "$HOME/.kube/config"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c := &Cluster{Name: "lab", Docker: aDocker(tc.nodes, tc.networks), Out: &out, Home: "/home/me/.orrery"}
			c.Docker.DryRun = &out
			if err := tc.do(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("printed\n%s\nwant what is in %s (go test ./lab -update writes it):\n%s", out.String(), golden, want)
			}
		})
	}
}

func TestAddons(t *testing.T) {
	var out bytes.Buffer
	c := &Cluster{Name: "lab", Docker: aDocker("lab\trunning\t172.30.7.2\tcontrol-plane\t26443", "net"), Out: &out, NodeBin: t.TempDir()}
	c.Docker.DryRun = &out
	if err := c.EnableAddon(t.Context(), "ingress"); err == nil || err.Error() != `"ingress" is not an addon: the one there is is metrics-server` {
		t.Errorf("err = %v", err)
	}
	if err := c.EnableAddon(t.Context(), "metrics-server"); !errors.Is(err, fs.ErrNotExist) || !strings.HasSuffix(err.Error(), ": run `make metrics-server` first") {
		t.Errorf("without the program: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.NodeBin, "metrics-server"), []byte("ELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, do := range []func(context.Context, string) error{c.EnableAddon, c.DisableAddon} {
		if err := do(t.Context(), "metrics-server"); err != nil {
			t.Fatal(err)
		}
	}
	// The program, its image and the manifest are of one version.
	module, err := os.ReadFile("../deploy/metrics-server/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	ref := images.MetricsServer.References()[1]
	if _, version, _ := strings.Cut(ref, ":"); !strings.Contains(string(module), "sigs.k8s.io/metrics-server "+version+" ") {
		t.Errorf("%s is not of the version in go.mod", ref)
	}
	text := out.String()
	for _, want := range []string{"docker exec --interactive lab ctr --namespace k8s.io images import --local - <",
		"kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -", "image: " + ref + "\n", "The 'metrics-server' addon is enabled\n",
		"kubectl --kubeconfig /etc/kubernetes/admin.conf delete -f -", "The 'metrics-server' addon is disabled\n"} {
		_, rest, found := strings.Cut(text, want)
		if !found {
			t.Errorf("no %q, or not in this order, in\n%s", want, out.String())
		}
		text = rest
	}
}

func TestNodesAreFoundByNameShortNameOrRole(t *testing.T) {
	c := &Cluster{Name: "lab", Docker: aDocker(threeNodes, ""), Out: io.Discard}
	for name, want := range map[string]string{"": "lab", "lab": "lab", "lab-m03": "lab-m03", "m02": "lab-m02"} {
		if n, err := c.Node(t.Context(), name); err != nil || n.Name != want {
			t.Errorf("Node(%q) = %s, %v; want %s", name, n.Name, err, want)
		}
	}
	_, err := c.Node(t.Context(), "m09")
	if err == nil || err.Error() != `there is no node "m09": the nodes are lab, lab-m02, lab-m03` {
		t.Errorf("err = %v", err)
	}
}

func TestErrorsAreOneSentence(t *testing.T) {
	port := errors.New("docker start: driver failed: Bind for 127.0.0.1:26443 failed: port is already allocated")
	for want, err := range map[string]error{
		"port 26443 is in use": portError(port, 26443),
		"there is no cluster \"x\": create it with `orrery start --profile x`": (&Cluster{Name: "x"}).absent(),
	} {
		if !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not begin with %q", err, want)
		}
	}
	if err := portError(errDenied, 26443); err != errDenied {
		t.Errorf("an error about something else became %v", err)
	}
}

func TestWhatIsWrongWithDockerIsToldApart(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   error
	}{
		{"", errNoDocker},
		{"echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1", errNoEngine},
		{"echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1", errDenied},
	} {
		dir := t.TempDir()
		if tc.script != "" {
			if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		c := &Cluster{Name: "lab", Docker: &Docker{}, Out: io.Discard}
		if err := c.Start(t.Context(), StartOptions{Nodes: 1}); !errors.Is(err, tc.want) {
			t.Errorf("a docker that does %q: %v, want %v", tc.script, err, tc.want)
		}
	}
}

func TestAFailedCommandIsShown(t *testing.T) {
	var out bytes.Buffer
	c := &Cluster{Name: "lab", Docker: &Docker{}, Out: &out}
	failed := &CommandError{Code: 1, Stdout: "[preflight] Running pre-flight checks\n", Stderr: "error: no\n"}
	err := c.runSteps(t.Context(), step{"kubeadm init", func(context.Context) error { return failed }})
	if !errors.Is(err, failed) || err.Error() != "error: no" {
		t.Errorf("err = %v", err)
	}
	if want := "failed\n    [preflight] Running pre-flight checks\n    \n    error: no\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("printed %q, want it to end with %q", out.String(), want)
	}
}

func TestControlPlaneCannotBeDeletedAlone(t *testing.T) {
	c := &Cluster{Name: "lab", Docker: aDocker(threeNodes, ""), Out: io.Discard}
	n, err := c.Node(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteNode(t.Context(), n); err == nil || !strings.Contains(err.Error(), "orrery delete --profile lab") {
		t.Errorf("err = %v", err)
	}
}

func TestStatusOfAStoppedNodeIsAnError(t *testing.T) {
	c := &Cluster{Name: "lab", Docker: aDocker("lab-m02\texited\t172.30.7.3\tworker\t", ""), Out: io.Discard}
	if err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("err = %v, want ErrNotRunning", err)
	}
}

func TestQuotedArgumentsMeanTheSameToAShell(t *testing.T) {
	for arg, want := range map[string]string{
		"run": "run", "": "''", "a *:* rwm": "'a *:* rwm'", "it's": `'it'\''s'`, "172.30.0.0/24": "172.30.0.0/24",
	} {
		if got := quote(arg); got != want {
			t.Errorf("quote(%q) = %s, want %s", arg, got, want)
		}
	}
}
