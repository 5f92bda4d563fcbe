package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	kubeletside "k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// echo is a kubelet whose containers give back what they are told.
type echo struct{}

// ExecInContainer implements the kubelet's side of exec.
func (echo) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan kubeletside.TerminalSize, _ time.Duration) error {
	_, err := io.Copy(out, in)
	return err
}

// ServeHTTP answers exec, and logs that never end.
func (e echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/containerLogs/") {
		fmt.Fprintln(w, "first line")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	opts, err := kubeletside.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	kubeletside.ServeExec(w, r, e, "web", "", "c", nil, opts, time.Minute, time.Minute, kubeletside.SupportedStreamingProtocols)
}

// Every filter of the chain must let connections through that leave HTTP or that never end.
func TestStreamsPassThroughTheWholeServer(t *testing.T) {
	kubelet := httptest.NewTLSServer(echo{})
	defer kubelet.Close()
	server, err := apiserver.New(apiserver.Config{Store: memory.New(), Version: "v1.36.3", Log: slog.New(slog.DiscardHandler), AllowAll: true, Bare: true,
		MaxRequestsInFlight: 10, AuditLog: io.Discard,
		KubeletDial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, kubelet.Listener.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	for resource, obj := range map[string]runtime.Object{
		"nodes": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.30.0.4"}}}},
		"pods": &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	} {
		if _, err := server.Objects().Create(t.Context(), schema.GroupResource{Resource: resource}, obj); err != nil {
			t.Fatal(err)
		}
	}
	front := httptest.NewServer(server.Handler())
	defer front.Close()
	u, err := url.Parse(front.URL + "/api/v1/namespaces/default/pods/web/exec?command=cat&container=c&stdin=true&stdout=true")
	if err != nil {
		t.Fatal(err)
	}
	config := &restclient.Config{Host: front.URL}
	ws, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	for protocol, executor := range map[string]remotecommand.Executor{"websocket": ws, "spdy": spdy} {
		var out bytes.Buffer
		err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
		if err != nil || out.String() != "hello" {
			t.Errorf("%s: %v, %q", protocol, err, out.String())
		}
	}
	logs, err := http.Get(front.URL + "/api/v1/namespaces/default/pods/web/log?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Body.Close()
	line := make([]byte, len("first line"))
	if _, err := io.ReadFull(logs.Body, line); err != nil || string(line) != "first line" {
		t.Errorf("following a log: %v, %q", err, line)
	}
}
