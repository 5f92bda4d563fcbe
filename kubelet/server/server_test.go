package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const lines = `2026-11-21T22:06:18.000000001Z stdout F one
2026-11-21T22:06:19.000000001Z stderr F two
2026-11-21T22:06:20.000000001Z stdout P thr
2026-11-21T22:06:20.000000002Z stdout F ee
2026-11-21T22:06:21.000000001Z stdout F four
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLogOptions(t *testing.T) {
	path := write(t, lines)
	for _, test := range []struct {
		query, want string
	}{
		{"", "one\ntwo\nthree\nfour\n"},
		{"tailLines=1", "four\n"},
		{"tailLines=0", ""},
		{"tailLines=99", "one\ntwo\nthree\nfour\n"},
		{"limitBytes=6", "one\ntw"},
		{"sinceTime=2026-11-21T22:06:20Z", "three\nfour\n"},
		{"stream=stderr", "two\n"},
		{"tailLines=1&timestamps=true", "2026-11-21T22:06:21.000000001Z four\n"},
	} {
		q, _ := url.ParseQuery(test.query)
		o, _, err := logOptions(q)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := CopyLog(t.Context(), path, o, nil, &out, &out); err != nil || out.String() != test.want {
			t.Errorf("%s: %q, %v, want %q", test.query, out.String(), err, test.want)
		}
	}
}

func TestFollowedLogEndsWithItsContainer(t *testing.T) {
	path := write(t, lines)
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		var out bytes.Buffer
		done := make(chan error)
		go func() {
			done <- CopyLog(t.Context(), path, LogOptions{Follow: true, Tail: 1, Limit: -1}, func() bool { return !dead.Load() }, &out, &out)
		}()
		time.Sleep(time.Second)
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprint(f, "2026-11-21T22:06:22Z stdout F fi")
		time.Sleep(time.Second)
		fmt.Fprint(f, "ve\n")
		time.Sleep(time.Second)
		synctest.Wait()
		if out.String() != "four\nfive\n" {
			t.Errorf("followed: %q", out.String())
		}
		dead.Store(true)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTailLog(t *testing.T) {
	path := write(t, lines)
	if got := TailLog(t.Context(), path, 2, 7); got != "ee\nfour\n"[1:] {
		t.Errorf("the last 7 bytes of the last 2 lines are %q", got)
	}
}

// host is a kubelet with one pod.
type host struct {
	path string
	to   *url.URL
}

func (h *host) Pods() []*corev1.Pod {
	return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}}
}
func (h *host) Healthy() error { return nil }
func (h *host) Stats(context.Context) (*stats.Summary, error) {
	return &stats.Summary{Node: stats.NodeStats{NodeName: "w1"}}, nil
}
func (h *host) Log(_ context.Context, namespace, pod, container string, previous bool) (string, func() bool, error) {
	if pod != "web" {
		return "", nil, NotFound(fmt.Sprintf("pod %q does not exist", pod))
	}
	if previous {
		return "", nil, fmt.Errorf("previous terminated container %q in pod %q not found", container, pod)
	}
	return h.path, func() bool { return false }, nil
}
func (h *host) Exec(_ context.Context, namespace, pod, container string, command []string, s Streams) (*url.URL, error) {
	u := *h.to
	u.Path, u.RawQuery = "/exec/token", url.Values{"c": command, "tty": {fmt.Sprint(s.TTY)}, "in": {fmt.Sprint(s.Stdin)}}.Encode()
	return &u, nil
}
func (h *host) Attach(context.Context, string, string, string, Streams) (*url.URL, error) {
	return h.to, nil
}
func (h *host) PortForward(context.Context, string, string, []int32) (*url.URL, error) {
	return h.to, nil
}

func TestRoutes(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s?%s %s", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("X-Stream-Protocol-Version"))
	}))
	defer backend.Close()
	to, _ := url.Parse(backend.URL)
	srv := httptest.NewServer((&Server{Host: &host{path: write(t, lines), to: to}}).Handler())
	defer srv.Close()
	for _, test := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/containerLogs/default/web/app?tailLines=1", 200, "four\n"},
		{"GET", "/containerLogs/default/nope/app", 404, "pod \"nope\" does not exist\n"},
		{"GET", "/containerLogs/default/web/app?previous=true", 400, "previous terminated container \"app\" in pod \"web\" not found\n"},
		{"GET", "/containerLogs/default/web/app?tailLines=x", 400, ""},
		{"POST", "/exec/default/web/app?command=ls&command=-l&input=1&tty=1", 200, "POST /exec/token?c=ls&c=-l&in=true&tty=true v4.channel.k8s.io"},
		{"GET", "/metrics", 200, "kubelet_running_pods 1"},
		{"GET", "/metrics/resource", 200, "resource_scrape_error 0"},
		{"GET", "/pods", 200, `"kind":"PodList"`},
		{"GET", "/stats/summary", 200, `"nodeName":"w1"`},
		{"GET", "/nope", 404, ""},
	} {
		req, _ := http.NewRequest(test.method, srv.URL+test.path, nil)
		req.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.code || !strings.Contains(string(body), test.want) {
			t.Errorf("%s %s: %d %q, want %d %q", test.method, test.path, resp.StatusCode, body, test.code, test.want)
		}
	}
}

// issue makes a certificate; a nil parent signs itself.
func issue(t *testing.T, subject pkix.Name, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: parent == nil, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	signer, by := any(key), template
	if parent != nil {
		signer, by = parent.PrivateKey, parent.Leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestOnlyThoseWhoMayAreServed(t *testing.T) {
	ca, stranger := issue(t, pkix.Name{CommonName: "ca"}, nil), issue(t, pkix.Name{CommonName: "other ca"}, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	for _, test := range []struct {
		name string
		cert *tls.Certificate
		auth *Authenticator
		want int
	}{
		{"nobody", nil, &Authenticator{}, 401},
		{"a master", new(issue(t, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, &ca)), &Authenticator{}, 200},
		{"a master of another cluster", new(issue(t, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, &stranger)), &Authenticator{}, 401},
		{"somebody, and no API server to ask", new(issue(t, pkix.Name{CommonName: "joe"}, &ca)), &Authenticator{}, 403},
		{"nobody, where that is enough", nil, &Authenticator{Anonymous: true, AlwaysYes: true}, 200},
	} {
		test.auth.ClientCA = pool
		srv := httptest.NewUnstartedServer(test.auth.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		srv.StartTLS()
		c := srv.Client()
		if test.cert != nil {
			c.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{*test.cert}
		}
		resp, err := c.Get(srv.URL + "/pods")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		srv.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s: %d, want %d", test.name, resp.StatusCode, test.want)
		}
	}
}

func TestAttributes(t *testing.T) {
	for _, test := range []struct{ method, path, want string }{
		{"GET", "/pods", "get [pods proxy]"}, {"POST", "/exec/a/b/c", "create [proxy]"}, {"GET", "/stats/summary", "get [stats]"},
		{"GET", "/metrics/resource", "get [metrics]"}, {"GET", "/containerLogs/a/b/c", "get [proxy]"}, {"GET", "/healthz/ping", "get [healthz proxy]"},
	} {
		verb, subs := attributes(httptest.NewRequest(test.method, test.path, nil))
		if got := fmt.Sprint(verb, " ", subs); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.method, test.path, got, test.want)
		}
	}
}
