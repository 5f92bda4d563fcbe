// Package images makes Orrery's component images: one static program each on an empty file system, written as
// docker archives without any image builder, the same bytes for the same programs.
//
//	bin/kube-apiserver ──┐
//	bin/kube-proxy ──────┤   Write    kube-apiserver.tar ─┐
//	iptables' files ─────┤ ─────────▶ kube-proxy.tar ─────┼─▶ node image ─▶ containerd of each node
//	...                  ┘            ...                 ┘
//
// An archive holds what `docker load` and `ctr images import` read: manifest.json, a configuration, and one tar
// per layer. Programs that write packet-filter rules (kube-proxy, the CNI daemon) stand on a second layer that
// holds iptables and nothing else.
//
// Invariants: an archive depends on nothing but its programs, so an unchanged component is never loaded anew.
//
// Read next: archive.go for the format, then lab/image.go, which bakes the archives into the node image.
package images
