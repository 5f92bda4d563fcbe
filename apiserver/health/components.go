package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// componentTimeout is how long a component may take to say how it is.
	componentTimeout = 20 * time.Second
	// maxAnswer is how much of what it says is read, in bytes.
	maxAnswer = 10 << 10
)

// healthURLs are where the other parts of a control plane are on its node. That they listen at their default ports is
// taken for granted, upstream too: which is why nobody should rely on a ComponentStatus any more.
//
// Upstream: pkg/registry/core/rest/storage_core.go, componentStatusStorage.serversToValidate.
var healthURLs = map[string]string{
	"controller-manager": "https://127.0.0.1:10257/healthz",
	"scheduler":          "https://127.0.0.1:10259/healthz",
}

// theStore is the component that Components.Store checks.
const theStore = "etcd-0"

// Components are the ComponentStatuses: each time that they are asked for, the parts of the control plane are asked.
//
// Upstream: pkg/registry/core/componentstatus/rest.go, REST, and validator.go, HttpServer.
type Components struct {
	// Store says what is wrong with the store.
	Store func(ctx context.Context) error
	// Dial connects to the others; nil is an ordinary dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// UserAgent is who asks them.
	UserAgent string
}

// Read is a rest.Reader.
func (c *Components) Read(ctx context.Context, name string) ([]runtime.Object, error) {
	names := append(slices.Sorted(maps.Keys(healthURLs)), theStore)
	slices.Sort(names)
	if name != "" {
		if !slices.Contains(names, name) {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, name)
		}
		names = []string{name}
	}
	found := make([]runtime.Object, len(names))
	var all sync.WaitGroup
	for i, n := range names {
		all.Go(func() {
			found[i] = &corev1.ComponentStatus{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ComponentStatus"},
				ObjectMeta: metav1.ObjectMeta{Name: n}, Conditions: []corev1.ComponentCondition{c.condition(ctx, n)}}
		})
	}
	all.Wait()
	return found, nil
}

func (c *Components) condition(ctx context.Context, name string) corev1.ComponentCondition {
	cond := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if name == theStore {
		if err := c.Store(ctx); err != nil {
			cond.Status, cond.Message, cond.Error = corev1.ConditionFalse, "", err.Error()
		}
		return cond
	}
	text, err := c.ask(ctx, healthURLs[name])
	cond.Message = text
	if err != nil {
		cond.Status, cond.Message = corev1.ConditionFalse, err.Error()
	}
	return cond
}

// ask returns what a healthy component says.
//
// Upstream: pkg/probe/http/http.go, DoHTTPProbe.
func (c *Components) ask(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, componentTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", c.UserAgent)
	// The component signed its certificate itself, and nothing secret is asked.
	transport := &http.Transport{DialContext: c.Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // #nosec G402
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return "", fmt.Errorf("HTTP probe failed with statuscode: %d", resp.StatusCode)
	}
	return string(text), nil
}
