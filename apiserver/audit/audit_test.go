package audit_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"orrery/apiserver/audit"
	"orrery/apiserver/auth"
)

// serve sends one request of alice through the log and returns the lines.
func serve(t *testing.T, a *auth.Attributes, handler http.HandlerFunc) (lines []map[string]any, id string) {
	t.Helper()
	var out bytes.Buffer
	log := &audit.Log{Out: &out}
	req := httptest.NewRequest("DELETE", "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0", nil)
	ctx := auth.WithAttributes(auth.WithUser(req.Context(), &auth.UserInfo{Name: "alice", Groups: []string{"dev"}}), a)
	w := httptest.NewRecorder()
	log.Wrap(handler).ServeHTTP(w, req.WithContext(ctx))
	for _, line := range bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
		var event map[string]any
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		lines = append(lines, event)
	}
	return lines, w.Header().Get("Audit-Id")
}

func TestARequestLeavesALine(t *testing.T) {
	a := &auth.Attributes{IsResource: true, Verb: "delete", APIVersion: "v1", Resource: "pods", Namespace: "default", Name: "web"}
	lines, id := serve(t, a, func(w http.ResponseWriter, r *http.Request) {
		audit.Annotate(r.Context(), "authorization.k8s.io/decision", "forbid")
		w.WriteHeader(http.StatusForbidden)
	})
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	line := lines[0]
	if line["auditID"] != id || line["verb"] != "delete" || line["stage"] != "ResponseComplete" || line["level"] != "Metadata" ||
		line["requestURI"] != "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0" ||
		line["user"].(map[string]any)["username"] != "alice" || line["objectRef"].(map[string]any)["name"] != "web" ||
		line["responseStatus"].(map[string]any)["code"] != float64(403) ||
		line["annotations"].(map[string]any)["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("%v", line)
	}
}

func TestAWatchLeavesALineWhenItBeginsAndOneWhenItEnds(t *testing.T) {
	lines, _ := serve(t, &auth.Attributes{IsResource: true, Verb: "watch", Resource: "pods"}, func(http.ResponseWriter, *http.Request) {})
	if len(lines) != 2 || lines[0]["stage"] != "ResponseStarted" || lines[1]["stage"] != "ResponseComplete" {
		t.Errorf("%v", lines)
	}
}
