package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/rest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// proxyTo passes a request on to scheme://host, or answers with err.
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go, UpgradeAwareHandler.
// Left out: rewriting links in HTML answers.
func (s *Streams) proxyTo(w http.ResponseWriter, r *http.Request, location *url.URL, path string, transport http.RoundTripper, err error) {
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	// Without the slash at the end, the browser would resolve relative links one level too high.
	if path == "" && !strings.HasSuffix(r.URL.Path, "/") && (r.Method == http.MethodGet || r.Method == http.MethodHead) && !isUpgrade(r) {
		target := *r.URL
		target.Path += "/"
		http.Redirect(w, r, target.RequestURI(), http.StatusMovedPermanently)
		return
	}
	location.Path = "/" + strings.TrimPrefix(path, "/")
	location.RawQuery = r.URL.RawQuery
	forward(w, r, location, transport)
}

// proxyPod reaches a port of a pod: pods/[scheme:]NAME[:PORT]/proxy.
//
// Upstream: pkg/registry/core/pod/strategy.go, ResourceLocation.
func (s *Streams) proxyPod(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, path string) {
	location, err := s.podLocation(r.Context(), a)
	s.proxyTo(w, r, location, path, s.direct, err)
}

func (s *Streams) podLocation(ctx context.Context, a *auth.Attributes) (*url.URL, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(a.Name)
	if !ok || name == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", a.Name))
	}
	obj, err := s.config.Objects.Get(ctx, pods, a.Namespace, name)
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	if port == "" {
		for i := range pod.Spec.Containers {
			if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
				port = strconv.Itoa(int(ports[0].ContainerPort))
				break
			}
		}
	}
	if net.ParseIP(pod.Status.PodIP) == nil {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	host := pod.Status.PodIP
	if port != "" {
		host = net.JoinHostPort(host, port)
	}
	return &url.URL{Scheme: orHTTP(scheme), Host: host}, nil
}

// orHTTP is the scheme that a request named, or http.
func orHTTP(scheme string) string {
	if scheme == "" {
		return "http"
	}
	return scheme
}

// proxyService reaches a ready endpoint of a service: services/[scheme:]NAME[:PORT]/proxy.
//
// Upstream: pkg/registry/core/service/storage/storage.go, REST.ResourceLocation.
func (s *Streams) proxyService(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, path string) {
	location, err := s.serviceLocation(r.Context(), a)
	s.proxyTo(w, r, location, path, s.direct, err)
}

func (s *Streams) serviceLocation(ctx context.Context, a *auth.Attributes) (*url.URL, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(a.Name)
	if !ok || name == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", a.Name))
	}
	obj, err := s.config.Objects.Get(ctx, services, a.Namespace, name)
	if err != nil {
		return nil, err
	}
	// A number is the service's port, which has a name among the endpoints.
	if number, err := strconv.ParseInt(port, 10, 32); err == nil {
		found := false
		for _, p := range obj.(*corev1.Service).Spec.Ports {
			if int64(p.Port) == number {
				port, found = p.Name, true
			}
		}
		if !found {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
	}
	list, err := s.config.Objects.List(ctx, endpointSlices, a.Namespace, labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}))
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, obj := range list {
		hosts = append(hosts, readyHosts(obj.(*discoveryv1.EndpointSlice), port)...)
	}
	if len(hosts) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	return &url.URL{Scheme: orHTTP(scheme), Host: hosts[rand.IntN(len(hosts))]}, nil
}

// readyHosts are the HOST:PORT of the endpoints that are ready, for the port of a name.
func readyHosts(slice *discoveryv1.EndpointSlice, portName string) []string {
	var hosts []string
	for _, port := range slice.Ports {
		if port.Port == nil || (port.Name != nil && *port.Name != portName) || (port.Name == nil && portName != "") {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				for _, address := range endpoint.Addresses {
					hosts = append(hosts, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	return hosts
}

// proxyNode reaches the kubelet of a node: nodes/NAME/proxy; or another port of it: nodes/NAME:PORT/proxy.
//
// Upstream: pkg/registry/core/node/strategy.go, ResourceLocation.
func (s *Streams) proxyNode(w http.ResponseWriter, r *http.Request, _ *kinds.Kind, a *auth.Attributes, path string) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(a.Name)
	if !ok || name == "" {
		rest.WriteError(w, r, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", a.Name)))
		return
	}
	location, err := s.kubeletURL(r.Context(), name, "")
	if err != nil {
		rest.WriteError(w, r, err)
		return
	}
	if port == "" || port == location.Port() {
		s.proxyTo(w, r, location, path, s.kubelet, nil)
		return
	}
	location = &url.URL{Scheme: orHTTP(scheme), Host: net.JoinHostPort(location.Hostname(), port)}
	s.proxyTo(w, r, location, path, s.direct, nil)
}
