package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/yaml"

	"orrery/client"
)

// manifests are the objects that init creates, as templates to read.
//
//go:embed manifests/*.yaml
var manifests embed.FS

var manifestTemplates = template.Must(template.New("").Funcs(template.FuncMap{
	"indent": func(n int, s string) string {
		pad := strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+pad)
	},
}).ParseFS(manifests, "manifests/*.yaml"))

// manifest is a template with what it is filled from.
type manifest struct {
	file string
	data map[string]string
}

func nodesMayRead(role, configMap string) manifest {
	return manifest{"nodes-may-read.yaml", map[string]string{"Role": role, "ConfigMap": configMap, "Group": nodeBootstrapGroup}}
}

func (s *settings) kubeProxy() (manifest, error) {
	config, err := yaml.Marshal(s.Proxy)
	return manifest{"kube-proxy.yaml", map[string]string{
		"ProxyConfig": string(config), "Endpoint": s.endpoint(), "Image": s.image("kube-proxy"), "Group": nodeBootstrapGroup,
	}}, err
}

func (s *settings) coreDNS() (manifest, error) {
	return manifest{"coredns.yaml", map[string]string{
		"Domain": s.Cluster.Networking.DNSDomain, "DNSAddress": nthAddress(s.Cluster.Networking.ServiceSubnet, 10), "Image": s.image("coredns"),
	}}, nil
}

func (s *settings) applyAddon(ctx context.Context, c *client.Client, name string, build func() (manifest, error)) error {
	m, err := build()
	if err != nil {
		return err
	}
	if err := s.apply(ctx, c, m); err != nil {
		return err
	}
	fmt.Printf("[addons] Applied essential addon: %s\n", name)
	return nil
}

// apply creates the objects of a manifest, or updates those that are there.
func (s *settings) apply(ctx context.Context, c *client.Client, m manifest) error {
	var buf bytes.Buffer
	if err := manifestTemplates.ExecuteTemplate(&buf, m.file, m.data); err != nil {
		return err
	}
	docs := utilyaml.NewYAMLOrJSONDecoder(&buf, 4096)
	for {
		var obj unstructured.Unstructured
		err := docs.Decode(&obj)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.file, err)
		}
		if len(obj.Object) == 0 {
			continue
		}
		gvr, _ := meta.UnsafeGuessKindToResource(obj.GroupVersionKind())
		api := client.Dynamic(c, gvr, obj.GetNamespace() != "")
		_, err = api.Create(ctx, &obj)
		if apierrors.IsAlreadyExists(err) {
			_, err = api.Update(ctx, &obj)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
}

// ensureAdmins makes the user of admin.conf an administrator.
func ensureAdmins(ctx context.Context, super *client.Client) error {
	var s settings
	return poll(ctx, time.Minute, func(ctx context.Context) error { return s.apply(ctx, super, manifest{file: "admins.yaml"}) })
}

// bootstrapTokens stores the tokens, says what they may do, and publishes what a
// new node must know.
func (s *settings) bootstrapTokens(ctx context.Context, c *client.Client) error {
	for _, t := range s.Init.BootstrapTokens {
		fmt.Printf("[bootstrap-token] Using token: %s\n", t.Token)
	}
	fmt.Println("[bootstrap-token] Configuring bootstrap tokens, cluster-info ConfigMap, RBAC Roles")
	for _, t := range s.Init.BootstrapTokens {
		if err := storeToken(ctx, c, t); err != nil {
			return err
		}
	}
	if err := s.apply(ctx, c, manifest{"bootstrap-token.yaml", map[string]string{"Group": nodeBootstrapGroup}}); err != nil {
		return err
	}
	for _, rule := range []string{
		"Node Bootstrap tokens to get nodes",
		"Node Bootstrap tokens to post CSRs in order for nodes to get long term certificate credentials",
		"the csrapprover controller automatically approve CSRs from a Node Bootstrap Token",
		"certificate rotation for all node client certificates in the cluster",
		"the API server kubelet client certificate to access the kubelet API",
	} {
		fmt.Println("[bootstrap-token] Configured RBAC rules to allow", rule)
	}
	fmt.Printf("[bootstrap-token] Creating the %q ConfigMap in the %q namespace\n", bootstrapapi.ConfigMapClusterInfo, metav1.NamespacePublic)
	return s.publishClusterInfo(ctx, c)
}

// publishClusterInfo puts the cluster's address and CA where everybody may read
// them; the controller manager adds a signature for each token.
func (s *settings) publishClusterInfo(ctx context.Context, c *client.Client) error {
	info := client.Kubeconfig{
		APIVersion: "v1", Kind: "Config",
		Clusters: []client.NamedCluster{{Cluster: client.Cluster{Server: "https://" + s.endpoint(), CAData: c.Config().CAData}}},
	}
	raw, err := yaml.Marshal(info)
	if err != nil {
		return err
	}
	maps := client.For[*corev1.ConfigMap](c)
	_, err = maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo},
		Data:       map[string]string{bootstrapapi.KubeConfigKey: string(raw)},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil // init ran before; the signatures in it must stay
	}
	return err
}
