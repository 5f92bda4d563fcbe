package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var statusGVK = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// ToStatus is the one place where an error becomes what clients see.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/status.go, ErrorToAPIStatus.
func ToStatus(err error) *metav1.Status {
	var st apierrors.APIStatus
	if !errors.As(err, &st) {
		if errors.Is(err, context.DeadlineExceeded) {
			return ToStatus(errTimeout)
		}
		s := &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
		s.SetGroupVersionKind(statusGVK)
		return s
	}
	s := st.Status()
	if s.Status == "" {
		s.Status = metav1.StatusFailure
	}
	if s.Code == 0 {
		s.Code = http.StatusInternalServerError
	}
	s.SetGroupVersionKind(statusGVK)
	return &s
}

var errTimeout = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)

// timedOut is what a client gets whose request has had its time, whatever the request was waiting for: a Status
// that does not say that it is one.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/filters/timeout.go, WithTimeout.
func timedOut(w http.ResponseWriter) {
	body, err := json.Marshal(errTimeout.ErrStatus)
	if err != nil {
		body = []byte(errTimeout.Error())
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = w.Write(body) // a client that went away is not our error
}

// WriteError answers a request with an error, as a Status in the form that the client accepts.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.DeadlineExceeded) {
		timedOut(w)
		return
	}
	if errors.Is(err, errNoVersion) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	s := ToStatus(err)
	if d := s.Details; d != nil && d.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	f, nerr := negotiate(r)
	if nerr != nil {
		f = form{mediaType: mediaJSON}
	}
	f.as = ""
	write(w, r, f, int(s.Code), s)
}

// errNoVersion is for paths in groups and versions that are not served at all;
// it is plain text, as from a server that knows no API.
var errNoVersion = errors.New("404 page not found")

// notFound is the answer for paths that lead nowhere inside a known version.
func notFound() error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
}

// notAllowed is the answer for methods that a resource does not have.
func notAllowed() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
	}}
}

// NotFound answers 404 with a Status.
func NotFound(w http.ResponseWriter, r *http.Request) { WriteError(w, r, notFound()) }

// NotAllowed answers 405 for the methods that a resource does not have, and 404
// where there is no resource.
func (h *Handlers) NotAllowed(w http.ResponseWriter, r *http.Request) {
	q, err := h.begin(r, "")
	if err == nil {
		err = q.notAllowed()
	}
	WriteError(w, r, err)
}

// notAllowed is the answer for the request's method. Upstream serves custom resources by other code, which says it in other words.
func (q *request) notAllowed() error {
	if q.kind.Custom != nil {
		return apierrors.NewMethodNotSupported(q.kind.GR(), q.Verb)
	}
	return notAllowed()
}

// MethodNotAllowed answers 405 with a Status.
func MethodNotAllowed(w http.ResponseWriter, r *http.Request) { WriteError(w, r, notAllowed()) }
