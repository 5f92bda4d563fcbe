package conform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"orrery/apiserver/kinds"
	"orrery/apiserver/store"
	"orrery/test/cluster"
	"orrery/test/peers"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// The module k8s.io/api carries an object of every kind with every field filled
// in (its name is "nameValue"), as this version and the three before it encode
// it. No file is ours, so no mistake is on both sides.

const asYAML = "application/yaml"

// Upstream's serializers, for what has to be changed in an object before it is sent or compared.
var (
	protoOf  = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	jsonOf   = serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, serializer.SerializerOptions{})
	prettyOf = serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, serializer.SerializerOptions{Pretty: true})
	yamlOf   = serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, serializer.SerializerOptions{Yaml: true})
)

// golden is the object of one kind: its encodings, and what they are after they
// were read and written once, which differs when this version has new fields.
type golden struct {
	kind          *kinds.Kind
	before, after map[string][]byte // by media type
}

// goldens finds those of all kinds that we serve, by the version of upstream that wrote them.
func goldens(t *testing.T) map[string][]golden {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dirs := must(filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "testdata", "*", "")))(t)
	all := map[string][]golden{}
	for _, dir := range dirs {
		for _, k := range kinds.NewTable().All() {
			group := k.Group
			if group == "" {
				group = "core"
			}
			name := filepath.Join(dir, group+"."+k.Version+"."+k.Kind)
			g := golden{k, map[string][]byte{}, map[string][]byte{}}
			for media, ext := range map[string]string{asJSON: ".json", asYAML: ".yaml", asProtobuf: ".pb"} {
				if data, err := os.ReadFile(name + ext); err == nil {
					g.before[media], g.after[media] = data, data
				}
				if data, err := os.ReadFile(name + ".after_roundtrip" + ext); err == nil {
					g.after[media] = data
				}
			}
			if len(g.before) == 3 {
				version := filepath.Base(dir)
				all[version] = append(all[version], g)
			}
		}
	}
	if len(all) < 4 || len(all["HEAD"]) < 60 {
		t.Fatalf("%d versions with %d kinds in the newest: k8s.io/api has moved its testdata", len(all), len(all["HEAD"]))
	}
	return all
}

// object decodes one form with upstream's serializers.
func (g golden) object(t *testing.T) runtime.Object {
	t.Helper()
	obj, _, err := protoOf.Decode(g.before[asProtobuf], nil, g.kind.New())
	if err != nil {
		t.Fatalf("%s: %v", g.kind.Kind, err)
	}
	return obj
}

func encode(t *testing.T, with runtime.Encoder, obj runtime.Object) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := with.Encode(obj, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// asker sends requests as they are.
type asker struct {
	t    *testing.T
	host string
	by   http.RoundTripper
}

func (a asker) ask(method, path, contentType, accept string, body []byte) (int, []byte) {
	a.t.Helper()
	req := must(http.NewRequestWithContext(a.t.Context(), method, a.host+path, bytes.NewReader(body)))(a.t)
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", contentType)
	resp, err := a.by.RoundTrip(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, must(io.ReadAll(resp.Body))(a.t)
}

func folder(k *kinds.Kind, namespace string) string {
	path := "/apis/" + k.Group + "/" + k.Version
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.Namespaced {
		path += "/namespaces/" + namespace
	}
	return path + "/" + k.Resource
}

// What any of the last versions has put into etcd is served to the byte as
// upstream serves it; by upstream's own server too, where it was built.
func TestGoldenObjectsAreServedAsUpstreamServesThem(t *testing.T) {
	for version, all := range goldens(t) {
		t.Run(version, func(t *testing.T) {
			c := cluster.StartWith(t, cluster.Options{Bare: true})
			transport := c.Transport()
			t.Cleanup(transport.CloseIdleConnections)
			for _, g := range all {
				g.isServed(asker{t, cluster.Host, transport}, c.Store)
			}
		})
	}
	t.Run("upstream", func(t *testing.T) {
		peers.Need(t)
		c := peers.New(t)
		c.StartAPIServer(peers.Upstream)
		a, kept := asker{t, c.URL(), must(rest.TransportFor(c.Config("admin", "system:masters")))(t)}, c.Store()
		for _, g := range goldens(t)["HEAD"] {
			g.isServed(a, kept)
		}
	})
}

// isServed puts a golden object into a store, reads it from the server above, and takes it away again.
func (g golden) isServed(a asker, kept store.Store) {
	a.t.Helper()
	if g.kind.Virtual() {
		return
	}
	stored := g.before[asProtobuf]
	if g.kind.Hub != nil {
		hub := must(g.kind.ToHub(g.object(a.t)))(a.t)
		hub.GetObjectKind().SetGroupVersionKind(g.kind.Hub.GVK())
		stored = encode(a.t, protoOf, hub)
	}
	key := g.kind.Key("namespaceValue", "nameValue")
	revision := fmt.Sprint(must(kept.Create(a.t.Context(), key, stored, 0))(a.t))
	want, path := g.served(a.t, revision), folder(g.kind, "namespaceValue")
	for media := range want {
		if _, got := a.ask(http.MethodGet, path+"/nameValue?pretty=1", "", media, nil); !bytes.Equal(got, want[media]) {
			a.t.Errorf("%s %s as %s:\n%s", g.kind.GV(), g.kind.Kind, media, firstDifference(got, want[media]))
		}
	}
	// In a list the server puts an object's bytes together in another way.
	_, got := a.ask(http.MethodGet, path+"?fieldSelector=metadata.name%3DnameValue", "", asJSON, nil)
	var compact bytes.Buffer
	if err := json.Compact(&compact, want[asJSON]); err != nil {
		a.t.Fatal(err)
	}
	now := regexp.MustCompile(`"[0-9]+"`).Find(got) // of the list; others write as well
	typed := func(kind string) string { return fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind, g.kind.GV()) }
	list := typed(g.kind.Kind+"List") + fmt.Sprintf(`"metadata":{"resourceVersion":%s},"items":[{`, now) +
		strings.TrimPrefix(compact.String(), typed(g.kind.Kind)) + "]}\n"
	if string(got) != list {
		a.t.Errorf("%s %s in a list:\n%s", g.kind.GV(), g.kind.Kind, firstDifference(got, []byte(list)))
	}
	must(kept.Delete(a.t.Context(), key, 0))(a.t)
}

// served is a golden object as clients get it: upstream too changes some between its store and them.
func (g golden) served(t *testing.T, revision string) map[string][]byte {
	t.Helper()
	text := bytes.ReplaceAll(g.after[asJSON], []byte(`"serviceAccountValue"`), []byte(`"serviceAccountNameValue"`)) // two fields for one thing
	var compact bytes.Buffer                                                                                        // raw JSON inside an object stays as it is written
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	obj, _, err := jsonOf.Decode(compact.Bytes(), nil, g.kind.New())
	if err != nil {
		t.Fatalf("%s: %v", g.kind.Kind, err)
	}
	switch o := obj.(type) {
	case *corev1.Secret: // stringData is for writing
		o.Data["stringDataKey"], o.StringData = []byte(o.StringData["stringDataKey"]), nil
	case *corev1.Namespace:
		o.Labels[corev1.LabelMetadataName] = o.Name
	case *corev1.Node: // the older field is right
		o.Spec.PodCIDRs[0] = o.Spec.PodCIDR
	case *corev1.Pod: // as well; and who is limited asks for as much
		o.Status.PodIPs[0].IP = o.Status.PodIP
		for _, c := range append(o.Spec.Containers, o.Spec.InitContainers...) {
			c.Resources.Requests["limitsKey"] = c.Resources.Limits["limitsKey"]
		}
	case *autoscalingv1.HorizontalPodAutoscaler: // version 2, which is stored, knows more
		o.Annotations["autoscaling.alpha.kubernetes.io/current-metrics"] = `[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":5,"currentAverageValue":"0"}}]`
	case *appsv1.DaemonSet:
		o.Annotations[appsv1.DeprecatedTemplateGeneration] = "0"
	case *appsv1.StatefulSet:
		o.Spec.VolumeClaimTemplates[0].TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
	}
	must(meta.Accessor(obj))(t).SetResourceVersion(revision)
	return map[string][]byte{asJSON: encode(t, prettyOf, obj), asYAML: encode(t, yamlOf, obj), asProtobuf: encode(t, protoOf, obj)}
}

// What a client sends means the same in each of the three forms, whether it is
// accepted or not, and no field of it is unknown. What is accepted lies in the
// store as upstream would write it.
func TestGoldenBodiesMeanTheSameInEveryForm(t *testing.T) {
	c := cluster.StartWith(t, cluster.Options{Bare: true})
	transport := c.Transport()
	t.Cleanup(transport.CloseIdleConnections)
	a, accepted := asker{t, cluster.Host, transport}, 0
	for _, g := range goldens(t)["HEAD"] {
		if !g.kind.HasVerb("create") {
			continue
		}
		obj, path := g.object(t), folder(g.kind, "default")
		m := must(meta.Accessor(obj))(t)
		fresh := metav1.ObjectMeta{Name: "golden", Labels: m.GetLabels(), Annotations: m.GetAnnotations()}
		reflect.ValueOf(obj).Elem().FieldByName("ObjectMeta").Set(reflect.ValueOf(fresh))
		var first string
		for _, form := range []struct {
			media string
			with  runtime.Encoder
		}{{asJSON, jsonOf}, {asYAML, yamlOf}, {asProtobuf, protoOf}} {
			code, answer := a.ask(http.MethodPost, path+"?dryRun=All&fieldValidation=Strict", form.media, asJSON, encode(t, form.with, obj))
			if code != http.StatusCreated && code != http.StatusUnprocessableEntity {
				t.Errorf("%s %s as %s: %d %s", g.kind.GV(), g.kind.Kind, form.media, code, answer)
			}
			if got := timeless(t, answer); first == "" {
				first = got
			} else if got != first {
				t.Errorf("%s %s as %s:\n%s", g.kind.GV(), g.kind.Kind, form.media, firstDifference([]byte(got), []byte(first)))
			}
		}
		if g.kind.Virtual() || g.kind.Hub != nil {
			continue
		}
		if code, answer := a.ask(http.MethodPost, path, asProtobuf, asProtobuf, encode(t, protoOf, obj)); code == http.StatusCreated {
			accepted++
			g.isStored(a, c, answer)
		}
	}
	if accepted < 18 { // the others break a rule of theirs: their values are the names of fields
		t.Errorf("only %d kinds were accepted", accepted)
	}
}

// timeless is an answer without what differs between two runs.
func timeless(t *testing.T, answer []byte) string {
	t.Helper()
	var obj map[string]any
	if err := json.Unmarshal(answer, &obj); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	m, _ := obj["metadata"].(map[string]any)
	for _, field := range []string{"uid", "creationTimestamp", "managedFields"} {
		delete(m, field)
	}
	return string(must(json.Marshal(obj))(t))
}

// isStored compares what the server answered with what it wrote.
func (g golden) isStored(a asker, c *cluster.Cluster, answer []byte) {
	a.t.Helper()
	e := must(c.Store.Get(a.t.Context(), g.kind.Key("default", "golden")))(a.t)
	obj, _, err := protoOf.Decode(answer, nil, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	must(meta.Accessor(obj))(a.t).SetResourceVersion("")
	if want := encode(a.t, protoOf, obj); !bytes.Equal(e.Value, want) {
		a.t.Errorf("%s %s in the store:\n%s", g.kind.GV(), g.kind.Kind, firstDifference(e.Value, want))
	}
}

func firstDifference(got, want []byte) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	around := func(b []byte) string { return fmt.Sprintf("%q", b[max(0, i-80):min(len(b), i+80)]) }
	return fmt.Sprintf("from byte %d\n got %s\nwant %s", i, around(got), around(want))
}
