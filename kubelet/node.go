package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
)

// register makes the Node object, or finds the one that is there, and says
// whether it did before the context ended. It goes on quietly for as long as the
// API server cannot be reached.
//
// Upstream: pkg/kubelet/kubelet_node_status.go, registerWithAPIServer.
func (k *Kubelet) register(ctx context.Context) bool {
	wait := 100 * time.Millisecond
	for !*k.cfg.Settings.RegisterNode || k.tryRegister(ctx) != nil {
		if !*k.cfg.Settings.RegisterNode { // somebody else makes the object
			node, err := client.For[*corev1.Node](k.api).Get(ctx, "", k.cfg.NodeName)
			if err == nil {
				k.node.Store(node)
				return true
			}
		}
		if !client.Sleep(ctx, wait) {
			return false
		}
		wait = min(2*wait, 7*time.Second)
	}
	return true
}

func (k *Kubelet) tryRegister(ctx context.Context) error {
	nodes := client.For[*corev1.Node](k.api)
	wanted, events := k.initialNode(ctx)
	node, err := nodes.Create(ctx, wanted)
	if apierrors.IsAlreadyExists(err) {
		if node, err = nodes.Get(ctx, "", k.cfg.NodeName); err == nil {
			node, err = k.adopt(ctx, node, wanted)
		}
	} else if err == nil {
		k.log.Info("Node registered", "node", k.cfg.NodeName)
		k.nodeStatusEvents(events)
	}
	if err != nil {
		k.log.Debug("Node not registered yet", "node", k.cfg.NodeName, "err", err)
		return err
	}
	k.node.Store(node)
	k.ensureCSINode(ctx, node)
	return nil
}

// adopt gives a Node of an earlier life the labels that it must have.
func (k *Kubelet) adopt(ctx context.Context, node, wanted *corev1.Node) (*corev1.Node, error) {
	labels := maps.Clone(node.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, wanted.Labels)
	if maps.Equal(labels, node.Labels) {
		return node, nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return nil, err
	}
	return client.For[*corev1.Node](k.api).Patch(ctx, "", node.Name, types.StrategicMergePatchType, body)
}

// initialNode is the Node as this kubelet makes it, and what is to be told of it.
func (k *Kubelet) initialNode(ctx context.Context) (node *corev1.Node, events []string) {
	arch, os := k.cfg.Machine.Info.Architecture, k.cfg.Machine.Info.OperatingSystem
	node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:        k.cfg.NodeName,
		Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		Labels: map[string]string{"kubernetes.io/hostname": k.cfg.NodeName, "kubernetes.io/os": os, "kubernetes.io/arch": arch,
			"beta.kubernetes.io/os": os, "beta.kubernetes.io/arch": arch},
	}}
	maps.Copy(node.Labels, k.cfg.NodeLabels)
	node.Spec.Taints = append(node.Spec.Taints, k.cfg.Settings.RegisterWithTaints...)
	node.Spec.ProviderID = k.cfg.Settings.ProviderID
	return node, k.fillNodeStatus(ctx, node)
}

// ensureCSINode makes the object by which volume drivers would announce
// themselves; other components look for it.
func (k *Kubelet) ensureCSINode(ctx context.Context, node *corev1.Node) {
	_, err := client.For[*storagev1.CSINode](k.api).Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		k.log.Info("CSINode not made", "node", node.Name, "err", err)
	}
}

// reportNode computes the node's status every ten seconds and sends it when it
// has changed, or when five minutes have passed. Until the node is Ready for the
// first time it looks ten times a second, so that a node that boots is Ready at once.
//
// Upstream: pkg/kubelet/kubelet_node_status.go, syncNodeStatus; kubelet.go, fastStatusUpdateOnce.
func (k *Kubelet) reportNode(ctx context.Context) {
	var reported time.Time
	ready := false
	next := time.Now()
	for {
		fine := k.runtimeState.problems(true) == nil
		// At once on a change of the runtime's health, else at the regular time.
		if k.node.Load() != nil && (fine != ready || !time.Now().Before(next)) {
			sent, err := k.updateNodeStatus(ctx, reported)
			if err != nil && ctx.Err() == nil {
				k.log.Info("Node status not written, will try again", "node", k.cfg.NodeName, "err", err)
			}
			if sent {
				reported = time.Now()
			}
			if err == nil {
				ready = fine
			}
			next = time.Now().Add(jitterBy(k.cfg.Settings.NodeStatusUpdateFrequency.Duration, 0.04))
		}
		pause := time.Second
		if !ready {
			pause = 100 * time.Millisecond
		}
		if !client.Sleep(ctx, pause) {
			return
		}
	}
}

// updateNodeStatus patches what differs, if enough does.
func (k *Kubelet) updateNodeStatus(ctx context.Context, reported time.Time) (sent bool, err error) {
	nodes := client.For[*corev1.Node](k.api)
	node, err := nodes.Get(ctx, "", k.cfg.NodeName)
	if apierrors.IsNotFound(err) && *k.cfg.Settings.RegisterNode {
		return false, k.tryRegister(ctx) // somebody deleted it: upstream waits for a restart, the lesson is the same
	}
	if err != nil {
		return false, err
	}
	k.node.Store(node) // its labels may have changed
	next := node.DeepCopy()
	events := k.fillNodeStatus(ctx, next)
	if time.Since(reported) < k.cfg.Settings.NodeStatusReportFrequency.Duration && !statusChanged(node, next) {
		return false, nil
	}
	was, err := json.Marshal(corev1.Node{Status: node.Status})
	if err != nil {
		return false, err
	}
	will, err := json.Marshal(corev1.Node{Status: next.Status})
	if err != nil {
		return false, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(was, will, corev1.Node{})
	if err != nil {
		return false, err
	}
	stored, err := nodes.Patch(ctx, "", node.Name, types.StrategicMergePatchType, patch, "status")
	if err != nil {
		return false, err
	}
	k.node.Store(stored)
	k.nodeStatusEvents(events)
	return true, nil
}

func (k *Kubelet) nodeStatusEvents(reasons []string) {
	for _, reason := range reasons {
		k.nodeEvent(corev1.EventTypeNormal, reason, "Node %s status is now: %s", k.cfg.NodeName, reason)
	}
}

// statusChanged compares two statuses but for the times of heartbeats.
func statusChanged(a, b *corev1.Node) bool {
	plain := func(n *corev1.Node) []byte {
		st := n.Status.DeepCopy()
		for i := range st.Conditions {
			st.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		raw, _ := json.Marshal(st) // a NodeStatus always encodes
		return raw
	}
	return !bytes.Equal(plain(a), plain(b))
}

// fillNodeStatus writes all that the kubelet knows into the status and returns
// the reasons of the events that tell what has changed.
//
// Upstream: pkg/kubelet/nodestatus/setters.go.
// Left out: pressure conditions are always False; runtimeHandlers.
func (k *Kubelet) fillNodeStatus(ctx context.Context, node *corev1.Node) (events []string) {
	st := &node.Status
	st.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: k.cfg.NodeIP.String()}, {Type: corev1.NodeHostName, Address: k.cfg.NodeName}}
	st.Capacity, st.Allocatable = k.capacity(), k.allocatable()
	st.DaemonEndpoints.KubeletEndpoint.Port = k.cfg.Settings.Port
	st.NodeInfo = k.cfg.Machine.Info
	st.NodeInfo.KubeletVersion, st.NodeInfo.ContainerRuntimeVersion = k.cfg.Version, k.runtimeState.full()
	st.Images = k.imageList(ctx)
	now := metav1.Now()
	set := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message, event string) {
		c := corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
		for i := range st.Conditions {
			if before := &st.Conditions[i]; before.Type == kind {
				if before.Status == status {
					c.LastTransitionTime = before.LastTransitionTime
				} else {
					events = append(events, event)
				}
				*before = c
				return
			}
		}
		st.Conditions = append(st.Conditions, c)
		if kind != corev1.NodeReady { // a new node is expected not to be ready yet
			events = append(events, event)
		}
	}
	set(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory")
	set(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure")
	set(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID")
	if err := k.runtimeState.problems(true); err != nil {
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", err.Error(), "NodeNotReady")
	} else {
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status", "NodeReady")
	}
	return events
}

// imageList is the largest images here; the scheduler prefers nodes that have them.
func (k *Kubelet) imageList(ctx context.Context) []corev1.ContainerImage {
	resp, err := k.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil
	}
	var out []corev1.ContainerImage
	for _, img := range resp.Images {
		if names := append(append([]string(nil), img.RepoDigests...), img.RepoTags...); len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(img.Size)})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].SizeBytes != out[j].SizeBytes {
			return out[i].SizeBytes > out[j].SizeBytes
		}
		return fmt.Sprint(out[i].Names) < fmt.Sprint(out[j].Names)
	})
	if n := int(*k.cfg.Settings.NodeStatusMaxImages); n >= 0 && len(out) > n {
		out = out[:n]
	}
	return out
}
