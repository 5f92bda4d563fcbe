package client

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Kubeconfig is the file format that kubectl and every component read their
// server and credentials from; the fields that this project uses.
//
// Upstream: k8s.io/client-go/tools/clientcmd/api/v1/types.go, Config.
// Left out: exec and auth-provider plugins, extensions, basic auth.
type Kubeconfig struct {
	APIVersion     string          `json:"apiVersion"`
	Clusters       []NamedCluster  `json:"clusters"`
	Contexts       []NamedContext  `json:"contexts"`
	CurrentContext string          `json:"current-context"`
	Kind           string          `json:"kind"`
	Preferences    struct{}        `json:"preferences"`
	Users          []NamedAuthInfo `json:"users"`
}

// NamedCluster is a server under a name.
type NamedCluster struct {
	Cluster Cluster `json:"cluster"`
	Name    string  `json:"name"`
}

// Cluster says where a server is and how to trust it.
type Cluster struct {
	CAFile     string `json:"certificate-authority,omitempty"`
	CAData     []byte `json:"certificate-authority-data,omitempty"`
	Insecure   bool   `json:"insecure-skip-tls-verify,omitempty"`
	Server     string `json:"server"`
	ServerName string `json:"tls-server-name,omitempty"`
}

// NamedContext is a pair of cluster and user under a name.
type NamedContext struct {
	Context Context `json:"context"`
	Name    string  `json:"name"`
}

// Context names a cluster and the user to be there.
type Context struct {
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace,omitempty"`
	User      string `json:"user"`
}

// NamedAuthInfo is a credential under a name.
type NamedAuthInfo struct {
	Name string   `json:"name"`
	User AuthInfo `json:"user"`
}

// AuthInfo is a credential: a client certificate or a token.
type AuthInfo struct {
	CertFile  string `json:"client-certificate,omitempty"`
	CertData  []byte `json:"client-certificate-data,omitempty"`
	KeyFile   string `json:"client-key,omitempty"`
	KeyData   []byte `json:"client-key-data,omitempty"`
	Token     string `json:"token,omitempty"`
	TokenFile string `json:"tokenFile,omitempty"`
}

// NewKubeconfig is the file with one cluster, one user and the context of both,
// named as kubeadm names them ("user@cluster").
func NewKubeconfig(cluster string, c Cluster, user string, u AuthInfo) Kubeconfig {
	name := user + "@" + cluster
	return Kubeconfig{
		APIVersion:     "v1",
		Kind:           "Config",
		Clusters:       []NamedCluster{{Name: cluster, Cluster: c}},
		Users:          []NamedAuthInfo{{Name: user, User: u}},
		Contexts:       []NamedContext{{Name: name, Context: Context{Cluster: cluster, User: user}}},
		CurrentContext: name,
	}
}

// Config resolves the current context. A file with a cluster and no context, as
// kube-public/cluster-info holds it, gives an anonymous Config for that cluster.
func (k Kubeconfig) Config() (Config, error) {
	current := Context{}
	found := false
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			current, found = c.Context, true
		}
	}
	if !found {
		if k.CurrentContext != "" || len(k.Clusters) == 0 {
			return Config{}, fmt.Errorf("context %q does not exist", k.CurrentContext)
		}
		current.Cluster = k.Clusters[0].Name
	}
	var cfg Config
	for _, c := range k.Clusters {
		if c.Name != current.Cluster {
			continue
		}
		cfg.Host, cfg.CAData, cfg.CAFile = c.Cluster.Server, c.Cluster.CAData, c.Cluster.CAFile
		cfg.Insecure, cfg.ServerName = c.Cluster.Insecure, c.Cluster.ServerName
	}
	for _, u := range k.Users {
		if u.Name != current.User {
			continue
		}
		cfg.CertData, cfg.KeyData = u.User.CertData, u.User.KeyData
		cfg.CertFile, cfg.KeyFile = u.User.CertFile, u.User.KeyFile
		cfg.BearerToken, cfg.TokenFile = u.User.Token, u.User.TokenFile
	}
	if cfg.Host == "" {
		return Config{}, fmt.Errorf("cluster %q does not exist", current.Cluster)
	}
	return cfg, nil
}

// LoadKubeconfig reads a kubeconfig file and resolves its current context.
// Relative paths in it are relative to the file, as for kubectl.
//
// Upstream: k8s.io/client-go/tools/clientcmd, ClientConfig.
func LoadKubeconfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var k Kubeconfig
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return Config{}, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	cfg, err := k.Config()
	if err != nil {
		return Config{}, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	for _, p := range []*string{&cfg.CAFile, &cfg.CertFile, &cfg.KeyFile, &cfg.TokenFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return cfg, nil
}

// serviceAccountDir is where the kubelet projects a pod's identity.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster is the Config of a pod: the service environment variables and the
// projected service-account volume.
//
// Upstream: k8s.io/client-go/rest/config.go, InClusterConfig.
func InCluster() (Config, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Config{}, errors.New("unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined")
	}
	return Config{
		Host:      "https://" + net.JoinHostPort(host, port),
		CAFile:    filepath.Join(serviceAccountDir, "ca.crt"),
		TokenFile: filepath.Join(serviceAccountDir, "token"),
	}, nil
}
