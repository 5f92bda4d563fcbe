package ingress

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"time"
)

const (
	// dialTimeout is how long a pod may take to accept a connection. Pods are near:
	// one that needs longer is on a machine that is gone.
	dialTimeout = time.Second
	// maxAttempts is how many endpoints one request is offered to.
	maxAttempts = 3
)

// newTransport makes connections to pods. Each request gets its own, so that a
// dead endpoint shows itself before anything was sent to it; a kept connection to
// a machine that vanished would swallow the request in silence.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:        (&net.Dialer{Timeout: dialTimeout}).DialContext,
		DisableKeepAlives:  true,
		DisableCompression: true, // what the client and the pod agree on passes through
	}
}

// ServeHTTP sends a request where the table says, and logs what became of it.
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	out := &recorder{ResponseWriter: w}
	f := &forward{transport: c.transport, to: c.table.Load().lookup(r.Host, r.URL.Path)}
	defer func() { // also when the answer breaks off, which httputil makes a panic of
		attrs := []any{"client", r.RemoteAddr, "method", r.Method, "host", r.Host, "path", r.URL.Path,
			"code", out.code, "endpoint", f.endpoint, "took", time.Since(began)}
		if f.to != nil {
			attrs = append(attrs, "key", f.to.name)
		}
		if f.err != nil {
			attrs = append(attrs, "err", f.err)
		}
		c.log.Info("request", attrs...)
	}()
	switch {
	case f.to == nil:
		http.NotFound(out, r) // "404 page not found"
	case len(f.to.endpoints) == 0:
		http.Error(out, "no available server", http.StatusServiceUnavailable)
	default:
		proxy := httputil.ReverseProxy{Rewrite: rewrite, Transport: f, ErrorHandler: f.fail,
			ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)} // the access log has it
		proxy.ServeHTTP(out, r)
	}
}

// rewrite makes the request to the pod: the same host, path and query, and
// headers that say who asked. What the client claims of itself is not passed on.
func rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "http"
	p.Out.URL.RawQuery = p.In.URL.RawQuery // else what Go cannot parse would be dropped
	p.SetXForwarded()
}

// forward is one request on its way.
type forward struct {
	transport http.RoundTripper
	to        *backend
	endpoint  string // the last that was tried
	err       error
}

// RoundTrip offers the request to one endpoint after the other, beginning with
// the one whose turn it is.
func (f *forward) RoundTrip(r *http.Request) (*http.Response, error) {
	n := uint64(len(f.to.endpoints))
	turn := f.to.turn.Add(1) - 1
	for try := range min(n, maxAttempts) {
		f.endpoint = f.to.endpoints[(turn+try)%n]
		out, url := r.WithContext(r.Context()), *r.URL
		url.Host, out.URL = f.endpoint, &url
		if r.Body != nil {
			out.Body = io.NopCloser(r.Body) // a failed attempt closes its body
		}
		var resp *http.Response
		resp, f.err = f.transport.RoundTrip(out)
		if f.err == nil || r.Context().Err() != nil || !repeatable(r, f.err) {
			return resp, f.err
		}
	}
	return nil, f.err
}

// repeatable says whether a failed request may be offered to another endpoint:
// nothing of it was sent, or doing it twice is the same as doing it once.
func repeatable(r *http.Request, err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	idempotent := []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete}
	return r.Body == nil && slices.Contains(idempotent, r.Method)
}

// fail answers when no endpoint did.
func (f *forward) fail(w http.ResponseWriter, r *http.Request, err error) {
	f.err = err
	code := http.StatusBadGateway
	var timeout net.Error
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		code = 499 // as nginx has it for clients that did not wait; only the log sees it
	case errors.As(err, &timeout) && timeout.Timeout():
		code = http.StatusGatewayTimeout
	}
	http.Error(w, http.StatusText(code), code)
}

// recorder notes the status code of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

// WriteHeader notes the code; one of 1xx is followed by another, but for 101.
func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets a http.ResponseController flush and hijack: WebSockets need it.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
