package stream

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"strconv"

	"orrery/apiserver/auth"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// quiet swallows what httputil.ReverseProxy would print: the client gets the error.
var quiet = log.New(io.Discard, "", 0)

// maxErrorBytes is how much of a kubelet's error text is passed on.
const maxErrorBytes = 50 * 1024

// serveLog streams a log, or returns why not.
func (s *Streams) serveLog(w http.ResponseWriter, r *http.Request, a *auth.Attributes) error {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		return err
	}
	if err := validateLogOptions(opts, a.Name); err != nil {
		return err
	}
	pod, err := s.pod(r, a)
	if err != nil {
		return err
	}
	name, err := container(pod, opts.Container)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain")
	if pod.Spec.NodeName == "" {
		sendLog(w, r, http.NoBody) // not on a node yet
		return nil
	}
	location, err := s.kubeletURL(r.Context(), pod.Spec.NodeName, "/containerLogs/"+pod.Namespace+"/"+pod.Name+"/"+name)
	if err != nil {
		w.Header().Del("Content-Type")
		return err
	}
	location.RawQuery = logQuery(opts).Encode()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, location.String(), nil)
	if err != nil {
		return err
	}
	resp, err := s.kubelet.RoundTrip(req)
	if err != nil {
		w.Header().Del("Content-Type")
		return fmt.Errorf("Get %q: %w", location, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > http.StatusPartialContent {
		w.Header().Del("Content-Type")
		return kubeletError(resp, a.Name)
	}
	sendLog(w, r, resp.Body)
	return nil
}

// sendLog answers with lines as they come, a browser with messages on a WebSocket.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/writers.go, StreamObject.
func sendLog(w http.ResponseWriter, r *http.Request, lines io.ReadCloser) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.WriteHeader(http.StatusOK)
		copyFlushing(w, lines)
		return
	}
	c, err := accept(w, r, logProtocols)
	if err != nil {
		return // it has been answered
	}
	gone := make(chan struct{})
	go func() { // ends with the connection, which close ends
		defer close(gone)
		for err == nil {
			_, _, err = c.receive()
		}
		_ = lines.Close() // so that nothing more is read for nobody
	}()
	messages := messageWriter{c}
	if _, err := messages.Write(nil); err == nil { // tells the client that the log begins
		_, _ = io.Copy(messages, lines) // an error is that one of the two has gone
	}
	c.close(gone)
}

// kubeletError passes a kubelet's refusal on.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/registry/generic/rest/response_checker.go, GenericHttpResponseChecker.Check.
func kubeletError(resp *http.Response, name string) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(fmt.Errorf("%s", body))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(string(body))
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "", pods.WithVersion("").GroupResource(), name, string(body), 0, false)
}

// validateLogOptions checks the numbers.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodLogOptions.
func validateLogOptions(opts *corev1.PodLogOptions, pod string) error {
	var errs field.ErrorList
	if opts.TailLines != nil && *opts.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *opts.TailLines, "must be greater than or equal to 0"))
	}
	if opts.LimitBytes != nil && *opts.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *opts.LimitBytes, "must be greater than 0"))
	}
	switch {
	case opts.SinceSeconds != nil && opts.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case opts.SinceSeconds != nil && *opts.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *opts.SinceSeconds, "must be greater than 0"))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), pod, errs)
}

// logQuery is what the kubelet is asked for.
func logQuery(opts *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	mark := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	mark("follow", opts.Follow)
	mark("previous", opts.Previous)
	mark("timestamps", opts.Timestamps)
	number("sinceSeconds", opts.SinceSeconds)
	number("tailLines", opts.TailLines)
	number("limitBytes", opts.LimitBytes)
	if opts.SinceTime != nil {
		q.Set("sinceTime", opts.SinceTime.UTC().Format("2006-01-02T15:04:05Z07:00"))
	}
	if opts.Stream != nil && *opts.Stream != corev1.LogStreamAll {
		q.Set("stream", *opts.Stream)
	}
	return q
}

// copyFlushing copies body to the client and lets every piece go at once.
func copyFlushing(w http.ResponseWriter, body io.Reader) {
	rc := http.NewResponseController(w)
	_ = rc.Flush() // the headers, before the first line comes
	buffer := make([]byte, 32*1024)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, werr := w.Write(buffer[:n]); werr != nil {
				return
			}
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}
