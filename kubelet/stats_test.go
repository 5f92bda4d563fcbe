package kubelet

import (
	"context"
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
		Cpu:    &cri.CpuUsage{Timestamp: time.Now().UnixNano(), UsageCoreNanoSeconds: &cri.UInt64Value{Value: uint64(r.used)}},
		Memory: &cri.MemoryUsage{WorkingSetBytes: &cri.UInt64Value{Value: 4096}}}}}, nil
}

// What a container uses at present is known from the second look on, and a
// container that has ended is not counted.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &Kubelet{cfg: Config{NodeName: "n"}, status: &statusManager{}, pods: newPodStore(nil)}
		k.pods.api["uid"] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "uid"}}
		look := func(used time.Duration) (cores *uint64) {
			t.Helper()
			k.cri = meteredRuntime{used: used}
			s, err := k.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p := s.Pods[0]
			if len(p.Containers) != 1 || *p.Containers[0].CPU.UsageCoreNanoSeconds != uint64(used) || p.Containers[0].StartTime.Unix() != 7 || *s.Node.Memory.WorkingSetBytes != 4096 {
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
