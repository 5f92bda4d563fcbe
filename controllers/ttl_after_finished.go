package controllers

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orrery/client"
)

// The TTL-after-finished controller.
//
// Watches: Jobs.
// Wants: no finished Job longer than its ttlSecondsAfterFinished.
// Does: deletes it, dependents first, when its time has come.
// Upstream: pkg/controller/ttlafterfinished/ttlafterfinished_controller.go.
func startTTLAfterFinished(e *env) (func(context.Context) error, error) {
	jobs, api := watching[*batchv1.Job](e), client.For[*batchv1.Job](e.client)
	c := client.NewController("ttl-after-finished-controller", func(ctx context.Context, key string) (client.Result, error) {
		job, ok := jobs.GetKey(key)
		if !ok || job.DeletionTimestamp != nil {
			return client.Result{}, nil
		}
		at, ok := expiry(job)
		if !ok {
			return client.Result{}, nil
		}
		if left := time.Until(at); left > 0 {
			return client.Result{RequeueAfter: left}, nil
		}
		err := api.Delete(ctx, job.Namespace, job.Name, metav1.DeleteOptions{
			PropagationPolicy: new(metav1.DeletePropagationForeground), Preconditions: &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
		})
		return client.Result{}, ignoring(err, apierrors.IsNotFound)
	})
	jobs.AddHandler(client.On[*batchv1.Job](c))
	return c.Run, nil
}

// expiry is when a job shall go, if it shall.
func expiry(job *batchv1.Job) (time.Time, bool) {
	if job.Spec.TTLSecondsAfterFinished == nil {
		return time.Time{}, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}
