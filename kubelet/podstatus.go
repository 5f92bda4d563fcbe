package kubelet

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statusInput is all that a pod's status is made of.
type statusInput struct {
	pod      *corev1.Pod
	state    *podState
	old      corev1.PodStatus // as last set, or as the API had it
	reasons  map[string]waiting
	probed   func(c *container) probed
	terminal bool // the containers have been stopped for good
	hostIP   netip.Addr
	runtime  string // name of the runtime: the scheme of container ids
}

// waiting is why a container does not run yet, or does not run again.
type waiting struct{ reason, message string }

// probed is what probes say about a running container.
type probed struct{ started, ready bool }

// podStatus makes the status of a pod; it is pure.
//
// Upstream: pkg/kubelet/kubelet_pods.go, generateAPIPodStatus and getPhase;
// pkg/kubelet/status/generate.go.
func podStatus(in statusInput) corev1.PodStatus {
	pod := in.pod
	hasInit := len(pod.Spec.InitContainers) > 0
	st := corev1.PodStatus{
		ObservedGeneration:    pod.Generation,
		QOSClass:              qosClass(pod),
		StartTime:             in.old.StartTime,
		Reason:                in.old.Reason,
		Message:               in.old.Message,
		NominatedNodeName:     in.old.NominatedNodeName,
		InitContainerStatuses: in.containers(pod.Spec.InitContainers, in.old.InitContainerStatuses, hasInit, true),
		ContainerStatuses:     in.containers(pod.Spec.Containers, in.old.ContainerStatuses, hasInit, false),
	}
	var ephemeral []corev1.Container
	for _, e := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, corev1.Container(e.EphemeralContainerCommon))
	}
	st.EphemeralContainerStatuses = in.containers(ephemeral, in.old.EphemeralContainerStatuses, hasInit, false)
	if in.hostIP.IsValid() {
		st.HostIP = in.hostIP.String()
		st.HostIPs = []corev1.HostIP{{IP: st.HostIP}}
	}
	ips := in.state.ips()
	if pod.Spec.HostNetwork && st.HostIP != "" {
		ips = []string{st.HostIP}
	}
	for i, ip := range ips {
		if i == 0 {
			st.PodIP = ip
		}
		st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
	}
	if in.state.sandbox() == nil && len(ips) == 0 { // a pod that has ended keeps the address it had
		st.PodIP, st.PodIPs = in.old.PodIP, in.old.PodIPs
	}
	st.Phase = in.phase(&st)
	if in.terminal {
		finish(&st)
	}
	st.Conditions = conditions(in, &st)
	return st
}

func (in *statusInput) containers(specs []corev1.Container, old []corev1.ContainerStatus, hasInit, init bool) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range specs {
		c := &specs[i]
		var before *corev1.ContainerStatus
		for j := range old {
			if old[j].Name == c.Name {
				before = &old[j]
			}
		}
		out = append(out, in.container(c, before, hasInit, init))
	}
	return out
}

// container is the status of one container.
func (in *statusInput) container(c *corev1.Container, before *corev1.ContainerStatus, hasInit, init bool) corev1.ContainerStatus {
	reason := "ContainerCreating"
	if hasInit {
		reason = "PodInitializing"
	}
	no := false
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no,
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	var runs []*container
	for _, run := range in.state.containers {
		if run.name == c.Name {
			runs = append(runs, run)
		}
	}
	if len(runs) == 0 {
		in.vanished(&st, before)
	} else {
		in.fromRuns(&st, runs, before)
	}
	var now *container
	if len(runs) > 0 {
		now = runs[0]
	}
	if now.running() {
		p := in.probed(now)
		st.Started, st.Ready = &p.started, p.ready && p.started
	}
	if init && !isSidecar(c) { // ready is what has done its work
		st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
	}
	if w, ok := in.reasons[c.Name]; ok && !in.terminal && shouldRestart(in.pod, c, now) {
		if st.State.Terminated != nil {
			st.LastTerminationState = st.State
		}
		st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}}
	}
	st.Resources = &corev1.ResourceRequirements{Requests: c.Resources.Requests, Limits: c.Resources.Limits}
	st.AllocatedResources = c.Resources.Requests
	for _, m := range c.VolumeMounts {
		ms := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			disabled := corev1.RecursiveReadOnlyDisabled
			ms.RecursiveReadOnly = &disabled
		}
		st.VolumeMounts = append(st.VolumeMounts, ms)
	}
	return st
}

// fromRuns describes a container that the runtime knows: its newest run and the one before.
func (in *statusInput) fromRuns(st *corev1.ContainerStatus, runs []*container, before *corev1.ContainerStatus) {
	now := runs[0]
	st.ContainerID, st.ImageID, st.RestartCount = in.id(now), now.imageID, now.restartCount
	if now.image != "" {
		st.Image = now.image
	}
	switch now.state {
	case cri.ContainerState_CONTAINER_RUNNING:
		st.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.started)}}
	case cri.ContainerState_CONTAINER_EXITED:
		st.State = in.terminated(now)
		if before != nil && before.State.Terminated != nil && before.State.Terminated.ContainerID == st.ContainerID {
			st.State = before.State // its last words may have been cleaned up since
		}
	case cri.ContainerState_CONTAINER_UNKNOWN:
		st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: in.id(now), ExitCode: 137,
			Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated"}}
	}
	if len(runs) > 1 && runs[1].exited() {
		st.LastTerminationState = in.terminated(runs[1])
	} else if before != nil {
		st.LastTerminationState = before.LastTerminationState
	}
}

// vanished describes a container that the runtime does not know: from memory.
func (in *statusInput) vanished(st *corev1.ContainerStatus, before *corev1.ContainerStatus) {
	if before == nil {
		return
	}
	st.LastTerminationState, st.RestartCount = before.LastTerminationState, before.RestartCount
	switch {
	case before.State.Terminated != nil:
		st.State, st.ContainerID, st.ImageID = before.State, before.ContainerID, before.ImageID
	case before.State.Running != nil:
		st.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ContainerID: before.ContainerID, ExitCode: 137, Reason: "ContainerStatusUnknown",
			Message: "The container could not be located when the pod was deleted.  The container used to be Running"}}
		if in.pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
			st.RestartCount++
		}
	}
}

func (in *statusInput) id(c *container) string { return in.runtime + "://" + c.id }

func (in *statusInput) terminated(c *container) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ContainerID: in.id(c), ExitCode: c.exitCode, Reason: c.reason, Message: c.message,
		StartedAt: metav1.NewTime(c.started), FinishedAt: metav1.NewTime(c.finished)}}
}

// phase sums up the containers in one word. A terminal phase is never left.
//
// Upstream: pkg/kubelet/kubelet_pods.go, getPhase.
func (in *statusInput) phase(st *corev1.PodStatus) corev1.PodPhase {
	if isTerminal(in.old.Phase) {
		return in.old.Phase
	}
	policy := in.pod.Spec.RestartPolicy
	pendingInit, failedInit := 0, 0
	for i, cs := range st.InitContainerStatuses {
		if isSidecar(&in.pod.Spec.InitContainers[i]) {
			if cs.State.Running == nil && cs.LastTerminationState.Terminated == nil || cs.Started == nil || !*cs.Started {
				pendingInit++
			}
			continue
		}
		switch {
		case cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0:
		case cs.State.Terminated != nil:
			failedInit++
		case cs.State.Waiting != nil && cs.LastTerminationState.Terminated != nil && cs.LastTerminationState.Terminated.ExitCode != 0:
			failedInit++
		default:
			pendingInit++
		}
	}
	var running, waiting, stopped, succeeded int
	for _, cs := range st.ContainerStatuses {
		switch {
		case cs.State.Running != nil:
			running++
		case cs.State.Terminated != nil:
			stopped++
			if cs.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case cs.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	mainStarted := running+stopped > 0
	switch {
	case failedInit > 0 && policy == corev1.RestartPolicyNever && !mainStarted:
		return corev1.PodFailed
	case pendingInit+failedInit > 0 && !mainStarted, waiting > 0 && !(in.terminal && stopped > 0):
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case stopped == 0:
		return corev1.PodPending
	case in.terminal && stopped != succeeded:
		return corev1.PodFailed
	case policy == corev1.RestartPolicyAlways && !in.terminal:
		return corev1.PodRunning
	case stopped == succeeded:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

func isTerminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// finish makes a status final: nothing of it may look as if it could still run.
//
// Upstream: pkg/kubelet/status/status_manager.go, TerminatePod.
func finish(st *corev1.PodStatus) {
	no := false
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			cs := &list[i]
			cs.Started = &no
			if cs.State.Terminated == nil {
				cs.Ready = false
				cs.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown",
					Message: "The container could not be located when the pod was terminated", ExitCode: 137}}
			}
		}
	}
	if !isTerminal(st.Phase) {
		st.Phase = corev1.PodFailed
	}
}

// conditions is the conditions that the kubelet owns, in the order in which the
// API shows them.
func conditions(in statusInput, st *corev1.PodStatus) []corev1.PodCondition {
	started := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if in.state.sandbox() != nil && st.PodIP != "" {
		started.Status = corev1.ConditionTrue
	}
	containers := containersReady(st)
	out := []corev1.PodCondition{started, initialized(in.pod, st), ready(in.pod, in.old, containers), containers,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	now := metav1.Now()
	for i := range out {
		c := &out[i]
		c.ObservedGeneration, c.LastTransitionTime = in.pod.Generation, now
		for _, before := range in.old.Conditions {
			if before.Type == c.Type && before.Status == c.Status {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	return out
}

// readyToStart is a status that says that the pod has its sandbox and network. It is
// told at once: the images to pull before the pod is looked at again may be large.
//
// Upstream: pkg/kubelet/kubelet.go, OnPodSandboxReady.
func readyToStart(pod *corev1.Pod, st corev1.PodStatus) corev1.PodStatus {
	st.Conditions = slices.Clone(st.Conditions)
	for i := range st.Conditions {
		if c := &st.Conditions[i]; c.Type == corev1.PodReadyToStartContainers && c.Status != corev1.ConditionTrue {
			c.Status, c.ObservedGeneration, c.LastTransitionTime = corev1.ConditionTrue, pod.Generation, metav1.Now()
		}
	}
	return st
}

func initialized(pod *corev1.Pod, st *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	mainStarted := false
	for _, cs := range st.ContainerStatuses {
		mainStarted = mainStarted || cs.State.Waiting == nil || cs.LastTerminationState.Terminated != nil
	}
	var missing []string
	for i, cs := range st.InitContainerStatuses {
		ok := cs.Ready
		if isSidecar(&pod.Spec.InitContainers[i]) {
			ok = cs.Started != nil && *cs.Started
		}
		if !ok && !mainStarted {
			missing = append(missing, cs.Name)
		}
	}
	switch {
	case len(missing) > 0:
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", missing)
	case st.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	}
	return c
}

func containersReady(st *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	var unready []string
	for _, cs := range st.ContainerStatuses {
		if !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	switch {
	case st.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case st.Phase == corev1.PodFailed:
		c.Reason = "PodFailed"
	case len(unready) > 0:
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
	default:
		c.Status = corev1.ConditionTrue
	}
	return c
}

// ready is ContainersReady and the pod's readiness gates.
func ready(pod *corev1.Pod, old corev1.PodStatus, containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	for _, gate := range pod.Spec.ReadinessGates {
		met := false
		for _, have := range pod.Status.Conditions {
			met = met || have.Type == gate.ConditionType && have.Status == corev1.ConditionTrue
		}
		if !met {
			c.Status, c.Reason = corev1.ConditionFalse, "ReadinessGatesNotReady"
			c.Message = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, corev1.ConditionFalse)
		}
	}
	return c
}

// qosClass sorts pods by what they ask for: it decides their cgroup and who is
// killed first when memory runs out.
//
// Upstream: pkg/apis/core/v1/helper/qos, ComputePodQOS.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	any, guaranteed := false, true
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, limit := list[i].Resources.Requests[name], list[i].Resources.Limits[name]
				any = any || !request.IsZero() || !limit.IsZero()
				guaranteed = guaranteed && !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
