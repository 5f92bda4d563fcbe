package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client/timing"
)

// pleg is the pod lifecycle event generator. Each second it lists all sandboxes
// and containers, reads anew the pods of which anything has changed, and wakes
// their workers: nothing else tells the kubelet that a container has died. The
// workers go by what it has read, and after a pass they wait until it has looked
// again.
//
// Upstream: pkg/kubelet/pleg/generic.go, GenericPLEG; pkg/kubelet/container/cache.go, cache.
type pleg struct {
	k        *Kubelet
	requests chan relistRequest
	seen     map[types.UID]sighting // of each pod, as last read; run's own

	mu      sync.Mutex
	clock   moment
	listed  moment // when the latest relist began
	pods    map[types.UID]observation
	waiting map[types.UID]bool // for a look that is newer
}

// moment is a time of the pleg's own clock, on which no two things happen at once.
type moment uint64

// sighting is the sandboxes and containers of a pod, by id.
type sighting map[string]plegState

type plegState int

const (
	plegNonExistent plegState = iota
	plegRunning
	plegExited
	plegUnknown
)

// observation is what a look that began at a moment has found of a pod.
type observation struct {
	state *podState
	err   error
	at    moment
}

type relistRequest struct {
	uid types.UID
	at  moment
}

func newPLEG(k *Kubelet) *pleg {
	return &pleg{k: k, requests: make(chan relistRequest, 200), seen: map[types.UID]sighting{},
		pods: map[types.UID]observation{}, waiting: map[types.UID]bool{}}
}

// run relists each second, and a single pod when that is asked for.
func (p *pleg) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if err := p.relist(ctx); err != nil && ctx.Err() == nil {
				p.k.log.Debug("Containers cannot be listed", "err", err)
			}
			timer.Reset(timing.PLEGRelistPeriod)
		case r := <-p.requests:
			if r.at > p.listed { // else a relist has seen what was done
				p.look(ctx, r.uid, p.now())
			}
		}
	}
}

// now is the moment after all that has been.
func (p *pleg) now() moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock++
	return p.clock
}

// relist looks at all pods.
func (p *pleg) relist(ctx context.Context) error {
	at := p.now()
	now, err := p.list(ctx)
	if err != nil {
		return err
	}
	p.k.runtimeState.relisted()
	for uid := range p.seen {
		if now[uid] == nil {
			p.look(ctx, uid, at)
		}
	}
	for uid, is := range now {
		if !maps.Equal(p.seen[uid], is) {
			p.look(ctx, uid, at)
		}
	}
	p.mu.Lock()
	p.listed = at
	waiting := slices.Collect(maps.Keys(p.waiting))
	clear(p.waiting)
	p.mu.Unlock()
	for _, uid := range waiting {
		p.k.workers.changed(uid)
	}
	return nil
}

// requestRelist asks for a look at a pod of which this kubelet itself has changed something.
//
// Upstream: pkg/kubelet/pleg/generic.go, RequestRelist, new in v1.36.
func (p *pleg) requestRelist(uid types.UID) {
	select {
	case p.requests <- relistRequest{uid, p.now()}:
	default: // the relist will find it
	}
}

// look reads a pod, and wakes its worker if that is news or has been waited for.
func (p *pleg) look(ctx context.Context, uid types.UID, at moment) {
	ctx, cancel := context.WithTimeout(ctx, p.k.cfg.Settings.RuntimeRequestTimeout.Duration)
	defer cancel()
	state, err := p.k.readState(ctx, uid)
	is := sighting{}
	if err == nil {
		for _, b := range state.sandboxes {
			is[b.Id] = sandboxSeen(b.State)
		}
		for _, c := range state.containers {
			is[c.id] = containerSeen(c.state)
		}
	} else {
		is["unread"] = plegUnknown // so that the next relist sees a difference
	}
	worthy := err == nil && is.worthSync(p.seen[uid])
	p.seen[uid] = is
	p.mu.Lock()
	p.pods[uid] = observation{state, err, at}
	if len(is) == 0 {
		delete(p.seen, uid)
		delete(p.pods, uid)
	}
	wake := worthy || p.waiting[uid]
	delete(p.waiting, uid)
	p.mu.Unlock()
	if wake {
		p.k.workers.changed(uid)
	}
}

// worthSync says whether anything has begun to run or has ended since an earlier
// sighting. That what had ended is removed, or that a container was created and
// not started, is no reason to look at a pod.
//
// Upstream: pkg/kubelet/pleg/generic.go, generateEvents; pkg/kubelet/kubelet.go, isSyncPodWorthy.
func (s sighting) worthSync(before sighting) bool {
	for id, state := range s {
		if state != before[id] && state != plegUnknown {
			return true
		}
	}
	for id, state := range before {
		if s[id] == plegNonExistent && state != plegExited {
			return true
		}
	}
	return false
}

// list is what there is of each pod.
func (p *pleg) list(ctx context.Context) (map[types.UID]sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, p.k.cfg.Settings.RuntimeRequestTimeout.Duration)
	defer cancel()
	boxes, err := p.k.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	list, err := p.k.cri.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	out := map[types.UID]sighting{}
	note := func(uid, id string, state plegState) {
		if out[asUID(uid)] == nil {
			out[asUID(uid)] = sighting{}
		}
		out[asUID(uid)][id] = state
	}
	for _, b := range boxes.Items {
		note(b.GetMetadata().GetUid(), b.Id, sandboxSeen(b.State))
	}
	for _, c := range list.Containers {
		note(c.Labels[labelPodUID], c.Id, containerSeen(c.State))
	}
	return out, nil
}

func sandboxSeen(state cri.PodSandboxState) plegState {
	if state == cri.PodSandboxState_SANDBOX_READY {
		return plegRunning
	}
	return plegExited
}

func containerSeen(state cri.ContainerState) plegState {
	switch state {
	case cri.ContainerState_CONTAINER_RUNNING:
		return plegRunning
	case cri.ContainerState_CONTAINER_EXITED:
		return plegExited
	}
	return plegUnknown
}

// newerThan is a pod as seen by a look that began after a moment. If there has
// been none, it is the pod as last seen, fresh is false, and the pod's worker is
// woken by the look that is to come. Nobody may change the state.
//
// Upstream: pkg/kubelet/container/cache.go, GetNewerThan, which blocks.
func (p *pleg) newerThan(uid types.UID, t moment) (state *podState, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, ok := p.pods[uid]
	if !ok {
		o.state = &podState{uid: uid}
	}
	fresh = p.listed > t || o.at > t
	if !fresh {
		p.waiting[uid] = true
	}
	if o.err != nil {
		return o.state, fresh, fmt.Errorf("error determining status: %w", o.err)
	}
	return o.state, fresh, nil
}

// all is every pod that the runtime knows, as last seen.
func (p *pleg) all() map[types.UID]*podState {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[types.UID]*podState, len(p.pods))
	for uid, o := range p.pods {
		if o.err == nil {
			out[uid] = o.state
		}
	}
	return out
}

func isDeadline(err error) bool {
	return err != nil && (grpcstatus.Code(err) == codes.DeadlineExceeded || strings.Contains(err.Error(), "timeout") && strings.Contains(err.Error(), "exceeded"))
}
