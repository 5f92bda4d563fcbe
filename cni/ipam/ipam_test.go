package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func open(t *testing.T, subnet string) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), "orrery", netip.MustParsePrefix(subnet))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheFirstAddressIsTheGatewayAndTheSecondTheFirstPods(t *testing.T) {
	s := open(t, "10.244.1.0/24")
	if got := s.Gateway().String(); got != "10.244.1.1" {
		t.Errorf("gateway %s, want 10.244.1.1", got)
	}
	for i, want := range []string{"10.244.1.2", "10.244.1.3"} {
		addr, err := s.Reserve(fmt.Sprint("c", i), "eth0")
		if err != nil || addr.String() != want {
			t.Fatalf("Reserve = %v, %v, want %s", addr, err, want)
		}
		data, err := os.ReadFile(filepath.Join(s.dir, want))
		if err != nil || string(data) != fmt.Sprintf("c%d\neth0", i) {
			t.Errorf("file %s holds %q, %v", want, data, err)
		}
	}
}

func TestAReleasedAddressIsNotReusedAtOnceAndAFullRangeSaysSo(t *testing.T) {
	s := open(t, "10.244.1.0/29") // .2 to .6
	for i := range 5 {
		if _, err := s.Reserve(fmt.Sprint("c", i), "eth0"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.Release("c0", "eth0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// .3 to .6 were taken after .2 was released; only now does its turn come again.
	addr, err := s.Reserve("again", "eth0")
	if err != nil || addr.String() != "10.244.1.2" {
		t.Fatalf("Reserve = %v, %v, want 10.244.1.2", addr, err)
	}
	if _, err := s.Reserve("more", "eth0"); !errors.Is(err, ErrFull) {
		t.Errorf("a full range gave %v, want ErrFull", err)
	}
}

func TestOneInterfaceNeverHoldsTwoAddresses(t *testing.T) {
	s := open(t, "10.244.1.0/24")
	if _, err := s.Reserve("c", "eth0"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Reserve("c", "eth0")
	want := "10.244.1.2 has been allocated to c, duplicate allocation is not allowed"
	if err == nil || err.Error() != want {
		t.Errorf("second Reserve: %v, want %q", err, want)
	}
}

func TestReleaseIsIdempotentAndKeepsTheOthers(t *testing.T) {
	s := open(t, "10.244.1.0/24")
	s.Reserve("a", "eth0")
	s.Reserve("b", "eth0")
	for range 2 {
		if err := s.Release("a", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.Lookup("a", "eth0"); ok {
		t.Error("a still has an address")
	}
	if _, ok := s.Lookup("b", "eth0"); !ok {
		t.Error("b lost its address")
	}
}

func TestManyAtOnceGetDifferentAddresses(t *testing.T) {
	s := open(t, "10.244.1.0/24")
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[netip.Addr]bool{}
	for i := range 100 {
		wg.Go(func() {
			addr, err := s.Reserve(fmt.Sprint("c", i), "eth0")
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[addr] {
				t.Errorf("Reserve = %v, %v; taken already: %v", addr, err, seen[addr])
			}
			seen[addr] = true
		})
	}
	wg.Wait()
}

func TestOnlyIPv4RangesWithRoomForAPod(t *testing.T) {
	for _, subnet := range []string{"10.0.0.0/31", "fd00::/64"} {
		if _, err := Open(t.TempDir(), "n", netip.MustParsePrefix(subnet)); err == nil {
			t.Errorf("%s was accepted", subnet)
		}
	}
}
