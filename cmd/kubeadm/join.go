package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"sigs.k8s.io/yaml"

	"orrery/client"
)

// discoveryTimeout and tlsBootstrapTimeout are the v1beta4 defaults
// timeouts.discovery and timeouts.tlsBootstrap.
const (
	discoveryTimeout    = 5 * time.Minute
	tlsBootstrapTimeout = 5 * time.Minute
)

func joinCommand() *cobra.Command {
	var s settings
	var configFile, token string
	var ignore, skip []string
	d := &tokenDiscovery{}
	c := &cobra.Command{
		Use: "join [api-server-endpoint]", Short: "Run this on any machine you wish to join an existing cluster", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.readConfig(configFile); err != nil {
				return err
			}
			if s.Join.Discovery.BootstrapToken == nil {
				s.Join.Discovery.BootstrapToken = d
			}
			d := s.Join.Discovery.BootstrapToken
			if len(args) == 1 {
				d.APIServerEndpoint = args[0]
			}
			or(&d.Token, token)
			or(&s.Join.Discovery.TLSBootstrapToken, token)
			or(&s.Join.Discovery.TLSBootstrapToken, d.Token)
			or(&s.Join.CACertPath, defaultPKIDir+"/ca.crt")
			if err := d.validate(); err != nil {
				return err
			}
			if err := s.Join.NodeRegistration.setDefaults(); err != nil {
				return err
			}
			s.Join.NodeRegistration.IgnorePreflightErrors = append(s.Join.NodeRegistration.IgnorePreflightErrors, ignore...)
			return s.join(cmd.Context(), append(s.Join.SkipPhases, skip...))
		},
	}
	f := c.Flags()
	f.StringVar(&configFile, "config", "", "Path to a kubeadm configuration file.")
	f.StringVar(&token, "token", "", "Use this token for both discovery-token and tls-bootstrap-token when those values are not provided.")
	f.StringVar(&d.Token, "discovery-token", "", "For token-based discovery, the token used to validate cluster information fetched from the API server.")
	f.StringVar(&s.Join.Discovery.TLSBootstrapToken, "tls-bootstrap-token", "", "Specify the token used to temporarily authenticate with the Kubernetes Control Plane while joining the node.")
	f.StringSliceVar(&d.CACertHashes, "discovery-token-ca-cert-hash", nil, "For token-based discovery, validate that the root CA public key matches this hash (format: \"<type>:<value>\").")
	f.BoolVar(&d.UnsafeSkipCAVerification, "discovery-token-unsafe-skip-ca-verification", false, "For token-based discovery, allow joining without --discovery-token-ca-cert-hash pinning.")
	f.StringVar(&s.Join.NodeRegistration.Name, "node-name", "", "Specify the node name.")
	f.StringVar(&s.Join.NodeRegistration.CRISocket, "cri-socket", "", "Path to the CRI socket to connect.")
	f.StringSliceVar(&ignore, "ignore-preflight-errors", nil, "A list of checks whose errors will be shown as warnings. Example: 'IsPrivilegedUser,Swap'. Value 'all' ignores errors from all checks.")
	f.StringSliceVar(&skip, "skip-phases", nil, "List of phases to be skipped")
	return c
}

// validate refuses what discovery cannot work with.
//
// Upstream: cmd/kubeadm/app/apis/kubeadm/validation, ValidateDiscoveryBootstrapToken.
func (d *tokenDiscovery) validate() error {
	var errs []string
	if d.APIServerEndpoint == "" {
		errs = append(errs, `discovery.bootstrapToken: Invalid value: "": APIServerEndpoint is not set`)
	}
	if len(d.CACertHashes) == 0 && !d.UnsafeSkipCAVerification {
		errs = append(errs, `discovery.bootstrapToken: Invalid value: "": using token-based discovery without caCertHashes can be unsafe. Set unsafeSkipCAVerification as true in your kubeadm config file or pass --discovery-token-unsafe-skip-ca-verification flag to continue`)
	}
	for _, h := range d.CACertHashes {
		if hex, ok := strings.CutPrefix(strings.ToLower(h), "sha256:"); !ok || len(hex) != 64 {
			errs = append(errs, fmt.Sprintf("discovery.bootstrapToken.caCertHashes: Invalid value: %q: expected an SHA-256 public key hash, as \"sha256:<64 hex digits>\"", h))
		}
	}
	if !tokenPattern.MatchString(d.Token) {
		errs = append(errs, fmt.Sprintf("discovery.bootstrapToken.token: Invalid value: %q: the bootstrap token is invalid", d.Token))
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", errInvalidConfig, errs[0])
	}
	return fmt.Errorf("%w: [%s]", errInvalidConfig, strings.Join(errs, ", "))
}

// join runs the phases of a worker.
//
// Upstream: cmd/kubeadm/app/cmd/join.go.
func (s *settings) join(ctx context.Context, skip []string) error {
	node := s.Join.NodeRegistration
	var cluster client.Config
	var bootstrap *client.Client
	phases := []phase{
		{"preflight", func(ctx context.Context) (err error) {
			fmt.Println("[preflight] Running pre-flight checks")
			if err := runChecks(s.joinChecks(), node.IgnorePreflightErrors); err != nil {
				return err
			}
			limit := discoveryTimeout
			if t := s.Join.Timeouts.Discovery; t != nil {
				limit = t.Duration
			}
			if cluster, err = discover(ctx, s.Join.Discovery.BootstrapToken, limit); err != nil {
				return fmt.Errorf("couldn't validate the identity of the API Server: %w", err)
			}
			if bootstrap, err = client.New(cluster.WithToken(s.Join.Discovery.TLSBootstrapToken).As("kubeadm")); err != nil {
				return err
			}
			return s.fetchConfig(ctx, bootstrap)
		}},
		{"kubelet-start", func(ctx context.Context) error {
			if err := refuseReadyNode(ctx, bootstrap, node.Name); err != nil {
				return err
			}
			if err := s.writeBootstrapFiles(cluster); err != nil {
				return err
			}
			if err := s.writeKubeletConfig(node); err != nil {
				return err
			}
			if err := s.writeKubeletEnv(node); err != nil {
				return err
			}
			if err := startKubelet(ctx); err != nil {
				return err
			}
			if err := waitKubelet(ctx); err != nil {
				return err
			}
			limit := tlsBootstrapTimeout
			if t := s.Join.Timeouts.TLSBootstrap; t != nil {
				limit = t.Duration
			}
			return waitTLSBootstrap(ctx, limit)
		}},
	}
	if err := runPhases(ctx, phases, skip); err != nil {
		return err
	}
	fmt.Print(`
This node has joined the cluster:
* Certificate signing request was sent to apiserver and a response was received.
* The Kubelet was informed of the new secure connection details.

Run 'kubectl get nodes' on the control-plane to see this node join the cluster.

`)
	return nil
}

// publishedInfo is what kube-public/cluster-info says of a cluster.
type publishedInfo struct {
	kubeconfig string
	signatures map[string]string // by token id
	cfg        client.Config
}

// clusterInfo reads the ConfigMap that everybody may read.
func clusterInfo(ctx context.Context, c *client.Client) (*publishedInfo, error) {
	cm, err := client.For[*corev1.ConfigMap](c).Get(ctx, metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo)
	if err != nil {
		return nil, err
	}
	info := &publishedInfo{kubeconfig: cm.Data[bootstrapapi.KubeConfigKey], signatures: map[string]string{}}
	for key, v := range cm.Data {
		if id, ok := strings.CutPrefix(key, bootstrapapi.JWSSignatureKeyPrefix); ok {
			info.signatures[id] = v
		}
	}
	var k client.Kubeconfig
	if err := yaml.Unmarshal([]byte(info.kubeconfig), &k); err != nil {
		return nil, err
	}
	info.cfg, err = k.Config()
	return info, err
}

func (i *publishedInfo) pin() (string, error) {
	cert, err := parseCert(i.cfg.CAData)
	if err != nil {
		return "", err
	}
	return publicKeyPin(cert), nil
}

// discover learns where the cluster is and what CA it has, from a server that it
// cannot trust yet: the token proves the answer's signature, the pin the CA.
//
// Upstream: cmd/kubeadm/app/discovery/token, RetrieveValidatedConfigInfo.
func discover(ctx context.Context, d *tokenDiscovery, limit time.Duration) (client.Config, error) {
	id, secret, _ := strings.Cut(d.Token, ".")
	fetch := func(cfg client.Config) (info *publishedInfo, err error) {
		cfg.UserAgent = "kubeadm"
		c, err := client.New(cfg)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		err = poll(ctx, limit, func(ctx context.Context) (err error) {
			if info, err = clusterInfo(ctx, c); err != nil {
				return fmt.Errorf("failed to request the cluster-info ConfigMap: %w", err)
			}
			// A token that is new may not have its signature yet.
			if info.signatures[id] == "" {
				return fmt.Errorf("could not find a JWS signature in the cluster-info ConfigMap for token ID %q", id)
			}
			return nil
		})
		return info, err
	}
	host := "https://" + d.APIServerEndpoint
	insecure, err := fetch(client.Config{Host: host, Insecure: true})
	if err != nil {
		return client.Config{}, err
	}
	if !jws.DetachedTokenIsValid(insecure.signatures[id], insecure.kubeconfig, id, secret) {
		return client.Config{}, errors.New("failed to verify JWS signature of received cluster info object, can't trust this API Server")
	}
	if len(d.CACertHashes) == 0 {
		return insecure.cfg, nil
	}
	pin, err := insecure.pin()
	if err != nil {
		return client.Config{}, err
	}
	if !slices.ContainsFunc(d.CACertHashes, func(h string) bool { return strings.EqualFold(h, pin) }) {
		return client.Config{}, fmt.Errorf("cluster CA found in cluster-info ConfigMap is invalid: none of the public keys %q are pinned", pin)
	}
	// Once more, now with the pinned CA, to know that the server holds its key.
	secure, err := fetch(client.Config{Host: host, CAData: insecure.cfg.CAData})
	if err != nil {
		return client.Config{}, err
	}
	if secure.kubeconfig != insecure.kubeconfig {
		return client.Config{}, errors.New("the second kubeconfig from the cluster-info ConfigMap (using validated TLS) was different from the first")
	}
	return secure.cfg, nil
}

// fetchConfig reads the cluster's and the kubelets' configuration.
func (s *settings) fetchConfig(ctx context.Context, c *client.Client) error {
	fmt.Printf("[preflight] Reading configuration from the %q ConfigMap in namespace %q...\n", "kubeadm-config", metav1.NamespaceSystem)
	fmt.Println("[preflight] Use 'kubeadm init phase upload-config kubeadm --config your-config-file' to re-upload it.")
	maps := client.For[*corev1.ConfigMap](c)
	for _, m := range []struct {
		name, key string
		into      any
	}{
		{"kubeadm-config", "ClusterConfiguration", &s.Cluster},
		{"kubelet-config", "kubelet", &s.Kubelet},
	} {
		cm, err := maps.Get(ctx, metav1.NamespaceSystem, m.name)
		if err != nil {
			return fmt.Errorf("unable to fetch the %s ConfigMap: failed to get config map: %w", m.name, err)
		}
		if err := yaml.Unmarshal([]byte(cm.Data[m.key]), m.into); err != nil {
			return fmt.Errorf("unable to decode the %s ConfigMap: %w", m.name, err)
		}
	}
	return nil
}

func refuseReadyNode(ctx context.Context, c *client.Client, name string) error {
	node, err := client.For[*corev1.Node](c).Get(ctx, "", name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot get Node %q: %w", name, err)
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
			return fmt.Errorf("a Node with name %q and status %q already exists in the cluster. You must delete the existing Node or change the name of this new joining Node", name, corev1.NodeReady)
		}
	}
	return nil
}

// writeBootstrapFiles leaves the CA and the token for the kubelet, which makes a
// certificate of them.
func (s *settings) writeBootstrapFiles(cluster client.Config) error {
	if err := writeFile(s.Join.CACertPath, string(cluster.CAData), 0o644); err != nil {
		return err
	}
	host, err := url.Parse(cluster.Host)
	if err != nil {
		return err
	}
	k := client.NewKubeconfig("kubernetes", client.Cluster{Server: host.String(), CAData: cluster.CAData},
		"tls-bootstrap-token-user", client.AuthInfo{Token: s.Join.Discovery.TLSBootstrapToken})
	return writeYAML(bootstrapKubeconfig, k, 0o600)
}

const bootstrapKubeconfig = kubernetesDir + "/bootstrap-kubelet.conf"

func waitTLSBootstrap(ctx context.Context, limit time.Duration) error {
	fmt.Println("[kubelet-start] Waiting for the kubelet to perform the TLS Bootstrap")
	path := filepath.Join(kubernetesDir, "kubelet.conf")
	err := poll(ctx, limit, func(context.Context) error {
		_, err := os.Stat(path)
		return err
	})
	if err != nil {
		return fmt.Errorf("timed out waiting for the kubelet to write %s: %w", path, err)
	}
	return os.Remove(bootstrapKubeconfig)
}
