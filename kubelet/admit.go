package kubelet

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// rejection is why a pod may not run here: the reason and message of its status.
type rejection struct{ reason, message string }

// admit says whether a pod may run here. The scheduler decided so, but on what it
// knew then, and static pods it never saw. A pod that is refused has failed.
//
// Upstream: pkg/kubelet/lifecycle/predicate.go, predicateAdmitHandler; kubelet.go, rejectPod.
func (k *Kubelet) admit(w *worker, pod *corev1.Pod) bool {
	k.admitMu.Lock()
	defer k.admitMu.Unlock()
	w.mu.Lock()
	admitted := w.admitted
	w.mu.Unlock()
	if admitted {
		return true
	}
	var why *rejection
	if !isStatic(pod) {
		why = refuse(pod, k.node.Load(), k.workers.active(), k.allocatable())
	}
	if why == nil {
		w.mu.Lock()
		w.admitted = true
		w.mu.Unlock()
		return true
	}
	k.eventf(pod, corev1.EventTypeWarning, why.reason, "%s", why.message)
	k.log.Info("Pod rejected", "pod", podName(pod), "reason", why.reason, "message", why.message)
	st := k.makeStatus(pod, &podState{uid: pod.UID}, false)
	st.Phase, st.Reason, st.Message = corev1.PodFailed, why.reason, "Pod was rejected: "+why.message
	st.ContainerStatuses, st.InitContainerStatuses = nil, nil
	k.status.set(pod, st, stopped)
	return false
}

// refuse is the rejection of a pod on a node that runs others, or nil.
func refuse(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod, allocatable corev1.ResourceList) *rejection {
	if node != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err == nil && !ok {
			return &rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
		}
	}
	taken := map[string]bool{}
	for _, o := range others {
		for p := range hostPorts(o) {
			taken[p] = true
		}
	}
	for p := range hostPorts(pod) {
		if taken[p] {
			return &rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
		}
	}
	if capacity := allocatable.Pods().Value(); int64(len(others))+1 > capacity {
		return insufficient(corev1.ResourcePods, 1, int64(len(others)), capacity)
	}
	wanted := resource.PodRequests(pod, resource.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		value := func(list corev1.ResourceList) int64 {
			q := list[name]
			if name == corev1.ResourceCPU {
				return q.MilliValue()
			}
			return q.Value()
		}
		used := int64(0)
		for _, o := range others {
			used += value(resource.PodRequests(o, resource.PodResourcesOptions{}))
		}
		if want := value(wanted); want > 0 && used+want > value(allocatable) {
			return insufficient(name, want, used, value(allocatable))
		}
	}
	return nil
}

func insufficient(name corev1.ResourceName, want, used, capacity int64) *rejection {
	return &rejection{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, capacity)}
}

func hostPorts(pod *corev1.Pod) map[string]bool {
	out := map[string]bool{}
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort != 0 {
				out[fmt.Sprint(p.Protocol, p.HostIP, p.HostPort)] = true
			}
		}
	}
	return out
}
