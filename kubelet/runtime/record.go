package runtime

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/containers"
	"github.com/containerd/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What we know of a sandbox or container stands on its containerd record, so that a new process finds it again.
// The names are not io.cri-containerd.*: containerd's own CRI plugin would take such containers for its own.
const (
	labelKind     = "orrery/kind"        // sandbox or container
	labelSandbox  = "orrery/sandbox"     // container: the id of its sandbox
	labelNetNS    = "orrery/netns"       // sandbox: path of its network namespace, absent on the host's
	labelIPs      = "orrery/ips"         // sandbox: its addresses, joined by commas
	labelImageRef = "orrery/image-ref"   // container: repo digest, or id, of its image
	labelImageID  = "orrery/image-id"    // container: digest of its image's config
	labelStarted  = "orrery/started-at"  // container: RFC 3339 with nanoseconds
	labelFinished = "orrery/finished-at" // container: RFC 3339 with nanoseconds
	labelExitCode = "orrery/exit-code"   // container: decimal; its presence means that it ended
	labelReason   = "orrery/reason"      // container: why it ended, when that is not plain from the exit code
	labelMessage  = "orrery/message"     // container: an error's text

	extensionConfig = "orrery/config" // the CRI config it was made from, as protobuf

	// Upstream: containerd pkg/cri/server, unknownExitCode and unknownExitReason.
	lostCode   = 255
	lostReason = "Unknown"

	kindSandbox   = "sandbox"
	kindContainer = "container"
)

// record is a sandbox or container as containerd knows it: the record and, when there is one, its process.
type record struct {
	containers.Container
	task *tasktypes.Process // nil when there is no task
}

// list returns our records of one kind. containerd is asked twice, however many containers there are.
func (s *Service) list(ctx context.Context, kind string) ([]record, error) {
	stored, err := s.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%s", labelKind, kind))
	if err != nil {
		return nil, err
	}
	tasks, err := s.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, errdefs.FromGRPC(err)
	}
	byID := map[string]*tasktypes.Process{}
	for _, t := range tasks.Tasks {
		byID[t.ID] = t
	}
	records := make([]record, 0, len(stored))
	for _, c := range stored {
		r := record{c, byID[c.ID]}
		if err := s.settle(ctx, &r); err == nil {
			records = append(records, r)
		} else if !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	return records, nil
}

// get finds one record by its id or, as crictl's users type it, by the id's beginning.
func (s *Service) get(ctx context.Context, kind, id string) (*record, error) {
	if id == "" {
		return nil, fmt.Errorf("%s id is empty: %w", kind, errdefs.ErrInvalidArgument)
	}
	stored, err := s.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) && len(id) < idLength {
		stored, err = s.getByPrefix(ctx, kind, id)
	}
	if err == nil && stored.Labels[labelKind] != kind {
		err = fmt.Errorf("not a %s: %w", kind, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("an error occurred when try to find %s %q: %w", kind, id, err)
	}
	r := &record{Container: stored}
	task, err := s.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: stored.ID})
	switch err = errdefs.FromGRPC(err); {
	case err == nil:
		r.task = task.Process
	case !errdefs.IsNotFound(err):
		return nil, err
	}
	return r, s.settle(ctx, r)
}

// settle looks once more at a container that seems to have lost its process. A record that was read before its task
// may have got its end written in between; since the end is written before the task goes, a second look tells.
func (s *Service) settle(ctx context.Context, r *record) error {
	if !r.lost() {
		return nil
	}
	stored, err := s.client.ContainerService().Get(ctx, r.ID)
	if err == nil {
		r.Container = stored
	}
	return err
}

func (s *Service) getByPrefix(ctx context.Context, kind, prefix string) (found containers.Container, err error) {
	stored, err := s.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%s", labelKind, kind))
	if err != nil {
		return found, err
	}
	for _, c := range stored {
		if !strings.HasPrefix(c.ID, prefix) {
			continue
		}
		if found.ID != "" {
			return found, fmt.Errorf("more than one id begins so: %w", errdefs.ErrInvalidArgument)
		}
		found = c
	}
	if found.ID == "" {
		return found, errdefs.ErrNotFound
	}
	return found, nil
}

// label writes labels onto a record; the others stay.
func (s *Service) label(ctx context.Context, id string, labels map[string]string) error {
	paths := make([]string, 0, len(labels))
	for k := range labels {
		paths = append(paths, "labels."+k)
	}
	_, err := s.client.ContainerService().Update(ctx, containers.Container{ID: id, Labels: labels}, paths...)
	return err
}

// packConfig makes the extension that holds a CRI config.
func packConfig(config proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(config)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(config.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

func (r *record) sandboxConfig() *cri.PodSandboxConfig {
	config := &cri.PodSandboxConfig{}
	r.unpack(config)
	return config
}

func (r *record) containerConfig() *cri.ContainerConfig {
	config := &cri.ContainerConfig{}
	r.unpack(config)
	return config
}

// unpack fills config; a record that somebody else has damaged reads as empty.
func (r *record) unpack(config proto.Message) {
	if ext, ok := r.Extensions[extensionConfig]; ok && proto.Unmarshal(ext.GetValue(), config) != nil {
		proto.Reset(config)
	}
}

func (r *record) running() bool {
	return r.task != nil && (r.task.Status == tasktypes.Status_RUNNING || r.task.Status == tasktypes.Status_PAUSED ||
		r.task.Status == tasktypes.Status_PAUSING)
}

// lost tells of a container that was started, and has no process and no written end: its process went with the machine,
// or while containerd was down.
func (r *record) lost() bool {
	_, started := r.Labels[labelStarted]
	_, ended := r.Labels[labelExitCode]
	return started && !ended && r.task == nil
}

// sandboxState is while the pause process runs.
func (r *record) sandboxState() cri.PodSandboxState {
	if r.running() {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

// state is the container's; a lost one counts as exited. One whose process has ended runs until reap has written down
// how: before that nobody can say why.
func (r *record) state() cri.ContainerState {
	_, started := r.Labels[labelStarted]
	_, ended := r.Labels[labelExitCode]
	switch {
	case ended:
		return cri.ContainerState_CONTAINER_EXITED
	case r.running(), started && r.task != nil && r.task.Status == tasktypes.Status_STOPPED:
		return cri.ContainerState_CONTAINER_RUNNING
	case r.task != nil && r.task.Status == tasktypes.Status_UNKNOWN:
		return cri.ContainerState_CONTAINER_UNKNOWN
	case r.lost():
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_CREATED
}

// time reads a time label, in nanoseconds since 1970; 0 when it is absent.
func (r *record) time(label string) int64 {
	t, err := time.Parse(time.RFC3339Nano, r.Labels[label])
	if err != nil {
		return 0
	}
	return t.UnixNano()
}

// exit tells how a container ended.
// Upstream: containerd pkg/cri/server/container_status.go, toCRIContainerStatus; restart.go, loadContainer (code 255).
func (r *record) exit() (code int32, finished int64, reason, message string) {
	reason, message = r.Labels[labelReason], r.Labels[labelMessage]
	n, err := strconv.ParseInt(r.Labels[labelExitCode], 10, 32)
	if err != nil { // lost, and not yet written down as such
		return lostCode, r.UpdatedAt.UnixNano(), lostReason, ""
	}
	code, finished = int32(n), r.time(labelFinished)
	if reason == "" {
		reason = "Completed"
		if code != 0 {
			reason = "Error"
		}
	}
	return code, finished, reason, message
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// matches tells whether labels hold all of selector.
func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}
