package runtime

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// resubscribe is the pause before listening to containerd again after it went away.
	resubscribe = time.Second
	// reapAgain is the pause before looking again for ended processes, should an event or a reap have failed.
	reapAgain = 10 * time.Second
)

// watchExits reaps each process that ends, until ctx is done. Events only say when to look: after each break in the
// stream, and now and then, it looks at all tasks, so that nothing depends on an event arriving.
func (s *Service) watchExits(ctx context.Context) {
	resumed := false
	for ctx.Err() == nil {
		listening, stop := context.WithCancel(ctx)
		tasks, errs := s.client.Subscribe(listening, `topic~="/tasks/(exit|oom)",namespace==`+s.cfg.Namespace)
		if !resumed {
			resumed = s.resumeLogs(ctx) == nil
		}
		s.reapAll(ctx)
		again := time.NewTicker(reapAgain)
		for broken := false; !broken; {
			select {
			case envelope := <-tasks:
				s.hear(ctx, envelope.Event)
			case <-again.C:
				s.reapAll(ctx)
			case <-errs:
				broken = true
			}
		}
		again.Stop()
		stop()
		select {
		case <-time.After(resubscribe):
		case <-ctx.Done():
		}
	}
}

// hear acts on one event of containerd.
func (s *Service) hear(ctx context.Context, event typeurl.Any) {
	var exit events.TaskExit
	var oom events.TaskOOM
	switch {
	case typeurl.UnmarshalTo(event, &exit) == nil:
		if exit.ID == exit.ContainerID { // else an exec
			s.tasks.Go(func() { s.tryReap(ctx, exit.ContainerID) })
		}
	case typeurl.UnmarshalTo(event, &oom) == nil:
		// Also when the container goes on: systemd may have removed the cgroup by the time that it ends.
		if r, err := s.get(ctx, kindContainer, oom.ContainerID); err == nil && !r.lost() {
			if err := s.label(ctx, r.ID, map[string]string{labelReason: oomReason}); err != nil {
				s.log.Warn("Lack of memory could not be recorded", "key", r.ID, "err", err)
			}
		}
	}
}

func (s *Service) tryReap(ctx context.Context, id string) {
	if err := s.reap(ctx, id); err != nil && ctx.Err() == nil {
		s.log.Warn("Ended process could not be reaped", "key", id, "err", err)
	}
}

// reapAll reaps whatever has ended, and writes down the end of what was lost.
func (s *Service) reapAll(ctx context.Context) {
	all, err := s.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return // containerd is down; the subscription says so too
	}
	for _, t := range all.Tasks {
		if t.Status == tasktypes.Status_STOPPED {
			s.tasks.Go(func() { s.tryReap(ctx, t.ID) })
		}
	}
	records, err := s.list(ctx, kindContainer)
	if err != nil {
		return
	}
	for i := range records {
		if !records[i].lost() {
			continue
		}
		end := map[string]string{labelExitCode: strconv.Itoa(lostCode), labelReason: lostReason, labelFinished: stamp(time.Now())}
		if err := s.label(ctx, records[i].ID, end); err != nil {
			s.log.Warn("Lost container could not be recorded", "key", records[i].ID, "err", err)
			continue
		}
		s.publish(ctx, cri.ContainerEventType_CONTAINER_STOPPED_EVENT, records[i].ID, records[i].Labels[labelSandbox])
	}
}

// broadcaster hands each container event to everybody who listens.
type broadcaster struct {
	mu        sync.Mutex
	listeners map[chan *cri.ContainerEventResponse]bool
}

// publish tells the listeners of GetContainerEvents what has happened, together with the pod's state at this moment.
// A listener that lags by more than its buffer is cut off and has to start over, as it would after a restart.
func (s *Service) publish(ctx context.Context, kind cri.ContainerEventType, id, sandbox string) {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	if len(s.events.listeners) == 0 {
		return
	}
	event := &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if status, err := s.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox}); err == nil {
		event.PodSandboxStatus, event.ContainersStatuses = status.Status, status.ContainersStatuses
	} else if !errdefs.IsNotFound(err) {
		s.log.Warn("Container event goes without the pod's status", "key", id, "err", err)
	}
	for l := range s.events.listeners {
		select {
		case l <- event:
		default:
			close(l)
			delete(s.events.listeners, l)
		}
	}
}

// GetContainerEvents streams created, started, stopped and deleted of sandboxes and containers, until the client goes.
// Upstream: containerd pkg/cri/server/container_events.go, GetContainerEvents.
func (s *Service) GetContainerEvents(_ *cri.GetEventsRequest, out cri.RuntimeService_GetContainerEventsServer) error {
	l := make(chan *cri.ContainerEventResponse, 1000)
	s.events.mu.Lock()
	if s.events.listeners == nil {
		s.events.listeners = map[chan *cri.ContainerEventResponse]bool{}
	}
	s.events.listeners[l] = true
	s.events.mu.Unlock()
	defer func() {
		s.events.mu.Lock()
		delete(s.events.listeners, l)
		s.events.mu.Unlock()
	}()
	for {
		select {
		case event, ok := <-l:
			if !ok {
				return fmt.Errorf("events were not read in time: %w", errdefs.ErrUnavailable)
			}
			if err := out.Send(event); err != nil {
				return err
			}
		case <-out.Context().Done():
			return nil
		}
	}
}
