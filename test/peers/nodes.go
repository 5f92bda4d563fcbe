package peers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// StartNodes registers n hollow nodes, node-1 and on, with the users that real
// kubelets have. Until the test ends they renew their leases and say of every pod
// that they get that it runs, or has ended well if it is one that may end.
func (c *Cluster) StartNodes(n int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	c.t.Cleanup(func() { cancel(); wg.Wait() })
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		h := &hollow{t: c.t, name: name, client: c.clientFor("system:node:"+name, "system:nodes"), ip: fmt.Sprintf("10.244.%d.", i)}
		c.Wait("registering "+name, h.register)
		wg.Go(func() { h.beat(ctx) })
		wg.Go(func() { h.runPods(ctx) })
	}
}

type hollow struct {
	t      testing.TB
	name   string
	client *kubernetes.Clientset
	ip     string
	pods   int
}

// Upstream: pkg/kubelet/kubelet_node_status.go, Kubelet.registerWithAPIServer.
func (h *hollow) register(ctx context.Context) error {
	has := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110")}
	now := metav1.Now()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: h.name, Labels: map[string]string{corev1.LabelHostname: h.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Status: corev1.NodeStatus{
			Capacity: has, Allocatable: has, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: h.name}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status", LastHeartbeatTime: now, LastTransitionTime: now}},
		},
	}
	if _, err := h.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	seconds, renewed := int32(40), metav1.NowMicro()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: h.name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &h.name, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	if _, err := h.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// beat renews the lease as often as a kubelet does. An API server that is away is no
// error: that is what a node lives with.
func (h *hollow) beat(ctx context.Context) {
	leases := h.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		lease, err := leases.Get(ctx, h.name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
}

func (h *hollow) runPods(ctx context.Context) {
	lw := cache.NewListWatchFromClient(h.client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", h.name))
	handle := func(obj any) {
		if err := h.sync(ctx, obj.(*corev1.Pod)); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			h.t.Errorf("%s: %v", h.name, err)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: lw, ObjectType: &corev1.Pod{}, ResyncPeriod: 5 * time.Second,
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: handle, UpdateFunc: func(_, obj any) { handle(obj) }}})
	controller.RunWithContext(ctx)
}

// sync says what a kubelet would say of the pod by now.
func (h *hollow) sync(ctx context.Context, pod *corev1.Pod) error {
	pods := h.client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil:
		now := int64(0)
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Status.Phase != corev1.PodPending:
		return nil
	}
	pod = pod.DeepCopy()
	h.pods++
	now := metav1.Now()
	s := &pod.Status
	s.Phase, s.StartTime, s.PodIP, s.HostIP = corev1.PodRunning, &now, fmt.Sprint(h.ip, 1+h.pods%250), "127.0.0.1"
	s.PodIPs, s.HostIPs = []corev1.PodIP{{IP: s.PodIP}}, []corev1.HostIP{{IP: s.HostIP}}
	ready, state := corev1.ConditionTrue, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	if pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		s.Phase, ready = corev1.PodSucceeded, corev1.ConditionFalse
		state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}}
	}
	for _, t := range []corev1.PodConditionType{corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		status := ready
		if t == corev1.PodInitialized {
			status = corev1.ConditionTrue
		}
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: t, Status: status, LastTransitionTime: now})
	}
	for _, ctr := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: ctr.Name, Image: ctr.Image, Ready: ready == corev1.ConditionTrue, State: state, ContainerID: "hollow://" + string(pod.UID)})
	}
	_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}
