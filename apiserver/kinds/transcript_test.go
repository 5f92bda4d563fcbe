package kinds_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// serve makes a server with the default namespace and its service account.
func serve(t *testing.T) http.Handler {
	t.Helper()
	st := memory.New()
	s, err := apiserver.New(apiserver.Config{Store: st, Version: "v1.36.3", Log: slog.New(slog.DiscardHandler), AllowAll: true,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"), AdvertiseAddress: netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	for resource, obj := range map[string]runtime.Object{
		"namespaces":      &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		"serviceaccounts": &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}},
	} {
		if _, err := s.Objects().Create(context.Background(), schema.GroupResource{Resource: resource}, obj); err != nil {
			t.Fatal(err)
		}
	}
	return s.Handler()
}

// say sends one request and returns the code and the message, or for an object that was accepted its JSON.
func say(h http.Handler, request, body string) (int, string) {
	method, path, _ := strings.Cut(request, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var status metav1.Status
	if err := json.Unmarshal(w.Body.Bytes(), &status); err == nil && status.Kind == "Status" && status.Message != "" {
		return w.Code, status.Message
	}
	return w.Code, w.Body.String()
}

// A transcript is a list of exchanges, each with a request line, a body, and a line with the code of the answer and, for an error, its
// message, for a success a part of the object. The texts are those of a real v1.36.3 API server. Each transcript has a server of its own.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h := serve(t)
			for _, exchange := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
				replay(t, h, strings.Split(exchange, "\n"))
			}
		})
	}
}

func replay(t *testing.T, h http.Handler, lines []string) {
	t.Helper()
	if strings.HasPrefix(lines[0], "#") {
		lines = lines[1:]
	}
	code, want, _ := strings.Cut(lines[len(lines)-1], " ")
	wantCode, err := strconv.Atoi(code)
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	got, text := say(h, lines[0], strings.Join(lines[1:len(lines)-1], "\n"))
	same := text == want
	if wantCode < 300 {
		same = strings.Contains(text, want)
	}
	if got != wantCode || !same {
		t.Errorf("%s\n got %d %s\nwant %d %s", lines[0], got, text, wantCode, want)
	}
}
