package alloc

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"
	"orrery/apiserver/store"
	"orrery/apiserver/store/memory"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var services = schema.GroupResource{Resource: "services"}

// server is what an API server has of this: a registry over a store that others may have too.
type server struct {
	*Services
	t       *testing.T
	row     *kinds.Kind
	objects *registry.Registry
	store   store.Store
}

func start(t *testing.T, cidr string, st store.Store) *server {
	t.Helper()
	table := kinds.NewTable()
	reg := registry.New(table, st, slog.New(slog.DiscardHandler))
	t.Cleanup(reg.Close)
	s, err := New(Config{ServiceCIDR: netip.MustParsePrefix(cidr)}, reg, st, table)
	if err != nil {
		t.Fatal(err)
	}
	return &server{s, t, table.Lookup("", "v1", "services"), reg, st}
}

func alone(t *testing.T, cidr string) *server { return start(t, cidr, memory.New()) }

// create stores a service as a client would.
func (s *server) create(svc *corev1.Service) (*corev1.Service, error) {
	obj, err := s.objects.Create(s.t.Context(), services, svc)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

// recorded are the addresses in use.
func (s *server) recorded() (names []string) {
	s.t.Helper()
	l, err := s.store.List(s.t.Context(), "/registry/ipaddresses/", store.ListOptions{KeysOnly: true})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range l.Entries {
		names = append(names, strings.TrimPrefix(e.Key, "/registry/ipaddresses/"))
	}
	return names
}

// recordedPorts are the node ports in use.
func (s *server) recordedPorts() (ports []int32) {
	s.t.Helper()
	err := s.ports.swap(s.t.Context(), true, func(u *used) error {
		for n := u.first; n <= u.last; n++ {
			if u.has(int32(n)) {
				ports = append(ports, int32(n))
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return ports
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
func (s *server) write(svc, old *corev1.Service) error {
	s.t.Helper()
	var before runtime.Object
	if old != nil {
		before = old
	}
	done, err := s.row.Begin(s.t.Context(), svc, before, false)
	if err == nil {
		done(true)
	}
	return err
}

func TestAddressesComeFromTheUpperPartFirst(t *testing.T) {
	s := alone(t, "10.96.0.0/24")
	for range 100 {
		svc := service("s", corev1.ServiceSpec{})
		if err := s.write(svc, nil); err != nil {
			t.Fatal(err)
		}
		if ip := netip.MustParseAddr(svc.Spec.ClusterIP).As4(); ip[3] < 16 {
			t.Fatalf("%v was chosen although higher addresses are free", svc.Spec.ClusterIP)
		}
	}
}

func TestEveryAddressIsGivenOnceAndThenNone(t *testing.T) {
	s, seen := alone(t, "10.96.0.0/24"), map[string]bool{}
	for range 254 {
		svc := service("s", corev1.ServiceSpec{})
		if err := s.write(svc, nil); err != nil {
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
	err := s.write(service("one-more", corev1.ServiceSpec{}), nil)
	if err == nil || !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full") {
		t.Errorf("got %v", err)
	}
}

func TestServersOnOneStoreGiveNothingTwice(t *testing.T) {
	st := memory.New()
	const each, all = 50, 100
	servers := []*server{start(t, "10.96.0.0/25", st), start(t, "10.96.0.0/25", st)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	ips, ports := map[string]int{}, map[int32]int{}
	for i, s := range servers {
		for j := range each {
			wg.Go(func() {
				svc, err := s.create(service(fmt.Sprintf("s-%d-%d", i, j), corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ips[svc.Spec.ClusterIP]++
				ports[svc.Spec.Ports[0].NodePort]++
			})
		}
	}
	wg.Wait()
	if len(ips) != all || len(ports) != all {
		t.Errorf("%d services got %d addresses and %d ports", all, len(ips), len(ports))
	}
	if r, p := servers[0].recorded(), servers[0].recordedPorts(); len(r) != all || len(p) != all {
		t.Errorf("%d addresses and %d ports are recorded", len(r), len(p))
	}
	// What one has given the other refuses, and takes back.
	taken, err := servers[0].create(service("taken", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30000}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []corev1.ServiceSpec{
		{ClusterIP: "10.96.0.1"},
		{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30000}}},
	} {
		if _, err := servers[1].create(service("clash", spec)); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("%+v: got %v", spec, err)
		}
	}
	if err := servers[1].objects.Delete(t.Context(), services, taken.Namespace, taken.Name); err != nil {
		t.Fatal(err)
	}
	if err := servers[0].write(taken.DeepCopy(), nil); err != nil {
		t.Errorf("after its deletion by the other server: %v", err)
	}
}

func TestServicesOlderThanTheRecordsKeepTheirs(t *testing.T) {
	st := memory.New()
	stored, err := start(t, "10.96.0.0/24", st).create(service("old", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30007}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/registry/ipaddresses/10.96.0.7", portsKey} {
		if _, err := st.Delete(t.Context(), key, 0); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, "10.96.0.0/24", st)
	for _, spec := range []corev1.ServiceSpec{
		{ClusterIP: "10.96.0.7"},
		{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30007}}},
	} {
		if err := s.write(service("new", spec), nil); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("%+v: got %v", spec, err)
		}
	}
	if got := s.recorded(); !slices.Equal(got, []string{"10.96.0.7"}) {
		t.Errorf("the records say %v", got)
	}
	if err := s.objects.Delete(t.Context(), services, stored.Namespace, stored.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.write(service("new", corev1.ServiceSpec{ClusterIP: "10.96.0.7"}), nil); err != nil {
		t.Errorf("after the old one was deleted: %v", err)
	}
}

func TestWhatADeadServerTookIsGivenBackAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		dead, s := start(t, "10.96.0.0/24", st), start(t, "10.96.0.0/24", st)
		spec := corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30009}}}
		if _, err := dead.row.Begin(t.Context(), service("s", spec), nil, false); err != nil {
			t.Fatal(err)
		}
		// It never says what became of the write.
		var ips, ports []int
		for range portGrace {
			if err := s.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			ips, ports = append(ips, len(s.recorded())), append(ports, len(s.recordedPorts()))
			time.Sleep(RepairInterval)
		}
		if !slices.Equal(ips, []int{1, 0, 0}) || !slices.Equal(ports, []int{1, 1, 0}) {
			t.Errorf("after each repair %v addresses and %v ports were in use", ips, ports)
		}
		s.objects.Close()
		dead.objects.Close()
	})
}

func TestAFailedOrDryWriteGivesEverythingBack(t *testing.T) {
	s := alone(t, "10.96.0.0/24")
	spec := corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30009}}}
	for _, dryRun := range []bool{false, true} {
		done, err := s.row.Begin(t.Context(), service("s", spec), nil, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		done(false)
	}
	// The second port is taken, so the first one and the address must come back.
	if err := s.write(service("taker", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1, NodePort: 30100}}}), nil); err != nil {
		t.Fatal(err)
	}
	clash := spec
	clash.Ports = append(slices.Clone(spec.Ports), corev1.ServicePort{Port: 81, NodePort: 30100})
	if err := s.write(service("clash", clash), nil); !apierrors.IsInvalid(err) {
		t.Fatalf("got %v", err)
	}
	if err := s.write(service("s", spec), nil); err != nil {
		t.Fatal(err)
	}
	if got := s.recorded(); len(got) != 2 || !slices.Contains(got, "10.96.0.9") {
		t.Errorf("recorded addresses %v", got)
	}
	if got := s.recordedPorts(); !slices.Equal(got, []int32{30009, 30100}) {
		t.Errorf("recorded ports %v", got)
	}
	if _, err := s.row.Begin(t.Context(), service("dry", corev1.ServiceSpec{ClusterIP: "10.96.0.9"}), nil, true); !apierrors.IsInvalid(err) {
		t.Errorf("a dry run of what is taken: %v", err)
	}
}

func TestChangingTheTypeTakesAndGives(t *testing.T) {
	s := alone(t, "10.96.0.0/24")
	plain := service("s", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}, {Port: 53, Protocol: corev1.ProtocolTCP}}})
	if err := s.write(plain, nil); err != nil {
		t.Fatal(err)
	}
	open := plain.DeepCopy()
	open.Spec.Type = corev1.ServiceTypeNodePort
	if err := s.write(open, plain); err != nil {
		t.Fatal(err)
	}
	if open.Spec.ClusterIP != plain.Spec.ClusterIP {
		t.Errorf("the address changed from %s to %s", plain.Spec.ClusterIP, open.Spec.ClusterIP)
	}
	if p := open.Spec.Ports; p[0].NodePort == 0 || p[0].NodePort != p[1].NodePort {
		t.Errorf("one port over two protocols got node ports %d and %d", p[0].NodePort, p[1].NodePort)
	}
	name := service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"})
	if err := s.write(name, open); err != nil {
		t.Fatal(err)
	}
	if ips, ports := s.recorded(), s.recordedPorts(); len(ips)+len(ports) != 0 {
		t.Errorf("addresses %v and ports %v are still recorded", ips, ports)
	}
}

func TestAHeadlessServiceGetsNoAddress(t *testing.T) {
	s := alone(t, "10.96.0.0/24")
	svc := service("s", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"a": "b"}})
	if err := s.write(svc, nil); err != nil || svc.Spec.ClusterIP != "None" || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("%v, %+v", err, svc.Spec)
	}
}

// The value is the one that a v1.36.3 cluster without node ports has; see proto of RangeAllocation.
func TestTheRecordOfPortsIsUpstreams(t *testing.T) {
	s := alone(t, "10.96.0.0/24")
	if err := s.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := s.store.Get(t.Context(), portsKey)
	want := "k8s\x00\n\x15\n\x02v1\x12\x0fRangeAllocation\x12!\n\x10\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\v30000-32767\x1a\x00\x1a\x00\"\x00"
	if err != nil || string(e.Value) != want {
		t.Errorf("%q, %v", e.Value, err)
	}
	if err := s.write(service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30009}}}), nil); err != nil {
		t.Fatal(err)
	}
	if e, _ = s.store.Get(t.Context(), portsKey); !strings.Contains(string(e.Value), "\x1a\x02\x02\x00") { // bit 9 of a big-endian number
		t.Errorf("%q", e.Value)
	}
}
