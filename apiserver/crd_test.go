package apiserver_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orrery/apiserver"
	"orrery/apiserver/store/memory"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// live is a server that runs, on plain HTTP, with everybody a master.
type live struct {
	t   *testing.T
	url string
}

func startServer(t *testing.T, change ...func(*apiserver.Config)) *live {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := apiserver.Config{Store: memory.New(), Version: "v1.36.3+test", AllowAll: true, Listener: l, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&config)
	}
	s, err := apiserver.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	v := &live{t, "http://" + l.Addr().String()}
	v.eventually("the namespace default", func() bool { code, _ := v.do("GET", "/api/v1/namespaces/default", "", ""); return code == 200 })
	return v
}

// do sends one request; a body that begins with { is JSON, with [ a JSON patch.
func (v *live) do(method, path, contentType, body string) (int, string) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if contentType == "" {
		contentType = "application/yaml"
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "test/1.0")
	if contentType == "table" {
		r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

// want sends a request and checks the status code and that the answer holds all the texts.
func (v *live) want(code int, method, path, contentType, body string, texts ...string) map[string]any {
	v.t.Helper()
	got, answer := v.do(method, path, contentType, body)
	if got != code {
		v.t.Fatalf("%s %s: %d %s, want %d", method, path, got, answer, code)
	}
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			v.t.Errorf("%s %s: no %s in %s", method, path, text, answer)
		}
	}
	var out map[string]any
	_ = json.Unmarshal([]byte(answer), &out)
	return out
}

func (v *live) eventually(what string, is func() bool) {
	v.t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); {
		if time.Now().After(end) {
			v.t.Fatalf("%s: not within 15 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// at reads a field of an answer.
func at(o map[string]any, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(o, path...)
	return v
}

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

const cronTabs = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.image}]
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec, description: when it runs}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        description: CronTab runs something now and then.
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= self.maxReplicas", message: replicas must not exceed maxReplicas}
            properties:
              cronSpec: {type: string, pattern: '^(\S+\s+){4}\S+$', description: 'when it runs, as cron says it'}
              image: {type: string}
              replicas: {type: integer, minimum: 0, default: 1}
              maxReplicas: {type: integer, default: 10}
              class: {type: string, default: small, x-kubernetes-validations: [{rule: self == oldSelf, message: class cannot change}]}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
          status:
            type: object
            properties:
              replicas: {type: integer}
              selector: {type: string}
              conditions: {type: array, items: {type: object, properties: {type: {type: string}, status: {type: string}}}}
`

const tabs = "/apis/stable.example.com/v1/namespaces/default/crontabs"

const myTab = `
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: my}
spec: {cronSpec: "* * * * */5", image: cron}
`

func withCronTabs(t *testing.T) *live {
	v := startServer(t)
	v.want(201, "POST", crds, "", cronTabs)
	// The status says so last: what it promises is served by then.
	v.eventually("CronTabs", func() bool {
		_, crd := v.do("GET", crds+"/crontabs.stable.example.com", "", "")
		return strings.Contains(crd, "InitialNamesAccepted")
	})
	return v
}

func TestDefinitionsAreChecked(t *testing.T) {
	v := startServer(t)
	for change, want := range map[string]string{
		"name: crontabs.stable.example.com→name: tabs.stable.example.com": `metadata.name: Invalid value: \"tabs.stable.example.com\": must be spec.names.plural+\".\"+spec.group`,
		"storage: true→storage: false":                                    `must have exactly one version marked as storage version`,
		"default: 1}→default: few}":                                       `properties[replicas].default: Invalid value: \"string\":  in body must be of type integer: \"string\"`,
		"scope: Namespaced→scope: Galactic":                               `spec.scope: Unsupported value: \"Galactic\": supported values: \"Cluster\", \"Namespaced\"`,
		"specReplicasPath: .spec.replicas→specReplicasPath: .data.n":      `spec.versions[1].subresources.scale.specReplicasPath: Invalid value: \".data.n\": should be a json path under .spec`,
		"self.replicas <= self.maxReplicas→self.replicas <= self.nothing": `undefined field 'nothing'`,
		"cronSpec: {type: string,→cronSpec: {":                            `spec.versions[1].schema.openAPIV3Schema.properties[spec].properties[cronSpec].type: Required value: must not be empty for specified object fields`,
	} {
		from, to, _ := strings.Cut(change, "→")
		if !strings.Contains(cronTabs, from) {
			t.Fatalf("no %q in the definition", from)
		}
		v.want(422, "POST", crds, "", strings.Replace(cronTabs, from, to, 1), `"reason":"Invalid"`, want)
	}
}

func TestCustomResourcesAreServed(t *testing.T) {
	v := withCronTabs(t)
	crd := v.want(200, "GET", crds+"/crontabs.stable.example.com", "", "",
		`"reason":"NoConflicts"`, `"message":"no conflicts found"`, `"reason":"InitialNamesAccepted"`, `"storedVersions":["v1"]`, `"listKind":"CronTabList"`)
	if at(crd, "spec", "conversion", "strategy") != "None" {
		t.Errorf("conversion is %v", at(crd, "spec", "conversion"))
	}

	// Defaults are filled in, unknown fields go.
	my := v.want(201, "POST", tabs, "", strings.Replace(myTab, "image: cron", "image: cron, colour: red", 1))
	if got := at(my, "spec"); len(got.(map[string]any)) != 5 || at(my, "spec", "replicas") != 1.0 || at(my, "spec", "class") != "small" {
		t.Errorf("spec is %v", got)
	}
	if at(my, "metadata", "generation") != 1.0 || at(my, "metadata", "uid") == nil || at(my, "metadata", "managedFields") == nil {
		t.Errorf("metadata is %v", at(my, "metadata"))
	}
	// Strictly: not at all.
	v.want(400, "POST", tabs+"?fieldValidation=Strict", "", strings.Replace(myTab, "image: cron", "image: cron, colour: red", 1),
		`CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"spec.colour\"`)
	v.want(422, "POST", tabs, "", strings.Replace(myTab, "* * * * */5", "daily", 1),
		`CronTab.stable.example.com \"my\" is invalid: spec.cronSpec: Invalid value: \"daily\": spec.cronSpec in body should match '^(\\S+\\s+){4}\\S+$'`)
	v.want(422, "POST", tabs, "", strings.Replace(myTab, "image: cron", "replicas: 11", 1), `spec: Invalid value: replicas must not exceed maxReplicas`)
	v.want(409, "POST", tabs, "", myTab, `crontabs.stable.example.com \"my\" already exists`)

	// Rules see the old object; the status has a door of its own.
	v.want(422, "PATCH", tabs+"/my", "application/merge-patch+json", `{"spec":{"class":"big"}}`, `spec.class: Invalid value: \"big\": class cannot change`)
	my = v.want(200, "PATCH", tabs+"/my", "application/merge-patch+json", `{"spec":{"replicas":2},"status":{"replicas":9}}`)
	if at(my, "metadata", "generation") != 2.0 || at(my, "status") != nil {
		t.Errorf("after a patch of the main resource: %v", my)
	}
	my = v.want(200, "PATCH", tabs+"/my/status", "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}},"spec":{"replicas":7},"status":{"replicas":9,"selector":"a=b","conditions":[{"type":"Other","status":"x"},{"type":"Ready","status":"True"}]}}`)
	if at(my, "metadata", "generation") != 2.0 || at(my, "spec", "replicas") != 2.0 || at(my, "status", "replicas") != 9.0 || at(my, "metadata", "labels") != nil {
		t.Errorf("after a patch of the status: %v", my)
	}
	v.want(404, "GET", tabs+"/my/log", "", "", `my\" not found`)
	v.want(405, "DELETE", tabs+"/my/status", "", "", `delete is not supported on resources of kind`)
	v.want(415, "PATCH", tabs+"/my", "application/strategic-merge-patch+json", `{}`)

	// Scale.
	s := v.want(200, "GET", tabs+"/my/scale", "", "", `"kind":"Scale"`, `"selector":"a=b"`)
	if at(s, "spec", "replicas") != 2.0 || at(s, "status", "replicas") != 9.0 {
		t.Errorf("scale is %v", s)
	}
	s = v.want(200, "PATCH", tabs+"/my/scale", "application/merge-patch+json", `{"spec":{"replicas":4}}`)
	if at(s, "spec", "replicas") != 4.0 {
		t.Errorf("scale is %v", s)
	}

	// Columns and selectors.
	v.want(200, "GET", tabs, "table", "", `"name":"Replicas","type":"integer"`, `"cells":["my","* * * * */5",4,"True","`)
	v.want(200, "GET", tabs+"?fieldSelector=spec.image%3Dcron", "", "", `"kind":"CronTabList"`, `"name":"my"`)
	if l := v.want(200, "GET", tabs+"?fieldSelector=spec.image%3Dother", "", ""); len(at(l, "items").([]any)) != 0 {
		t.Errorf("the selector let %v through", l)
	}
	v.want(400, "GET", tabs+"?fieldSelector=spec.class%3Dsmall", "", "", "field label not supported: spec.class")

	// Another version shows the same object.
	v.want(200, "GET", strings.Replace(tabs, "/v1/", "/v1beta1/", 1)+"/my", "", "", `"apiVersion":"stable.example.com/v1beta1"`)
	v.want(200, "GET", strings.Replace(tabs, "/v1/", "/v1beta1/", 1), "", "", `"apiVersion":"stable.example.com/v1beta1"`)

	// Discovery and OpenAPI know it.
	v.want(200, "GET", "/apis/stable.example.com", "", "", `"preferredVersion":{"groupVersion":"stable.example.com/v1","version":"v1"}`)
	v.want(200, "GET", "/apis/stable.example.com/v1", "", "", `"name":"crontabs/scale"`, `"shortNames":["ct"]`)
	doc := v.want(200, "GET", "/openapi/v3/apis/stable.example.com/v1", "", "", `"x-kubernetes-list-map-keys":["name"]`)
	if at(doc, "components", "schemas", "com.example.stable.v1.CronTab", "properties", "spec", "properties", "cronSpec", "description") == nil ||
		at(doc, "components", "schemas", "com.example.stable.v1.CronTabList", "properties", "items") == nil {
		t.Error("the OpenAPI document does not describe CronTab")
	}
	v.want(200, "GET", "/openapi/v2", "", "", `com.example.stable.v1.CronTab`)
}

// Server-side apply knows from the schema that ports are a map by name.
func TestCustomResourcesAreApplied(t *testing.T) {
	v := withCronTabs(t)
	apply := func(code int, manager, spec string, texts ...string) map[string]any {
		t.Helper()
		return v.want(code, "PATCH", tabs+"/my?fieldManager="+manager, "application/apply-patch+yaml",
			"apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: my}\nspec: "+spec, texts...)
	}
	apply(201, "a", `{cronSpec: "* * * * *", ports: [{name: http, port: 1}]}`)
	got := apply(200, "b", `{cronSpec: "* * * * *", ports: [{name: dns, port: 2}]}`)
	if ports := at(got, "spec", "ports").([]any); len(ports) != 2 {
		t.Errorf("ports are %v", ports)
	}
	apply(409, "b", `{cronSpec: "1 * * * *"}`, `Apply failed with 1 conflict: conflict with \"a\": .spec.cronSpec`)
	got = apply(200, "a", `{cronSpec: "* * * * *"}`)
	if ports := at(got, "spec", "ports").([]any); len(ports) != 1 {
		t.Errorf("ports are %v", ports)
	}
}

func TestADefinitionTakesItsObjectsWithIt(t *testing.T) {
	v := withCronTabs(t)
	v.want(201, "POST", tabs, "", strings.Replace(myTab, "name: my", "name: my, finalizers: [example.com/wait]", 1))
	v.want(200, "DELETE", crds+"/crontabs.stable.example.com", "", "", `customresourcecleanup.apiextensions.k8s.io`, `"reason":"InstanceDeletionPending"`)
	v.eventually("cleanup", func() bool {
		_, body := v.do("GET", crds+"/crontabs.stable.example.com", "", "")
		return strings.Contains(body, "InstanceDeletionInProgress")
	})
	v.want(405, "POST", tabs, "", strings.Replace(myTab, "name: my", "name: other", 1), "create not allowed while custom resource definition is terminating")
	v.want(200, "PATCH", tabs+"/my", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`)
	v.eventually("the end", func() bool {
		code, _ := v.do("GET", crds+"/crontabs.stable.example.com", "", "")
		return code == 404
	})
	v.eventually("the end of the kind", func() bool { code, _ := v.do("GET", tabs, "", ""); return code == 404 })
	// Made anew, it has none of the old objects.
	v.want(201, "POST", crds, "", cronTabs)
	v.eventually("CronTabs", func() bool { code, _ := v.do("GET", tabs, "", ""); return code == 200 })
	if l := v.want(200, "GET", tabs, "", ""); len(at(l, "items").([]any)) != 0 {
		t.Errorf("left over: %v", l)
	}
}

func TestNamesAreGrantedOnce(t *testing.T) {
	v := withCronTabs(t)
	other := strings.NewReplacer("crontabs", "cronjobs", "crontab,", "cronjob,", "kind: CronTab,", "kind: CronTab,").Replace(cronTabs)
	v.want(201, "POST", crds, "", other)
	v.eventually("the verdict", func() bool {
		_, body := v.do("GET", crds+"/cronjobs.stable.example.com", "", "")
		return strings.Contains(body, `"reason":"ListKindConflict"`) && strings.Contains(body, `"message":"not all names are accepted"`)
	})
	v.want(404, "GET", strings.Replace(tabs, "crontabs", "cronjobs", 1), "", "")
}

// The real kubectl's way with a kind that it has never heard of.
func TestKubectlWithCustomResources(t *testing.T) {
	kubectl, err := filepath.Abs("../bin/kubectl")
	if err == nil {
		_, err = os.Stat(kubectl)
	}
	if err != nil {
		t.Skip("no kubectl: make bin/kubectl")
	}
	v := withCronTabs(t)
	dir := t.TempDir()
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"--server", v.url, "--cache-dir", dir}, args...)...)
		cmd.Stdin, cmd.Env = strings.NewReader(stdin), []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "KUBE_EDITOR=sed -i s/replicas:.3/replicas:\\ 5/"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "failed: " + string(out)
		}
		return string(out)
	}
	for _, c := range []struct {
		stdin, args string
		want        []string
	}{
		{"", "wait --for=condition=Established crd/crontabs.stable.example.com", []string{"condition met"}},
		{myTab, "apply -f -", []string{"crontab.stable.example.com/my created"}},
		{myTab, "apply -f -", []string{"my unchanged"}},
		{strings.Replace(myTab, "image: cron", "replicas: 3", 1), "apply -f -", []string{"my configured"}},
		{strings.Replace(myTab, "image: cron", "nonsense: 3", 1), "apply -f -", []string{"failed", `strict decoding error: unknown field "spec.nonsense"`}},
		{"", "get ct", []string{"NAME   SPEC          REPLICAS   READY   AGE", "my     * * * * */5   3"}},
		{"", "get all", []string{"crontab.stable.example.com/my"}},
		{"", "explain crontab.spec", []string{"GROUP:      stable.example.com", "cronSpec\t<string> -required-", "when it runs, as cron says it"}},
		{"", "explain crontab.metadata.name", []string{"FIELD: name <string>"}},
		{"", "describe ct my", []string{"Cron Spec:     * * * * */5"}},
		{"", "scale --replicas=3 ct/my", []string{"my scaled"}},
		{"", "edit ct my", []string{"my edited"}},
		{"", "get ct my -o jsonpath={.spec.replicas}", []string{"5"}},
		{myTab, "apply --server-side --force-conflicts -f -", []string{"serverside-applied"}},
		{"", "label ct my a=b", []string{"my labeled"}},
		{"", "delete ct my", []string{`crontab.stable.example.com "my" deleted`}},
		{"", "api-resources --api-group stable.example.com", []string{"crontabs   ct           stable.example.com/v1   true         CronTab"}},
		{"", "delete crd crontabs.stable.example.com", []string{"deleted"}},
	} {
		out := run(c.stdin, strings.Fields(c.args)...)
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("kubectl %s: no %q in\n%s", c.args, w, out)
			}
		}
	}
}
