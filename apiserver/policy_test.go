package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"orrery/apiserver"

	reviewv1 "k8s.io/api/admission/v1"
)

const policiesPath = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

// policy makes a policy about ConfigMaps; spec is what it says besides, in YAML of two spaces.
func (v *live) policy(name, spec string) {
	v.t.Helper()
	v.want(201, "POST", policiesPath, "", fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %s}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE, DELETE]}]}
%s`, name, spec))
}

func (v *live) bind(name, policy, spec string) {
	v.t.Helper()
	v.want(201, "POST", strings.Replace(policiesPath, "policies", "policybindings", 1), "", fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %s}
spec:
  policyName: %s
%s`, name, policy, spec))
}

// configMap is one with the value v of the key k.
func configMap(name, v string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {k: %q}", name, v)
}

const denies = "  validationActions: [Deny]\n"

func TestPolicies(t *testing.T) {
	v := startServer(t)
	v.policy("demo", `
  validations:
  - {expression: "object == null || object.data.k != 'bad'"}
  - {expression: "object == null || object.data.k != 'worse'", message: " no worse things ", reason: Forbidden}
  - {expression: "object == null || object.data.k != 'large'", messageExpression: "'k is ' + object.data.k", reason: RequestEntityTooLarge}
  - {expression: "object != null || oldObject.data.k != 'keep'", message: kept}
`)
	v.want(201, "POST", configMaps, "", configMap("unbound", "bad"))
	v.bind("demo-binding", "demo", denies)
	v.bind("lost", "nobody", denies)

	v.want(201, "POST", configMaps, "", configMap("x", "keep"))
	v.want(422, "POST", configMaps, "", configMap("w", "bad"), `"reason":"Invalid"`,
		`"message":"configmaps \"w\" is forbidden: ValidatingAdmissionPolicy 'demo' with binding 'demo-binding' denied request: failed expression: object == null || object.data.k != 'bad'"`,
		`"causes":[{"message":"ValidatingAdmissionPolicy 'demo' with binding 'demo-binding' denied request: failed expression: object == null || object.data.k != 'bad'"}]`)
	v.want(403, "POST", configMaps, "", configMap("w", "worse"), `denied request: no worse things"`, `"reason":"Forbidden"`)
	v.want(413, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"k":"large"}}`, `denied request: k is large"`, `"reason":"RequestEntityTooLarge"`)
	v.want(422, "DELETE", configMaps+"/x", "", "", `configmaps \"x\" is forbidden`, `denied request: kept"`)
	v.want(422, "POST", configMaps+"?dryRun=All", "", configMap("w", "bad"))

	// What is not there is an error, and what an error means the failurePolicy says.
	noData := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}"
	v.want(422, "POST", configMaps, "", noData, `denied request: expression 'object == null || object.data.k != 'bad'' resulted in error: no such key: data"`)
	v.want(200, "PATCH", policiesPath+"/demo", "application/merge-patch+json", `{"spec":{"failurePolicy":"Ignore"}}`)
	v.want(201, "POST", configMaps, "", noData)
	v.want(422, "POST", configMaps, "", configMap("w", "bad"))

	// The policy is no more asked than it is bound.
	v.want(200, "DELETE", strings.Replace(policiesPath, "policies", "policybindings", 1)+"/demo-binding", "", "")
	v.want(201, "POST", configMaps, "", configMap("w", "bad"))
}

func TestPoliciesNeverKeepThemselves(t *testing.T) {
	v := startServer(t)
	v.want(201, "POST", policiesPath, "", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: never}
spec:
  matchConstraints: {resourceRules: [{apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'], operations: ['*']}]}
  validations: [{expression: "false"}]`)
	v.bind("never", "never", denies)
	v.want(422, "POST", configMaps, "", configMap("x", ""))
	v.want(201, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "", "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\nspec: {resourceAttributes: {verb: get, resource: pods}}")
	v.want(200, "DELETE", policiesPath+"/never", "", "")
	v.want(201, "POST", configMaps, "", configMap("x", ""))
}

func TestPolicyVariablesAndConditions(t *testing.T) {
	v := startServer(t)
	v.policy("demo", `
  matchConditions:
  - {name: not-mine, expression: "!has(object.metadata.labels) || object.metadata.labels['mine'] != 'true'"}
  variables:
  - {name: value, expression: "'k' in object.data ? object.data['k'] : 'none'"}
  - {name: long, expression: "size(variables.value) > 5"}
  - {name: unused, expression: "object.nothing"}
  validations:
  - {expression: "!variables.long", messageExpression: "variables.value + ' is too long for ' + request.userInfo.username + ' in ' + namespaceObject.metadata.name"}
  - {expression: "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()"}
  - {expression: "request.operation in ['CREATE', 'UPDATE'] && request.resource.resource == 'configmaps' && request.namespace == object.metadata.namespace"}
  - {expression: "object.apiVersion == 'v1' && object.kind == 'ConfigMap'"}
`)
	v.bind("demo-binding", "demo", denies)
	v.want(201, "POST", configMaps, "", configMap("x", "short"))
	v.want(422, "POST", configMaps, "", configMap("w", "very long"), `denied request: very long is too long for system:admin in default"`)
	v.want(201, "POST", configMaps, "", strings.Replace(configMap("w", "very long"), "name: w", "name: w, labels: {mine: 'true'}", 1))
}

func TestPolicyMatching(t *testing.T) {
	v := startServer(t)
	v.want(201, "POST", policiesPath, "", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: demo}
spec:
  matchConstraints:
    namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}]}
    objectSelector: {matchExpressions: [{key: exempt, operator: DoesNotExist}]}
    resourceRules: [{apiGroups: [''], apiVersions: ['*'], resources: [configmaps, secrets, namespaces], operations: [CREATE]}]
    excludeResourceRules: [{apiGroups: [''], apiVersions: ['*'], resources: ['*'], operations: ['*'], resourceNames: [excluded]}]
  validations: [{expression: "false", message: never}]`)
	v.bind("demo", "demo", denies+"  matchResources: {resourceRules: [{apiGroups: [''], apiVersions: [v1], resources: [configmaps, namespaces], operations: ['*']}]}\n")
	v.want(422, "POST", configMaps, "", configMap("x", ""))
	v.want(422, "POST", "/api/v1/namespaces", "", "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}")
	v.want(201, "POST", configMaps, "", configMap("excluded", ""))
	v.want(201, "POST", configMaps, "", strings.Replace(configMap("x", ""), "name: x", "name: x, labels: {exempt: ''}", 1))
	v.want(201, "POST", "/api/v1/namespaces/kube-system/configmaps", "", configMap("x", ""))
	v.want(201, "POST", "/api/v1/namespaces/default/secrets", "", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}")
	v.want(200, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"a":"b"}}`)
}

// A policy that knows v1 of a custom resource is shown v1, whatever version the client writes; whole numbers are whole.
func TestPoliciesSeeTheVersionTheyKnow(t *testing.T) {
	v := withCronTabs(t)
	v.want(201, "POST", policiesPath, "", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: demo}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [stable.example.com], apiVersions: [v1], resources: [crontabs], operations: [CREATE]}]}
  validations: [{expression: "false", messageExpression: "object.apiVersion + ' ' + request.kind.version + ' ' + request.requestKind.version + ' ' + string(object.spec.replicas + 1)"}]`)
	v.bind("demo", "demo", denies)
	v.want(422, "POST", strings.Replace(tabs, "/v1/", "/v1beta1/", 1), "", strings.Replace(strings.Replace(myTab, "/v1", "/v1beta1", 1), "image:", "replicas: 3, image:", 1),
		`denied request: stable.example.com/v1 v1 v1beta1 4"`)
}

func TestPolicyParameters(t *testing.T) {
	v := startServer(t)
	v.policy("demo", `
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConditions: [{name: no-param, expression: "!object.metadata.name.startsWith('limit')"}]
  validations: [{expression: "params == null || size(object.data.k) <= int(params.data.most)", messageExpression: "'more than ' + params.data.most + ' of ' + params.metadata.name + ' ' + params.kind"}]
`)
	limit := func(name, most string) {
		v.t.Helper()
		v.want(201, "POST", configMaps, "", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: limit-%s, labels: {limit: all}}\ndata: {most: %q}", name, most))
	}
	limit("a", "5")
	limit("b", "3")
	bindings := strings.Replace(policiesPath, "policies", "policybindings", 1)
	bound := func(ref string) func() {
		v.t.Helper()
		v.bind("demo", "demo", denies+"  paramRef: "+ref)
		return func() { v.want(200, "DELETE", bindings+"/demo", "", "") }
	}
	unbind := bound("{name: limit-a, parameterNotFoundAction: Deny}")
	v.want(201, "POST", configMaps, "", configMap("x", "1234"))
	v.want(422, "POST", configMaps, "", configMap("w", "123456"), `denied request: more than 5 of limit-a ConfigMap"`)
	v.want(422, "POST", "/api/v1/namespaces/kube-system/configmaps", "", configMap("w", ""),
		"ValidatingAdmissionPolicy 'demo' with binding 'demo' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction\"")
	unbind()
	unbind = bound("{selector: {matchLabels: {limit: all}}, namespace: default, parameterNotFoundAction: Allow}")
	v.want(422, "POST", "/api/v1/namespaces/kube-system/configmaps", "", configMap("w", "1234"), `denied request: more than 3 of limit-b ConfigMap"`)
	unbind()
	unbind = bound("{name: nothing, parameterNotFoundAction: Allow}")
	v.want(201, "POST", configMaps, "", configMap("w", "123456"))
	unbind()
	v.want(200, "PATCH", policiesPath+"/demo", "application/merge-patch+json", `{"spec":{"paramKind":{"apiVersion":"example.com/v1","kind":"Nope"}}}`)
	bound("{name: limit-a, parameterNotFoundAction: Deny}")
	v.want(422, "POST", configMaps, "", configMap("z", ""), `ValidatingAdmissionPolicy 'demo' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Nope'`)
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestPolicyWarnsAndAudits(t *testing.T) {
	log := &lines{}
	v := startServer(t, func(c *apiserver.Config) { c.AuditLog = log })
	v.policy("demo", `
  validations: [{expression: "object.data.k != 'bad'", message: no bad things}]
  auditAnnotations: [{key: value, valueExpression: "'k is ' + object.data.k"}, {key: none, valueExpression: "null"}]
`)
	v.bind("demo-binding", "demo", "  validationActions: [Warn, Audit]\n")
	resp, err := http.Post(v.url+configMaps, "application/yaml", strings.NewReader(configMap("x", "bad")))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if w := resp.Header.Get("Warning"); resp.StatusCode != 201 || w != `299 - "Validation failed for ValidatingAdmissionPolicy 'demo' with binding 'demo-binding': no bad things"` {
		t.Errorf("%d, %s", resp.StatusCode, w)
	}
	v.want(201, "POST", configMaps, "", configMap("w", "good")) // by then the line of the one before is written
	for _, want := range []string{`"demo/value":"k is bad"`, `"validation.policy.admission.k8s.io/validation_failure":"[{\"message\":\"no bad things\",\"policy\":\"demo\",\"binding\":\"demo-binding\",\"expressionIndex\":0,\"validationActions\":[\"Warn\",\"Audit\"]}]"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
	if strings.Contains(log.String(), "demo/none") {
		t.Error("null became an annotation")
	}
}

func TestWebhookMatchConditions(t *testing.T) {
	hooks := &hookServer{seen: map[string][]*reviewv1.AdmissionRequest{}, say: map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse{
		"/label": func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			return patches(`[{"op":"add","path":"/metadata/labels","value":{"labelled":"true"}}]`)
		},
		"/judge": func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return &reviewv1.AdmissionResponse{} },
	}}
	s, bundle := outside(t, hooks.ServeHTTP)
	v := startServer(t)
	url := "url: '" + s.URL + "/%s'"
	v.configure("Mutating", "label", fmt.Sprintf(url, "label"), bundle, onConfigMaps+"  matchConditions: [{name: wants, expression: \"object.data.k == 'label'\"}, {name: not-admin, expression: \"request.userInfo.username == 'system:admin'\"}]\n")
	v.configure("Validating", "judge", fmt.Sprintf(url, "judge"), bundle, onConfigMaps+"  matchConditions: [{name: wants, expression: \"object.data.k == 'judge'\"}]\n")
	if cm := v.want(201, "POST", configMaps, "", configMap("x", "label")); at(cm, "metadata", "labels", "labelled") != "true" {
		t.Errorf("stored: %v", cm)
	}
	v.want(400, "POST", configMaps, "", configMap("w", "judge"), "denied the request without explanation")
	v.want(201, "POST", configMaps, "", configMap("w", "none"))
	noData := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}"
	v.want(403, "POST", configMaps, "", noData, `"message":"configmaps \"z\" is forbidden: expression 'object.data.k == 'label'' resulted in error: no such key: data"`)
	for _, kind := range []string{"mutating", "validating"} {
		name := map[string]string{"mutating": "label", "validating": "judge"}[kind]
		v.want(200, "PATCH", hooksPath+kind+"webhookconfigurations/"+name, "application/json-patch+json", `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`)
	}
	v.want(201, "POST", configMaps, "", noData)
	if n := len(hooks.requests("/label")) + len(hooks.requests("/judge")); n != 2 {
		t.Errorf("webhooks were asked %d times, want 2", n)
	}
}
