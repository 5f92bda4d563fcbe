package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// DefaultDir is the folder below which every network has a folder of its own.
const DefaultDir = "/var/lib/cni/networks"

const lastReserved = "last_reserved_ip.0"

// ErrFull says that no address of the range is left.
var ErrFull = errors.New("no IP addresses available")

// Store is the allocator of one network on one node. Any number of processes
// may use the same folder at once.
type Store struct {
	dir     string
	subnet  netip.Prefix
	gateway netip.Addr
}

// Open returns the store of the network name, which hands out the addresses of
// subnet and keeps them in dir/name; the folder is made if it is missing. The
// first address of the subnet is the gateway and is never handed out, nor are
// the network and broadcast addresses.
func Open(dir, name string, subnet netip.Prefix) (*Store, error) {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return nil, fmt.Errorf("subnet %q is not an IPv4 range of at least four addresses", subnet)
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	subnet = subnet.Masked()
	return &Store{dir: path, subnet: subnet, gateway: subnet.Addr().Next()}, nil
}

// Gateway is the address of the bridge: the first of the subnet.
func (s *Store) Gateway() netip.Addr { return s.gateway }

// Subnet is the range that the store hands out from.
func (s *Store) Subnet() netip.Prefix { return s.subnet }

// Reserve takes a free address for one interface of a container. It fails with
// ErrFull when none is left, and when that interface has an address already.
func (s *Store) Reserve(containerID, ifname string) (netip.Addr, error) {
	if addr, ok := s.Lookup(containerID, ifname); ok {
		return netip.Addr{}, fmt.Errorf("%s has been allocated to %s, duplicate allocation is not allowed", addr, containerID)
	}
	start := s.last()
	for addr := s.next(start); ; addr = s.next(addr) {
		ok, err := s.take(addr, containerID, ifname)
		if err != nil {
			return netip.Addr{}, err
		}
		if ok {
			// Only a hint for the next search: losing it costs nothing.
			_ = os.WriteFile(filepath.Join(s.dir, lastReserved), []byte(addr.String()), 0o600)
			return addr, nil
		}
		if addr == start {
			return netip.Addr{}, fmt.Errorf("%w in range set: %s", ErrFull, s.subnet)
		}
	}
}

// take makes the file of addr; false means that somebody else has it.
func (s *Store) take(addr netip.Addr, containerID, ifname string) (bool, error) {
	path := filepath.Join(s.dir, addr.String())
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(owner(containerID, ifname))
	if err := errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(err, os.Remove(path))
	}
	return true, nil
}

// Lookup finds the address of a container's interface.
func (s *Store) Lookup(containerID, ifname string) (netip.Addr, bool) {
	for addr, who := range s.all() {
		if who == owner(containerID, ifname) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// Release gives back the address of a container's interface, if it has one.
func (s *Store) Release(containerID, ifname string) error {
	return s.Keep(func(c, i string) bool { return c != containerID || i != ifname })
}

// Keep releases every address whose owner is not wanted any more. Files of a
// range that this node had earlier are released as well: the folder outlives
// the range.
func (s *Store) Keep(wanted func(containerID, ifname string) bool) error {
	var errs []error
	for addr, who := range s.all() {
		containerID, ifname, _ := strings.Cut(who, "\n")
		// A file without an owner is one that another plugin is about to fill.
		if who == "" || wanted(containerID, ifname) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, addr.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// all reads the folder: who owns what.
func (s *Store) all() map[netip.Addr]string {
	owners := map[netip.Addr]string{}
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			continue
		}
		owners[addr] = strings.ReplaceAll(strings.TrimSpace(string(data)), "\r", "")
	}
	return owners
}

// last is where the search begins; any address of the range will do.
func (s *Store) last() netip.Addr {
	data, _ := os.ReadFile(filepath.Join(s.dir, lastReserved))
	addr, err := netip.ParseAddr(strings.TrimSpace(string(data)))
	if err != nil || !s.usable(addr) {
		return s.before()
	}
	return addr
}

// before is the last usable address, so that the search begins at the first.
func (s *Store) before() netip.Addr {
	b := s.subnet.Addr().As4()
	for i := s.subnet.Bits(); i < 31; i++ { // all host bits but the lowest
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

func (s *Store) next(addr netip.Addr) netip.Addr {
	if n := addr.Next(); s.usable(n) {
		return n
	}
	return s.gateway.Next()
}

// usable leaves out network, gateway and broadcast.
func (s *Store) usable(addr netip.Addr) bool {
	return s.gateway.Less(addr) && !s.before().Less(addr)
}

// owner is what stands in an address's file.
func owner(containerID, ifname string) string { return containerID + "\n" + ifname }
