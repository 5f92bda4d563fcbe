// Package ipam gives pods their addresses. The whole state of the allocator is
// a folder that a person can list:
//
//	/var/lib/cni/networks/orrery/
//	├── 10.244.1.2             "3f9c…  eth0": container id and interface
//	├── 10.244.1.3
//	└── last_reserved_ip.0     where the search for the next one begins
//
// Invariants:
//
//   - An address is taken exactly as long as its file exists. The file is made
//     with O_EXCL, so two plugins that run at the same time cannot both get it,
//     and no lock is needed.
//   - Addresses are handed out round robin, so one that was just released is
//     not reused at once, while somebody may still talk to its former owner.
//   - Release is idempotent: what is not there is released.
//
// Read next: cni/plugin, which is its only user.
//
// Upstream: containernetworking/plugins, plugins/ipam/host-local/backend/disk, Store.
package ipam
