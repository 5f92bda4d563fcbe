package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"orrery/client"
)

func initCommand() *cobra.Command {
	var s settings
	var configFile, token string
	var ttl time.Duration
	var ignore, skip, sans []string
	c := &cobra.Command{
		Use: "init", Short: "Run this command in order to set up the Kubernetes control plane", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if configFile != "" {
				if f := flagBesideConfig(cmd); f != "" {
					return fmt.Errorf("can not mix '--config' with arguments [%s]", f)
				}
			}
			if err := s.readConfig(configFile); err != nil {
				return err
			}
			if token != "" || cmd.Flags().Changed("token-ttl") {
				s.Init.BootstrapTokens = []bootstrapToken{{Token: token, TTL: &metav1.Duration{Duration: ttl}}}
			}
			s.Cluster.APIServer.CertSANs = append(s.Cluster.APIServer.CertSANs, sans...)
			if err := s.setDefaults(); err != nil {
				return err
			}
			s.Init.NodeRegistration.IgnorePreflightErrors = append(s.Init.NodeRegistration.IgnorePreflightErrors, ignore...)
			return s.init(cmd.Context(), append(s.Init.SkipPhases, skip...))
		},
	}
	f := c.Flags()
	f.StringVar(&configFile, "config", "", "Path to a kubeadm configuration file.")
	f.StringVar(&s.Init.LocalAPIEndpoint.AdvertiseAddress, "apiserver-advertise-address", "", "The IP address the API Server will advertise it's listening on. If not set the default network interface will be used.")
	f.IntVar(&s.Init.LocalAPIEndpoint.BindPort, "apiserver-bind-port", defaultPort, "Port for the API Server to bind to.")
	f.StringSliceVar(&sans, "apiserver-cert-extra-sans", nil, "Optional extra Subject Alternative Names (SANs) to use for the API Server serving certificate. Can be both IP addresses and DNS names.")
	f.StringVar(&s.Cluster.CertificatesDir, "cert-dir", "", "The path where to save and store the certificates.")
	f.StringVar(&s.Cluster.ControlPlaneEndpoint, "control-plane-endpoint", "", "Specify a stable IP address or DNS name for the control plane.")
	f.StringVar(&s.Init.NodeRegistration.CRISocket, "cri-socket", "", "Path to the CRI socket to connect.")
	f.StringVar(&s.Cluster.ImageRepository, "image-repository", "", "Choose a container registry to pull control plane images from")
	f.StringVar(&s.Cluster.KubernetesVersion, "kubernetes-version", "", "Choose a specific Kubernetes version for the control plane.")
	f.StringVar(&s.Init.NodeRegistration.Name, "node-name", "", "Specify the node name.")
	f.StringVar(&s.Cluster.Networking.PodSubnet, "pod-network-cidr", "", "Specify range of IP addresses for the pod network. If set, the control plane will automatically allocate CIDRs for every node.")
	f.StringVar(&s.Cluster.Networking.ServiceSubnet, "service-cidr", "", "Use alternative range of IP address for service VIPs.")
	f.StringVar(&s.Cluster.Networking.DNSDomain, "service-dns-domain", "", "Use alternative domain for services, e.g. \"myorg.internal\".")
	f.StringVar(&token, "token", "", "The token to use for establishing bidirectional trust between nodes and control-plane nodes. The format is [a-z0-9]{6}.[a-z0-9]{16} - e.g. abcdef.0123456789abcdef")
	f.DurationVar(&ttl, "token-ttl", 24*time.Hour, "The duration before the token is automatically deleted (e.g. 1s, 2m, 3h). If set to '0', the token will never expire")
	f.StringSliceVar(&ignore, "ignore-preflight-errors", nil, "A list of checks whose errors will be shown as warnings. Example: 'IsPrivilegedUser,Swap'. Value 'all' ignores errors from all checks.")
	f.StringSliceVar(&skip, "skip-phases", nil, "List of phases to be skipped")
	return c
}

// flagBesideConfig is the first flag that may not stand beside --config.
func flagBesideConfig(cmd *cobra.Command) string {
	for _, name := range []string{"apiserver-advertise-address", "apiserver-bind-port", "apiserver-cert-extra-sans", "cert-dir",
		"control-plane-endpoint", "image-repository", "kubernetes-version", "pod-network-cidr", "service-cidr", "service-dns-domain", "token", "token-ttl"} {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// init runs the phases of a first control plane.
//
// Upstream: cmd/kubeadm/app/cmd/init.go.
func (s *settings) init(ctx context.Context, skip []string) error {
	fmt.Printf("[init] Using Kubernetes version: %s\n", s.Cluster.KubernetesVersion)
	node := s.Init.NodeRegistration
	var admin, super *client.Client
	phases := []phase{
		{"preflight", func(context.Context) error {
			fmt.Println("[preflight] Running pre-flight checks")
			return runChecks(s.initChecks(), node.IgnorePreflightErrors)
		}},
		{"certs", func(context.Context) error { return s.createCerts() }},
		{"kubeconfig", func(context.Context) error { return s.createKubeconfigs() }},
		{"etcd", func(context.Context) error { return s.writeEtcd() }},
		{"control-plane", func(context.Context) error { return s.writeManifests() }},
		{"kubelet-start", func(ctx context.Context) error {
			if err := s.writeKubeletEnv(node); err != nil {
				return err
			}
			if err := s.writeKubeletConfig(node); err != nil {
				return err
			}
			return startKubelet(ctx)
		}},
		{"wait-control-plane", func(ctx context.Context) (err error) {
			if admin, err = adminClient("admin.conf"); err != nil {
				return err
			}
			if super, err = adminClient("super-admin.conf"); err != nil {
				return err
			}
			if err := s.waitControlPlane(ctx); err != nil {
				return err
			}
			return ensureAdmins(ctx, super)
		}},
		{"upload-config", func(ctx context.Context) error { return s.uploadConfig(ctx, admin) }},
		{"upload-certs", func(context.Context) error {
			fmt.Println("[upload-certs] Skipping phase. Please see --upload-certs")
			return nil
		}},
		{"mark-control-plane", func(ctx context.Context) error { return s.markControlPlane(ctx, admin) }},
		{"bootstrap-token", func(ctx context.Context) error { return s.bootstrapTokens(ctx, admin) }},
		{"kubelet-finalize", func(ctx context.Context) error { return s.finalizeKubelet(ctx) }},
		{"addon/coredns", func(ctx context.Context) error { return s.applyAddon(ctx, admin, "CoreDNS", s.coreDNS) }},
		{"addon/kube-proxy", func(ctx context.Context) error { return s.applyAddon(ctx, admin, "kube-proxy", s.kubeProxy) }},
	}
	if err := runPhases(ctx, phases, skip); err != nil {
		return err
	}
	return s.printInstructions()
}

func adminClient(file string) (*client.Client, error) {
	cfg, err := client.LoadKubeconfig(filepath.Join(kubernetesDir, file))
	if err != nil {
		return nil, err
	}
	return client.New(cfg.As("kubeadm"))
}

func (s *settings) waitControlPlane(ctx context.Context) error {
	fmt.Printf("[wait-control-plane] Waiting for the kubelet to boot up the control plane as static Pods from directory %q\n", manifestsDir)
	if err := waitKubelet(ctx); err != nil {
		return err
	}
	fmt.Printf("[control-plane-check] Waiting for healthy control plane components. This can take up to %s\n", upTo(controlPlaneTimeout))
	// These are our own components on our own addresses; what is asked is only
	// whether they are up.
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	type result struct {
		name string
		took time.Duration
		err  error
	}
	results := make(chan result)
	components := s.components()
	for _, comp := range components {
		url := fmt.Sprintf("https://%s:%d%s", comp.host, comp.port, comp.live)
		fmt.Printf("[control-plane-check] Checking %s at %s\n", comp.name, url)
		go func() {
			took, err := waitHealthy(ctx, c, url, controlPlaneTimeout)
			results <- result{comp.name, took, err}
		}()
	}
	var failed []error
	for range components {
		r := <-results
		if r.err != nil {
			fmt.Printf("[control-plane-check] %s is not healthy after %s\n", r.name, upTo(controlPlaneTimeout))
			failed = append(failed, fmt.Errorf("%s check failed: %w", r.name, r.err))
			continue
		}
		fmt.Printf("[control-plane-check] %s is healthy after %v\n", r.name, r.took)
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed while waiting for the control plane to start: %w", errors.Join(failed...))
	}
	return nil
}

func (s *settings) uploadConfig(ctx context.Context, c *client.Client) error {
	fmt.Printf("[upload-config] Storing the configuration used in ConfigMap %q in the %q Namespace\n", "kubeadm-config", metav1.NamespaceSystem)
	cluster, err := yaml.Marshal(s.Cluster)
	if err != nil {
		return err
	}
	if err := putConfigMap(ctx, c, metav1.NamespaceSystem, "kubeadm-config", map[string]string{"ClusterConfiguration": string(cluster)}); err != nil {
		return err
	}
	if err := s.apply(ctx, c, nodesMayRead("kubeadm:nodes-kubeadm-config", "kubeadm-config")); err != nil {
		return err
	}
	fmt.Printf("[kubelet] Creating a ConfigMap %q in namespace %s with the configuration for the kubelets in the cluster\n", "kubelet-config", metav1.NamespaceSystem)
	kubelet, err := yaml.Marshal(s.Kubelet)
	if err != nil {
		return err
	}
	if err := putConfigMap(ctx, c, metav1.NamespaceSystem, "kubelet-config", map[string]string{"kubelet": string(kubelet)}); err != nil {
		return err
	}
	return s.apply(ctx, c, nodesMayRead("kubeadm:kubelet-config", "kubelet-config"))
}

// putConfigMap makes a ConfigMap be what it should be.
func putConfigMap(ctx context.Context, c *client.Client, namespace, name string, data map[string]string) error {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
	maps := client.For[*corev1.ConfigMap](c)
	_, err := maps.Create(ctx, cm)
	if apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(ctx, cm)
	}
	return err
}

func (s *settings) markControlPlane(ctx context.Context, c *client.Client) error {
	name := s.Init.NodeRegistration.Name
	labels := []string{"node-role.kubernetes.io/control-plane", "node.kubernetes.io/exclude-from-external-load-balancers"}
	fmt.Printf("[mark-control-plane] Marking the node %s as control-plane by adding the labels: %v\n", name, labels)
	if taints := s.Init.NodeRegistration.Taints; len(taints) > 0 {
		var texts []string
		for _, t := range taints {
			texts = append(texts, t.ToString())
		}
		fmt.Printf("[mark-control-plane] Marking the node %s as control-plane by adding the taints %v\n", name, texts)
	}
	nodes := client.For[*corev1.Node](c)
	// The kubelet registers its node by itself, so it may not be there yet.
	return poll(ctx, time.Minute, func(ctx context.Context) error {
		node, err := nodes.Get(ctx, "", name)
		if err != nil {
			return err
		}
		taints := node.Spec.Taints
		for _, t := range s.Init.NodeRegistration.Taints {
			if !hasTaint(taints, t) {
				taints = append(taints, t)
			}
		}
		set := map[string]string{}
		for _, l := range labels {
			set[l] = ""
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"labels": set, "resourceVersion": node.ResourceVersion},
			"spec":     map[string]any{"taints": taints},
		})
		if err != nil {
			return err
		}
		_, err = nodes.Patch(ctx, "", name, types.StrategicMergePatchType, patch)
		return err
	})
}

func hasTaint(taints []corev1.Taint, want corev1.Taint) bool {
	for _, t := range taints {
		if t.MatchTaint(&want) {
			return true
		}
	}
	return false
}

// finalizeKubelet makes the kubelet's kubeconfig point to the certificate file
// that the kubelet rotates, once the kubelet has one.
func (s *settings) finalizeKubelet(ctx context.Context) error {
	if _, err := os.Stat(currentCertFile); err != nil {
		return nil
	}
	path := filepath.Join(kubernetesDir, "kubelet.conf")
	fmt.Printf("[kubelet-finalize] Updating %q to point to a rotatable kubelet client certificate and key\n", path)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var k client.Kubeconfig
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return err
	}
	for i := range k.Users {
		k.Users[i].User = client.AuthInfo{CertFile: currentCertFile, KeyFile: currentCertFile}
	}
	if err := writeYAML(path, k, 0o600); err != nil {
		return err
	}
	return systemctl(ctx, "restart", "kubelet")
}

func (s *settings) printInstructions() error {
	ca, err := loadKeyPair(s.Cluster.CertificatesDir, "ca")
	if err != nil {
		return err
	}
	fmt.Printf(`
Your Kubernetes control-plane has initialized successfully!

To start using your cluster, you need to run the following as a regular user:

  mkdir -p $HOME/.kube
  sudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config
  sudo chown $(id -u):$(id -g) $HOME/.kube/config

Alternatively, if you are the root user, you can run:

  export KUBECONFIG=/etc/kubernetes/admin.conf

You should now deploy a pod network to the cluster.
Run "kubectl apply -f [podnetwork].yaml" with one of the options listed at:
  https://kubernetes.io/docs/concepts/cluster-administration/addons/

Then you can join any number of worker nodes by running the following on each as root:

%s
`, strings.Replace(joinCommandLine(s.endpoint(), s.Init.BootstrapTokens[0].Token, publicKeyPin(ca.cert)), " --discovery", " \\\n\t--discovery", 1))
	return nil
}

// joinCommandLine is the command that a new node runs.
func joinCommandLine(endpoint, token, pin string) string {
	return fmt.Sprintf("kubeadm join %s --token %s --discovery-token-ca-cert-hash %s ", endpoint, token, pin)
}
