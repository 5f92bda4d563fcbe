package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"orrery/client/timing"
	"orrery/deploy/images"
)

// readyTimeout bounds the wait for every node to be Ready.
const readyTimeout = 2 * time.Minute

// bootstrapSteps are what the course does by hand in its second chapter.
func (c *Cluster) bootstrapSteps(nodes *[]Node) []step {
	head := func() Node { return (*nodes)[0] }
	return []step{
		{"kubeadm init: bootstrapping the control plane on " + c.Name, func(ctx context.Context) error {
			return c.Docker.Do(ctx, "exec", head().Name, "kubeadm", "init", "--config", "/home/docker/config.yaml")
		}},
		{"Copying the kubeconfig", func(ctx context.Context) error { return c.writeKubeconfig(ctx, head()) }},
		// Nobody waits for the second: its pods come when there are workers.
		{"kubectl apply: network plugin and ingress controller", func(ctx context.Context) error {
			return c.kubectl(ctx, head(), "apply", "-f", "/home/docker/cni.yaml", "-f", "/home/docker/ingress.yaml")
		}},
		{"kubeadm join: connecting the workers", func(ctx context.Context) error {
			return c.join(ctx, head(), (*nodes)[1:])
		}},
		{"Waiting until every node is Ready", func(ctx context.Context) error { return c.waitReady(ctx, *nodes) }},
	}
}

// kubeadmConfig is what `kubeadm init --config config.yaml` reads. The certificate is valid for the user's machine
// too, because the API server is published there. Swap and cgroups are that machine's as well: upstream's kubelet, put
// in the place of ours, would refuse to start on some.
var kubeadmConfig = template.Must(template.New("config.yaml").Parse(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: {{.IP}}
  bindPort: {{.Port}}
nodeRegistration:
  name: {{.Name}}
  criSocket: unix:///run/orrery/cri.sock
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {{.Version}}
imageRepository: {{.Repository}}
networking:
  podSubnet: 10.244.0.0/16
  serviceSubnet: 10.96.0.0/12
apiServer:
  certSANs:
  - 127.0.0.1
  - localhost
{{- with .Scaled}}
  extraArgs:
  - name: default-not-ready-toleration-seconds
    value: "{{.NotReady}}"
  - name: default-unreachable-toleration-seconds
    value: "{{.Unreachable}}"
controllerManager:
  extraArgs:
  - name: time-scale
    value: "{{.Scale}}"
scheduler:
  extraArgs:
  - name: time-scale
    value: "{{.Scale}}"
{{- end}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failSwapOn: false
failCgroupV1: false
`))

// writeConfig writes config.yaml into the home of the control-plane node's user, where the manifests are already.
func (c *Cluster) writeConfig(ctx context.Context, head Node) error {
	values := map[string]any{
		"IP": head.IP, "Port": apiPort, "Name": head.Name, "Version": images.Tag, "Repository": images.Repository,
	}
	if head.TimeScale != 0 {
		notReady, unreachable := timing.NotReadyToleration, timing.UnreachableToleration
		timing.Scale(head.TimeScale, &notReady, &unreachable)
		values["Scaled"] = map[string]any{"Scale": head.TimeScale, "NotReady": int(notReady.Seconds()), "Unreachable": int(unreachable.Seconds())}
	}
	var config bytes.Buffer
	if err := kubeadmConfig.Execute(&config, values); err != nil {
		return err
	}
	return c.Docker.Feed(ctx, &config, "exec", "--interactive", "--user", "docker", head.Name, "sh", "-c", "cat >/home/docker/config.yaml")
}

// join makes the nodes members of the cluster, with a token made for the purpose.
func (c *Cluster) join(ctx context.Context, head Node, workers []Node) error {
	if len(workers) == 0 {
		return nil
	}
	command := fmt.Sprintf("kubeadm join %s:%d --token TOKEN --discovery-token-ca-cert-hash sha256:HASH", head.IP, apiPort)
	if c.Docker.DryRun == nil {
		var err error
		if command, err = c.Docker.Ask(ctx, "exec", head.Name, "kubeadm", "token", "create", "--print-join-command"); err != nil {
			return err
		}
	}
	return c.each(ctx, workers, func(ctx context.Context, n Node) error {
		return c.Docker.Do(ctx, append([]string{"exec", n.Name}, strings.Fields(command)...)...)
	})
}

// waitReady waits until the API server knows each of the nodes and says that it is Ready.
func (c *Cluster) waitReady(ctx context.Context, nodes []Node) error {
	for _, what := range []string{"create", "condition=Ready"} {
		args := []string{"wait", "--for=" + what, "--timeout=" + readyTimeout.String()}
		for _, n := range nodes {
			args = append(args, "node/"+n.Name)
		}
		if err := c.kubectl(ctx, nodes[0], args...); err != nil {
			return err
		}
	}
	return nil
}

// waitAPI waits until the API server, which the node's kubelet starts, answers.
func (c *Cluster) waitAPI(ctx context.Context, head Node) error {
	return c.until(ctx, head, readyTimeout, "its API server does not answer",
		fmt.Sprintf("curl --silent --fail --insecure --output /dev/null https://127.0.0.1:%d/readyz", apiPort))
}

// EnsureKubeconfig returns the path of the cluster's kubeconfig, and fetches it first when Kubernetes was put on
// the nodes by hand.
func (c *Cluster) EnsureKubeconfig(ctx context.Context) (string, error) {
	if _, err := os.Stat(c.Kubeconfig()); err == nil {
		return c.Kubeconfig(), nil
	}
	head, err := c.runningNode(ctx, "")
	if err != nil {
		return "", err
	}
	if !c.hasKubernetes(ctx, head) {
		return "", fmt.Errorf("the cluster %q is without Kubernetes: run kubeadm on %s first", c.Name, head.Name)
	}
	return c.Kubeconfig(), c.writeKubeconfig(ctx, head)
}

// writeKubeconfig copies the administrator's kubeconfig to the user's machine, where the API server's address is
// another, and to the home of the node's user.
func (c *Cluster) writeKubeconfig(ctx context.Context, head Node) error {
	err := c.Docker.Do(ctx, "exec", head.Name, "sh", "-c",
		"install -d --owner docker --group docker /home/docker/.kube && install -D --owner docker --group docker --mode 600 /etc/kubernetes/admin.conf /home/docker/.kube/config"+
			" && install -D --mode 600 /etc/kubernetes/admin.conf /root/.kube/config")
	if err != nil {
		return err
	}
	if c.Docker.DryRun != nil {
		return nil
	}
	conf, err := c.Docker.Ask(ctx, "exec", head.Name, "cat", "/etc/kubernetes/admin.conf")
	if err != nil {
		return err
	}
	inside, outside := fmt.Sprintf("https://%s:%d", head.IP, apiPort), fmt.Sprintf("https://127.0.0.1:%d", head.Port)
	if !strings.Contains(conf, inside) {
		return errors.New("/etc/kubernetes/admin.conf does not name the server " + inside)
	}
	if err := os.MkdirAll(filepath.Dir(c.Kubeconfig()), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.Kubeconfig(), []byte(strings.ReplaceAll(conf, inside, outside)+"\n"), 0o600)
}
