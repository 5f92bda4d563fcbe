package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"orrery/deploy"
	"orrery/deploy/images"
)

// EnableAddon puts the addon of that name into the cluster: its image into every running node, its manifest into the
// API. There is one, metrics-server: a program of others, which a cluster of kubeadm's comes without.
func (c *Cluster) EnableAddon(ctx context.Context, name string) error {
	return c.addon(ctx, name, "apply", "enabled", step{"Loading the image of metrics-server into every node", func(ctx context.Context) error {
		var archive bytes.Buffer
		if err := images.MetricsServer.Write(&archive, c.NodeBin, nil); err != nil {
			return fmt.Errorf("%w: run `make metrics-server` first", err)
		}
		dir, err := os.MkdirTemp("", "orrery-addon-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "metrics-server.tar")
		if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
			return err
		}
		return c.LoadImage(ctx, file)
	}})
}

// DisableAddon takes the addon out of the API; its image stays in the nodes.
func (c *Cluster) DisableAddon(ctx context.Context, name string) error {
	return c.addon(ctx, name, "delete", "disabled")
}

func (c *Cluster) addon(ctx context.Context, name, verb, done string, before ...step) error {
	if name != "metrics-server" {
		return fmt.Errorf("%q is not an addon: the one there is is metrics-server", name)
	}
	head, err := c.runningNode(ctx, "")
	if err != nil {
		return err
	}
	err = c.runSteps(ctx, append(before, step{"kubectl " + verb + ": metrics-server", func(ctx context.Context) error {
		return c.Docker.Feed(ctx, bytes.NewReader(deploy.MetricsServer), "exec", "--interactive", head.Name,
			"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", verb, "-f", "-")
	}})...)
	if err == nil {
		fmt.Fprintf(c.Out, "The '%s' addon is %s\n", name, done)
	}
	return err
}
