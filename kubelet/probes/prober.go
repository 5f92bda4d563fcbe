package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxOutput is how much of an answer is kept for the event, in bytes.
const maxOutput = 10 * 1024

// Prober puts the four kinds of questions.
//
// Upstream: pkg/kubelet/prober/prober.go; pkg/probe/{http,tcp,exec,grpc}.
type Prober struct {
	// Exec runs a command in a container; timedOut says that it did not end in time.
	Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, exitCode int32, timedOut bool, err error)
	// UserAgent is what HTTP probes call themselves: "kube-probe/1.36".
	UserAgent string
}

// Ask puts the target's probe once. An error means that it could not be put.
func (p *Prober) Ask(ctx context.Context, t Target) (bool, string, error) {
	timeout := time.Duration(max(1, t.Probe.TimeoutSeconds)) * time.Second
	switch {
	case t.Probe.Exec != nil:
		return p.exec(ctx, t, timeout)
	case t.Probe.HTTPGet != nil:
		req, err := p.request(ctx, t.Probe.HTTPGet, t.Container, t.PodIP)
		if err != nil {
			return false, "", err
		}
		return get(req, timeout)
	case t.Probe.TCPSocket != nil:
		port, err := portNumber(t.Probe.TCPSocket.Port, t.Container)
		if err != nil {
			return false, "", err
		}
		host := t.Probe.TCPSocket.Host
		if host == "" {
			host = t.PodIP
		}
		conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return false, err.Error(), nil // an answer of a kind: nobody listens
		}
		return true, "", conn.Close()
	case t.Probe.GRPC != nil:
		return grpcHealth(ctx, t, timeout)
	}
	return false, "", fmt.Errorf("missing probe handler for %s:%s", t.Pod.Name, t.Container.Name)
}

func (p *Prober) exec(ctx context.Context, t Target, timeout time.Duration) (bool, string, error) {
	_, id, _ := strings.Cut(t.ContainerID, "://")
	out, code, timedOut, err := p.Exec(ctx, id, t.Probe.Exec.Command, timeout)
	switch {
	case timedOut:
		return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(t.Probe.Exec.Command, " "), timeout), nil
	case err != nil:
		return false, "", err
	}
	return code == 0, string(out[:min(len(out), maxOutput)]), nil
}

// request is the HTTP request of a probe or hook.
func (p *Prober) request(ctx context.Context, h *corev1.HTTPGetAction, c *corev1.Container, podIP string) (*http.Request, error) {
	port, err := portNumber(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(h.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", p.UserAgent)
	req.Header.Set("Accept", "*/*")
	for _, header := range h.HTTPHeaders {
		if strings.EqualFold(header.Name, "Host") {
			req.Host = header.Value
		}
		req.Header.Set(header.Name, header.Value)
	}
	return req, nil
}

// get follows redirects on the same host only; 200 to 399 is success.
func get(req *http.Request, timeout time.Duration) (bool, string, error) {
	client := &http.Client{
		Timeout: timeout,
		// A probe checks that the server answers, not who it is.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxOutput)); err != nil {
		return false, err.Error(), nil
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return true, "", nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

// HTTPHook is the HTTP request of a lifecycle hook; any answer will do.
func (p *Prober) HTTPHook(ctx context.Context, h *corev1.HTTPGetAction, c *corev1.Container, podIP string) error {
	req, err := p.request(ctx, h, c, podIP)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func grpcHealth(ctx context.Context, t Target, timeout time.Duration) (bool, string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addr := net.JoinHostPort(t.PodIP, strconv.Itoa(int(t.Probe.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	service := ""
	if t.Probe.GRPC.Service != nil {
		service = *t.Probe.GRPC.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch s, _ := grpcstatus.FromError(err); {
	case err == nil && resp.Status == healthpb.HealthCheckResponse_SERVING:
		return true, "service healthy", nil
	case err == nil:
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	case s.Code() == codes.Unimplemented:
		return false, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + s.Message(), nil
	case s.Code() == codes.DeadlineExceeded:
		return false, fmt.Sprintf("timeout: failed to connect service %q within %s: %v", addr, timeout, err), nil
	}
	return false, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
}

// portNumber resolves a named port in the container's list.
func portNumber(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", port.String())
	}
	return n, nil
}
