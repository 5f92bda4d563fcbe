package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// crates are stored as stored says: version v1 has a size "2x3", v2 a width and a height.
func crates(stored, where, bundle string) string {
	version := func(name, fields string) string {
		return fmt.Sprintf("  - {name: %s, served: true, storage: %v, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {%s}}}}}}\n", name, name == stored, fields)
	}
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crates.demo.orrery}
spec:
  group: demo.orrery
  scope: Namespaced
  names: {kind: Crate, plural: crates}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v3, v1]
      clientConfig: {` + where + `, caBundle: ` + bundle + `}
  versions:
` + version("v1", "size: {type: string}") + version("v2", "width: {type: integer}, height: {type: integer, default: 1}")
}

// convertCrate is the webhook's part; "lie" in an object's size has it answer nonsense.
func convertCrate(u *unstructured.Unstructured, to string) error {
	if size, ok, _ := unstructured.NestedString(u.Object, "spec", "size"); ok {
		var w, h int64
		if _, err := fmt.Sscanf(size, "%dx%d", &w, &h); err != nil {
			return fmt.Errorf("%q is no size", size)
		}
		u.Object["spec"] = map[string]any{"width": w, "height": h}
	} else {
		w, _, _ := unstructured.NestedInt64(u.Object, "spec", "width")
		h, _, _ := unstructured.NestedInt64(u.Object, "spec", "height")
		u.Object["spec"] = map[string]any{"size": fmt.Sprintf("%dx%d", w, h)}
	}
	u.SetLabels(map[string]string{"converted": "yes"})
	u.SetFinalizers([]string{"the.webhook/may-not"})
	if u.GetName() == "liar" {
		u.SetName("other")
	}
	u.SetAPIVersion(to)
	return nil
}

func answerConversion(w http.ResponseWriter, r *http.Request) {
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		err := u.UnmarshalJSON(raw.Raw)
		if err == nil {
			err = convertCrate(u, review.Request.DesiredAPIVersion)
		}
		if err != nil {
			answer.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request, review.Response = nil, answer
	_ = json.NewEncoder(w).Encode(review)
}

func TestAWebhookConvertsCustomResources(t *testing.T) {
	var away atomic.Bool
	s, bundle := outside(t, func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		answerConversion(w, r)
	})
	v := startServer(t, services(func() string { return s.Listener.Addr().String() }))
	v.want(201, "POST", "/api/v1/namespaces/default/services", "", "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{port: 443}]}")
	service := "service: {name: outside, namespace: default, path: /convert}"
	v.want(201, "POST", crds, "", crates("v1", service, bundle))
	const v1, v2 = "/apis/demo.orrery/v1/namespaces/default/crates", "/apis/demo.orrery/v2/namespaces/default/crates"
	v.eventually("crates are served", func() bool { code, _ := v.do("GET", v2, "", ""); return code == 200 })

	// Written in the version that is not stored, read in both.
	v.want(201, "POST", v2, "", "apiVersion: demo.orrery/v2\nkind: Crate\nmetadata: {name: a}\nspec: {width: 2, height: 3}", `"width":2`)
	v.want(200, "GET", v1+"/a", "", "", `"apiVersion":"demo.orrery/v1"`, `"size":"2x3"`, `"labels":{"converted":"yes"}`)
	v.want(200, "GET", v2, "", "", `"apiVersion":"demo.orrery/v2"`, `"width":2`)
	if got := at(v.want(200, "GET", v2+"/a", "", ""), "metadata", "finalizers"); got != nil {
		t.Errorf("the webhook has put finalizers in: %v", got)
	}
	v.want(200, "PATCH", v2+"/a", "application/merge-patch+json", `{"spec":{"height":5}}`, `"height":5`)
	v.want(200, "GET", v1+"/a", "", "", `"size":"2x5"`)

	// What the webhook says, or is wrong about, is told.
	v.want(201, "POST", v1, "", "apiVersion: demo.orrery/v1\nkind: Crate\nmetadata: {name: b}\nspec: {size: large}")
	v.want(500, "GET", v2+"/b", "", "", `conversion webhook for demo.orrery/v1, Kind=Crate failed: \"large\" is no size`)
	v.want(200, "DELETE", v1+"/b", "", "")
	v.want(201, "POST", v1, "", "apiVersion: demo.orrery/v1\nkind: Crate\nmetadata: {name: liar}\nspec: {size: 1x1}")
	v.want(500, "GET", v2+"/liar", "", "", "conversion webhook for demo.orrery/v1, Kind=Crate returned invalid object: must have the same name: liar != other")
	v.want(200, "DELETE", v1+"/liar", "", "")

	// The other version is stored from now on. What lies in the store is of the old one, and is converted when it is read.
	now := at(v.want(200, "GET", crds+"/crates.demo.orrery", "", ""), "metadata", "resourceVersion")
	v.want(200, "PUT", crds+"/crates.demo.orrery", "", strings.Replace(crates("v2", service, bundle), "{name: crates.demo.orrery}", fmt.Sprintf("{name: crates.demo.orrery, resourceVersion: %q}", now), 1))
	away.Store(true)
	v.eventually("the webhook is missed", func() bool {
		code, body := v.do("GET", v2, "", "")
		return code == 500 && strings.Contains(body, "conversion webhook for demo.orrery/v1, Kind=Crate failed: the server is currently unable to handle the request")
	})
	v.want(500, "GET", v2+"/a", "", "", "conversion webhook for demo.orrery/v1, Kind=Crate failed: ")
	away.Store(false)
	v.eventually("the webhook is back", func() bool { code, _ := v.do("GET", v2, "", ""); return code == 200 })
	v.want(200, "GET", v2, "", "", `"width":2`, `"height":5`)
	v.want(200, "GET", v1+"/a", "", "", `"size":"2x5"`)
}

func TestADefinitionMustSayWhoConverts(t *testing.T) {
	v := startServer(t)
	whole := crates("v1", "url: 'https://example.com/convert'", "''")
	for _, c := range []struct{ from, to, want string }{
		{"url: 'https://example.com/convert', ", "", "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required"},
		{"https://example.com", "http://example.com", `spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]`},
		{"strategy: Webhook", "strategy: None", "spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook"},
		{"strategy: Webhook", "strategy: Magic", `spec.conversion.strategy: Unsupported value: \"Magic\": supported values: \"None\", \"Webhook\"`},
		{"[v3, v1]", "[]", "spec.conversion.conversionReviewVersions: Required value"},
		{"[v3, v1]", "[v3]", `spec.conversion.conversionReviewVersions: Invalid value: [\"v3\"]: must include at least one of v1, v1beta1`},
	} {
		v.want(422, "POST", crds, "", strings.Replace(whole, c.from, c.to, 1), c.want)
	}
}
