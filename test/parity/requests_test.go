package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery/test/peers"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
)

// question is a request that may be wrong. In its path and body ITEM is an object
// that is there, with its name NAME; LIST is where it is listed.
type question struct {
	method, path string
	header       map[string]string
	body         string
}

const (
	jsonBody  = "application/json"
	jsonPatch = "application/json-patch+json"
	merge     = "application/merge-patch+json"
	strategic = "application/strategic-merge-patch+json"
	applyBody = "application/apply-patch+yaml"
)

// questions are what is asked about each resource. Writes are dry, so that the second server is asked the same.
func questions() (all []question) {
	add := func(method, path, contentType string, bodies ...string) {
		if len(bodies) == 0 {
			bodies = []string{""}
		}
		for _, body := range bodies {
			q := question{method: method, path: path, body: body}
			if contentType != "" {
				q.header = map[string]string{"Content-Type": contentType}
			}
			all = append(all, q)
		}
	}
	accept := func(path string, types ...string) {
		for _, t := range types {
			all = append(all, question{method: "GET", path: path, header: map[string]string{"Accept": t}})
		}
	}
	const watch = "watch=1&timeoutSeconds=1&"
	for _, query := range []string{"", "pretty=true", "limit=-1", "limit=x", "limit=1", "limit=1&continue=x", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ",
		"resourceVersion=x", "resourceVersion=-1", "resourceVersion=0", "resourceVersion=999999999", "resourceVersion=1", "resourceVersionMatch=Exact", "resourceVersionMatch=x&resourceVersion=1",
		"resourceVersionMatch=NotOlderThan&resourceVersion=0", "resourceVersionMatch=Exact&resourceVersion=0", "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
		"fieldSelector=a%3Db", "fieldSelector=metadata.name%3DNAME", "fieldSelector=metadata.name!%3DNAME", "fieldSelector=%3D", "fieldSelector=a", "fieldSelector=metadata.namespace%3D%3Ddefault",
		"fieldSelector=metadata.name%3Dx,metadata.name%3Dy", "fieldSelector=status.phase%3DRunning", "fieldSelector=spec.nodeName%3D", "labelSelector=a+in", "labelSelector=a%3D%3Db", "labelSelector=!",
		"labelSelector=a+in+(b,c)", "labelSelector=a%3E1", "labelSelector=a%3Ex", "labelSelector=-%3Db", "labelSelector=a%3D-", "labelSelector=!a", "timeoutSeconds=-1", "timeoutSeconds=x",
		"sendInitialEvents=true", "sendInitialEvents=false", "sendInitialEvents=x", "allowWatchBookmarks=x", "watch=x&timeoutSeconds=1", "unknown=1",
		watch + "resourceVersion=x", watch + "resourceVersion=-1", watch + "sendInitialEvents=true", watch + "resourceVersionMatch=Exact", watch + "resourceVersionMatch=NotOlderThan",
		watch + "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1", watch + "fieldSelector=a%3Db", watch + "labelSelector=a+in", watch + "limit=x", watch + "continue=x",
		watch + "fieldSelector=metadata.name%3DNAME", watch + "resourceVersion=0&fieldSelector=metadata.name%3DNAME"} {
		add("GET", "LIST?"+query, "")
	}
	accept("LIST?fieldSelector=metadata.name%3DNAME", "application/xml", "text/html", "*/*", "application/yaml", "application/json;q=0.1,application/yaml", "application/json;stream=watch",
		"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1beta1;g=meta.k8s.io", "application/json;as=Table;v=v2;g=meta.k8s.io", "application/json;as=x",
		"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/yaml;as=Table;v=v1;g=meta.k8s.io",
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/x,application/json", "application/cbor", "application/json;profile=x")
	accept("ITEM", "application/xml", "application/yaml", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
		"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1;g=x")
	accept("LIST?includeObject=x", "application/json;as=Table;v=v1;g=meta.k8s.io")
	accept("LIST?includeObject=None&fieldSelector=metadata.name%3DNAME", "application/json;as=Table;v=v1;g=meta.k8s.io")
	accept("LIST?includeObject=Object&fieldSelector=metadata.name%3DNAME", "application/json;as=Table;v=v1;g=meta.k8s.io")
	for _, query := range []string{"", "resourceVersion=0", "resourceVersion=x", "resourceVersion=999999999", "pretty=1"} {
		add("GET", "ITEM?"+query, "")
		add("GET", "LIST/missing?"+query, "")
	}
	add("HEAD", "ITEM", "")
	add("OPTIONS", "ITEM", "")
	add("POST", "ITEM", jsonBody, "{}")
	add("PUT", "LIST", jsonBody, "{}")
	add("PATCH", "LIST", merge, "{}")
	add("GET", "ITEM/", "")
	add("GET", "LIST/", "")
	add("GET", "/"+"LIST", "")
	for _, sub := range []string{"status", "scale", "unknown", "log", "exec", "approval", "finalize", "token", "eviction", "binding", "proxy", "ephemeralcontainers", "resize", "status/x"} {
		add("GET", "ITEM/"+sub, "")
		add("DELETE", "ITEM/"+sub, "")
		add("GET", "LIST/missing/"+sub, "")
		add("PUT", "ITEM/"+sub+"?dryRun=All", jsonBody, "{}", "x")
		add("PATCH", "ITEM/"+sub+"?dryRun=All", merge, "{}", "[]", `{"metadata":{"labels":{"a":"b"}}}`)
	}
	broken := []string{"", "x", "{", "[]", "null", "{}", `""`, `{"kind":"Other"}`, `{"apiVersion":"x/v1"}`, `{"kind":"KIND","apiVersion":"VERSION"}`, `{"metadata":[]}`, `{"metadata":{"name":1}}`,
		`{"metadata":{"name":"a","nosuch":1},"nosuch":2}`, `{"metadata":{"name":"a"},"metadata":{"name":"b"}}`, `{"metadata":{"generateName":"g-","labels":{"a b":"c"}}}`,
		`{"metadata":{"name":"a","resourceVersion":"1"}}`, `{"metadata":{"name":"a","namespace":"other"}}`, `{"metadata":{"name":"a","uid":"x"}}`, `{"metadata":{"name":"a","finalizers":["x"]}}`,
		`{"metadata":{"name":"a","ownerReferences":[{}]}}`, `{"metadata":{"name":"a","annotations":{"a b":"c"}}}`, `{"metadata":{"name":"a","managedFields":[{"operation":"x"}]}}`, `{"metadata":{"name":"a","creationTimestamp":"x"}}`}
	for _, query := range []string{"dryRun=All", "dryRun=All&fieldValidation=Strict", "dryRun=All&fieldValidation=Ignore"} {
		add("POST", "LIST?"+query, jsonBody, broken...)
		add("PUT", "ITEM?"+query, jsonBody, broken...)
	}
	for _, query := range []string{"dryRun=x", "dryRun=", "dryRun=All&dryRun=All", "dryRun=All&fieldValidation=x", "dryRun=All&fieldManager=" + strings.Repeat("a", 129), "dryRun=All&fieldManager=%00", "dryRun=All&force=true", "dryRun=All&pretty=x"} {
		add("POST", "LIST?"+query, jsonBody, `{"metadata":{"name":"a"}}`)
		add("PATCH", "ITEM?"+query, merge, `{"metadata":{"labels":{"a":"b"}}}`)
		add("DELETE", "ITEM?"+query, "")
	}
	for _, t := range []string{"text/plain", "application/xml", "application/yaml", "application/vnd.kubernetes.protobuf", "application/json; charset=utf-8", "x", merge} {
		add("POST", "LIST?dryRun=All", t, `{"metadata":{"name":"a"}}`, "k8s\x00x", "a: b\na: c\n")
	}
	add("PATCH", "ITEM?dryRun=All", "", "{}")
	add("PATCH", "ITEM?dryRun=All", jsonBody, "{}")
	add("PATCH", "LIST/missing?dryRun=All", merge, "{}")
	add("PATCH", "ITEM/status?dryRun=All", strategic, `{"metadata":{"uid":"x"}}`)
	add("PATCH", "LIST/missing?dryRun=All&fieldManager=m", applyBody, `{"apiVersion":"VERSION","kind":"KIND"}`, `{"apiVersion":"VERSION","kind":"KIND","metadata":{"uid":"x","name":"missing"}}`)
	add("PATCH", "ITEM?dryRun=All", merge, "", "x", "[]", "null", "{}", `{"metadata":{"name":"other"}}`, `{"metadata":{"uid":"x"}}`, `{"metadata":{"resourceVersion":"1"}}`, `{"metadata":{"labels":{"a b":"c"}}}`,
		`{"metadata":{"labels":null}}`, `{"nosuch":1}`, `{"metadata":{"annotations":{"a":1}}}`, `{"kind":"Other"}`, `{"apiVersion":"x/v1"}`, `{"metadata":{"labels":[]}}`, `{"metadata":{"deletionTimestamp":"2020-01-01T00:00:00Z"}}`)
	add("PATCH", "ITEM?dryRun=All&fieldValidation=Strict", merge, `{"nosuch":1}`, `{"metadata":{"nosuch":1}}`, `{"metadata":{"labels":{"a":"b"}},"metadata":{}}`)
	add("PATCH", "ITEM?dryRun=All", strategic, "x", "[]", "{}", `{"metadata":{"labels":{"a":"b"}}}`, `{"metadata":{"$patch":"replace"}}`, `{"metadata":{"$patch":"x"}}`, `{"metadata":{"labels":{"$patch":"delete"}}}`,
		`{"metadata":{"finalizers":["x/y"]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"]}}`, `{"metadata":{"ownerReferences":[{"uid":"x"}]}}`, `{"metadata":{"$retainKeys":["name"]}}`, `{"nosuch":1}`)
	add("PATCH", "ITEM?dryRun=All", jsonPatch, "x", "{}", "[]", `[{"op":"x"}]`, `[{"op":"add"}]`, `[{"op":"remove","path":"/nosuch"}]`, `[{"op":"test","path":"/metadata/name","value":"x"}]`,
		`[{"op":"replace","path":"/metadata/nosuch/x","value":1}]`, `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`, `[{"op":"add","path":"/metadata/labels","value":1}]`, `[{"op":"copy","from":"/x","path":"/y"}]`,
		`[{"op":"add","path":"bad","value":1}]`, `[{"op":"add","path":"/nosuch","value":1}]`, `[{"op":"replace","path":"/metadata/name","value":"x"}]`, `[{"op":"remove","path":"/metadata/name"}]`)
	applied := `"apiVersion":"VERSION","kind":"KIND"`
	for _, query := range []string{"dryRun=All", "dryRun=All&fieldManager=m", "dryRun=All&fieldManager=m&force=true", "dryRun=All&fieldManager=m&force=x", "dryRun=All&fieldManager=m&fieldValidation=Strict"} {
		add("PATCH", "ITEM?"+query, applyBody, "", "x", "[]", "{}", `{"apiVersion":"VERSION"}`, `{"kind":"KIND"}`, "{"+applied+"}", "{"+applied+`,"metadata":{"name":"other"}}`, "{"+applied+`,"metadata":{"name":"NAME"}}`,
			"{"+applied+`,"metadata":{"labels":{"a":"b"}}}`, "{"+applied+`,"metadata":{"managedFields":[]}}`, "{"+applied+`,"metadata":{"managedFields":[{"manager":"x"}]}}`, "{"+applied+`,"nosuch":1}`,
			"{"+applied+`,"metadata":{"resourceVersion":"1"}}`, "{"+applied+`,"metadata":{"uid":"x"}}`, `{"apiVersion":"x/v1","kind":"KIND"}`, `{"apiVersion":"VERSION","kind":"Other"}`, "{"+applied+`,"metadata":{"namespace":"other"}}`,
			"{"+applied+`,"metadata":{"labels":{"a":1}}}`, "{"+applied+`,"metadata":{"finalizers":["a/b","a/b"]}}`, "{"+applied+`,"metadata":{"labels":{"a":"b","a":"c"}}}`)
	}
	// A body wins over the query.
	add("DELETE", "ITEM?dryRun=All", jsonBody, "", "x", "[]", `{"dryRun":["All"]}`, `{"dryRun":["All"],"kind":"Other","apiVersion":"v1"}`, `{"dryRun":["All"],"kind":"DeleteOptions","apiVersion":"v1"}`, `{"dryRun":["All"],"kind":"DeleteOptions","apiVersion":"x/v1"}`, `{"dryRun":["All"],"preconditions":{"uid":"x"}}`,
		`{"dryRun":["All"],"preconditions":{"resourceVersion":"1"}}`, `{"dryRun":["All"],"propagationPolicy":"x"}`, `{"dryRun":["All"],"propagationPolicy":"Foreground"}`, `{"dryRun":["All"],"propagationPolicy":"Orphan"}`, `{"dryRun":["All"],"orphanDependents":true,"propagationPolicy":"Orphan"}`, `{"dryRun":["All"],"orphanDependents":true}`,
		`{"dryRun":["All"],"gracePeriodSeconds":-1}`, `{"dryRun":["All"],"gracePeriodSeconds":0}`, `{"dryRun":["x"]}`, `{"dryRun":["All"],"ignoreStoreReadErrorWithClusterBreakingPotential":true}`, `{"dryRun":["All"],"nosuch":1}`)
	for _, query := range []string{"propagationPolicy=x", "propagationPolicy=Orphan", "gracePeriodSeconds=x", "gracePeriodSeconds=-1", "orphanDependents=x", "gracePeriodSeconds=0&propagationPolicy=Background"} {
		add("DELETE", "ITEM?dryRun=All&"+query, "")
	}
	add("DELETE", "LIST/missing?dryRun=All", "")
	for _, query := range []string{"labelSelector=a+in", "fieldSelector=a%3Db", "labelSelector=a%3Dnosuch", "resourceVersion=x", "limit=x", "propagationPolicy=x"} {
		add("DELETE", "LIST?dryRun=All&"+query, "")
	}
	return all
}

// thing is an object of the kind that is defined last.
var thing = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.org/v1", "kind": "Thing",
	"metadata": map[string]any{"name": "t", "namespace": "full"}, "spec": map[string]any{"size": int64(1)}}}

// general are questions about no resource.
var general = []string{"/", "/api", "/api/", "/apis", "/apis/", "/api/v1", "/api/v2", "/api/v1/", "/apis/apps", "/apis/apps/", "/apis/apps/v1", "/apis/apps/v9", "/apis/nosuch", "/apis/nosuch/v1", "/apis/apps/v1/nosuch",
	"/api/v1/nosuch", "/api/v1/namespaces/default/nosuch", "/api/v1/namespaces/nosuch/pods", "/api/v1/namespaces//pods", "/api/v1/watch/pods?timeoutSeconds=1", "/api/v1/watch/namespaces/default/pods/x?timeoutSeconds=1",
	"/nosuch", "/healthz", "/healthz/", "/healthz/ping", "/healthz/nosuch", "/livez?exclude=nosuch", "/livez/ping", "/readyz/ping", "/version/", "/version/x", "/metrics/", "/openapi/v2/", "/openapi/v3/", "/openapi/v3/nosuch", "/logs", "/logs/",
	"/.well-known/openid-configuration", "/openid/v1/jwks", "/openid/v1/nosuch", "/api/v1/proxy/nodes/x", "/api/v1/nodes/nosuch/proxy/", "/api/v1/namespaces/default/pods/nosuch/log", "/api/v1/namespaces/default/pods/nosuch/exec",
	"/api/v1/namespaces/default/pods/nosuch/portforward", "/api/v1/namespaces/default/services/nosuch/proxy/", "/api/v1/componentstatuses/nosuch", "/apis/apps/v1/namespaces/default/deployments/nosuch/scale"}

func TestOddRequestsOfEveryResource(t *testing.T) {
	if *differences == "" {
		t.Skip("a measurement, not a test: run `make compare-apiserver`")
	}
	peers.Need(t)
	file, err := os.Create(*differences + ".requests")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := newRun(t, file)
	fmt.Printf("%-50s %9s %13s %11s\n", "", "requests", "same verdict", "same words")
	wanted, total := regexp.MustCompile(*kinds), &tally{name: "all"}
	count := func(n *tally) {
		n.print()
		total.requests, total.verdicts, total.words = total.requests+n.requests, total.verdicts+n.verdicts, total.words+n.words
	}
	var items []*unstructured.Unstructured
	asked := map[string]bool{}
	for _, obj := range append(objects(t), thing) {
		list, _ := r.paths(obj)
		var code int
		var body []byte
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) { // until its definition is served
			code, body, _ = r.ask(1, "POST", list, obj.Object)
			ours, _, _ := r.ask(0, "GET", list, nil)
			if (code == http.StatusCreated || code == http.StatusConflict) && ours == http.StatusOK {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %d %s", list, code, body)
			}
		}
		if !asked[list] && wanted.MatchString(obj.GetKind()) {
			items = append(items, obj)
		}
		asked[list] = true
	}
	all := questions()
	for _, obj := range items {
		list, one := r.paths(obj)
		r.ask(0, "GET", one, nil) // so that ours has seen it
		fill := strings.NewReplacer("LIST", list, "ITEM", one, "NAME", obj.GetName(), "KIND", obj.GetKind(), "VERSION", obj.GetAPIVersion())
		n := &tally{name: list}
		r.each(len(all), func(i int) {
			q := all[i]
			q.path, q.body = fill.Replace(q.path), fill.Replace(q.body)
			r.hold(n, q)
		})
		count(n)
	}
	n := &tally{name: "what is no resource"}
	for _, path := range general {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			r.hold(n, question{method: method, path: path})
		}
	}
	for _, accept := range []string{"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList", "application/yaml", discovery.AcceptV2Beta1, "text/plain"} {
		for _, path := range []string{"/api", "/apis", "/apis/apps", "/apis/apps/v1", "/version"} {
			r.hold(n, question{method: "GET", path: path, header: map[string]string{"Accept": accept}})
		}
	}
	count(n)
	total.print()
}

// each does something for many numbers, some at a time.
func (r *run) each(n int, do func(int)) {
	todo := make(chan int)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range todo {
				do(i)
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
}

// hold asks both servers and holds the answers side by side.
func (r *run) hold(n *tally, q question) {
	var code [2]int
	var words [2]string
	for side := range r.urls {
		code[side], words[side] = r.put(side, q)
	}
	title := fmt.Sprintf("%s %s %v %.200q", q.method, q.path, q.header, q.body)
	r.note(n, title, code, words)
}

// patience is how long an answer may take; what takes longer has none.
const patience = 10 * time.Second

// headers are those that clients act on.
var headers = []string{"Warning", "Content-Type", "Allow", "Accept-Patch", "Retry-After", "Location"}

func (r *run) put(side int, q question) (int, string) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, r.urls[side]+q.path, strings.NewReader(q.body))
	if err != nil {
		r.t.Fatal(err)
	}
	for name, value := range q.header {
		req.Header.Set(name, value)
	}
	client := *r.client[side]
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var s strings.Builder
	if err != nil {
		fmt.Fprintln(&s, err)
	}
	for _, name := range headers {
		for _, v := range resp.Header.Values(name) {
			fmt.Fprintf(&s, "%s: %s\n", name, strings.ReplaceAll(v, r.urls[side], ""))
		}
	}
	for d := json.NewDecoder(bytes.NewReader(body)); ; {
		var one json.RawMessage
		if d.Decode(&one) != nil {
			break
		}
		s.WriteString(whole(one))
	}
	if !json.Valid(body) && !strings.HasPrefix(string(body), `{"type"`) {
		s.WriteString(random.ReplaceAllString(string(body), "*"))
	}
	return resp.StatusCode, random.ReplaceAllString(s.String(), "*")
}

// whole is an answer in full, but for what differs between any two.
func whole(body []byte) string {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return string(body)
	}
	text, err := json.MarshalIndent(stable(v), "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text) + "\n"
}

// stable takes away versions of lists, managers of fields, and the names that are made up.
func stable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch key {
			case "managedFields", "resourceVersion", "continue", "remainingItemCount",
				"columnDefinitions", "gitVersion", "gitCommit", "buildDate": // of the columns the descriptions are not there
				delete(v, key)
			default:
				v[key] = stable(value)
			}
		}
		if name, _ := v["generateName"].(string); name != "" {
			delete(v, "name")
		}
	case []any:
		for i := range v {
			v[i] = stable(v[i])
		}
	}
	return v
}
