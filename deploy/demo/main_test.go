package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

func call(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestRootNamesThePod(t *testing.T) {
	var got map[string]string
	w := call(routes(), "GET", "/")
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if want, _ := os.Hostname(); got["hostname"] != want || got["goos"] == "" || got["message"] == "" {
		t.Errorf("/ answered %v, want the hostname %s", got, want)
	}
}

func TestReadinessCanBeTurnedOffAndLivenessStays(t *testing.T) {
	h := routes()
	for _, step := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/readyz", 200}, {"POST", "/readyz/disable", 202}, {"GET", "/readyz", 503}, {"GET", "/healthz", 200},
		{"POST", "/readyz/enable", 202}, {"GET", "/readyz", 200}, {"GET", "/delay/x", 400}, {"GET", "/nothing", 404},
	} {
		if got := call(h, step.method, step.path).Code; got != step.want {
			t.Errorf("%s %s = %d, want %d", step.method, step.path, got, step.want)
		}
	}
}
