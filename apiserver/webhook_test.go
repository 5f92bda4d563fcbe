package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery/apiserver"

	reviewv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outside is a TLS server for 127.0.0.1 and for Services in the namespace default, and its CA bundle in base64.
func outside(t *testing.T, h http.HandlerFunc) (*httptest.Server, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "outside"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"outside.default.svc"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// services lets the server under test find cluster IPs at an outside server.
func services(to func() string) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/12")
		c.KubeletDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "10.") {
				address = to()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}
}

// hookServer answers reviews by path, and remembers them.
type hookServer struct {
	mu   sync.Mutex
	seen map[string][]*reviewv1.AdmissionRequest
	say  map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse
}

func (s *hookServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	review := &reviewv1.AdmissionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.seen[r.URL.Path] = append(s.seen[r.URL.Path], review.Request)
	s.mu.Unlock()
	say := s.say[r.URL.Path]
	if say == nil {
		http.Error(w, "no such webhook", http.StatusNotFound)
		return
	}
	review.Response = say(review.Request)
	review.Response.UID = review.Request.UID
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

func (s *hookServer) requests(path string) []*reviewv1.AdmissionRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[path]
}

func patches(ops string) *reviewv1.AdmissionResponse {
	kind := reviewv1.PatchTypeJSONPatch
	return &reviewv1.AdmissionResponse{Allowed: true, Patch: []byte(ops), PatchType: &kind}
}

const (
	hooksPath  = "/apis/admissionregistration.k8s.io/v1/"
	configMaps = "/api/v1/namespaces/default/configmaps"
)

// configure makes a configuration of one webhook; more is what it says besides the usual.
func (v *live) configure(kind, name, url, bundle, more string) {
	v.t.Helper()
	v.want(201, "POST", hooksPath+strings.ToLower(kind)+"webhookconfigurations", "", fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %sWebhookConfiguration
metadata: {name: %s}
webhooks:
- name: %s.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {%s, caBundle: %s}
%s
`, kind, name, name, url, bundle, more))
}

const onConfigMaps = "  rules: [{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: ['*']}]\n"

func TestWebhooks(t *testing.T) {
	hooks := &hookServer{seen: map[string][]*reviewv1.AdmissionRequest{}, say: map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse{
		"/label": func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			if r.Operation == reviewv1.Delete || strings.Contains(string(r.Object.Raw), `"labelled"`) {
				return &reviewv1.AdmissionResponse{Allowed: true}
			}
			return patches(`[{"op":"add","path":"/metadata/labels","value":{"labelled":"true"}}]`)
		},
		"/data": func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			if r.Operation == reviewv1.Delete || strings.Contains(string(r.Object.Raw), `"added"`) {
				return &reviewv1.AdmissionResponse{Allowed: true}
			}
			return patches(`[{"op":"add","path":"/data/added","value":"yes"}]`)
		},
		"/judge": func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			switch {
			case strings.Contains(string(r.Object.Raw), `"bad"`):
				return &reviewv1.AdmissionResponse{Result: &metav1.Status{Message: "no bad things", Code: 403, Reason: metav1.StatusReasonForbidden}}
			case strings.Contains(string(r.Object.Raw), `"mute"`):
				return &reviewv1.AdmissionResponse{}
			case r.Operation == reviewv1.Delete && strings.Contains(string(r.OldObject.Raw), `"keep"`):
				return &reviewv1.AdmissionResponse{Result: &metav1.Status{Message: "kept"}}
			}
			return &reviewv1.AdmissionResponse{Allowed: true, Warnings: []string{"looked at"}}
		},
	}}
	s, bundle := outside(t, hooks.ServeHTTP)
	v := startServer(t, services(func() string { return s.Listener.Addr().String() }))
	v.want(201, "POST", "/api/v1/namespaces/default/services", "", "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{port: 443}]}")
	url := "url: '" + s.URL + "/%s'"
	v.configure("Mutating", "a-label", fmt.Sprintf(url, "label"), bundle, onConfigMaps+"  reinvocationPolicy: IfNeeded\n")
	v.configure("Mutating", "b-data", "service: {name: outside, namespace: default, path: /data}", bundle, onConfigMaps+"  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}\n")
	v.configure("Validating", "judge", fmt.Sprintf(url, "judge"), bundle, onConfigMaps)

	// Both have changed the object; the first was asked again after the second.
	cm := v.want(201, "POST", configMaps, "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}")
	if at(cm, "metadata", "labels", "labelled") != "true" || at(cm, "data", "added") != "yes" {
		t.Errorf("stored: %v", cm)
	}
	if n := len(hooks.requests("/label")); n != 2 {
		t.Errorf("the first webhook was asked %d times, want 2", n)
	}
	if n := len(hooks.requests("/data")); n != 1 {
		t.Errorf("the second webhook was asked %d times, want 1", n)
	}
	r := hooks.requests("/judge")[0]
	if r.Kind != (metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}) || r.Resource.Resource != "configmaps" || r.Name != "x" || r.Namespace != "default" ||
		r.Operation != reviewv1.Create || r.UserInfo.Username != "system:admin" || *r.DryRun || !strings.Contains(string(r.Object.Raw), `"added":"yes"`) ||
		r.OldObject.Raw != nil || !strings.Contains(string(r.Options.Raw), `"kind":"CreateOptions"`) {
		t.Errorf("the review is %+v", r)
	}

	// Refusals, in upstream's words.
	v.want(403, "POST", configMaps, "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {bad: b}",
		`"message":"admission webhook \"judge.example.com\" denied the request: no bad things"`, `"reason":"Forbidden"`)
	v.want(400, "POST", configMaps, "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {mute: b}",
		`"message":"admission webhook \"judge.example.com\" denied the request without explanation"`)
	v.want(200, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"keep":"it"}}`)
	v.want(400, "DELETE", configMaps+"/x", "", "", `"message":"admission webhook \"judge.example.com\" denied the request: kept"`)
	v.want(200, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"keep":null}}`)
	v.want(200, "DELETE", configMaps+"/x?dryRun=All", "", "")
	if all := hooks.requests("/judge"); !*all[len(all)-1].DryRun {
		t.Error("the dry run was not called one")
	}

	// A webhook that fails: nothing goes, or everything, as its policy says. Its configuration can always be removed.
	v.configure("Validating", "broken", fmt.Sprintf(url, "nowhere"), bundle, "  rules: [{apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'], operations: ['*']}]\n")
	v.want(500, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"c":"d"}}`,
		`"message":"Internal error occurred: failed calling webhook \"broken.example.com\": failed to call webhook: the server could not find the requested resource"`)
	v.want(200, "PATCH", hooksPath+"validatingwebhookconfigurations/broken", "application/json-patch+json", `[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`)
	v.want(200, "PATCH", configMaps+"/x", "application/merge-patch+json", `{"data":{"c":"d"}}`)
	v.want(200, "DELETE", hooksPath+"validatingwebhookconfigurations/broken", "", "")

	// What does not concern a webhook is not shown to it.
	before := len(hooks.requests("/data"))
	v.want(201, "POST", "/api/v1/namespaces/kube-system/configmaps", "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\ndata: {a: b}")
	v.want(201, "POST", "/api/v1/namespaces/default/secrets", "", "apiVersion: v1\nkind: Secret\nmetadata: {name: z}")
	if n := len(hooks.requests("/data")); n != before {
		t.Errorf("the second webhook was asked %d times more", n-before)
	}
}

func TestWebhooksTimeOut(t *testing.T) {
	s, bundle := outside(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client has gone
		<-r.Context().Done()
	})
	v := startServer(t)
	v.configure("Validating", "slow", "url: '"+s.URL+"'", bundle, onConfigMaps+"  timeoutSeconds: 1\n")
	v.want(500, "POST", configMaps, "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}", `failed calling webhook \"slow.example.com\": failed to call webhook: Post \"`+s.URL+`?timeout=1s\": context deadline exceeded`)
}

// A webhook that knows v1 of a custom resource is shown v1, whatever version the client writes.
func TestWebhooksSeeTheVersionTheyKnow(t *testing.T) {
	hooks := &hookServer{seen: map[string][]*reviewv1.AdmissionRequest{}, say: map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse{
		"/tab": func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			return patches(`[{"op":"replace","path":"/spec/image","value":"patched"}]`)
		}}}
	s, bundle := outside(t, hooks.ServeHTTP)
	v := withCronTabs(t)
	v.configure("Mutating", "tab", "url: '"+s.URL+"/tab'", bundle, "  rules: [{apiGroups: [stable.example.com], apiVersions: [v1], resources: [crontabs], operations: [CREATE]}]\n")
	got := v.want(201, "POST", strings.Replace(tabs, "/v1/", "/v1beta1/", 1), "", strings.Replace(myTab, "/v1", "/v1beta1", 1), `"apiVersion":"stable.example.com/v1beta1"`)
	if at(got, "spec", "image") != "patched" {
		t.Errorf("stored: %v", got)
	}
	if r := hooks.requests("/tab")[0]; r.Kind.Version != "v1" || r.RequestKind.Version != "v1beta1" || !strings.Contains(string(r.Object.Raw), `"apiVersion":"stable.example.com/v1"`) {
		t.Errorf("the review is %+v", r)
	}
}

func TestWebhookConfigurationsAreChecked(t *testing.T) {
	v := startServer(t)
	v.want(422, "POST", hooksPath+"validatingwebhookconfigurations", "", `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: x}
webhooks: [{name: x.example.com, sideEffects: Some, admissionReviewVersions: [v1], timeoutSeconds: 31, clientConfig: {url: "http://x"}}]`,
		`webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"`,
		`webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds`, `'https' is the only allowed URL scheme`)
}
