package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	corev1 "k8s.io/api/core/v1"
)

// exchange is one request of testdata/exchanges.txt with its answer.
type exchange struct {
	line                            int
	method, path, contentType, body string
	want                            string
}

func readExchanges(t *testing.T) []exchange {
	t.Helper()
	f, err := os.Open("testdata/exchanges.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []exchange
	var e exchange
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		want, isAnswer := strings.CutPrefix(line, "=> ")
		switch {
		case isAnswer:
			e.want = want
			all = append(all, e)
			e = exchange{}
		case e.method != "":
			e.body += line + "\n"
		case line == "" || strings.HasPrefix(line, "#"):
		default:
			parts := append(strings.Fields(line), "", "")
			e = exchange{line: n, method: parts[0], path: parts[1], contentType: parts[2]}
		}
	}
	return all
}

func newServer(t testing.TB) *apiserver.Server {
	t.Helper()
	s, err := apiserver.New(apiserver.Config{Store: memory.New(), Version: "v1.36.3+test", AllowAll: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := s.Objects().Create(t.Context(), schema.GroupResource{Resource: "namespaces"}, ns); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestExchanges(t *testing.T) {
	s := newServer(t)
	for _, e := range readExchanges(t) {
		r := httptest.NewRequestWithContext(t.Context(), e.method, e.path, strings.NewReader(strings.TrimSpace(e.body)))
		r.Header.Set("User-Agent", "test/1.0")
		if e.body != "" && e.contentType == "" {
			e.contentType = "application/json"
		}
		r.Header.Set("Content-Type", e.contentType)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if problem := e.compare(w); problem != "" {
			t.Errorf("line %d: %s %s\n%s", e.line, e.method, e.path, problem)
		}
	}
}

// TestComponentStatuses asks a server beside which nothing else runs, in each form that clients ask for.
func TestComponentStatuses(t *testing.T) {
	s, err := apiserver.New(apiserver.Config{Store: memory.New(), Version: "v1.36.3+test", AllowAll: true, Log: slog.New(slog.DiscardHandler),
		KubeletDial: func(_ context.Context, network, address string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connect: connection refused")}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path, accept string) (int, string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/componentstatuses"+path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if got, want := w.Header().Get("Warning"), `299 - "v1 ComponentStatus is deprecated in v1.19+"`; w.Code == http.StatusOK && got != want {
			t.Errorf("%s: warning %s, want %s", path, got, want)
		}
		return w.Code, w.Body.String()
	}
	for path, want := range map[string]string{
		"": `200 {"kind":"ComponentStatusList","apiVersion":"v1","metadata":{},"items":[` +
			`{"metadata":{"name":"controller-manager"},"conditions":[{"type":"Healthy","status":"False","message":"Get \"https://127.0.0.1:10257/healthz\": dial tcp: connect: connection refused"}]},` +
			`{"metadata":{"name":"etcd-0"},"conditions":[{"type":"Healthy","status":"True","message":"ok"}]},` +
			`{"metadata":{"name":"scheduler"},"conditions":[{"type":"Healthy","status":"False","message":"Get \"https://127.0.0.1:10259/healthz\": dial tcp: connect: connection refused"}]}]}`,
		"/etcd-0": `200 {"kind":"ComponentStatus","apiVersion":"v1","metadata":{"name":"etcd-0"},"conditions":[{"type":"Healthy","status":"True","message":"ok"}]}`,
		"?fieldSelector=metadata.name%3Detcd-0": `200 {"kind":"ComponentStatusList","apiVersion":"v1","metadata":{},"items":[` +
			`{"metadata":{"name":"etcd-0"},"conditions":[{"type":"Healthy","status":"True","message":"ok"}]}]}`,
		"/kubelet":    `404 {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"componentstatus \"kubelet\" not found","reason":"NotFound","details":{"name":"kubelet","kind":"componentstatus"},"code":404}`,
		"?watch=true": `405 {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the server does not allow this method on the requested resource","reason":"MethodNotAllowed","details":{},"code":405}`,
	} {
		if code, body := ask(path, "application/json"); fmt.Sprintf("%d %s", code, strings.TrimSpace(body)) != want {
			t.Errorf("%s: got\n%d %s\nwant\n%s", path, code, body, want)
		}
	}
	if _, table := ask("", "application/json;as=Table;g=meta.k8s.io;v=v1"); !strings.Contains(table, `"cells":["etcd-0","Healthy","ok",""]`) {
		t.Errorf("as a table: %s", table)
	}
}

// compare returns what is wrong with an answer.
func (e *exchange) compare(w *httptest.ResponseRecorder) string {
	body := w.Body.String()
	var obj map[string]any
	if json.Unmarshal(w.Body.Bytes(), &obj) != nil {
		obj = map[string]any{"message": strings.TrimSpace(body)}
	}
	parts := strings.SplitN(e.want, " ", 3)
	if got := strconv.Itoa(w.Code); got != parts[0] {
		return fmt.Sprintf("got %s, want %s\n%s", got, e.want, body)
	}
	if w.Code >= http.StatusBadRequest {
		got := fmt.Sprintf("%d %s %s", w.Code, or(field(obj, "reason"), "-"), field(obj, "message"))
		pattern := regexp.QuoteMeta(e.want)
		pattern = strings.ReplaceAll(pattern, `\{uid\}`, `[0-9a-f-]{36}`)
		pattern = strings.ReplaceAll(pattern, `\{rv\}`, `[1-9][0-9]*`)
		if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
			return "got  " + got + "\nwant " + e.want
		}
		return ""
	}
	fields := strings.Fields(parts[2])
	if got := field(obj, "kind") + " " + or(field(obj, "metadata.name"), "-"); got != parts[1]+" "+fields[0] {
		return "got " + got + ", want " + e.want
	}
	for _, f := range fields[1:] {
		path, want, _ := strings.Cut(f, "=")
		if got := field(obj, path); got != want {
			return fmt.Sprintf("%s is %q, want %q\n%s", path, got, want, body)
		}
	}
	return ""
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// field reads a dotted path; "" when there is nothing.
func field(v any, path string) string {
	for _, key := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(at) {
				return ""
			}
			v = at[i]
		default:
			return ""
		}
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}
