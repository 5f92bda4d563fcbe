package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Objects is where the content of volumes comes from.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
}

// Manager sets up and tears down the volumes of pods below Root, the folder of
// all pods. It holds no state: what is set up stands in the file system.
type Manager struct {
	Root    string // RootDir/pods
	Objects Objects
	// Facts is the pod with the addresses that downward files may show, and
	// Allocatable what the node has; both as of now.
	Facts       func(pod *corev1.Pod) *corev1.Pod
	Allocatable func() corev1.ResourceList
	// NoTmpfs keeps everything in ordinary folders.
	NoTmpfs bool
}

func (m *Manager) dir(uid types.UID, plugin, name string) string {
	return filepath.Join(m.Root, string(uid), "volumes", "kubernetes.io~"+plugin, name)
}

// Setup makes all volumes of a pod, or brings them up to date, and returns their
// paths by name. The error is what the event FailedMount tells.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	paths := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, err := m.setup(ctx, pod, v)
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		paths[v.Name] = path
	}
	return paths, nil
}

func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return m.emptyDir(pod, v)
	case v.ConfigMap != nil:
		return m.projected(ctx, pod, v.Name, "configmap", false, v.ConfigMap.DefaultMode, []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional}}})
	case v.Secret != nil:
		return m.projected(ctx, pod, v.Name, "secret", true, v.Secret.DefaultMode, []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional}}})
	case v.DownwardAPI != nil:
		return m.projected(ctx, pod, v.Name, "downward-api", true, v.DownwardAPI.DefaultMode,
			[]corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: v.DownwardAPI.Items}}})
	case v.Projected != nil:
		return m.projected(ctx, pod, v.Name, "projected", true, v.Projected.DefaultMode, v.Projected.Sources)
	case v.PersistentVolumeClaim != nil:
		return m.persistent(ctx, pod, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		return m.persistent(ctx, pod, pod.Name+"-"+v.Name)
	}
	return "", errors.New("this kind of volume is not supported")
}

// persistent is the folder behind a claim: of the node, because only such
// volumes are known here. It is used in place, not mounted.
//
// Upstream: pkg/kubelet/volumemanager/populator, createVolumeSpec, and
// pkg/volume/local, pkg/volume/hostpath. Left out: CSI and all else that is not
// a folder of the node; block devices.
func (m *Manager) persistent(ctx context.Context, pod *corev1.Pod, name string) (string, error) {
	claim, err := m.Objects.Claim(ctx, pod.Namespace, name)
	if err != nil {
		return "", fmt.Errorf("error processing PVC %s/%s: failed to fetch PVC from API server: %w", pod.Namespace, name, err)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("error processing PVC %s/%s: PVC is not bound", pod.Namespace, name)
	}
	pv, err := m.Objects.Volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return "", fmt.Errorf("failed to get PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	switch {
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		if _, err := os.Stat(pv.Spec.Local.Path); err != nil {
			return "", fmt.Errorf("local volume: %w", err) // never made: an empty folder is not the disk
		}
		return pv.Spec.Local.Path, nil
	}
	return "", errors.New("this kind of persistent volume is not supported")
}

// emptyDir is a folder that lives as long as the pod; anyone in the pod may write it.
func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	dir := m.dir(pod.UID, "empty-dir", v.Name)
	if _, err := os.Stat(dir); err == nil && (v.EmptyDir.Medium != corev1.StorageMediumMemory || m.mounted(dir)) {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", err
	}
	if v.EmptyDir.Medium == corev1.StorageMediumMemory {
		size := int64(0)
		if v.EmptyDir.SizeLimit != nil {
			size = v.EmptyDir.SizeLimit.Value()
		}
		if err := m.mount(dir, size); err != nil {
			return "", err
		}
	}
	mode := fs.FileMode(0o777)
	if gid := fsGroup(pod); gid != nil {
		if err := os.Chown(dir, -1, int(*gid)); err != nil {
			return "", err
		}
		mode |= fs.ModeSetgid
	}
	return dir, os.Chmod(dir, mode)
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// projected fills a folder with files from sources. When it was filled before
// and a source is gone or cannot be reached now, what is there stands: a pod that
// runs goes on.
func (m *Manager) projected(ctx context.Context, pod *corev1.Pod, name, plugin string, secret bool, mode *int32, sources []corev1.VolumeProjection) (string, error) {
	dir := m.dir(pod.UID, plugin, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if secret && !m.mounted(dir) {
		if err := m.mount(dir, 0); err != nil {
			return "", err
		}
	}
	payload := map[string]file{}
	for i := range sources {
		if err := m.project(ctx, pod, &sources[i], mode, payload); err != nil {
			if _, missing := os.Lstat(filepath.Join(dir, dataLink)); missing == nil {
				return dir, nil
			}
			return "", err
		}
	}
	return dir, write(dir, payload, fsGroup(pod))
}

func (m *Manager) project(ctx context.Context, pod *corev1.Pod, s *corev1.VolumeProjection, mode *int32, out map[string]file) error {
	switch {
	case s.ConfigMap != nil:
		cm, err := m.Objects.ConfigMap(ctx, pod.Namespace, s.ConfigMap.Name)
		if err != nil {
			return optional(err, s.ConfigMap.Optional)
		}
		data := map[string][]byte{}
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		for k, v := range cm.BinaryData {
			data[k] = v
		}
		return pick(data, s.ConfigMap.Items, s.ConfigMap.Optional, mode, "references non-existent config key: %s", out)
	case s.Secret != nil:
		sec, err := m.Objects.Secret(ctx, pod.Namespace, s.Secret.Name)
		if err != nil {
			return optional(err, s.Secret.Optional)
		}
		return pick(sec.Data, s.Secret.Items, s.Secret.Optional, mode, "references non-existent secret key: %s", out)
	case s.ServiceAccountToken != nil:
		token, err := m.Objects.Token(ctx, pod, s.ServiceAccountToken)
		if err != nil {
			return err
		}
		f := file{data: []byte(token), mode: fileMode(nil, mode)}
		if uid := onlyUser(pod); uid != nil || fsGroup(pod) != nil {
			f.mode, f.uid = 0o600, uid
		}
		out[s.ServiceAccountToken.Path] = f
		return nil
	case s.DownwardAPI != nil:
		return m.downward(pod, s.DownwardAPI.Items, mode, out)
	}
	return errors.New("this kind of projection is not supported")
}

// onlyUser is the user that all containers of a pod run as, if it is one and known.
func onlyUser(pod *corev1.Pod) *int64 {
	var user *int64
	for i := range pod.Spec.Containers {
		var u *int64
		if psc := pod.Spec.SecurityContext; psc != nil {
			u = psc.RunAsUser
		}
		if sc := pod.Spec.Containers[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
			u = sc.RunAsUser
		}
		if u == nil || user != nil && *user != *u {
			return nil
		}
		user = u
	}
	return user
}

func optional(err error, opt *bool) error {
	if apierrors.IsNotFound(err) && opt != nil && *opt {
		return nil
	}
	return err
}

// pick takes all keys, or those of items under the paths that they give.
func pick(data map[string][]byte, items []corev1.KeyToPath, opt *bool, mode *int32, missing string, out map[string]file) error {
	if len(items) == 0 {
		for k, v := range data {
			out[k] = file{data: v, mode: fileMode(nil, mode)}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if opt != nil && *opt {
				continue
			}
			return fmt.Errorf(missing, item.Key)
		}
		out[item.Path] = file{data: v, mode: fileMode(item.Mode, mode)}
	}
	return nil
}

func fileMode(own, fallback *int32) fs.FileMode {
	switch {
	case own != nil:
		return fs.FileMode(*own)
	case fallback != nil:
		return fs.FileMode(*fallback)
	}
	return 0o644
}

func (m *Manager) downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32, out map[string]file) error {
	facts := m.Facts(pod)
	for _, item := range items {
		var v string
		var err error
		switch {
		case item.FieldRef != nil:
			v, err = Field(facts, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			err = fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
			for i := range pod.Spec.Containers {
				if c := &pod.Spec.Containers[i]; c.Name == item.ResourceFieldRef.ContainerName {
					v, err = Resource(c, item.ResourceFieldRef, m.Allocatable())
				}
			}
		}
		if err != nil {
			return err
		}
		out[item.Path] = file{data: []byte(v), mode: fileMode(item.Mode, mode)}
	}
	return nil
}

// checkHostPath makes or checks a path of the node.
//
// Upstream: pkg/volume/hostpath/host_path.go, checkTypeInternal.
func checkHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	switch {
	case kind == corev1.HostPathUnset:
		if errors.Is(err, fs.ErrNotExist) { // as docker: make a folder of what is not there
			return os.MkdirAll(h.Path, 0o755)
		}
		return nil
	case kind == corev1.HostPathDirectoryOrCreate && errors.Is(err, fs.ErrNotExist):
		return os.MkdirAll(h.Path, 0o755)
	case kind == corev1.HostPathFileOrCreate && errors.Is(err, fs.ErrNotExist):
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	ok, what := false, ""
	mode := fs.FileMode(0)
	if err == nil {
		mode = info.Mode()
	}
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok, what = mode.IsDir(), "directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok, what = err == nil && mode.IsRegular(), "file"
	case corev1.HostPathSocket:
		ok, what = mode&fs.ModeSocket != 0, "socket file"
	case corev1.HostPathCharDev:
		ok, what = mode&fs.ModeCharDevice != 0, "character device"
	case corev1.HostPathBlockDev:
		ok, what = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "block device"
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, what)
	}
	return nil
}

// SubPath is a path inside a volume; it is made when it is not there. A link
// that leads out of the volume is refused.
//
// Upstream: pkg/volume/util/subpath, SafeMakeDir.
func SubPath(volume, sub string) (string, error) {
	if sub == "" {
		return volume, nil
	}
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q leads out of the volume", sub)
	}
	full := filepath.Join(volume, sub)
	if _, err := os.Stat(full); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(full, 0o750); err != nil {
			return "", err
		}
	}
	real, err := filepath.EvalSymlinks(full)
	if err != nil {
		return "", err
	}
	root, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return "", err
	}
	if real != root && !strings.HasPrefix(real, root+"/") {
		return "", fmt.Errorf("subPath %q leads out of the volume", sub)
	}
	return real, nil
}
