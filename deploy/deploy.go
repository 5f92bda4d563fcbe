// Package deploy holds what is put into a cluster and what a cluster's nodes are made of.
//
//	deploy/
//	├── cni.yaml      the network plugin, applied like any vendor's manifest
//	├── ingress.yaml  the ingress controller, likewise
//	├── metrics-server.yaml, metrics-server/  the real one, and the Go module that it is built from
//	├── demo/         the course's application, program and manifest
//	├── images/       the component images, made without an image builder
//	├── node/         the node image: Debian, systemd, containerd
//	└── tools/        the foreign programs of a node, a Go module of its own
//
// Invariants: everything here is data or a build step; no component imports it. The manifests are carried in the
// program so that `orrery` works from any folder.
//
// Read next: deploy/node.
package deploy

import _ "embed"

// CNI is the manifest of the network plugin.
//
//go:embed cni.yaml
var CNI []byte

// Ingress is the manifest of the ingress controller.
//
//go:embed ingress.yaml
var Ingress []byte

// MetricsServer is the manifest of the addon metrics-server.
//
//go:embed metrics-server.yaml
var MetricsServer []byte

// App is the manifest of the demo application.
//
//go:embed demo/app.yaml
var App []byte
