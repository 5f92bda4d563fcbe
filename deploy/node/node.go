// Package node is the node image's definition: two Dockerfiles and the files of a node below etc/, carried in the
// program that builds the image (lab/image.go).
//
//	debian:trixie-slim, or debootstrap's       Dockerfile.base: packages    slow, rebuilt when it changes
//	  └─ orrery/node-base:HASH
//	       └─ orrery/node:HASH                 Dockerfile: our programs     seconds
//
// What happens in a node from its start: etc/usr/local/bin/entrypoint makes the container a machine, systemd boots
// it, containerd starts, orrery-images.service imports the component images (once), kubelet.service starts and
// fails until kubeadm has written its files.
//
// Invariants: nothing needs --privileged, BuildKit or a registry; cgroup v1 and v2 both work.
//
// Read next: Dockerfile.base, etc/usr/local/bin/entrypoint.
package node

import "embed"

// Files are the Dockerfiles and, below etc/, the files of a node from its root.
//
//go:embed Dockerfile Dockerfile.base all:etc
var Files embed.FS
