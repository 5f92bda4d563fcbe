package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"
	"orrery/apiserver/rest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	pods           = schema.GroupResource{Resource: "pods"}
	nodes          = schema.GroupResource{Resource: "nodes"}
	services       = schema.GroupResource{Resource: "services"}
	endpointSlices = schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}
)

// Config says how to reach kubelets and pods.
type Config struct {
	Objects objects.Reader
	// KubeletTLS has the client certificate of --kubelet-client-certificate and, with
	// --kubelet-certificate-authority, the roots of the kubelets' certificates. Without
	// roots a kubelet's certificate is not checked, as upstream does not.
	KubeletTLS *tls.Config
	// AddressTypes is the order of --kubelet-preferred-address-types.
	AddressTypes []corev1.NodeAddressType
	// Dial connects to kubelets and pods; nil is an ordinary dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Streams serves all subresources that are streams.
type Streams struct {
	config  Config
	kubelet *http.Transport
	direct  *http.Transport
}

// New returns the handlers.
func New(config Config) *Streams {
	if config.KubeletTLS == nil {
		config.KubeletTLS = &tls.Config{}
	}
	kubeletTLS := config.KubeletTLS.Clone()
	kubeletTLS.InsecureSkipVerify = kubeletTLS.RootCAs == nil
	if config.Dial == nil {
		config.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	// Upgrades need HTTP/1.1.
	transport := func(c *tls.Config) *http.Transport {
		return &http.Transport{DialContext: config.Dial, TLSClientConfig: c, TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: 90 * time.Second, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	}
	return &Streams{config: config, kubelet: transport(kubeletTLS), direct: transport(&tls.Config{InsecureSkipVerify: true})}
}

// Handlers returns the handlers by subresource, as rest.Hooks wants them.
func (s *Streams) Handlers() map[string]rest.Connecter {
	return map[string]rest.Connecter{
		"pods/log":         s.log,
		"pods/exec":        s.exec,
		"pods/attach":      s.attach,
		"pods/portforward": s.portForward,
		"pods/proxy":       s.proxyPod,
		"services/proxy":   s.proxyService,
		"nodes/proxy":      s.proxyNode,
	}
}

// Close drops idle connections to kubelets and pods.
func (s *Streams) Close() {
	s.kubelet.CloseIdleConnections()
	s.direct.CloseIdleConnections()
}

// pod reads the pod of a request.
func (s *Streams) pod(r *http.Request, a *auth.Attributes) (*corev1.Pod, error) {
	obj, err := s.config.Objects.Get(r.Context(), pods, a.Namespace, a.Name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// kubeletURL is where the kubelet of a node listens.
//
// Upstream: pkg/kubelet/client/kubelet_client.go, NodeConnectionInfoGetter.GetConnectionInfo.
func (s *Streams) kubeletURL(ctx context.Context, name, path string) (*url.URL, error) {
	obj, err := s.config.Objects.Get(ctx, nodes, "", name)
	if err != nil {
		return nil, err
	}
	node := obj.(*corev1.Node)
	host, err := s.nodeAddress(node)
	if err != nil {
		return nil, err
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		port = 10250
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port))), Path: path}, nil
}

// nodeAddress is the node's first address of the most preferred type that it has.
func (s *Streams) nodeAddress(node *corev1.Node) (string, error) {
	for _, wanted := range s.config.AddressTypes {
		for _, address := range node.Status.Addresses {
			if address.Type == wanted {
				return address.Address, nil
			}
		}
	}
	var have []corev1.NodeAddressType
	for _, address := range node.Status.Addresses {
		have = append(have, address.Type)
	}
	return "", fmt.Errorf("no preferred addresses found; known addresses: %v", have)
}

// container finds out which container a request means.
//
// Upstream: pkg/registry/core/pod/strategy.go, validateContainer.
func container(pod *corev1.Pod, asked string) (string, error) {
	if asked != "" {
		if !slices.Contains(names(pod), asked) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, pod.Name))
		}
		return asked, nil
	}
	switch len(pod.Spec.Containers) {
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	case 1:
		return pod.Spec.Containers[0].Name, nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names(pod)))
}

// names are those of all containers of a pod, in the order in which they start.
func names(pod *corev1.Pod) (all []string) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	return all
}

// forward passes a request on as it is, upgrades included. Connection failures become Status errors.
func forward(w http.ResponseWriter, r *http.Request, location *url.URL, transport http.RoundTripper) {
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = location
			p.Out.Host = location.Host
			p.Out.Header.Del("Authorization")
			p.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if isUpgrade(r) {
				rest.WriteError(w, r, fmt.Errorf("error dialing backend: %w", err))
				return
			}
			rest.WriteError(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
		},
		ErrorLog: quiet,
	}
	proxy.ServeHTTP(w, r)
}

// isUpgrade reports whether the client wants to leave HTTP.
func isUpgrade(r *http.Request) bool {
	return strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") && r.Header.Get("Upgrade") != ""
}

var errUpgradeRequired = apierrors.NewBadRequest("Upgrade request required")

// placed refuses a pod that has no node yet.
func placed(pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return nil
}

var _ rest.Connecter = (&Streams{}).log

// log answers with the log of a container.
//
// Upstream: pkg/registry/core/pod/rest/log.go, LogREST.Get.
func (s *Streams) log(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, _ string) {
	if err := s.serveLog(w, r, a); err != nil {
		rest.WriteError(w, r, err)
	}
}
