package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// meteredRuntime has one container that runs and one that has ended, of which it still tells.
type meteredRuntime struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	used time.Duration
}

func (meteredRuntime) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: []*cri.Container{{Id: "two", CreatedAt: 7e9}}}, nil
}

func (r meteredRuntime) ListContainerStats(context.Context, *cri.ListContainerStatsRequest, ...grpc.CallOption) (*cri.ListContainerStatsResponse, error) {
	attributes := func(id string) *cri.ContainerAttributes {
		return &cri.ContainerAttributes{Id: id, Metadata: &cri.ContainerMetadata{Name: "c"}, Labels: map[string]string{labelPodUID: "uid"}}
	}
	return &cri.ListContainerStatsResponse{Stats: []*cri.ContainerStats{{Attributes: attributes("one")}, {Attributes: attributes("two"),
		Cpu:    &cri.CpuUsage{Timestamp: time.Now().Add(-3 * time.Second).UnixNano(), UsageCoreNanoSeconds: &cri.UInt64Value{Value: uint64(r.used)}},
		Memory: &cri.MemoryUsage{WorkingSetBytes: &cri.UInt64Value{Value: 4096}}}}}, nil
}

// machine is the root of a machine's cgroups.
func machine(t *testing.T, files map[string]string) *cgroups {
	t.Helper()
	g := &cgroups{root: t.TempDir()}
	for name, text := range files {
		path := filepath.Join(g.root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// What a container uses at present is known from the second look on, at the time at which the runtime looked, and a
// container that has ended is not counted. Where no cgroup tells of the node, it uses what its containers do.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &Kubelet{cfg: Config{NodeName: "n"}, status: &statusManager{}, pods: newPodStore(nil), cgroups: &cgroups{off: true}}
		k.pods.api["uid"] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "uid"}}
		look := func(used time.Duration) (cores *uint64) {
			t.Helper()
			k.cri = meteredRuntime{used: used}
			s, err := k.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p := s.Pods[0]
			if len(p.Containers) != 1 || *p.Containers[0].CPU.UsageCoreNanoSeconds != uint64(used) || p.Containers[0].StartTime.Unix() != 7 || time.Since(p.Containers[0].CPU.Time.Time) != 3*time.Second || *s.Node.Memory.WorkingSetBytes != 4096 {
				t.Fatalf("containers %+v, node %+v", p.Containers, s.Node)
			}
			return p.CPU.UsageNanoCores
		}
		if cores := look(time.Second); cores != nil {
			t.Errorf("%d at the first look", *cores)
		}
		time.Sleep(10 * time.Second)
		if cores := look(6 * time.Second); cores == nil || *cores != 500_000_000 {
			t.Errorf("five seconds of CPU in ten seconds are %v", cores)
		}
		time.Sleep(100 * time.Millisecond)
		if cores := look(7 * time.Second); cores == nil || *cores != 500_000_000 {
			t.Errorf("a look too soon says %v", cores)
		}
	})
}

// The node's own processes count, too: its figures are those of the cgroup above all others, in both versions.
func TestTheNodesFiguresAreItsOwn(t *testing.T) {
	v1 := map[string]string{"cpuacct/cpuacct.usage": "7000000000\n", "memory/memory.usage_in_bytes": "10000\n", "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400\n"}
	v2 := map[string]string{"cgroup.controllers": "cpu memory\n", "cpu.stat": "usage_usec 7000000\nuser_usec 1\n", "memory.current": "10000\n", "memory.stat": "anon 5\ninactive_file 400\n"}
	bare := map[string]string{"cgroup.controllers": "cpu memory\n", "cpu.stat": "usage_usec 7000000\n", "memory.stat": "inactive_file 400\n"}
	for name, test := range map[string]struct {
		files       map[string]string
		cpu, memory uint64
	}{"v1": {v1, 7e9, 9600}, "v2": {v2, 7e9, 9600}, "the very root of v2": {bare, 2e9, 4096}} {
		k := &Kubelet{cfg: Config{NodeName: "n"}, status: &statusManager{}, pods: newPodStore(nil), cgroups: machine(t, test.files), cri: meteredRuntime{used: 2 * time.Second}}
		k.pods.api["uid"] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "uid"}}
		s, err := k.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if cpu, memory := *s.Node.CPU.UsageCoreNanoSeconds, *s.Node.Memory.WorkingSetBytes; cpu != test.cpu || memory != test.memory {
			t.Errorf("%s: %d ns of CPU and %d bytes, want %d and %d", name, cpu, memory, test.cpu, test.memory)
		}
	}
}
