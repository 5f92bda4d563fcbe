package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"sigs.k8s.io/yaml"

	"orrery/client"
	"orrery/deploy/images"
)

func defaults(t *testing.T, change ...func(*settings)) *settings {
	t.Helper()
	s := &settings{}
	s.Init.LocalAPIEndpoint.AdvertiseAddress = "172.30.0.2"
	s.Init.NodeRegistration.Name = "cp"
	s.Cluster.Networking.PodSubnet = "10.244.0.0/16"
	s.Cluster.CertificatesDir = t.TempDir()
	for _, f := range change {
		f(s)
	}
	if err := s.setDefaults(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGeneratedTokensAreTokens(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token := generateToken()
		if !tokenPattern.MatchString(token) || seen[token] {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
	}
}

func TestConfigFile(t *testing.T) {
	for name, tt := range map[string]struct {
		file, wantErr string
		check         func(*settings) bool
	}{
		"several kinds": {file: `
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.0.0.1, bindPort: 8443}
nodeRegistration: {name: Head, taints: []}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
networking: {podSubnet: 10.1.0.0/16}
apiServer: {certSANs: [127.0.0.1, localhost], extraArgs: [{name: v, value: "4"}]}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failSwapOn: false
`, check: func(s *settings) bool {
			return s.endpoint() == "10.0.0.1:8443" && s.Init.NodeRegistration.Name == "head" && len(s.Init.NodeRegistration.Taints) == 0 &&
				s.Proxy.ClusterCIDR == "10.1.0.0/16" && !*s.Kubelet.FailSwapOn && s.Kubelet.ClusterDNS[0] == "10.96.0.10"
		}},
		"an unknown field":  {file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworkin: {}\n", wantErr: `unknown field "networkin"`},
		"an unknown kind":   {file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: Nonsense\n", wantErr: `no kind "Nonsense" is registered for version "kubeadm.k8s.io/v1beta4"`},
		"an old version":    {file: "apiVersion: kubeadm.k8s.io/v1beta1\nkind: InitConfiguration\n", wantErr: `for version "kubeadm.k8s.io/v1beta1"`},
		"a subnet of words": {file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {podSubnet: pods}\n", wantErr: "couldn't parse subnet"},
		"a bad token":       {file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nbootstrapTokens: [{token: short}]\n", wantErr: `the bootstrap token "short" was not of the form`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			var s settings
			s.Init.LocalAPIEndpoint.AdvertiseAddress = "172.30.0.2"
			err := s.readConfig(path)
			if err == nil {
				err = s.setDefaults()
			}
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || exitCode(err) != 3 {
					t.Fatalf("error %v, want %q and exit code 3", err, tt.wantErr)
				}
				return
			}
			if err != nil || !tt.check(&s) {
				t.Fatalf("%v\n%+v", err, s)
			}
		})
	}
}

// The certificates chain as upstream's do, and the API server's names what
// clients call it.
func TestCertificates(t *testing.T) {
	s := defaults(t, func(s *settings) { s.Cluster.APIServer.CertSANs = []string{"127.0.0.1", "my.cluster"} })
	if err := s.createCerts(); err != nil {
		t.Fatal(err)
	}
	dir := s.Cluster.CertificatesDir
	for _, spec := range s.certList() {
		pair, err := loadKeyPair(dir, spec.name)
		if err != nil {
			t.Fatal(err)
		}
		if spec.ca == "" {
			if !pair.cert.IsCA {
				t.Errorf("%s is no CA", spec.name)
			}
			continue
		}
		ca, err := loadKeyPair(dir, spec.ca)
		if err != nil {
			t.Fatal(err)
		}
		if err := pair.cert.CheckSignatureFrom(ca.cert); err != nil {
			t.Errorf("%s: %v", spec.name, err)
		}
		if left := time.Until(pair.cert.NotAfter).Round(time.Hour); left != certValidity {
			t.Errorf("%s is valid for %v", spec.name, left)
		}
	}
	api, _ := loadKeyPair(dir, "apiserver")
	for _, host := range []string{"kubernetes.default.svc.cluster.local", "cp", "10.96.0.1", "172.30.0.2", "127.0.0.1", "my.cluster"} {
		if err := api.cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	before, _ := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err := s.createCerts(); err != nil { // once more
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "ca.crt")); string(after) != string(before) {
		t.Error("a second run made a new CA")
	}
}

// The manifests are those that upstream's kubeadm wrote on a machine called cp, to the letter; only the images come from elsewhere.
func TestManifestsAreUpstreams(t *testing.T) {
	want, err := os.ReadFile("testdata/static-pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := defaults(t, func(s *settings) { s.Cluster.CertificatesDir = defaultPKIDir })
	dir := t.TempDir()
	var got strings.Builder
	for _, c := range append([]component{s.etcd()}, s.components()...) {
		path := filepath.Join(dir, c.name+".yaml")
		if err := writeYAML(path, c.pod(s.image(c.name)), 0o600); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "# %s.yaml\n%s", c.name, raw)
	}
	if got := strings.ReplaceAll(got.String(), "image: docker.io/orrery/", "image: registry.k8s.io/"); got != string(want) {
		t.Errorf("the manifests differ from testdata/static-pods.yaml:\n%s", got)
	}
}

// kubeadm names no image that a node does not carry.
func TestImagesAreOnTheNode(t *testing.T) {
	var carried []string
	for _, i := range images.All {
		carried = append(carried, i.References()...)
	}
	s := defaults(t)
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"} {
		if ref := s.image(name); !slices.Contains(carried, ref) {
			t.Errorf("%s is not among %v", ref, carried)
		}
	}
}

// The flags of the configuration file stand in place of the defaults.
func TestExtraArgs(t *testing.T) {
	s := defaults(t, func(s *settings) {
		s.Cluster.ControllerManager.ExtraArgs = []arg{{"node-monitor-grace-period", "20s"}, {"leader-elect", "false"}}
		s.Cluster.Etcd.Local = localEtcd{DataDir: "/data", ExtraArgs: []arg{{"snapshot-count", "5"}}}
	})
	for _, tt := range []struct {
		component component
		has       []string
		hasNot    string
	}{
		{s.components()[1], []string{"--leader-elect=false", "--node-monitor-grace-period=20s", "--allocate-node-cidrs=true"}, "--leader-elect=true"},
		{s.etcd(), []string{"--snapshot-count=5", "--data-dir=/data"}, "--snapshot-count=10000"},
	} {
		command := tt.component.command()
		for _, flag := range tt.has {
			if !slices.Contains(command, flag) {
				t.Errorf("%s lacks %s: %v", tt.component.name, flag, command)
			}
		}
		if slices.Contains(command, tt.hasNot) {
			t.Errorf("a flag of %s stands twice: %v", tt.component.name, command)
		}
	}
}

// reset empties the folder that etcd's manifest names, and leaves the folder itself.
func TestResetDeletesTheDataOfEtcd(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data", "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := defaults(t, func(s *settings) { s.Cluster.Etcd.Local.DataDir = filepath.Join(dir, "data") })
	manifest := filepath.Join(dir, "etcd.yaml")
	if err := writeYAML(manifest, s.etcd().pod("etcd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeEtcdMember(manifest); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "data")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestPreflightErrorsReadAsUpstreams(t *testing.T) {
	bad := check{"Port-10250", func() (_, _ []error) { return failIf(true, "Port %d is in use", 10250) }}
	failure := &phaseError{"preflight", runChecks([]check{bad}, nil)}
	want := "error execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR Port-10250]: Port 10250 is in use\n[preflight] If you know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`"
	if failure.Error() != want || exitCode(failure) != 2 {
		t.Errorf("exit code %d\n%s", exitCode(failure), failure)
	}
	for _, ignore := range []string{"port-10250", "all"} {
		if err := runChecks([]check{bad}, []string{ignore}); err != nil {
			t.Errorf("ignoring %q: %v", ignore, err)
		}
	}
}

// clusterInfoServer is an API server that knows one ConfigMap.
func clusterInfoServer(t *testing.T, ca *keyPair, change func(*corev1.ConfigMap)) string {
	t.Helper()
	pair, err := newKeyPair(certSpec{cn: "kube-apiserver", usages: server1, ips: []string{"127.0.0.1"}}, ca)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM(pair.cert), keyPEM(pair.key))
	if err != nil {
		t.Fatal(err)
	}
	var cm *corev1.ConfigMap
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(cm); err != nil {
			t.Error(err)
		}
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	info, err := yaml.Marshal(client.Kubeconfig{APIVersion: "v1", Kind: "Config", Clusters: []client.NamedCluster{{Cluster: client.Cluster{Server: srv.URL, CAData: certPEM(ca.cert)}}}})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := jws.ComputeDetachedSignature(string(info), "abcdef", "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	cm = &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"},
		Data:       map[string]string{bootstrapapi.KubeConfigKey: string(info), bootstrapapi.JWSSignatureKeyPrefix + "abcdef": signature},
	}
	if change != nil {
		change(cm)
	}
	return strings.TrimPrefix(srv.URL, "https://")
}

// Discovery trusts a server only with a signature by the token and a pinned CA.
func TestDiscovery(t *testing.T) {
	ca, err := newKeyPair(certSpec{cn: "kubernetes"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pin := publicKeyPin(ca.cert)
	const good = "abcdef.0123456789abcdef"
	for name, tt := range map[string]struct {
		token, pin string
		change     func(*corev1.ConfigMap)
		wantErr    string
	}{
		"good":             {token: good, pin: pin},
		"pin in capitals":  {token: good, pin: "sha256:" + strings.ToUpper(pin[7:])},
		"wrong secret":     {token: "abcdef.ffffffffffffffff", pin: pin, wantErr: "failed to verify JWS signature of received cluster info object, can't trust this API Server"},
		"unknown token":    {token: "zzzzzz.0123456789abcdef", pin: pin, wantErr: `could not find a JWS signature in the cluster-info ConfigMap for token ID "zzzzzz"`},
		"wrong pin":        {token: good, pin: "sha256:" + strings.Repeat("0", 64), wantErr: "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys \"" + pin + "\" are pinned"},
		"changed contents": {token: good, pin: pin, change: func(cm *corev1.ConfigMap) { cm.Data["kubeconfig"] += "\n" }, wantErr: "failed to verify JWS signature"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &tokenDiscovery{Token: tt.token, APIServerEndpoint: clusterInfoServer(t, ca, tt.change), CACertHashes: []string{tt.pin}}
			cfg, err := discover(t.Context(), d, 500*time.Millisecond)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Host != "https://"+d.APIServerEndpoint || len(cfg.CAData) == 0 {
				t.Errorf("discovered %+v", cfg)
			}
		})
	}
}

func TestJoinWantsAPin(t *testing.T) {
	d := tokenDiscovery{Token: "abcdef.0123456789abcdef", APIServerEndpoint: "10.0.0.1:6443"}
	if err := d.validate(); !errors.Is(err, errInvalidConfig) || !strings.Contains(err.Error(), "without caCertHashes can be unsafe") {
		t.Errorf("without a pin: %v", err)
	}
	d.UnsafeSkipCAVerification = true
	if err := d.validate(); err != nil {
		t.Errorf("with the flag that allows it: %v", err)
	}
}

// reset asks the runtime that the kubelet used, and ours where nothing says otherwise.
func TestRuntimeEndpoint(t *testing.T) {
	for content, want := range map[string]string{
		"containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n": "unix:///run/containerd/containerd.sock",
		"kind: KubeletConfiguration\n":                                       defaultCRI,
		"not: [yaml":                                                         defaultCRI,
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := runtimeEndpoint(path); got != want {
			t.Errorf("%q: %s, want %s", content, got, want)
		}
	}
	if got := runtimeEndpoint(filepath.Join(t.TempDir(), "none")); got != defaultCRI {
		t.Errorf("without a file: %s", got)
	}
}
