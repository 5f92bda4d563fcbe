package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// component describes one static pod of the control plane.
type component struct {
	name        string
	cpu, memory string
	args        map[string]string
	extra       []arg
	mounts      []mount
	annotations map[string]string
	// scheme, host, port and the paths of the probes; an empty ready has no readiness probe.
	scheme               corev1.URIScheme
	host                 string
	port                 int32
	live, ready, startup string
}

type mount struct {
	name, path string
	writable   bool
	kind       corev1.HostPathType
}

// caMounts are where Linux distributions keep the certificates they trust.
var caMounts = []mount{
	{name: "ca-certs", path: "/etc/ssl/certs"},
	{name: "etc-ca-certificates", path: "/etc/ca-certificates"},
	{name: "usr-local-share-ca-certificates", path: "/usr/local/share/ca-certificates"},
	{name: "usr-share-ca-certificates", path: "/usr/share/ca-certificates"},
}

// withCAs are a component's mounts in order of name, with those that it shares with others.
func withCAs(own ...mount) []mount {
	all := append(own, caMounts...)
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	return all
}

// etcd is the static pod in which the API server keeps everything: the first and only member of its cluster.
//
// Upstream: cmd/kubeadm/app/phases/etcd/local.go, GetEtcdPodSpec. Left out: further members.
func (s *settings) etcd() component {
	pki, dir, node := s.Cluster.CertificatesDir+"/etcd", s.Cluster.Etcd.Local.DataDir, s.Init.NodeRegistration.Name
	url := func(host string, port int) string { return fmt.Sprintf("https://%s:%d", host, port) }
	ip := s.Init.LocalAPIEndpoint.AdvertiseAddress
	clients, members := url(ip, 2379), url(ip, 2380)
	return component{
		name: "etcd", cpu: "100m", memory: "100Mi", extra: s.Cluster.Etcd.Local.ExtraArgs,
		scheme: corev1.URISchemeHTTP, host: "127.0.0.1", port: 2381, live: "/livez", ready: "/readyz", startup: "/readyz",
		annotations: map[string]string{"kubeadm.kubernetes.io/etcd.advertise-client-urls": clients},
		mounts:      []mount{{name: "etcd-data", path: dir, writable: true}, {name: "etcd-certs", path: pki, writable: true}},
		args: map[string]string{
			"advertise-client-urls":          clients,
			"cert-file":                      pki + "/server.crt",
			"client-cert-auth":               "true",
			"data-dir":                       dir,
			"feature-gates":                  "InitialCorruptCheck=true",
			"initial-advertise-peer-urls":    members,
			"initial-cluster":                node + "=" + members,
			"key-file":                       pki + "/server.key",
			"listen-client-urls":             url("127.0.0.1", 2379) + "," + clients,
			"listen-metrics-urls":            "http://127.0.0.1:2381",
			"listen-peer-urls":               members,
			"name":                           node,
			"peer-cert-file":                 pki + "/peer.crt",
			"peer-client-cert-auth":          "true",
			"peer-key-file":                  pki + "/peer.key",
			"peer-trusted-ca-file":           pki + "/ca.crt",
			"snapshot-count":                 "10000",
			"trusted-ca-file":                pki + "/ca.crt",
			"watch-progress-notify-interval": "5s",
		},
	}
}

// components are the other static pods of the control plane, with upstream's flags.
//
// Upstream: cmd/kubeadm/app/phases/controlplane/manifests.go.
func (s *settings) components() []component {
	pki := s.Cluster.CertificatesDir
	ip, port := s.Init.LocalAPIEndpoint.AdvertiseAddress, s.Init.LocalAPIEndpoint.BindPort
	conf := func(name string) string { return filepath.Join(kubernetesDir, name) }
	manager := map[string]string{
		"authentication-kubeconfig":        conf("controller-manager.conf"),
		"authorization-kubeconfig":         conf("controller-manager.conf"),
		"bind-address":                     "127.0.0.1",
		"client-ca-file":                   pki + "/ca.crt",
		"cluster-name":                     s.Cluster.ClusterName,
		"cluster-signing-cert-file":        pki + "/ca.crt",
		"cluster-signing-key-file":         pki + "/ca.key",
		"controllers":                      "*,bootstrapsigner,tokencleaner",
		"kubeconfig":                       conf("controller-manager.conf"),
		"leader-elect":                     "true",
		"requestheader-client-ca-file":     pki + "/front-proxy-ca.crt",
		"root-ca-file":                     pki + "/ca.crt",
		"service-account-private-key-file": pki + "/sa.key",
		"service-cluster-ip-range":         s.Cluster.Networking.ServiceSubnet,
		"use-service-account-credentials":  "true",
	}
	if pods := s.Cluster.Networking.PodSubnet; pods != "" {
		manager["allocate-node-cidrs"], manager["cluster-cidr"] = "true", pods
	}
	return []component{{
		name: "kube-apiserver", cpu: "250m", scheme: corev1.URISchemeHTTPS, host: ip, port: int32(port), live: "/livez", ready: "/readyz", startup: "/livez",
		annotations: map[string]string{"kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": fmt.Sprintf("%s:%d", ip, port)},
		extra:       s.Cluster.APIServer.ExtraArgs,
		mounts:      withCAs(mount{name: "k8s-certs", path: pki}),
		args: map[string]string{
			"advertise-address":                  ip,
			"allow-privileged":                   "true",
			"authorization-mode":                 "Node,RBAC",
			"client-ca-file":                     pki + "/ca.crt",
			"enable-admission-plugins":           "NodeRestriction",
			"enable-bootstrap-token-auth":        "true",
			"etcd-cafile":                        pki + "/etcd/ca.crt",
			"etcd-certfile":                      pki + "/apiserver-etcd-client.crt",
			"etcd-keyfile":                       pki + "/apiserver-etcd-client.key",
			"etcd-servers":                       "https://127.0.0.1:2379",
			"kubelet-client-certificate":         pki + "/apiserver-kubelet-client.crt",
			"kubelet-client-key":                 pki + "/apiserver-kubelet-client.key",
			"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
			"proxy-client-cert-file":             pki + "/front-proxy-client.crt",
			"proxy-client-key-file":              pki + "/front-proxy-client.key",
			"requestheader-allowed-names":        "front-proxy-client",
			"requestheader-client-ca-file":       pki + "/front-proxy-ca.crt",
			"requestheader-extra-headers-prefix": "X-Remote-Extra-",
			"requestheader-group-headers":        "X-Remote-Group",
			"requestheader-username-headers":     "X-Remote-User",
			"secure-port":                        fmt.Sprint(port),
			"service-account-issuer":             "https://kubernetes.default.svc." + s.Cluster.Networking.DNSDomain,
			"service-account-key-file":           pki + "/sa.pub",
			"service-account-signing-key-file":   pki + "/sa.key",
			"service-cluster-ip-range":           s.Cluster.Networking.ServiceSubnet,
			"tls-cert-file":                      pki + "/apiserver.crt",
			"tls-private-key-file":               pki + "/apiserver.key",
		},
	}, {
		name: "kube-controller-manager", cpu: "200m", scheme: corev1.URISchemeHTTPS, host: "127.0.0.1", port: 10257, live: "/healthz", startup: "/healthz",
		extra: s.Cluster.ControllerManager.ExtraArgs, args: manager,
		mounts: withCAs(mount{name: "k8s-certs", path: pki}, mount{name: "kubeconfig", path: conf("controller-manager.conf"), kind: corev1.HostPathFileOrCreate}),
	}, {
		name: "kube-scheduler", cpu: "100m", scheme: corev1.URISchemeHTTPS, host: "127.0.0.1", port: 10259, live: "/livez", ready: "/readyz", startup: "/livez",
		extra:  s.Cluster.Scheduler.ExtraArgs,
		mounts: []mount{{name: "kubeconfig", path: conf("scheduler.conf"), kind: corev1.HostPathFileOrCreate}},
		args: map[string]string{
			"authentication-kubeconfig": conf("scheduler.conf"),
			"authorization-kubeconfig":  conf("scheduler.conf"),
			"bind-address":              "127.0.0.1",
			"kubeconfig":                conf("scheduler.conf"),
			"leader-elect":              "true",
		},
	}}
}

// command is the component's command line: its flags in order, with those of
// the configuration file in place of its own.
func (c component) command() []string {
	args := map[string]string{}
	for k, v := range c.args {
		args[k] = v
	}
	for _, a := range c.extra {
		args[a.Name] = a.Value
	}
	out := make([]string, 0, len(args))
	for k, v := range args {
		out = append(out, "--"+k+"="+v)
	}
	sort.Strings(out)
	return append([]string{c.name}, out...)
}

func (c component) probe(path string, initialDelay, period, timeout, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Host: c.host, Path: path, Port: intstr.FromString("probe-port"), Scheme: c.scheme,
		}},
		InitialDelaySeconds: initialDelay, PeriodSeconds: period, TimeoutSeconds: timeout, FailureThreshold: failures,
	}
}

// pod is the static pod of a component.
func (c component) pod(image string) *corev1.Pod {
	container := corev1.Container{
		Name: c.name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: c.command(),
		Ports:         []corev1.ContainerPort{{Name: "probe-port", ContainerPort: c.port, Protocol: corev1.ProtocolTCP}},
		Resources:     corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(c.cpu)}},
		LivenessProbe: c.probe(c.live, 10, 10, 15, 8),
		StartupProbe:  c.probe(c.startup, 10, 10, 15, 24),
	}
	if c.memory != "" {
		container.Resources.Requests[corev1.ResourceMemory] = resource.MustParse(c.memory)
	}
	if c.ready != "" {
		container.ReadinessProbe = c.probe(c.ready, 0, 1, 15, 3)
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: c.name, Namespace: metav1.NamespaceSystem, Annotations: c.annotations,
			Labels: map[string]string{"component": c.name, "tier": "control-plane"},
		},
		Spec: corev1.PodSpec{
			HostNetwork: true, PriorityClassName: "system-node-critical", Priority: new(int32(2000001000)),
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		},
	}
	for _, m := range c.mounts {
		kind := m.kind
		if kind == "" {
			kind = corev1.HostPathDirectoryOrCreate
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: m.name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: m.path, Type: &kind}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: m.name, MountPath: m.path, ReadOnly: !m.writable})
	}
	sort.Slice(pod.Spec.Volumes, func(i, j int) bool { return pod.Spec.Volumes[i].Name < pod.Spec.Volumes[j].Name })
	pod.Spec.Containers = []corev1.Container{container}
	return pod
}

// writeEtcd writes etcd's manifest, and makes the folder of its data: the kubelet would let others read it.
//
// Upstream: cmd/kubeadm/app/cmd/phases/init/etcd.go, runEtcdPhaseLocal.
func (s *settings) writeEtcd() error {
	if err := os.MkdirAll(s.Cluster.Etcd.Local.DataDir, 0o700); err != nil {
		return err
	}
	fmt.Printf("[etcd] Creating static Pod manifest for local etcd in %q\n", manifestsDir)
	return s.writeManifest(s.etcd())
}

func (s *settings) writeManifests() error {
	fmt.Printf("[control-plane] Using manifest folder %q\n", manifestsDir)
	for _, c := range s.components() {
		fmt.Printf("[control-plane] Creating static Pod manifest for %q\n", c.name)
		if err := s.writeManifest(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) writeManifest(c component) error {
	return writeYAML(manifestFile(c.name), c.pod(s.image(c.name)), 0o600)
}

// manifestFile is where a component's static pod stands.
func manifestFile(component string) string { return filepath.Join(manifestsDir, component+".yaml") }

// writeYAML writes an object as upstream does: no creationTimestamp, mode 0600
// for what holds secrets, whole or not at all.
func writeYAML(path string, obj any, mode os.FileMode) error {
	raw, err := yaml.Marshal(obj)
	if err != nil {
		return err
	}
	return writeFile(path, strings.ReplaceAll(string(raw), "  creationTimestamp: null\n", ""), mode)
}

func writeFile(path, content string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// A hidden name, because the kubelet reads every other file of its folder.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, []byte(content), mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
