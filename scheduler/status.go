package scheduler

import (
	"context"
	"encoding/json"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orrery/client"
)

// writeCondition sets PodScheduled=False with the reason, and the nominated node
// unless that is nil. A pod that says so already is left alone.
func (s *Scheduler) writeCondition(ctx context.Context, pod *corev1.Pod, reason, message string, nominee *string) {
	if current, ok := s.pods.Get(pod.Namespace, pod.Name); ok && current.UID == pod.UID {
		pod = current
	}
	cond := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
	}
	same := false
	for _, old := range pod.Status.Conditions {
		if old.Type == cond.Type && old.Status == cond.Status {
			cond.LastTransitionTime = old.LastTransitionTime
			same = old.Reason == reason && old.Message == message && old.ObservedGeneration == cond.ObservedGeneration
		}
	}
	renominated := nominee != nil && *nominee != pod.Status.NominatedNodeName
	if same && !renominated {
		return
	}
	status := map[string]any{"conditions": []corev1.PodCondition{cond}}
	if renominated {
		status["nominatedNodeName"] = *nominee
	}
	s.patch(ctx, pod, map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status}, "status")
}

// patch changes a pod; one that is gone, or another of the same name, is no error.
func (s *Scheduler) patch(ctx context.Context, pod *corev1.Pod, change map[string]any, subresource ...string) {
	defer s.turn()()
	body, err := json.Marshal(change)
	if err == nil {
		_, err = client.For[*corev1.Pod](s.cfg.Client).Patch(ctx, pod.Namespace, pod.Name, types.StrategicMergePatchType, body, subresource...)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		slog.Warn("could not patch pod", "component", "scheduler", "pod", client.Key(pod), "err", err)
	}
}
