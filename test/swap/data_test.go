package swap

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"orrery/test/peers"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// objects are those of testdata/objects.yaml.
func objects(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []*unstructured.Unstructured
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		var obj unstructured.Unstructured
		if err := yaml.Unmarshal(doc, &obj.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		all = append(all, &obj)
	}
	return all
}

// reader reads and writes objects of any kind on one cluster.
type reader struct {
	t       *testing.T
	dynamic *dynamic.DynamicClient
	disco   *discovery.DiscoveryClient
}

func newReader(t *testing.T, c *peers.Cluster) *reader {
	t.Helper()
	cfg := c.Config("admin", "system:masters")
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &reader{t: t, dynamic: client, disco: discovery.NewDiscoveryClientForConfigOrDie(cfg)}
}

// create posts the objects and returns what the server made of each. What it refuses is told.
func (r *reader) create(ctx context.Context, objs []*unstructured.Unstructured) map[string]map[string]any {
	r.t.Helper()
	groups, err := restmapper.GetAPIGroupResources(r.disco)
	if err != nil {
		r.t.Fatal(err)
	}
	mapper, made := restmapper.NewDiscoveryRESTMapper(groups), map[string]map[string]any{}
	for _, obj := range objs {
		gvk := obj.GroupVersionKind()
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			r.t.Errorf("%s: %v", gvk.Kind, err)
			continue
		}
		got, err := r.dynamic.Resource(mapping.Resource).Namespace(obj.GetNamespace()).Create(ctx, obj, metav1.CreateOptions{})
		if err != nil {
			r.t.Errorf("%s %s: %v", gvk.Kind, obj.GetName(), err)
			continue
		}
		made[gvk.Kind+"."+gvk.Version+" "+obj.GetName()] = got.Object
	}
	return made
}

// all reads every object that can be listed.
func (r *reader) all(ctx context.Context) map[string]map[string]any {
	r.t.Helper()
	lists, err := r.disco.ServerPreferredResources()
	if err != nil {
		r.t.Fatal(err)
	}
	found := map[string]map[string]any{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, res := range list.APIResources {
			items, err := r.dynamic.Resource(gv.WithResource(res.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				r.t.Errorf("listing %s: %v", res.Name, err)
				continue
			}
			for _, obj := range items.Items {
				found[gv.WithResource(res.Name).GroupResource().String()+" "+obj.GetNamespace()+"/"+obj.GetName()] = obj.Object
			}
		}
	}
	return found
}

// What a manifest becomes (defaults, conversions, what is filled in and who owns which
// field) must be the same on both servers: otherwise kubectl diff shows it.
func TestBothServersMakeTheSameOfAManifest(t *testing.T) {
	peers.Need(t)
	made := map[peers.Side]map[string]map[string]any{}
	for _, side := range []peers.Side{peers.Ours, peers.Upstream} {
		c := peers.New(t)
		part := c.StartAPIServer(side)
		made[side] = newReader(t, c).create(t.Context(), objects(t))
		part.Stop()
	}
	for _, name := range slices.Sorted(maps.Keys(made[peers.Upstream])) {
		ours, theirs := made[peers.Ours][name], made[peers.Upstream][name]
		for _, obj := range []map[string]any{ours, theirs} {
			forgetWhen(obj)
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("%s (- upstream, + ours):\n%s", name, diff)
		}
	}
}

// forgetWhen removes what differs between any two runs.
func forgetWhen(obj map[string]any) {
	m, _ := obj["metadata"].(map[string]any)
	uid, _ := m["uid"].(string) // a job's labels and selector have it too
	for _, f := range []string{"uid", "resourceVersion", "creationTimestamp"} {
		delete(m, f)
	}
	managers, _ := m["managedFields"].([]any)
	for _, e := range managers {
		delete(e.(map[string]any), "time")
	}
	forgetIn(obj, uid)
}

func forgetIn(v any, uid string) {
	switch v := v.(type) {
	case map[string]any:
		for key, sub := range v {
			// The projected token volume has five random letters in its name.
			if s, ok := sub.(string); ok && key == "name" && strings.HasPrefix(s, "kube-api-access-") {
				v[key] = "kube-api-access-"
			}
			if strings.HasSuffix(key, "ransitionTime") {
				v[key] = "now"
			}
			if sub == uid && uid != "" {
				v[key] = "its uid"
			}
			if strings.HasPrefix(key, `k:{"name":"kube-api-access-`) {
				delete(v, key)
				continue
			}
			forgetIn(sub, uid)
		}
	case []any:
		for _, sub := range v {
			forgetIn(sub, uid)
		}
	}
}

// A data directory may go from one server to the other and back, after a cluster has lived on it.
func TestTheOtherServerOpensTheSameData(t *testing.T) {
	peers.Need(t)
	for _, first := range []peers.Side{peers.Ours, peers.Upstream} {
		second := peers.Upstream
		if first == peers.Upstream {
			second = peers.Ours
		}
		t.Run(string(first)+" first, then "+string(second), func(t *testing.T) {
			ctx, c := t.Context(), peers.New(t)
			server := c.StartAPIServer(first)
			r := newReader(t, c)
			r.create(ctx, objects(t)) // before a controller makes one of them
			manager, scheduler := c.StartControllerManager(first), c.StartScheduler(first)
			c.StartNodes(2)
			w := newWorld(t, c, "lived", first)
			w.deployment("web", 2)
			w.complete("web", 2)
			scheduler.Stop()
			manager.Stop()
			before := r.all(ctx)
			if len(before) < 200 {
				t.Errorf("only %d objects were read", len(before))
			}
			server.Stop()

			server = c.StartAPIServer(second)
			compare(t, before, newReader(t, c).all(ctx))
			stillAllocated(t, c)
			server.Stop()

			c.StartAPIServer(first)
			compare(t, before, newReader(t, c).all(ctx))
		})
	}
}

// keptByServers are objects that a server writes itself when it starts, or nodes renew.
var keptByServers = map[string]string{
	"leases.coordination.k8s.io kube-node-lease/":        "nodes renew them",
	"leases.coordination.k8s.io kube-system/apis":        "each upstream server's identity",
	"endpoints default/kubernetes":                       "the servers that run",
	"endpointslices.discovery.k8s.io default/kubernetes": "the servers that run",
	"flowschemas.flowcontrol.apiserver.k8s.io ":          "upstream's flow control writes conditions",
}

func compare(t *testing.T, before, after map[string]map[string]any) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if slices.ContainsFunc(slices.Collect(maps.Keys(keptByServers)), func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		if diff := cmp.Diff(before[name], after[name]); diff != "" {
			t.Errorf("%s (- before, + after):\n%s", name, diff)
		}
	}
}

// What is taken stays taken: the allocators know the addresses and ports that the other server gave.
func stillAllocated(t *testing.T, c *peers.Cluster) {
	t.Helper()
	services := c.Admin().CoreV1().Services("lived")
	for field, spec := range map[string]corev1.ServiceSpec{
		"failed to allocate IP 10.96.7.7: provided IP is already allocated": {ClusterIP: "10.96.7.7", Ports: []corev1.ServicePort{{Port: 80}}},
		"provided port is already allocated":                                {Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30777}}},
	} {
		_, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "again"}, Spec: spec}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(fmt.Sprint(err), field) {
			t.Errorf("%v, want %q in it", err, field)
		}
	}
	fresh, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil || fresh.Spec.ClusterIP == "" || fresh.Spec.Ports[0].NodePort == 0 {
		t.Errorf("a fresh service: %v %+v", err, fresh)
	}
}
