package apiserver_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"orrery/apiserver/kinds"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// What these hold true for any input: the server answers, never with a 500 (which
// a panic becomes as well; two texts are 500s upstream too, and a revision that
// has not come yet is a 504), and what it has stored it can read, list, write and delete again.
//
//	go test ./apiserver -run '^$' -fuzz '^FuzzPatch$' -fuzztime 1m

const (
	asJSON  = "application/json"
	asProto = "application/vnd.kubernetes.protobuf"
)

// victim is a server that is asked strange things.
type victim struct {
	handler http.Handler
	kinds   []*kinds.Kind
}

func newVictim(f *testing.F) *victim {
	s := newServer(f)
	v := &victim{handler: s.Handler()}
	for _, k := range kinds.NewTable().All() {
		switch k.Group {
		case "apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io":
			// These would change what the server does with the next input.
		default:
			v.kinds = append(v.kinds, k)
		}
	}
	v.ask(f, http.MethodPost, "/api/v1/namespaces/default/serviceaccounts", asJSON, asJSON, []byte(`{"metadata":{"name":"default"}}`))
	return v
}

// ask sends a request and fails the test at a 5xx.
func (v *victim) ask(t testing.TB, method, path, contentType, accept string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	target, err := url.Parse(path)
	if err != nil {
		t.Skip()
	}
	r := httptest.NewRequestWithContext(t.Context(), method, "/", bytes.NewReader(body))
	r.URL, r.RequestURI = target, path
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	v.handler.ServeHTTP(w, r)
	if w.Code >= http.StatusInternalServerError && !strings.Contains(w.Body.String(), "failed to create typed patch object") &&
		!strings.Contains(w.Body.String(), "Too large resource version") &&
		!strings.Contains(w.Body.String(), "resourceVersion should not be set on objects to be created") {
		t.Fatalf("%s %s: %d %s\nbody %q", method, path, w.Code, w.Body, body)
	}
	return w
}

func folder(k *kinds.Kind) string {
	path := "/apis/" + k.Group + "/" + k.Version
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.Namespaced {
		path += "/namespaces/default"
	}
	return path + "/" + k.Resource
}

// create posts a body; if it is taken, everything else must work with it too.
func (v *victim) create(t *testing.T, k *kinds.Kind, contentType string, body []byte) {
	w := v.ask(t, http.MethodPost, folder(k), contentType, asJSON, body)
	var m metav1.PartialObjectMetadata
	if w.Code != http.StatusCreated || k.Virtual() || json.Unmarshal(w.Body.Bytes(), &m) != nil {
		return
	}
	v.use(t, folder(k), m.Name)
	v.ask(t, http.MethodDelete, folder(k)+"/"+m.Name+"?gracePeriodSeconds=0", asJSON, asJSON, nil)
}

// use reads an object in every form and writes it back as it is.
func (v *victim) use(t *testing.T, folder, name string) {
	t.Helper()
	for _, accept := range []string{asJSON, asProto, asJSON + ";as=Table;g=meta.k8s.io;v=v1"} {
		for _, path := range []string{folder + "/" + name, folder} {
			if w := v.ask(t, http.MethodGet, path, "", accept, nil); w.Code != http.StatusOK {
				t.Errorf("GET %s as %s after a write: %d %s", path, accept, w.Code, w.Body)
			}
		}
	}
	w := v.ask(t, http.MethodGet, folder+"/"+name, "", asJSON, nil)
	v.ask(t, http.MethodPut, folder+"/"+name, asJSON, asJSON, w.Body.Bytes())
}

func FuzzSelector(f *testing.F) {
	v := newVictim(f)
	v.ask(f, http.MethodPost, "/api/v1/namespaces/default/pods", asJSON, asJSON, []byte(pod))
	f.Add("app=web,tier in (a, b),!c,d notin (e),f", "metadata.name=web,spec.nodeName!=x")
	f.Add("a>1,b<2", "status.phase==Running")
	f.Add(strings.Repeat("a,", 100), "metadata.namespace=\\,\\=")
	f.Add("a in (", "=")
	f.Fuzz(func(t *testing.T, label, field string) {
		query := "?labelSelector=" + url.QueryEscape(label) + "&fieldSelector=" + url.QueryEscape(field)
		v.ask(t, http.MethodGet, "/api/v1/pods"+query, "", asJSON, nil)
		v.ask(t, http.MethodDelete, "/api/v1/namespaces/default/pods"+query+"&dryRun=All", "", asJSON, nil)
	})
}

func FuzzContinue(f *testing.F) {
	v := newVictim(f)
	v.ask(f, http.MethodPost, "/api/v1/namespaces/default/pods", asJSON, asJSON, []byte(pod))
	for _, token := range []string{`{"v":"meta.k8s.io/v1","rv":2,"start":"default/a\u0000"}`, `{"v":"meta.k8s.io/v1","rv":-1,"start":"/../../x"}`, `{"v":"v2","rv":99999999999999999999}`, `{}`, `null`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(token)), []byte(token), "1", "")
	}
	f.Add("!", []byte(`[`), "-1", "0")
	f.Fuzz(func(t *testing.T, token string, inside []byte, limit, revision string) {
		for _, c := range []string{token, base64.RawURLEncoding.EncodeToString(inside)} {
			q := url.Values{"continue": {c}, "limit": {limit}}
			if revision != "" {
				q.Set("resourceVersion", revision)
			}
			v.ask(t, http.MethodGet, "/api/v1/pods?"+q.Encode(), "", asProto, nil)
		}
	})
}

const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"},"finalizers":["a.b/c"]},
"spec":{"containers":[{"name":"c","image":"i:1","ports":[{"containerPort":80}],"env":[{"name":"A","value":"b"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}`

const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"app":"web"}},
"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"i:1","resources":{"limits":{"cpu":"1"}}}]}}}}`

func FuzzPatch(f *testing.F) {
	v := newVictim(f)
	types := []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	targets := []struct{ folder, body string }{
		{"/api/v1/namespaces/default/pods", pod}, {"/apis/apps/v1/namespaces/default/deployments", deployment},
		{"/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"web"},"data":{"a":"b"}}`},
	}
	for _, p := range []string{
		`[{"op":"replace","path":"/spec/replicas","value":3},{"op":"copy","from":"/spec","path":"/status"}]`,
		`[{"op":"remove","path":"/metadata"}]`, `[{"op":"test","path":"/spec/template/spec/containers/-1","value":null}]`,
		`{"spec":{"replicas":null},"metadata":{"labels":{"a":"b"},"annotations":null}}`,
		`{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"d"}],"containers":[{"name":"d","image":"x"},{"$patch":"delete","name":"c"}]}}}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":["a.b/c"],"managedFields":[{}]},"spec":{"$patch":"replace","$retainKeys":["a"]}}`,
		"apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 2\n", `{"apiVersion":"v1","kind":"ConfigMap","data":{"a":1}}`, `null`, `"x"`, `{"metadata":{"name":"other","uid":"1","resourceVersion":"x"}}`,
	} {
		for i := range types {
			f.Add(uint8(i), []byte(p))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, patch []byte) {
		for _, target := range targets {
			v.ask(t, http.MethodPost, target.folder, asJSON, asJSON, []byte(target.body))
			path := target.folder + "/web"
			for _, sub := range []string{"", "/status"} {
				v.ask(t, http.MethodPatch, path+sub+"?fieldManager=f", types[int(kind)%len(types)], asJSON, patch)
			}
			if v.ask(t, http.MethodGet, path, "", asJSON, nil).Code == http.StatusOK {
				v.use(t, target.folder, "web")
			}
			v.ask(t, http.MethodPatch, path, types[1], asJSON, []byte(`{"metadata":{"finalizers":null}}`))
			v.ask(t, http.MethodDelete, path+"?gracePeriodSeconds=0", asJSON, asJSON, nil)
		}
	})
}

func FuzzJSONBody(f *testing.F) {
	v := newVictim(f)
	for i := range v.kinds {
		f.Add(uint8(i), []byte(`{"metadata":{"name":"a"},"spec":{},"status":null}`))
		f.Add(uint8(i), []byte(`{"metadata":{"generateName":"a-"},"spec":{"selector":{},"template":{"spec":{"containers":[{}]}},"ports":[{}],"rules":[{}]},"data":{"a":"YQ=="},"rules":[{}],"subjects":[{}],"webhooks":[{}]}`))
	}
	f.Add(uint8(0), []byte("a: [b"))
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		v.create(t, v.kinds[int(kind)%len(v.kinds)], asJSON, body)
		v.create(t, v.kinds[int(kind)%len(v.kinds)], "application/yaml", body)
	})
}

func FuzzProtobufBody(f *testing.F) {
	v := newVictim(f)
	codec := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for i, k := range v.kinds {
		obj := k.New()
		if m, ok := obj.(metav1.Object); ok {
			m.SetName("a")
		}
		obj.GetObjectKind().SetGroupVersionKind(k.GVK())
		var b bytes.Buffer
		if codec.Encode(obj, &b) == nil {
			f.Add(uint8(i), b.Bytes())
		}
	}
	f.Add(uint8(0), []byte("k8s\x00"))
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		k := v.kinds[int(kind)%len(v.kinds)]
		v.create(t, k, asProto, body)
		// The same bytes as the message inside a good envelope come further.
		u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: k.GV().String(), Kind: k.Kind}, Raw: body}
		if b, err := u.Marshal(); err == nil {
			v.create(t, k, asProto, append([]byte("k8s\x00"), b...))
		}
	})
}
