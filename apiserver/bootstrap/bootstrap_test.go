package bootstrap

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var clusterRoles = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}

// cluster is an empty store with a registry, and room for API servers that bootstrap it.
type cluster struct {
	t       *testing.T
	store   *memory.Store
	objects *registry.Registry
}

// inCluster runs test in a bubble in which time stands still while anything is busy.
func inCluster(t *testing.T, test func(c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		reg := registry.New(kinds.NewTable(), st, slog.New(slog.DiscardHandler))
		test(&cluster{t, st, reg})
		reg.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
}

// server starts the bootstrapping of one API server; stop ends it and waits.
func (c *cluster) server(address string) (stop func()) {
	c.t.Helper()
	b := New(Config{
		Objects: c.objects, Store: c.store, Log: slog.New(slog.DiscardHandler),
		AdvertiseAddress: netip.MustParseAddr(address), Port: 6443, ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
		Authentication: Authentication{ClientCA: []byte("CA"), RequestHeaderCA: []byte("RCA"), AllowedNames: []string{"front-proxy-client"}},
	})
	ctx, cancel := context.WithCancel(c.t.Context())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	synctest.Wait()
	for _, step := range b.Steps() {
		if !b.Done(step) {
			c.t.Fatalf("step %s is not done", step)
		}
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("bootstrap ended with %v", err)
		}
	}
}

func get[T runtime.Object](c *cluster, resource schema.GroupResource, namespace, name string) T {
	c.t.Helper()
	obj, err := c.objects.Get(c.t.Context(), resource, namespace, name)
	if err != nil {
		c.t.Fatal(err)
	}
	return obj.(T)
}

func (c *cluster) endpoints() []string {
	c.t.Helper()
	var ips []string
	for _, subset := range get[*corev1.Endpoints](c, endpoints, "default", "kubernetes").Subsets {
		for _, address := range subset.Addresses {
			ips = append(ips, address.IP)
		}
	}
	slice := get[*discoveryv1.EndpointSlice](c, endpointSlices, "default", "kubernetes")
	if len(slice.Endpoints) != len(ips) {
		c.t.Errorf("the slice has %d endpoints, the Endpoints %d", len(slice.Endpoints), len(ips))
	}
	return ips
}

func TestANewClusterHasWhatEveryClusterHas(t *testing.T) {
	inCluster(t, func(c *cluster) {
		defer c.server("172.30.0.2")()
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
			if ns := get[*corev1.Namespace](c, namespaces, "", name); ns.Labels["kubernetes.io/metadata.name"] != name {
				t.Errorf("namespace %s has labels %v", name, ns.Labels)
			}
		}
		service := get[*corev1.Service](c, services, "default", "kubernetes")
		if service.Spec.ClusterIP != "10.96.0.1" || service.Spec.Ports[0].TargetPort.IntVal != 6443 {
			t.Errorf("service kubernetes: %v", service.Spec)
		}
		if ips := c.endpoints(); len(ips) != 1 || ips[0] != "172.30.0.2" {
			t.Errorf("endpoints: %v", ips)
		}
		auth := get[*corev1.ConfigMap](c, configMaps, "kube-system", "extension-apiserver-authentication")
		if auth.Data["client-ca-file"] != "CA" || auth.Data["requestheader-allowed-names"] != `["front-proxy-client"]` {
			t.Errorf("authentication: %v", auth.Data)
		}
		counts := map[string]int{}
		for _, resource := range []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"} {
			list, err := c.objects.List(t.Context(), schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			counts[resource] = len(list)
		}
		// As many as a kube-apiserver v1.36.3 makes.
		if counts["clusterroles"] != 69 || counts["clusterrolebindings"] != 50 || counts["roles"] != 7 || counts["rolebindings"] != 7 {
			t.Errorf("roles and bindings: %v", counts)
		}
	})
}

func TestADeletedNamespaceComesBackWithinAMinute(t *testing.T) {
	inCluster(t, func(c *cluster) {
		defer c.server("172.30.0.2")()
		key := kinds.NewTable().Stored(namespaces).Key("", "kube-public")
		if _, err := c.store.Delete(t.Context(), key, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Second)
		synctest.Wait()
		get[*corev1.Namespace](c, namespaces, "", "kube-public")
	})
}

func TestTheServiceLeadsToAllLivingServers(t *testing.T) {
	inCluster(t, func(c *cluster) {
		stop := c.server("172.30.0.2")
		stopOther := c.server("172.30.0.3")
		if ips := c.endpoints(); len(ips) != 2 {
			t.Fatalf("endpoints with two servers: %v", ips)
		}
		stopOther()
		if ips := c.endpoints(); len(ips) != 1 || ips[0] != "172.30.0.2" {
			t.Errorf("endpoints after one server said goodbye: %v", ips)
		}
		stop()
		if ips := c.endpoints(); len(ips) != 1 {
			t.Errorf("the last server erased the endpoints: %v", ips)
		}
	})
}

func TestAServerThatDiesLosesItsLeaseAfter15Seconds(t *testing.T) {
	inCluster(t, func(c *cluster) {
		if _, err := c.store.Create(t.Context(), leasePrefix+"172.30.0.9", []byte("x"), leaseTTL); err != nil {
			t.Fatal(err)
		}
		defer c.server("172.30.0.2")()
		if ips := c.endpoints(); len(ips) != 2 {
			t.Fatalf("endpoints: %v", ips)
		}
		// The lease ends at 15 s; the next look at the leases is at 20 s.
		time.Sleep(19 * time.Second)
		synctest.Wait()
		if ips := c.endpoints(); len(ips) != 2 {
			t.Errorf("endpoints after 19 s: %v", ips)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if ips := c.endpoints(); len(ips) != 1 {
			t.Errorf("endpoints after 20 s: %v", ips)
		}
	})
}

func TestARestartCompletesRolesAndKeepsAdditions(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.server("172.30.0.2")()
		mine := rbacv1.PolicyRule{APIGroups: []string{"example.com"}, Resources: []string{"widgets"}, Verbs: []string{"get"}}
		var want int
		_, err := c.objects.Update(t.Context(), clusterRoles, "", "system:kube-scheduler", "", func(obj runtime.Object) error {
			role := obj.(*rbacv1.ClusterRole)
			want = len(role.Rules)
			role.Rules = append(role.Rules[1:], mine)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.objects.Update(t.Context(), clusterRoles, "", "system:node-proxier", "", func(obj runtime.Object) error {
			role := obj.(*rbacv1.ClusterRole)
			role.Rules = nil
			role.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.server("172.30.0.2")()
		if rules := get[*rbacv1.ClusterRole](c, clusterRoles, "", "system:kube-scheduler").Rules; len(rules) < want+1 {
			t.Errorf("%d rules, want the %d built-in ones and the added one", len(rules), want)
		}
		if rules := get[*rbacv1.ClusterRole](c, clusterRoles, "", "system:node-proxier").Rules; len(rules) != 0 {
			t.Errorf("autoupdate=false was not respected: %v", rules)
		}
	})
}

func TestARestartChangesNothingInAHealthyCluster(t *testing.T) {
	inCluster(t, func(c *cluster) {
		c.server("172.30.0.2")()
		role := get[*rbacv1.ClusterRole](c, clusterRoles, "", "admin").ResourceVersion
		slice := get[*discoveryv1.EndpointSlice](c, endpointSlices, "default", "kubernetes").ResourceVersion
		c.server("172.30.0.2")()
		if get[*rbacv1.ClusterRole](c, clusterRoles, "", "admin").ResourceVersion != role ||
			get[*discoveryv1.EndpointSlice](c, endpointSlices, "default", "kubernetes").ResourceVersion != slice {
			t.Error("objects were written again")
		}
	})
}

func TestAdminHoldsWhatEditHoldsAndEditWhatViewHolds(t *testing.T) {
	list, err := loadRBAC()
	if err != nil {
		t.Fatal(err)
	}
	size := map[string]int{}
	for _, obj := range list {
		if role, ok := obj.(*rbacv1.ClusterRole); ok {
			size[role.Name] = len(role.Rules)
			if role.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" || role.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
				t.Errorf("%s: %v", role.Name, role.ObjectMeta)
			}
		}
	}
	if !(size["view"] > 5 && size["edit"] > size["view"] && size["admin"] > size["edit"]) {
		t.Errorf("rules: %v", size)
	}
}
