package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// objects is a cluster with one ConfigMap and one Secret.
type objects struct {
	data  map[string]string
	away  bool
	token string

	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

func (o *objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if o.away {
		return nil, errors.New("connection refused")
	}
	if name != "cm" {
		return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
	}
	return &corev1.ConfigMap{Data: o.data}, nil
}

func (o *objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return &corev1.Secret{Data: map[string][]byte{"pw": []byte("s3cret")}}, nil
}

func (o *objects) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) {
	return o.token, nil
}

func (o *objects) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if o.claim == nil || name != o.claim.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaim"), name)
	}
	return o.claim, nil
}

func (o *objects) Volume(context.Context, string) (*corev1.PersistentVolume, error) {
	return o.volume, nil
}

func manager(t *testing.T, o *objects) *Manager {
	return &Manager{Root: t.TempDir(), Objects: o, NoTmpfs: true, Facts: func(p *corev1.Pod) *corev1.Pod { return p },
		Allocatable: func() corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse("2")} }}
}

func pod(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1", Labels: map[string]string{"app": "web", "tier": "x"}},
		Spec: corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "app"}}}}
}

func configMap(items ...corev1.KeyToPath) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: items}}}
}

func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(raw)
	}
	return out
}

func TestConfigMapChangesAllAtOnce(t *testing.T) {
	o := &objects{data: map[string]string{"a": "1", "b": "2"}}
	m := manager(t, o)
	p := pod(configMap())
	paths, err := m.Setup(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, paths["v"]); got["a"] != "1" || got["b"] != "2" || len(got) != 2 {
		t.Errorf("content is %v", got)
	}
	first, _ := os.Readlink(filepath.Join(paths["v"], "..data"))
	if _, err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(paths["v"], "..data")); again != first {
		t.Error("written again although nothing has changed")
	}
	open, err := os.Open(filepath.Join(paths["v"], "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	o.data = map[string]string{"a": "3", "c": "4"}
	if _, err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := content(t, paths["v"]); got["a"] != "3" || got["c"] != "4" || len(got) != 2 {
		t.Errorf("content is %v", got)
	}
	old := make([]byte, 1)
	if _, err := open.Read(old); err != nil || string(old) != "1" {
		t.Errorf("who has the file open reads %q, %v", old, err)
	}
	if _, err := os.Stat(filepath.Join(paths["v"], first)); err == nil {
		t.Error("the old version is left")
	}
}

func TestVolumeThatWasFilledStandsWhenTheServerIsAway(t *testing.T) {
	o := &objects{data: map[string]string{"a": "1"}}
	m := manager(t, o)
	if _, err := m.Setup(t.Context(), pod(configMap())); err != nil {
		t.Fatal(err)
	}
	o.away = true
	paths, err := m.Setup(t.Context(), pod(configMap()))
	if err != nil || content(t, paths["v"])["a"] != "1" {
		t.Errorf("%v, %v", paths, err)
	}
	fresh := pod(configMap())
	fresh.UID = "u2"
	if _, err := m.Setup(t.Context(), fresh); err == nil {
		t.Error("a volume that was never filled cannot stand")
	}
}

func TestItemsPathsAndModes(t *testing.T) {
	mode := int32(0o400)
	m := manager(t, &objects{data: map[string]string{"a": "1", "b": "2"}})
	paths, err := m.Setup(t.Context(), pod(configMap(corev1.KeyToPath{Key: "a", Path: "deep/er", Mode: &mode})))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(paths["v"], "deep/er"))
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", info, err)
	}
	m = manager(t, &objects{data: map[string]string{"a": "1"}})
	_, err = m.Setup(t.Context(), pod(configMap(corev1.KeyToPath{Key: "nope", Path: "x"})))
	if want := `MountVolume.SetUp failed for volume "v" : references non-existent config key: nope`; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	if _, err = m.Setup(t.Context(), pod(configMap(corev1.KeyToPath{Key: "a", Path: "../../escape"}))); err == nil {
		t.Error("a path out of the volume is taken")
	}
}

func TestMissingConfigMap(t *testing.T) {
	m := manager(t, &objects{})
	v := configMap()
	v.ConfigMap.Name = "nope"
	_, err := m.Setup(t.Context(), pod(v))
	if want := `MountVolume.SetUp failed for volume "v" : configmap "nope" not found`; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	yes := true
	v.ConfigMap.Optional = &yes
	if paths, err := m.Setup(t.Context(), pod(v)); err != nil || len(content(t, paths["v"])) != 0 {
		t.Errorf("an optional one: %v", err)
	}
}

func TestProjectedVolumeOfAServiceAccount(t *testing.T) {
	o := &objects{data: map[string]string{"ca.crt": "CA"}, token: "t1"}
	m := manager(t, o)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.cpu", Divisor: resource.MustParse("1m")}},
		}}},
	}}}})
	paths, err := m.Setup(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	got := content(t, paths["v"])
	for name, want := range map[string]string{"token": "t1", "ca.crt": "CA", "namespace": "shop", "labels": "app=\"web\"\ntier=\"x\"", "cpu": "2000"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	o.token = "t2"
	if _, err := m.Setup(t.Context(), p); err != nil || content(t, paths["v"])["token"] != "t2" {
		t.Errorf("a renewed token does not arrive: %v", err)
	}
	if err := m.Teardown(p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.Root, "u1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind corev1.HostPathType
		want string
	}{
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{file, corev1.HostPathFile, ""},
		{filepath.Join(dir, "new"), corev1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "newfile"), corev1.HostPathFileOrCreate, ""},
		{filepath.Join(dir, "nope"), corev1.HostPathSocket, "hostPath type check failed: " + filepath.Join(dir, "nope") + " is not a socket file"},
		{filepath.Join(dir, "unset"), corev1.HostPathUnset, ""},
	} {
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind})
		if got := ""; err != nil && err.Error() != test.want || err == nil && test.want != got {
			t.Errorf("%s as %q: %v, want %q", test.path, test.kind, err, test.want)
		}
	}
}

func TestSubPathStaysInside(t *testing.T) {
	dir := t.TempDir()
	if got, err := SubPath(dir, "a/b"); err != nil || got != filepath.Join(dir, "a/b") {
		t.Errorf("%s, %v", got, err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "../x", "out/passwd"} {
		if got, err := SubPath(dir, sub); err == nil {
			t.Errorf("%s leads to %s", sub, got)
		}
	}
}

func TestTmpfsIsMountedAndRemoved(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	m := manager(t, &objects{})
	m.NoTmpfs = false
	size := resource.MustParse("1Mi")
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}})
	paths, err := m.Setup(t.Context(), p)
	if err != nil {
		t.Skipf("this machine does not let us mount: %v", err)
	}
	if !m.mounted(paths["v"]) {
		t.Error("nothing is mounted")
	}
	if err := os.WriteFile(filepath.Join(paths["v"], "f"), make([]byte, 2<<20), 0o644); err == nil {
		t.Error("the size limit does not hold")
	}
	if _, err := m.Setup(t.Context(), p); err != nil {
		t.Errorf("set up again: %v", err)
	}
	if err := m.Teardown(p.UID); err != nil {
		t.Fatal(err)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), m.Root) {
		t.Error("still mounted")
	}
}

func TestFields(t *testing.T) {
	p := pod()
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	for path, want := range map[string]string{"metadata.name": "web", "metadata.labels['app']": "web", "metadata.annotations['no']": "", "status.podIPs": "10.0.0.1,fd00::1"} {
		if got, err := Field(p, path); err != nil || got != want {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
	if _, err := Field(p, "spec.containers"); err == nil {
		t.Error("a field that may not be shown is shown")
	}
}

// A claim leads to a folder of the node, once it is bound. A hostPath is made
// where there is none, a local disk never.
func TestPersistentVolumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	bound := corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}
	claim := func(name string, status corev1.PersistentVolumeClaimStatus) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: status}
	}
	volume := func(source corev1.PersistentVolumeSource) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: source}}
	}
	local := volume(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}})
	host := volume(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}})
	uses := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}
	ephemeral := corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	for _, tt := range []struct {
		name    string
		pod     corev1.Volume
		objects objects
		wantErr string
	}{
		{"no claim", uses, objects{}, `failed to fetch PVC from API server: persistentvolumeclaim "data" not found`},
		{"not bound", uses, objects{claim: claim("data", corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending})}, "PVC is not bound"},
		{"a local disk that is not there", uses, objects{claim: claim("data", bound), volume: local}, "no such file or directory"},
		{"a host path", uses, objects{claim: claim("data", bound), volume: host}, ""},
		{"the local disk, now there", uses, objects{claim: claim("data", bound), volume: local}, ""},
		{"an ephemeral volume", ephemeral, objects{claim: claim("web-scratch", bound), volume: local}, ""},
		{"a network disk", uses, objects{claim: claim("data", bound), volume: volume(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}})}, "not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paths, err := manager(t, &tt.objects).Setup(t.Context(), pod(tt.pod))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || paths[tt.pod.Name] != dir {
				t.Fatalf("%v, %v", paths, err)
			}
		})
	}
}
