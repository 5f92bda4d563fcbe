package kubelet

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
	"orrery/client/timing"
)

// watchPods lists all sandboxes and containers each second and wakes the workers
// of those pods of which anything has changed: a container that died is noticed
// so, whatever else is lost. It is called the pod lifecycle event generator.
//
// Upstream: pkg/kubelet/pleg/generic.go, GenericPLEG.
func (k *Kubelet) watchPods(ctx context.Context) {
	before := map[types.UID]string{}
	for {
		if now, err := k.relist(ctx); err == nil {
			k.runtimeState.relisted()
			for uid, state := range now {
				if before[uid] != state {
					k.workers.changed(uid)
				}
			}
			for uid := range before {
				if _, ok := now[uid]; !ok {
					k.workers.changed(uid)
				}
			}
			before = now
		} else if ctx.Err() == nil {
			k.log.Debug("Containers cannot be listed", "err", err)
		}
		if !client.Sleep(ctx, timing.PLEGRelistPeriod) {
			return
		}
	}
}

// relist is the state of each pod's sandboxes and containers in one string.
func (k *Kubelet) relist(ctx context.Context) (map[types.UID]string, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Settings.RuntimeRequestTimeout.Duration)
	defer cancel()
	boxes, err := k.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	list, err := k.cri.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	parts := map[types.UID][]string{}
	for _, b := range boxes.Items {
		uid := asUID(b.GetMetadata().GetUid())
		parts[uid] = append(parts[uid], fmt.Sprint(b.Id, b.State))
	}
	for _, c := range list.Containers {
		uid := asUID(c.Labels[labelPodUID])
		parts[uid] = append(parts[uid], fmt.Sprint(c.Id, c.State))
	}
	out := map[types.UID]string{}
	for uid, p := range parts {
		sort.Strings(p)
		out[uid] = strings.Join(p, " ")
	}
	return out, nil
}

// watchEvents wakes workers as soon as the runtime tells of a change, if it can
// tell; the relist stays, for what a stream may lose.
//
// Upstream: pkg/kubelet/pleg/evented.go, EventedPLEG.
func (k *Kubelet) watchEvents(ctx context.Context) {
	for {
		stream, err := k.cri.GetContainerEvents(ctx, &cri.GetEventsRequest{})
		for err == nil {
			var ev *cri.ContainerEventResponse
			if ev, err = stream.Recv(); err == nil {
				uid := ev.GetPodSandboxStatus().GetMetadata().GetUid()
				k.workers.changed(asUID(uid))
			}
		}
		if grpcstatus.Code(err) == codes.Unimplemented || !client.Sleep(ctx, 5*time.Second) {
			return
		}
	}
}

func isDeadline(err error) bool {
	return err != nil && (grpcstatus.Code(err) == codes.DeadlineExceeded || strings.Contains(err.Error(), "timeout") && strings.Contains(err.Error(), "exceeded"))
}
