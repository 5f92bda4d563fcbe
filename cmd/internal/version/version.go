// Package version holds the one version that every component reports.
package version

// Kubernetes is the version of the API that Orrery models. The build metadata
// behind the plus sign says whose binary it is; semver comparisons ignore it.
const Kubernetes = "v1.36.3+orrery"

// Upstream is the release whose names, flags, messages and timings are matched;
// kubeadm prints it and the component images are tagged with it.
const Upstream = "v1.36.3"

// Etcd is the tag of etcd's image: the version that upstream's kubeadm puts beside that release.
const Etcd = "3.6.8-0"
