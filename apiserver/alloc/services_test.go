package alloc

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shelf is a place for objects that holds what it is told to.
type shelf struct {
	objects.Client
	services  []runtime.Object
	addresses []string
}

func (s *shelf) List(_ context.Context, gr schema.GroupResource, _ string, _ labels.Selector) ([]runtime.Object, error) {
	if gr.Resource == "services" {
		return s.services, nil
	}
	var records []runtime.Object
	for _, name := range s.addresses {
		records = append(records, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return records, nil
}

func (s *shelf) Create(_ context.Context, _ schema.GroupResource, o runtime.Object) (runtime.Object, error) {
	s.addresses = append(s.addresses, o.(metav1.Object).GetName())
	return o, nil
}

func (s *shelf) Delete(_ context.Context, _ schema.GroupResource, _, name string) error {
	s.addresses = slices.DeleteFunc(s.addresses, func(a string) bool { return a == name })
	return nil
}

// allocator gives the hooks of a Service row over a range.
func allocator(t *testing.T, cidr string, s *shelf) *kinds.Kind {
	t.Helper()
	table := kinds.NewTable()
	if _, err := New(Config{ServiceCIDR: netip.MustParsePrefix(cidr)}, s, table); err != nil {
		t.Fatal(err)
	}
	return table.Lookup("", "v1", "services")
}

func service(name string, spec corev1.ServiceSpec) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: spec}
	if svc.Spec.Type == "" {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if svc.Spec.ClusterIP != "" {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	return svc
}

// write allocates for a service and says that the write succeeded.
func write(t *testing.T, row *kinds.Kind, svc, old *corev1.Service) error {
	t.Helper()
	var before runtime.Object
	if old != nil {
		before = old
	}
	done, err := row.Begin(t.Context(), svc, before, false)
	if err == nil {
		done(true)
	}
	return err
}

func TestAddressesComeFromTheUpperPartFirst(t *testing.T) {
	row := allocator(t, "10.96.0.0/24", &shelf{})
	for range 100 {
		svc := service("s", corev1.ServiceSpec{})
		if err := write(t, row, svc, nil); err != nil {
			t.Fatal(err)
		}
		if ip := netip.MustParseAddr(svc.Spec.ClusterIP).As4(); ip[3] < 16 {
			t.Fatalf("%v was chosen although higher addresses are free", svc.Spec.ClusterIP)
		}
	}
}

func TestEveryAddressIsGivenOnceAndThenNone(t *testing.T) {
	row, seen := allocator(t, "10.96.0.0/24", &shelf{}), map[string]bool{}
	for range 254 {
		svc := service("s", corev1.ServiceSpec{})
		if err := write(t, row, svc, nil); err != nil {
			t.Fatal(err)
		}
		if seen[svc.Spec.ClusterIP] {
			t.Fatalf("%s twice", svc.Spec.ClusterIP)
		}
		seen[svc.Spec.ClusterIP] = true
	}
	if seen["10.96.0.0"] || seen["10.96.0.255"] {
		t.Error("the network's or the broadcast address was given")
	}
	err := write(t, row, service("one-more", corev1.ServiceSpec{}), nil)
	if err == nil || !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full") {
		t.Errorf("got %v", err)
	}
}

func TestAfterARestartStoredServicesKeepTheirs(t *testing.T) {
	stored := service("old", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30007}}})
	s := &shelf{services: []runtime.Object{stored}, addresses: []string{"10.96.0.8"}}
	row := allocator(t, "10.96.0.0/24", s)
	for _, spec := range []corev1.ServiceSpec{
		{ClusterIP: "10.96.0.7"},
		{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30007}}},
	} {
		if err := write(t, row, service("new", spec), nil); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("%+v: got %v", spec, err)
		}
	}
	if !slices.Equal(s.addresses, []string{"10.96.0.7"}) {
		t.Errorf("the records say %v; 10.96.0.8 belongs to nobody", s.addresses)
	}
	row.AfterDelete(t.Context(), stored)
	if err := write(t, row, service("new", corev1.ServiceSpec{ClusterIP: "10.96.0.7"}), nil); err != nil {
		t.Errorf("after the old one was deleted: %v", err)
	}
}

func TestAFailedOrDryWriteGivesEverythingBack(t *testing.T) {
	s := &shelf{}
	row := allocator(t, "10.96.0.0/24", s)
	spec := corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30009}}}
	for _, fate := range []struct{ dryRun, written bool }{{false, false}, {true, true}} {
		done, err := row.Begin(t.Context(), service("s", spec), nil, fate.dryRun)
		if err != nil {
			t.Fatal(err)
		}
		done(fate.written)
	}
	// The second port is taken, so the first one and the address must come back.
	if err := write(t, row, service("taker", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1, NodePort: 30100}}}), nil); err != nil {
		t.Fatal(err)
	}
	clash := spec
	clash.Ports = append(slices.Clone(spec.Ports), corev1.ServicePort{Port: 81, NodePort: 30100})
	if err := write(t, row, service("clash", clash), nil); !apierrors.IsInvalid(err) {
		t.Fatalf("got %v", err)
	}
	if err := write(t, row, service("s", spec), nil); err != nil {
		t.Fatal(err)
	}
	if len(s.addresses) != 2 || !slices.Contains(s.addresses, "10.96.0.9") {
		t.Errorf("recorded addresses %v", s.addresses)
	}
}

func TestChangingTheTypeTakesAndGives(t *testing.T) {
	s := &shelf{}
	row := allocator(t, "10.96.0.0/24", s)
	plain := service("s", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}, {Port: 53, Protocol: corev1.ProtocolTCP}}})
	if err := write(t, row, plain, nil); err != nil {
		t.Fatal(err)
	}
	open := plain.DeepCopy()
	open.Spec.Type = corev1.ServiceTypeNodePort
	if err := write(t, row, open, plain); err != nil {
		t.Fatal(err)
	}
	if open.Spec.ClusterIP != plain.Spec.ClusterIP {
		t.Errorf("the address changed from %s to %s", plain.Spec.ClusterIP, open.Spec.ClusterIP)
	}
	if p := open.Spec.Ports; p[0].NodePort == 0 || p[0].NodePort != p[1].NodePort {
		t.Errorf("one port over two protocols got node ports %d and %d", p[0].NodePort, p[1].NodePort)
	}
	name := service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"})
	if err := write(t, row, name, open); err != nil {
		t.Fatal(err)
	}
	if len(s.addresses) != 0 {
		t.Errorf("addresses %v are still recorded", s.addresses)
	}
	again := service("t", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: plain.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 1, NodePort: open.Spec.Ports[0].NodePort}}})
	if err := write(t, row, again, nil); err != nil {
		t.Errorf("what was given up is not free: %v", err)
	}
}

func TestAHeadlessServiceGetsNoAddress(t *testing.T) {
	row := allocator(t, "10.96.0.0/24", &shelf{})
	svc := service("s", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"a": "b"}})
	if err := write(t, row, svc, nil); err != nil || svc.Spec.ClusterIP != "None" || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("%v, %+v", err, svc.Spec)
	}
}
