// Package kernel is the few calls by which the plugin and the daemon change the
// node: rules by running iptables and iptables-restore, as a person would, and
// kernel parameters by writing files. Links and routes need no help: their
// library is used where they are made.
//
//	Chain{nat, ORRERY-POSTRTG, rules} ──► iptables-restore --noflush   (all rules at once)
//	Jump{nat, POSTROUTING, rule}      ──► iptables -C, else -A         (only if missing)
//
// Invariants: a chain of ours is always replaced as a whole in one transaction,
// so a half-written one is never seen; a chain that is not ours gets one jump
// and keeps everything else. Repeating any call changes nothing.
//
// Read next: cni/daemon, and the port mappings in cni/plugin.
package kernel

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// Sysctl sets a kernel parameter of this network namespace, and does not write
// where /proc/sys is read-only and the value is right already.
func Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", key)
	if have, err := os.ReadFile(path); err == nil && string(have) == value+"\n" {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0o644)
}

// IPNet is a prefix as the netlink library wants it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
