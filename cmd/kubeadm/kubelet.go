package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	// kubeletHealthzTimeout and controlPlaneTimeout are the v1beta4 defaults
	// timeouts.kubeletHealthCheck and timeouts.controlPlaneComponentHealthCheck.
	kubeletHealthzTimeout = 4 * time.Minute
	controlPlaneTimeout   = 4 * time.Minute
	pollInterval          = 200 * time.Millisecond
)

func (s *settings) writeKubeletEnv(n nodeRegistration) error {
	fmt.Printf("[kubelet-start] Writing kubelet environment file with flags to file %q\n", kubeletEnvFile)
	var flags []string
	for _, a := range n.KubeletExtraArgs {
		flags = append(flags, "--"+a.Name+"="+a.Value)
	}
	return writeFile(kubeletEnvFile, fmt.Sprintf("KUBELET_KUBEADM_ARGS=%q\n", strings.Join(flags, " ")), 0o644)
}

// writeKubeletConfig writes the kubelet's configuration: the cluster's, with
// what belongs to this machine alone (instance-config.yaml) laid over it.
func (s *settings) writeKubeletConfig(n nodeRegistration) error {
	fmt.Printf("[kubelet-start] Writing kubelet configuration to file %q\n", instanceConfig)
	if err := writeFile(instanceConfig, fmt.Sprintf("containerRuntimeEndpoint: %q\n", n.CRISocket), 0o644); err != nil {
		return err
	}
	fmt.Println(`[patches] Applied patch of type "application/strategic-merge-patch+json" to target "kubeletconfiguration"`)
	s.Kubelet.ContainerRuntimeEndpoint = n.CRISocket
	fmt.Printf("[kubelet-start] Writing kubelet configuration to file %q\n", kubeletConfFile)
	raw, err := yaml.Marshal(s.Kubelet)
	if err != nil {
		return err
	}
	return writeFile(kubeletConfFile, string(raw), 0o644)
}

// systemctl runs the init system's tool; a machine without one is told so.
func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func startKubelet(ctx context.Context) error {
	fmt.Println("[kubelet-start] Starting the kubelet")
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return systemctl(ctx, "restart", "kubelet")
}

func waitKubelet(ctx context.Context) error {
	const url = "http://127.0.0.1:10248/healthz"
	fmt.Printf("[kubelet-check] Waiting for a healthy kubelet at %s. This can take up to %s\n", url, upTo(kubeletHealthzTimeout))
	took, err := waitHealthy(ctx, http.DefaultClient, url, kubeletHealthzTimeout)
	if err != nil {
		return fmt.Errorf("failed while waiting for the kubelet to start: The HTTP call equal to 'curl -sSL %s' returned error: %w", url, err)
	}
	fmt.Printf("[kubelet-check] The kubelet is healthy after %v\n", took)
	return nil
}

// upTo prints a time as kubeadm does: 4m0s.
func upTo(d time.Duration) string { return d.String() }

// waitHealthy polls a URL until it answers 200, and says how long that took.
func waitHealthy(ctx context.Context, c *http.Client, url string, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	err := poll(ctx, limit, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
	return time.Since(began), err
}

// poll tries until f succeeds; when the time is up the last error is returned.
func poll(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollInterval):
		}
	}
}
