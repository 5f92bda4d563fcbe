package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
	mediaJSON     = "application/json"
)

// Client is a connection pool to one API server under one identity. It is safe
// for concurrent use.
//
// Upstream: k8s.io/client-go/rest/client.go, RESTClient.
// Left out: client-side rate limits (upstream's QPS and burst); the server's
// 429 answers are obeyed.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

// New makes a Client; it does not connect yet. It fails on unreadable
// certificates or a Host that is not a URL.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.Host)
	if err != nil {
		return nil, fmt.Errorf("server address %q: %w", cfg.Host, err)
	}
	t, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{Transport: t}}, nil
}

// Close drops idle connections, so that their goroutines end.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Config is what the Client was made from.
func (c *Client) Config() Config { return c.cfg }

// request is one exchange; path is absolute, body may be nil.
type request struct {
	method, path string
	query        url.Values
	accept       string
	contentType  string
	body         []byte
}

// maxRetries bounds how often a 429 or 503 with Retry-After is obeyed.
const maxRetries = 10

// do sends a request and returns the response if its status is 2xx; anything
// else becomes an *apierrors.StatusError. The caller closes the body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	for try := 0; ; try++ {
		resp, err := c.send(ctx, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 && resp.StatusCode < 300 {
			return resp, nil
		}
		err = statusError(resp, r)
		wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		if wait <= 0 || try >= maxRetries || resp.StatusCode == http.StatusGatewayTimeout {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(wait) * time.Second):
		}
	}
}

func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + r.path
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if c.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	token, err := c.cfg.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return c.http.Do(req)
}

// statusError reads a failed response to its end and makes an error of it.
func statusError(resp *http.Response, r request) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil); err == nil {
		if s, ok := obj.(*metav1.Status); ok && s.Status != metav1.StatusSuccess {
			return &apierrors.StatusError{ErrStatus: *s}
		}
	}
	e := apierrors.NewGenericServerResponse(resp.StatusCode, r.method, schema.GroupResource{}, "", strings.TrimSpace(string(body)), 0, true)
	return e
}

// Raw sends any request and returns the body of a successful answer: for health
// checks, discovery and paths that are no resources.
func (c *Client) Raw(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) ([]byte, error) {
	resp, err := c.do(ctx, request{method: method, path: path, query: query, accept: mediaJSON + ", */*", contentType: contentType, body: body})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// Stream is Raw for answers that are read as they come, such as logs.
func (c *Client) Stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// encode makes the wire form of an object: protobuf for kinds that have it,
// JSON for the rest.
func encode(obj runtime.Object) (contentType string, body []byte, err error) {
	if _, ok := obj.(runtime.Unstructured); ok {
		body, err = runtime.Encode(unstructuredCodec, obj)
		return mediaJSON, body, err
	}
	gvks, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return "", nil, err
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaProtobuf)
	body, err = runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, gvks[0].GroupVersion()), obj)
	return mediaProtobuf, body, err
}
