package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"orrery/client"
)

// statusRetry is the wait before a status that could not be written is tried again.
//
// Upstream: pkg/kubelet/status/status_manager.go, syncPeriod.
const statusRetry = 10 * time.Second

// statusManager holds the newest status of each pod and writes it to the API as
// a patch of what differs. When a pod that shall go has ended for good, it does
// the last step of a graceful deletion: the delete with a grace of zero.
//
// Upstream: pkg/kubelet/status/status_manager.go, manager.
type statusManager struct {
	api    *client.Client
	pods   *podStore
	log    *slog.Logger
	queue  *client.Queue[types.UID]
	mu     sync.Mutex
	byUID  map[types.UID]*podRecord
	online <-chan struct{} // the API may be spoken to
}

type podRecord struct {
	pod    *corev1.Pod
	status corev1.PodStatus
	raw    []byte // status as JSON: what has changed is what reads differently
	ending ending
}

// ending is how far a pod has come on its way out; it only grows.
type ending int

const (
	mayRun    ending = iota // a container runs or may run: the API shows no terminal phase yet
	stopped                 // none runs or ever will
	cleanedUp               // nothing of it is left on the node: it may go from the API
)

// get is the newest status of a pod; a pod that is not known yet has that of the API.
// That a static pod has ended is not believed: its manifest may have been put back,
// and if it has ended by itself, its containers tell so again.
func (m *statusManager) get(pod *corev1.Pod) corev1.PodStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.byUID[pod.UID]; r != nil {
		return r.status
	}
	if isStatic(pod) {
		if mirror := m.pods.mirror(pod); mirror != nil && mirror.Annotations[annotationMirror] == pod.Annotations[annotationHash] && !isTerminal(mirror.Status.Phase) {
			return mirror.Status
		}
	}
	return pod.Status
}

// set notes a status and has it written if it is news.
func (m *statusManager) set(pod *corev1.Pod, st corev1.PodStatus, end ending) {
	if st.StartTime == nil {
		now := metav1.Now()
		st.StartTime = &now
	}
	raw, err := json.Marshal(st)
	if err != nil {
		m.log.Error("Pod status cannot be encoded", "pod", podName(pod), "err", err)
		return
	}
	m.mu.Lock()
	r := m.byUID[pod.UID]
	if r != nil {
		end = max(end, r.ending)
	}
	news := r == nil || !bytes.Equal(r.raw, raw) || r.ending != end
	m.byUID[pod.UID] = &podRecord{pod: pod, status: st, raw: raw, ending: end}
	m.mu.Unlock()
	if news {
		m.queue.Add(pod.UID)
	}
}

// differs says whether the API shows a pod otherwise than we last set it.
func (m *statusManager) differs(pod *corev1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.byUID[pod.UID]
	if isStatic(pod) {
		pod = m.pods.mirror(pod)
	}
	if r == nil || pod == nil {
		return false
	}
	if r.ending == cleanedUp && pod.DeletionTimestamp != nil {
		return true
	}
	is, err1 := json.Marshal(pod.Status)
	want, err2 := json.Marshal(mergeStatus(pod.Status, r.status, r.ending))
	return err1 == nil && err2 == nil && !bytes.Equal(is, want)
}

// again has a pod's status compared with the API once more.
func (m *statusManager) again(uid types.UID) { m.queue.Add(uid) }

// forget drops pods that are gone.
func (m *statusManager) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byUID, uid)
}

func (m *statusManager) run(ctx context.Context) {
	defer m.queue.ShutDown()
	if m.api == nil {
		<-ctx.Done()
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-m.online:
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				uid, ok := m.queue.Get(ctx)
				if !ok {
					return
				}
				if err := m.sync(ctx, uid); err != nil && ctx.Err() == nil {
					m.log.Info("Pod status not written, will try again", "key", uid, "err", err)
					m.queue.AddAfter(uid, statusRetry)
				}
				m.queue.Done(uid)
			}
		})
	}
	wg.Wait()
}

// sync writes the status of one pod.
func (m *statusManager) sync(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	var r podRecord
	if p := m.byUID[uid]; p != nil {
		r = *p
	}
	m.mu.Unlock()
	if r.pod == nil {
		return nil
	}
	if isStatic(r.pod) && m.pods.mirror(r.pod) == nil {
		return nil // its coming will have us called again
	}
	pods := client.For[*corev1.Pod](m.api)
	now, err := pods.Get(ctx, r.pod.Namespace, r.pod.Name)
	if apierrors.IsNotFound(err) || err != nil && m.pods.get(uid) == nil {
		return nil // gone; of a pod that is no longer ours we may not even ask
	}
	if err != nil {
		return fmt.Errorf("reading pod: %w", err)
	}
	if isStatic(r.pod) {
		if now.Annotations[annotationMirror] != r.pod.Annotations[annotationHash] {
			return nil // an older manifest's mirror: the new one will ask again
		}
	} else if now.UID != uid {
		return nil // another pod under the same name
	}
	if now, err = m.patch(ctx, now, mergeStatus(now.Status, r.status, r.ending)); err != nil {
		return err
	}
	if now.DeletionTimestamp != nil && r.ending == cleanedUp && !isMirror(now) {
		zero := int64(0)
		err := pods.Delete(ctx, now.Namespace, now.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &now.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting pod: %w", err)
		}
		m.log.Info("Pod is gone", "pod", podName(now))
	}
	return nil
}

// patch sends what differs between the status of a pod and a new one.
func (m *statusManager) patch(ctx context.Context, now *corev1.Pod, st corev1.PodStatus) (*corev1.Pod, error) {
	was, err := json.Marshal(corev1.Pod{Status: now.Status})
	if err != nil {
		return now, err
	}
	will, err := json.Marshal(corev1.Pod{Status: st})
	if err != nil || bytes.Equal(was, will) {
		return now, err
	}
	diff, err := strategicpatch.CreateTwoWayMergePatch(was, will, corev1.Pod{})
	if err != nil {
		return now, err
	}
	var body map[string]any
	if err := json.Unmarshal(diff, &body); err != nil {
		return now, err
	}
	// The uid makes the patch fail on another pod of the same name.
	body["metadata"] = map[string]any{"uid": now.UID}
	diff, err = json.Marshal(body)
	if err != nil {
		return now, err
	}
	next, err := client.For[*corev1.Pod](m.api).Patch(ctx, now.Namespace, now.Name, types.StrategicMergePatchType, diff, "status")
	if err != nil {
		return now, fmt.Errorf("patching pod status: %w", err)
	}
	m.log.Debug("Pod status written", "pod", podName(next), "phase", next.Status.Phase)
	return next, nil
}

// mergeStatus is a new status with the conditions that others have put into the
// old one: they come first. A phase that is final waits until the containers have
// been stopped: who sees it may take what they held.
//
// Upstream: pkg/kubelet/status/status_manager.go, mergePodStatus.
func mergeStatus(old, st corev1.PodStatus, end ending) corev1.PodStatus {
	if end == mayRun && isTerminal(st.Phase) && !isTerminal(old.Phase) {
		st.Phase, st.Reason, st.Message = old.Phase, old.Reason, old.Message
	}
	var merged []corev1.PodCondition
	for _, c := range old.Conditions {
		if !owned(c.Type) && !hasCondition(st.Conditions, c.Type) {
			merged = append(merged, c)
		}
	}
	st.Conditions = append(merged, st.Conditions...)
	st.Resize, st.NominatedNodeName = old.Resize, old.NominatedNodeName
	st.ResourceClaimStatuses = old.ResourceClaimStatuses
	return st
}

// owned says whether a condition is the kubelet's to write.
//
// Upstream: pkg/kubelet/types/pod_status.go, PodConditionsByKubelet.
func owned(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReadyToStartContainers:
		return true
	}
	return false
}

func hasCondition(list []corev1.PodCondition, t corev1.PodConditionType) bool {
	for _, c := range list {
		if c.Type == t {
			return true
		}
	}
	return false
}
