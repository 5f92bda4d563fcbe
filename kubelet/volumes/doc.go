// Package volumes fills the folders that containers mount.
//
//	ConfigMap, Secret, token, pod's fields ──▶ payload ──atomic write──▶ pods/UID/volumes/kubernetes.io~KIND/NAME
//	emptyDir                                                             the same folder, empty
//	hostPath                                                             a path of the node
//
// [Manager.Setup] returns where each volume of a pod lies on the node. It may be
// called again at any time: that is how a changed ConfigMap reaches a pod that
// runs, and how a token is renewed before it expires.
//
// Invariants:
//   - A reader of a projected folder sees all of one version or all of another:
//     the files hang on one link, ..data, which is replaced by a rename.
//   - Secrets and tokens lie in memory (tmpfs), never on a disk.
//   - A volume that was filled once stays usable when the API server is away.
//
// Read next: volumes.go, atomic.go, fields.go.
//
// Upstream: pkg/volume, pkg/kubelet/volumemanager.
// Left out: persistent volumes, CSI, ephemeral and image volumes, SELinux relabelling.
package volumes
