// Package audit writes down who asked for what and what came of it: one JSON line
// a request, in the form of audit.k8s.io/v1 at level Metadata (no bodies).
//
//	authenticated request ──▶ Wrap ──▶ impersonation, authorization (Annotate) ──▶ handler
//	                            └──▶ one line when the answer has ended; two for streams
//
// Invariants: a request that was answered has its line before the connection is used
// again; the Audit-Id header of the answer is the line's auditID; secrets are never in it.
//
// Left out: policies, levels above Metadata, webhook backends, rotation of the file.
package audit

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"orrery/apiserver/auth"
	"orrery/apiserver/health"

	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Log is the audit log. The zero value writes nothing.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/filters/audit.go, WithAudit.
type Log struct {
	// Out gets the lines (--audit-log-path); nil switches the log off.
	Out io.Writer

	mu sync.Mutex
}

// event is one line.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/apis/audit/v1/types.go, Event.
type event struct {
	Kind             string                     `json:"kind"`
	APIVersion       string                     `json:"apiVersion"`
	Level            string                     `json:"level"`
	AuditID          string                     `json:"auditID"`
	Stage            string                     `json:"stage"`
	RequestURI       string                     `json:"requestURI"`
	Verb             string                     `json:"verb"`
	User             authenticationv1.UserInfo  `json:"user"`
	ImpersonatedUser *authenticationv1.UserInfo `json:"impersonatedUser,omitempty"`
	SourceIPs        []string                   `json:"sourceIPs,omitempty"`
	UserAgent        string                     `json:"userAgent,omitempty"`
	ObjectRef        *objectRef                 `json:"objectRef,omitempty"`
	ResponseStatus   *responseStatus            `json:"responseStatus,omitempty"`
	Received         metav1.MicroTime           `json:"requestReceivedTimestamp"`
	Staged           metav1.MicroTime           `json:"stageTimestamp"`
	Annotations      map[string]string          `json:"annotations,omitempty"`

	mu sync.Mutex
}

type objectRef struct {
	Resource    string `json:"resource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	APIGroup    string `json:"apiGroup,omitempty"`
	APIVersion  string `json:"apiVersion,omitempty"`
	Subresource string `json:"subresource,omitempty"`
}

type responseStatus struct {
	Metadata struct{} `json:"metadata"`
	Code     int      `json:"code"`
}

type key struct{}

// Wrap writes a line for every request that next answers. User and auth.Attributes must be in the context.
func (l *Log) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := uuid.NewString()
		w.Header().Set("Audit-Id", id)
		if l.Out == nil {
			next.ServeHTTP(w, r)
			return
		}
		e := newEvent(id, r)
		recorder := &health.StatusRecorder{ResponseWriter: w}
		if health.LongRunning(auth.AttributesFrom(r.Context())) {
			l.write(e, "ResponseStarted", http.StatusOK)
		}
		defer func() { l.write(e, "ResponseComplete", recorder.Code()) }()
		next.ServeHTTP(recorder, r.WithContext(context.WithValue(r.Context(), key{}, e)))
	})
}

// newEvent fills in what is known before the answer.
func newEvent(id string, r *http.Request) *event {
	e := &event{Kind: "Event", APIVersion: "audit.k8s.io/v1", Level: "Metadata", AuditID: id,
		RequestURI: r.RequestURI, UserAgent: r.UserAgent(), Received: metav1.NowMicro()}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		e.SourceIPs = []string{host}
	}
	if user := auth.UserFrom(r.Context()); user != nil {
		e.User = user.API()
	}
	if a := auth.AttributesFrom(r.Context()); a != nil {
		e.Verb = a.Verb
		if a.IsResource {
			e.ObjectRef = &objectRef{a.Resource, a.Namespace, a.Name, a.APIGroup, a.APIVersion, a.Subresource}
		}
	}
	return e
}

// Annotate adds a fact to the line of the request that ctx belongs to, such as why it was allowed.
func Annotate(ctx context.Context, name, value string) {
	if e, ok := ctx.Value(key{}).(*event); ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[name] = value
	}
}

// Impersonated notes as whom the request was made.
func Impersonated(ctx context.Context, user *auth.UserInfo) {
	if e, ok := ctx.Value(key{}).(*event); ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		as := user.API()
		e.ImpersonatedUser = &as
	}
}

// write writes one line.
func (l *Log) write(e *event, stage string, code int) {
	e.mu.Lock()
	e.Stage, e.ResponseStatus, e.Staged = stage, &responseStatus{Code: code}, metav1.NewMicroTime(time.Now())
	line, err := json.Marshal(e)
	e.mu.Unlock()
	if err != nil {
		return // an event is made of strings
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.Out.Write(append(line, '\n')) // a full disk must not stop the API
}
