package kinds

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Upstream: pkg/apis/apps/v1/defaults.go, SetDefaults_Deployment.
func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	defaultPodSpec(&s.Template.Spec)
	fillPtr(&s.Replicas, 1)
	fill(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		fillPtr(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		fillPtr(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fillPtr(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	fillPtr(&s.RevisionHistoryLimit, 10)
	fillPtr(&s.ProgressDeadlineSeconds, 600)
}

func defaultReplicaSet(rs *appsv1.ReplicaSet) {
	defaultPodSpec(&rs.Spec.Template.Spec)
	fillPtr(&rs.Spec.Replicas, 1)
}

// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_ReplicationController.
func defaultReplicationController(rc *corev1.ReplicationController) {
	if t := rc.Spec.Template; t != nil {
		defaultPodSpec(&t.Spec)
		fillMap(&rc.Spec.Selector, t.Labels)
		fillMap(&rc.Labels, t.Labels)
	}
	fillPtr(&rc.Spec.Replicas, 1)
}

// Upstream: pkg/apis/apps/v1/defaults.go, SetDefaults_DaemonSet.
func defaultDaemonSet(ds *appsv1.DaemonSet) {
	setTemplateGeneration(ds, templateGeneration(ds)) // always there, so that whoever writes first owns it
	s := &ds.Spec
	defaultPodSpec(&s.Template.Spec)
	fill(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		fillPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		fillPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fillPtr(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	fillPtr(&s.RevisionHistoryLimit, 10)
}

// Upstream: pkg/apis/apps/v1/defaults.go, SetDefaults_StatefulSet.
func defaultStatefulSet(sts *appsv1.StatefulSet) {
	s := &sts.Spec
	defaultPodSpec(&s.Template.Spec)
	fill(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	fill(&s.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		fillPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		fillPtr(&s.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	fillPtr(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	fill(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fill(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fillPtr(&s.Replicas, 1)
	fillPtr(&s.RevisionHistoryLimit, 10)
	for i := range s.VolumeClaimTemplates {
		claim := &s.VolumeClaimTemplates[i]
		fill(&claim.APIVersion, "v1")
		fill(&claim.Kind, "PersistentVolumeClaim")
		defaultClaim(claim)
	}
}

// Upstream: pkg/apis/batch/v1/defaults.go, SetDefaults_Job.
func defaultJob(job *batchv1.Job) {
	s := &job.Spec
	defaultPodSpec(&s.Template.Spec)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions, s.Parallelism = new(int32(1)), new(int32(1))
	}
	fillPtr(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		fillPtr(&s.BackoffLimit, math.MaxInt32) // failures are counted by index then
	}
	fillPtr(&s.BackoffLimit, 6)
	fillMap(&job.Labels, s.Template.Labels)
	fillPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	fillPtr(&s.Suspend, false)
	fillPtr(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		fillPtr(&s.PodReplacementPolicy, batchv1.Failed)
		for i := range s.PodFailurePolicy.Rules {
			for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				fill(&s.PodFailurePolicy.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
			}
		}
	}
	fillPtr(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
}

// Upstream: pkg/apis/batch/v1/defaults.go, SetDefaults_CronJob.
func defaultCronJob(cj *batchv1.CronJob) {
	s := &cj.Spec
	defaultPodSpec(&s.JobTemplate.Spec.Template.Spec)
	fill(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	fillPtr(&s.Suspend, false)
	fillPtr(&s.SuccessfulJobsHistoryLimit, 3)
	fillPtr(&s.FailedJobsHistoryLimit, 1)
}

// defaultHPA completes an autoscaler: without a metric it keeps processor use at four fifths of what was requested.
//
// Upstream: pkg/apis/autoscaling/v2/defaults.go, SetDefaults_HorizontalPodAutoscaler.
func defaultHPA(hpa *autoscalingv2.HorizontalPodAutoscaler) {
	s := &hpa.Spec
	fillPtr(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(80))},
			},
		}}
	}
	if s.Behavior == nil {
		return
	}
	fillPtr(&s.Behavior.ScaleUp, autoscalingv2.HPAScalingRules{})
	defaultScaling(s.Behavior.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	fillPtr(&s.Behavior.ScaleUp.StabilizationWindowSeconds, 0)
	fillPtr(&s.Behavior.ScaleDown, autoscalingv2.HPAScalingRules{})
	defaultScaling(s.Behavior.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func defaultScaling(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	fillPtr(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}
