package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"orrery/client/timing"
	"orrery/cmd/internal/version"
)

// Where everything lies, as upstream's cmd/kubeadm/app/constants.
const (
	kubernetesDir   = "/etc/kubernetes"
	manifestsDir    = kubernetesDir + "/manifests"
	defaultPKIDir   = kubernetesDir + "/pki"
	etcdDataDir     = "/var/lib/etcd"
	kubeletDir      = "/var/lib/kubelet"
	runtimeDir      = "/var/lib/orrery/cri" // of the CRI service inside our kubelet
	kubeletConfFile = kubeletDir + "/config.yaml"
	kubeletEnvFile  = kubeletDir + "/kubeadm-flags.env"
	instanceConfig  = kubeletDir + "/instance-config.yaml"
	currentCertFile = kubeletDir + "/pki/kubelet-client-current.pem"
	apiVersion      = "kubeadm.k8s.io/v1beta4"
	defaultPort     = 6443
	defaultCRI      = "unix:///run/orrery/cri.sock"
)

var errInvalidConfig = errors.New("invalid configuration")

// The configuration file's kinds: the fields of kubeadm.k8s.io/v1beta4 that this
// kubeadm acts on. Unknown fields are refused, not ignored.
//
// Upstream: cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go.
type (
	initConfiguration struct {
		metav1.TypeMeta  `json:",inline"`
		BootstrapTokens  []bootstrapToken `json:"bootstrapTokens,omitempty"`
		NodeRegistration nodeRegistration `json:"nodeRegistration,omitempty"`
		LocalAPIEndpoint apiEndpoint      `json:"localAPIEndpoint,omitempty"`
		SkipPhases       []string         `json:"skipPhases,omitempty"`
	}
	clusterConfiguration struct {
		metav1.TypeMeta      `json:",inline"`
		Networking           networking   `json:"networking,omitempty"`
		KubernetesVersion    string       `json:"kubernetesVersion,omitempty"`
		ControlPlaneEndpoint string       `json:"controlPlaneEndpoint,omitempty"`
		APIServer            controlPlane `json:"apiServer,omitempty"`
		ControllerManager    controlPlane `json:"controllerManager,omitempty"`
		Scheduler            controlPlane `json:"scheduler,omitempty"`
		Etcd                 etcdConfig   `json:"etcd,omitempty"`
		CertificatesDir      string       `json:"certificatesDir,omitempty"`
		ImageRepository      string       `json:"imageRepository,omitempty"`
		ClusterName          string       `json:"clusterName,omitempty"`
	}
	joinConfiguration struct {
		metav1.TypeMeta  `json:",inline"`
		NodeRegistration nodeRegistration `json:"nodeRegistration,omitempty"`
		CACertPath       string           `json:"caCertPath,omitempty"`
		Discovery        discovery        `json:"discovery"`
		Timeouts         timeouts         `json:"timeouts,omitempty"`
		SkipPhases       []string         `json:"skipPhases,omitempty"`
	}
	bootstrapToken struct {
		Token       string           `json:"token"`
		Description string           `json:"description,omitempty"`
		TTL         *metav1.Duration `json:"ttl,omitempty"`
		Usages      []string         `json:"usages,omitempty"`
		Groups      []string         `json:"groups,omitempty"`
	}
	nodeRegistration struct {
		Name                  string         `json:"name,omitempty"`
		CRISocket             string         `json:"criSocket,omitempty"`
		Taints                []corev1.Taint `json:"taints"`
		KubeletExtraArgs      []arg          `json:"kubeletExtraArgs,omitempty"`
		IgnorePreflightErrors []string       `json:"ignorePreflightErrors,omitempty"`
	}
	apiEndpoint struct {
		AdvertiseAddress string `json:"advertiseAddress,omitempty"`
		BindPort         int    `json:"bindPort,omitempty"`
	}
	networking struct {
		ServiceSubnet string `json:"serviceSubnet,omitempty"`
		PodSubnet     string `json:"podSubnet,omitempty"`
		DNSDomain     string `json:"dnsDomain,omitempty"`
	}
	controlPlane struct {
		ExtraArgs []arg    `json:"extraArgs,omitempty"`
		CertSANs  []string `json:"certSANs,omitempty"`
	}
	etcdConfig struct {
		Local localEtcd `json:"local,omitempty"`
	}
	localEtcd struct {
		DataDir   string `json:"dataDir,omitempty"`
		ExtraArgs []arg  `json:"extraArgs,omitempty"`
	}
	arg struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	discovery struct {
		BootstrapToken    *tokenDiscovery `json:"bootstrapToken,omitempty"`
		TLSBootstrapToken string          `json:"tlsBootstrapToken,omitempty"`
	}
	tokenDiscovery struct {
		Token                    string   `json:"token"`
		APIServerEndpoint        string   `json:"apiServerEndpoint,omitempty"`
		CACertHashes             []string `json:"caCertHashes,omitempty"`
		UnsafeSkipCAVerification bool     `json:"unsafeSkipCAVerification,omitempty"`
	}
	timeouts struct {
		Discovery    *metav1.Duration `json:"discovery,omitempty"`
		TLSBootstrap *metav1.Duration `json:"tlsBootstrap,omitempty"`
	}
)

// settings is all that a run of init or join works with.
type settings struct {
	Init    initConfiguration
	Cluster clusterConfiguration
	Join    joinConfiguration
	Kubelet kubelet.KubeletConfiguration
	Proxy   kubeproxy.KubeProxyConfiguration
}

// readConfig reads the documents of a configuration file into s. An empty path
// reads nothing.
func (s *settings) readConfig(path string) error {
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("unable to read config from %q: %w", path, err)
	}
	docs := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(raw)))
	buf := make([]byte, len(raw)+1)
	for {
		n, err := docs.Read(buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.readDocument(buf[:n]); err != nil {
			return fmt.Errorf("%w: %s: %w", errInvalidConfig, path, err)
		}
	}
}

func (s *settings) readDocument(doc []byte) error {
	var t metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &t); err != nil {
		return err
	}
	into := map[string]any{
		apiVersion + "/InitConfiguration":                         &s.Init,
		apiVersion + "/ClusterConfiguration":                      &s.Cluster,
		apiVersion + "/JoinConfiguration":                         &s.Join,
		"kubelet.config.k8s.io/v1beta1/KubeletConfiguration":      &s.Kubelet,
		"kubeproxy.config.k8s.io/v1alpha1/KubeProxyConfiguration": &s.Proxy,
	}[t.APIVersion+"/"+t.Kind]
	switch {
	case into != nil:
		return yaml.UnmarshalStrict(doc, into)
	case t == (metav1.TypeMeta{}):
		return nil // an empty document
	}
	return fmt.Errorf("no kind %q is registered for version %q", t.Kind, t.APIVersion)
}

// setDefaults completes the configuration of init.
func (s *settings) setDefaults() error {
	if err := s.Init.NodeRegistration.setDefaults(); err != nil {
		return err
	}
	e := &s.Init.LocalAPIEndpoint
	if e.AdvertiseAddress == "" {
		ip, err := hostIP()
		if err != nil {
			return err
		}
		e.AdvertiseAddress = ip
	}
	if _, err := netip.ParseAddr(e.AdvertiseAddress); err != nil {
		return fmt.Errorf("%w: localAPIEndpoint.advertiseAddress: Invalid value: %q: ip address is not valid", errInvalidConfig, e.AdvertiseAddress)
	}
	orInt(&e.BindPort, defaultPort)
	c := &s.Cluster
	c.TypeMeta = metav1.TypeMeta{APIVersion: apiVersion, Kind: "ClusterConfiguration"}
	or(&c.Networking.ServiceSubnet, "10.96.0.0/12")
	or(&c.Networking.DNSDomain, "cluster.local")
	or(&c.KubernetesVersion, version.Upstream)
	or(&c.CertificatesDir, defaultPKIDir)
	or(&c.Etcd.Local.DataDir, etcdDataDir)
	or(&c.ImageRepository, "docker.io/orrery")
	or(&c.ClusterName, "kubernetes")
	for name, cidr := range map[string]string{"serviceSubnet": c.Networking.ServiceSubnet, "podSubnet": c.Networking.PodSubnet} {
		if _, err := netip.ParsePrefix(cidr); err != nil && cidr != "" {
			return fmt.Errorf("%w: networking.%s: Invalid value: %q: couldn't parse subnet", errInvalidConfig, name, cidr)
		}
	}
	if len(s.Init.BootstrapTokens) == 0 {
		s.Init.BootstrapTokens = []bootstrapToken{{Description: "The default bootstrap token generated by 'kubeadm init'."}}
	}
	for i := range s.Init.BootstrapTokens {
		if err := s.Init.BootstrapTokens[i].setDefaults(); err != nil {
			return err
		}
	}
	s.defaultComponents()
	return nil
}

// defaultComponents completes the kubelet's and kube-proxy's configuration.
func (s *settings) defaultComponents() {
	k := &s.Kubelet
	k.TypeMeta = metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"}
	or(&k.StaticPodPath, manifestsDir)
	or(&k.ClusterDomain, s.Cluster.Networking.DNSDomain)
	if len(k.ClusterDNS) == 0 {
		k.ClusterDNS = []string{nthAddress(s.Cluster.Networking.ServiceSubnet, 10)}
	}
	or(&k.Authentication.X509.ClientCAFile, s.Cluster.CertificatesDir+"/ca.crt")
	k.Authentication.Anonymous.Enabled = new(false)
	k.Authentication.Webhook.Enabled = new(true)
	k.Authorization.Mode = kubelet.KubeletAuthorizationModeWebhook
	or(&k.HealthzBindAddress, "127.0.0.1")
	if k.HealthzPort == nil {
		k.HealthzPort = new(int32(10248))
	}
	k.RotateCertificates = true
	or(&k.CgroupDriver, "cgroupfs")
	or(&k.ContainerRuntimeEndpoint, s.Init.NodeRegistration.CRISocket)

	p := &s.Proxy
	p.TypeMeta = metav1.TypeMeta{APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration"}
	or(&p.BindAddress, "0.0.0.0")
	or(&p.ClusterCIDR, s.Cluster.Networking.PodSubnet)
	or(&p.ClientConnection.Kubeconfig, "/var/lib/kube-proxy/kubeconfig.conf")
	if p.Conntrack.MaxPerCore == nil {
		p.Conntrack.MaxPerCore = new(int32(0)) // nf_conntrack_max is the host's, not a node's
	}
}

func (n *nodeRegistration) setDefaults() error {
	or(&n.CRISocket, defaultCRI)
	if n.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		n.Name = name
	}
	n.Name = strings.ToLower(strings.TrimSpace(n.Name))
	if n.Taints == nil {
		n.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
	}
	return nil
}

var tokenPattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

func (t *bootstrapToken) setDefaults() error {
	if t.Token == "" {
		t.Token = generateToken()
	}
	if !tokenPattern.MatchString(t.Token) {
		return fmt.Errorf("%w: the bootstrap token %q was not of the form %q", errInvalidConfig, t.Token, tokenPattern.String()[1:len(tokenPattern.String())-1])
	}
	if t.TTL == nil {
		t.TTL = &metav1.Duration{Duration: timing.BootstrapTokenTTL}
	}
	if len(t.Usages) == 0 {
		t.Usages = []string{"signing", "authentication"}
	}
	if len(t.Groups) == 0 {
		t.Groups = []string{nodeBootstrapGroup}
	}
	return nil
}

// endpoint is where clients reach the API server.
func (s *settings) endpoint() string {
	if e := s.Cluster.ControlPlaneEndpoint; e != "" {
		if _, _, err := net.SplitHostPort(e); err == nil {
			return e
		}
		return fmt.Sprintf("%s:%d", e, s.Init.LocalAPIEndpoint.BindPort)
	}
	return net.JoinHostPort(s.Init.LocalAPIEndpoint.AdvertiseAddress, fmt.Sprint(s.Init.LocalAPIEndpoint.BindPort))
}

func (s *settings) image(name string) string {
	tag := version.Upstream
	if name == "etcd" {
		tag = version.Etcd
	}
	return s.Cluster.ImageRepository + "/" + name + ":" + tag
}

// hostIP is the address that this machine would send from by its default route.
func hostIP() (string, error) {
	conn, err := net.DialTimeout("udp", "192.0.2.1:9", time.Second) // no packet is sent
	if err != nil {
		return "", fmt.Errorf("unable to select an IP from default routes: %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// nthAddress is the n-th address of a subnet: the 1st is the service kubernetes,
// the 10th is the cluster DNS.
func nthAddress(cidr string, n int) string {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return ""
	}
	addr := p.Masked().Addr()
	for range n {
		addr = addr.Next()
	}
	return addr.String()
}

func or(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

func orInt(n *int, def int) {
	if *n == 0 {
		*n = def
	}
}
