package openapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"orrery/apiserver/kinds"
	"orrery/apiserver/openapi"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

// handler is shared by the tests: building the documents takes time.
var handler = sync.OnceValue(func() *openapi.Handler { return openapi.New(kinds.NewTable(), "1.36") })

func get(t *testing.T, h *openapi.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	if strings.HasPrefix(path, "/openapi/v2") {
		h.ServeV2(w, req)
	} else {
		h.ServeV3(w, req)
	}
	return w
}

type document struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]struct {
			Properties map[string]map[string]any `json:"properties"`
			GVKs       []map[string]string       `json:"x-kubernetes-group-version-kind"`
		} `json:"schemas"`
	} `json:"components"`
}

type operation struct {
	ID         string `json:"operationId"`
	Action     string `json:"x-kubernetes-action"`
	GVK        *struct{ Group, Version, Kind string }
	RawGVK     json.RawMessage `json:"x-kubernetes-group-version-kind"`
	Parameters []struct{ Name string }
	Body       struct {
		Content map[string]any `json:"content"`
	} `json:"requestBody"`
}

// index returns the URL of each group version's document.
func index(t *testing.T, h *openapi.Handler) map[string]string {
	t.Helper()
	var idx struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(get(t, h, "/openapi/v3").Body.Bytes(), &idx); err != nil {
		t.Fatal(err)
	}
	urls := map[string]string{}
	for key, p := range idx.Paths {
		urls[key] = p.URL
	}
	return urls
}

func load(t *testing.T, h *openapi.Handler, url string) document {
	t.Helper()
	var doc document
	if err := json.Unmarshal(get(t, h, url).Body.Bytes(), &doc); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return doc
}

// describe writes every operation of all documents as one line, as in testdata/operations.txt.
func describe(t *testing.T, h *openapi.Handler) map[string]bool {
	lines := map[string]bool{}
	for _, url := range index(t, h) {
		for path, item := range load(t, h, url).Paths {
			var shared []struct{ Name string }
			if raw, ok := item["parameters"]; ok {
				if err := json.Unmarshal(raw, &shared); err != nil {
					t.Fatal(err)
				}
			}
			for method, raw := range item {
				if method == "parameters" {
					continue
				}
				var op operation
				if err := json.Unmarshal(raw, &op); err != nil {
					t.Fatal(err)
				}
				gvk := "-"
				if op.RawGVK != nil {
					if err := json.Unmarshal(op.RawGVK, &op.GVK); err != nil {
						t.Fatal(err)
					}
					gvk = op.GVK.Group + "/" + op.GVK.Version + "/" + op.GVK.Kind
				}
				names := map[string]bool{}
				for _, p := range slices.Concat(shared, op.Parameters) {
					names[p.Name] = true
				}
				params := strings.Join(slices.Sorted(maps.Keys(names)), ",")
				lines[fmt.Sprintf("%s %s %s %s %s %s", path, method, op.ID, orDash(op.Action), gvk, orDash(params))] = true
			}
		}
	}
	return lines
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// testdata/operations.txt is every operation of a kube-apiserver v1.36.3: path,
// method, id, action, kind, parameters. Deprecated /watch/ paths are left out.
func TestOperationsAreThoseOfARealServer(t *testing.T) {
	recorded, err := os.ReadFile("testdata/operations.txt")
	if err != nil {
		t.Fatal(err)
	}
	ours := describe(t, handler())
	want := map[string]bool{}
	for line := range strings.Lines(string(recorded)) {
		line = strings.TrimSpace(line)
		want[line] = true
		if !ours[line] {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(ours)) {
		if !want[line] {
			t.Errorf("additional: %s", line)
		}
	}
}

// What kubectl looks for before it creates, applies, and explains.
func TestKubectlFindsWhatItNeeds(t *testing.T) {
	h := handler()
	doc := load(t, h, index(t, h)["apis/apps/v1"])
	deployment := doc.Components.Schemas["io.k8s.api.apps.v1.Deployment"]
	if want := (map[string]string{"group": "apps", "version": "v1", "kind": "Deployment"}); len(deployment.GVKs) != 1 || !maps.Equal(deployment.GVKs[0], want) {
		t.Errorf("kinds of the Deployment schema: %v", deployment.GVKs)
	}
	containers := doc.Components.Schemas["io.k8s.api.core.v1.PodSpec"].Properties["containers"]
	if containers["x-kubernetes-patch-merge-key"] != "name" || containers["x-kubernetes-patch-strategy"] != "merge" {
		t.Errorf("containers: %v", containers)
	}
	var patch operation
	if err := json.Unmarshal(doc.Paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"], &patch); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(patch.Parameters, func(p struct{ Name string }) bool { return p.Name == "fieldValidation" }) {
		t.Error("PATCH has no fieldValidation parameter")
	}
	if patch.Body.Content["application/strategic-merge-patch+json"] == nil {
		t.Error("PATCH does not take strategic merge patches")
	}
}

func TestEveryReferenceLeadsSomewhere(t *testing.T) {
	h := handler()
	for key, url := range index(t, h) {
		body := get(t, h, url).Body.String()
		doc := load(t, h, url)
		for _, part := range strings.Split(body, `"#/components/schemas/`)[1:] {
			name, _, _ := strings.Cut(part, `"`)
			if _, ok := doc.Components.Schemas[name]; !ok {
				t.Fatalf("%s refers to %q, which is not there", key, name)
			}
		}
	}
}

func TestHashesMakeDocumentsCacheable(t *testing.T) {
	h := handler()
	url := index(t, h)["apis/apps/v1"]
	w := get(t, h, url)
	if got := w.Header().Get("Cache-Control"); got != "public, immutable" {
		t.Errorf("Cache-Control %q", got)
	}
	if again := get(t, h, url, "If-None-Match", w.Header().Get("ETag")); again.Code != 304 {
		t.Errorf("with the right ETag: %d", again.Code)
	}
	stale := get(t, h, "/openapi/v3/apis/apps/v1?hash=OLD")
	if stale.Code != 301 || stale.Header().Get("Location") != url {
		t.Errorf("with an old hash: %d to %q", stale.Code, stale.Header().Get("Location"))
	}
	if missing := get(t, h, "/openapi/v3/apis/nothing/v1"); missing.Code != 404 {
		t.Errorf("unknown group: %d", missing.Code)
	}
}

func TestDocumentsComeCompressed(t *testing.T) {
	h := handler()
	plain := get(t, h, "/openapi/v3/api/v1").Body.Bytes()
	w := get(t, h, "/openapi/v3/api/v1", "Accept-Encoding", "gzip")
	r, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(r)
	if err != nil || string(unpacked) != string(plain) {
		t.Errorf("the compressed document differs: %v", err)
	}
}

func TestVersionTwoForOldClients(t *testing.T) {
	h := handler()
	w := get(t, h, "/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	if got := w.Header().Get("Content-Type"); got != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
		t.Fatalf("Content-Type %q", got)
	}
	var doc openapiv2.Document
	if err := proto.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if n := len(doc.Definitions.AdditionalProperties); n < 500 {
		t.Errorf("only %d definitions", n)
	}
	if strings.Contains(get(t, h, "/openapi/v2").Body.String(), "#/components/") {
		t.Error("a v3 reference in the v2 document")
	}
}

func TestThePageComesWithItsFiles(t *testing.T) {
	ask := func(name, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), "GET", openapi.UIPath+name, nil)
		r.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		openapi.ServeUI(w, r)
		return w
	}
	if w := ask("", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `fetch("../openapi/v3")`) {
		t.Errorf("the page: %d %s", w.Code, w.Body)
	}
	plain, packed := ask("swagger-ui-bundle.js", ""), ask("swagger-ui-bundle.js", "gzip, br")
	r, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(r)
	if err != nil || packed.Header().Get("Content-Encoding") != "gzip" || !bytes.Equal(unpacked, plain.Body.Bytes()) || !bytes.Contains(unpacked, []byte("SwaggerUIBundle")) {
		t.Errorf("the script differs when it is compressed: %v", err)
	}
	for name, want := range map[string]string{"swagger-ui.css": "text/css; charset=utf-8", "favicon-32x32.png": "image/png", "swagger-ui-bundle.js": "text/javascript; charset=utf-8"} {
		if got := ask(name, "").Header().Get("Content-Type"); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"nothing.js", "../ui.go", "."} {
		if w := ask(name, ""); w.Code != 404 {
			t.Errorf("%s: %d, want 404", name, w.Code)
		}
	}
}
