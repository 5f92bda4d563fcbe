package discovery_test

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"testing"

	"orrery/apiserver/discovery"
	"orrery/apiserver/kinds"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	acceptV2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	// The same media type as Headlamp writes it.
	acceptV2Reordered = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"
)

func get(t *testing.T, h *discovery.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %.200s", err, data)
	}
	return v
}

// The recordings are what a kube-apiserver v1.36.3 answered with its default flags.
func recording(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAggregatedDiscoveryIsThatOfARealServer(t *testing.T) {
	h := discovery.New(kinds.NewTable(), "172.30.0.2:6443")
	for path, file := range map[string]string{"/api": "api-aggregated.json", "/apis": "apis-aggregated.json"} {
		got := decode[apidiscoveryv2.APIGroupDiscoveryList](t, get(t, h, path, "Accept", acceptV2).Body.Bytes())
		want := decode[apidiscoveryv2.APIGroupDiscoveryList](t, recording(t, file))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (- real, + ours):\n%s", path, diff)
		}
	}
}

func TestPlainDiscoveryIsThatOfARealServer(t *testing.T) {
	h := discovery.New(kinds.NewTable(), "172.30.0.2:6443")
	got := decode[metav1.APIResourceList](t, get(t, h, "/api/v1").Body.Bytes())
	want := decode[metav1.APIResourceList](t, recording(t, "api-v1.json"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("/api/v1 (- real, + ours):\n%s", diff)
	}
}

func TestDrainFindsEvictionInPlainDiscovery(t *testing.T) {
	h := discovery.New(kinds.NewTable(), "")
	list := decode[metav1.APIResourceList](t, get(t, h, "/api/v1").Body.Bytes())
	for _, r := range list.APIResources {
		if r.Name == "pods/eviction" {
			if r.Group != "policy" || r.Version != "v1" || r.Kind != "Eviction" {
				t.Fatalf("pods/eviction is %s/%s %s", r.Group, r.Version, r.Kind)
			}
			return
		}
	}
	t.Fatal("no pods/eviction")
}

func TestAClientWithACacheGets304(t *testing.T) {
	h := discovery.New(kinds.NewTable(), "")
	first := get(t, h, "/apis", "Accept", acceptV2)
	if ct := first.Header().Get("Content-Type"); ct != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
		t.Errorf("Content-Type %q", ct)
	}
	again := get(t, h, "/apis", "Accept", acceptV2Reordered, "If-None-Match", first.Header().Get("ETag"))
	if again.Code != 304 || again.Body.Len() != 0 {
		t.Errorf("second answer: %d, %d bytes", again.Code, again.Body.Len())
	}
}

func TestWithoutTheMediaTypeTheAnswerIsPlain(t *testing.T) {
	h := discovery.New(kinds.NewTable(), "172.30.0.2:6443")
	for path, kind := range map[string]string{"/api": "APIVersions", "/apis": "APIGroupList", "/apis/apps": "APIGroup", "/apis/apps/v1": "APIResourceList"} {
		for _, accept := range []string{"application/json", "*/*", "application/json, */*", "application/json," + acceptV2} {
			got := decode[metav1.TypeMeta](t, get(t, h, path, "Accept", accept).Body.Bytes())
			if got.Kind != kind {
				t.Errorf("%s with Accept %q is a %s", path, accept, got.Kind)
			}
		}
	}
	if code := get(t, h, "/apis/nonsense").Code; code != 404 {
		t.Errorf("unknown group: %d", code)
	}
}

func TestANewKindIsThereAtOnceAndTheETagChanges(t *testing.T) {
	table := kinds.NewTable()
	h := discovery.New(table, "")
	before := get(t, h, "/apis", "Accept", acceptV2).Header().Get("ETag")
	table.Add(&kinds.Kind{Group: "example.com", Version: "v1", Kind: "Widget", Resource: "widgets", Singular: "widget", Namespaced: true, Verbs: []string{"get", "watch"}})
	list := decode[metav1.APIResourceList](t, get(t, h, "/apis/example.com/v1").Body.Bytes())
	if len(list.APIResources) != 1 || list.APIResources[0].Kind != "Widget" {
		t.Errorf("resources: %v", list.APIResources)
	}
	if after := get(t, h, "/apis", "Accept", acceptV2).Header().Get("ETag"); after == before {
		t.Error("the ETag did not change")
	}
}
