package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// maxAnswer bounds what a webhook may answer, in bytes.
const maxAnswer = 16 << 20

// Hook is where a webhook is: at a URL, or at a path of a Service.
type Hook struct {
	// URL is nil when the Service is meant.
	URL *string
	// Namespace, Name and Port are the Service's; no port is 443. Path may be nil.
	Namespace, Name string
	Port            *int32
	Path            *string
	// CABundle is PEM; empty means the system's authorities.
	CABundle []byte
}

func (h Hook) address() (Target, *url.URL, error) {
	bundle := string(h.CABundle)
	if strings.TrimSpace(bundle) == "" {
		bundle = ""
	}
	if h.URL != nil {
		to, err := url.Parse(*h.URL)
		return Target{CABundle: bundle}, to, err
	}
	if h.Name == "" {
		return Target{}, nil, errors.New("webhook configuration must have either service or URL")
	}
	t := Target{Namespace: h.Namespace, Name: h.Name, Port: 443, CABundle: bundle}
	if h.Port != nil {
		t.Port = *h.Port
	}
	to := &url.URL{Scheme: "https", Host: t.Host(), Path: "/"}
	if h.Path != nil {
		to.Path = *h.Path
	}
	return t, to, nil
}

// Call posts a question to a webhook and reads its answer, both JSON. timeout is
// also what the webhook is told; agent is who asks.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/client.go, ClientManager.HookClient.
func (p *Pool) Call(ctx context.Context, h Hook, timeout time.Duration, agent string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	target, to, err := h.address()
	if err != nil {
		return err
	}
	transport, err := p.Transport(target)
	if err != nil {
		return err
	}
	query := to.Query()
	query.Set("timeout", timeout.String())
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", agent)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
		return apierrors.NewGenericServerResponse(resp.StatusCode, "post", schema.GroupResource{}, "", string(data), 0, true)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	return nil
}
