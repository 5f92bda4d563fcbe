// Package timing is the one file of defaults that have to do with time, so that
// "why after five minutes?" has an answer in one place. Each constant names
// upstream's flag or symbol, and the version in which its value last changed.
//
// The constants are the defaults; the mains make flags of them and hand the
// values down. [Scale] divides those that a drill in class waits for, all together:
// what it leaves, docs/gaps.md says.
//
// Invariants: a value here equals the default of a kubeadm v1.36 cluster, and
// [Table] lists each constant once (timing_test.go holds both to account).
package timing

import "time"

// Heartbeats: what a node sends.
const (
	// NodeLeaseDuration is how long a kubelet's lease is good for
	// (KubeletConfiguration nodeLeaseDurationSeconds).
	NodeLeaseDuration = 40 * time.Second
	// NodeLeaseRenewInterval is a quarter of the duration
	// (pkg/kubelet/kubelet.go, nodeLeaseRenewIntervalFraction).
	NodeLeaseRenewInterval = 10 * time.Second
	// NodeStatusUpdateFrequency is how often the kubelet computes its node's
	// status (KubeletConfiguration nodeStatusUpdateFrequency).
	NodeStatusUpdateFrequency = 10 * time.Second
	// NodeStatusReportFrequency is how often it sends a status that has not
	// changed (KubeletConfiguration nodeStatusReportFrequency).
	NodeStatusReportFrequency = 5 * time.Minute
	// RuntimeDownGrace is how long the container runtime may be silent before
	// the node says NotReady (pkg/kubelet/kubelet.go, maxWaitForContainerRuntime).
	RuntimeDownGrace = 30 * time.Second
	// RuntimeCheckPeriod is how often the container runtime is asked whether it is
	// well (pkg/kubelet/kubelet.go, Run: updateRuntimeUp).
	RuntimeCheckPeriod = 5 * time.Second
	// PLEGHealthy is how old the last relist of containers may be
	// (pkg/kubelet/pleg/generic.go, genericPlegRelistThreshold).
	PLEGHealthy = 3 * time.Minute
)

// Node lifecycle: what the control plane makes of missing heartbeats.
const (
	// NodeMonitorPeriod is --node-monitor-period.
	NodeMonitorPeriod = 5 * time.Second
	// NodeMonitorGracePeriod is --node-monitor-grace-period: 50 s since v1.32
	// (40 s before), so that it exceeds the HTTP/2 dead-peer detection.
	NodeMonitorGracePeriod = 50 * time.Second
	// NodeStartupGracePeriod is --node-startup-grace-period.
	NodeStartupGracePeriod = 60 * time.Second
	// NotReadyToleration and UnreachableToleration are the tolerationSeconds
	// that admission adds to each pod (--default-not-ready-toleration-seconds,
	// --default-unreachable-toleration-seconds). They are why a pod waits five
	// minutes on a dead node; --pod-eviction-timeout went in v1.27.
	NotReadyToleration    = 300 * time.Second
	UnreachableToleration = 300 * time.Second
	// NodeEvictionTick is how often the NoExecute taint queue is looked at
	// (pkg/controller/nodelifecycle, scheduler.NodeEvictionPeriod).
	NodeEvictionTick = 100 * time.Millisecond
	// PodGCPeriod is how often pods of gone nodes are collected
	// (pkg/controller/podgc/gc_controller.go, gcCheckPeriod).
	PodGCPeriod = 20 * time.Second
	// PodGCQuarantine is how long a node must be missing before its pods are
	// orphans (pkg/controller/podgc/gc_controller.go, quarantineTime).
	PodGCQuarantine = 40 * time.Second
)

// Rates and thresholds that go with the node lifecycle; per second and per zone.
const (
	// NodeEvictionRate is --node-eviction-rate: nodes tainted NoExecute a second.
	NodeEvictionRate = 0.1
	// SecondaryNodeEvictionRate is --secondary-node-eviction-rate.
	SecondaryNodeEvictionRate = 0.01
	// LargeClusterSizeThreshold is --large-cluster-size-threshold, in nodes.
	LargeClusterSizeThreshold = 50
	// UnhealthyZoneThreshold is --unhealthy-zone-threshold, a fraction.
	UnhealthyZoneThreshold = 0.55
	// TerminatedPodGCThreshold is --terminated-pod-gc-threshold, in pods.
	TerminatedPodGCThreshold = 12500
)

// Pods on a node.
const (
	// TerminationGracePeriod is the default terminationGracePeriodSeconds.
	TerminationGracePeriod = 30 * time.Second
	// MinimumGracePeriod is the least that a kubelet grants
	// (pkg/kubelet/kuberuntime, minimumGracePeriodInSeconds).
	MinimumGracePeriod = 2 * time.Second
	// CrashLoopInitial and CrashLoopMax bound CrashLoopBackOff
	// (pkg/kubelet/kubelet.go, initialCrashLoopBackOff and MaxCrashLoopBackOff).
	CrashLoopInitial = 10 * time.Second
	CrashLoopMax     = 300 * time.Second
	// CrashLoopReset is how long a container must have run for its back-off to
	// start again (pkg/kubelet/kubelet.go, the HasExpiredFunc).
	CrashLoopReset = 10 * time.Minute
	// ImagePullInitial and ImagePullMax bound ImagePullBackOff.
	ImagePullInitial = 10 * time.Second
	ImagePullMax     = 300 * time.Second
	// PodSyncFrequency is KubeletConfiguration syncFrequency.
	PodSyncFrequency = time.Minute
	// StaticPodCheckFrequency is KubeletConfiguration fileCheckFrequency.
	StaticPodCheckFrequency = 20 * time.Second
	// PLEGRelistPeriod is how often containers are listed
	// (pkg/kubelet/kubelet.go, genericPlegRelistPeriod).
	PLEGRelistPeriod = time.Second
	// TransientErrorBackOff is the wait of a pod while its node has no network
	// (pkg/kubelet/pod_workers.go, backOffOnTransientErrorPeriod), before jitter.
	TransientErrorBackOff = time.Second
	// PodWorkerBackOff is the wait after any other failure of a pod's sync
	// (pkg/kubelet/pod_workers.go, workerBackOffPeriod), before jitter.
	PodWorkerBackOff = 10 * time.Second
	// ContainerLogMonitorInterval is how often the sizes of logs are looked at
	// (KubeletConfiguration containerLogMonitorInterval).
	ContainerLogMonitorInterval = 10 * time.Second
	// ProbePeriod and ProbeTimeout are the API defaults of a probe.
	ProbePeriod  = 10 * time.Second
	ProbeTimeout = time.Second
)

// Leader election (component-base/config/v1alpha1/defaults.go).
const (
	// LeaderLeaseDuration is --leader-elect-lease-duration.
	LeaderLeaseDuration = 15 * time.Second
	// LeaderRenewDeadline is --leader-elect-renew-deadline.
	LeaderRenewDeadline = 10 * time.Second
	// LeaderRetryPeriod is --leader-elect-retry-period.
	LeaderRetryPeriod = 2 * time.Second
)

// Clients of the API server.
const (
	// DialTimeout and IdleConnTimeout are client-go's transport defaults.
	DialTimeout         = 30 * time.Second
	TLSHandshakeTimeout = 10 * time.Second
	IdleConnTimeout     = 90 * time.Second
	// HTTP2PingInterval and HTTP2PingTimeout find a dead peer in 45 s at most
	// (k8s.io/apimachinery/pkg/util/net, HTTP2_READ_IDLE_TIMEOUT_SECONDS).
	HTTP2PingInterval = 30 * time.Second
	HTTP2PingTimeout  = 15 * time.Second
	// ReflectorBackOffInitial and ReflectorBackOffMax bound the wait before a
	// broken list or watch is tried again; ReflectorBackOffReset is the quiet
	// time after which it starts small again (client-go/tools/cache/reflector.go).
	ReflectorBackOffInitial = 800 * time.Millisecond
	ReflectorBackOffMax     = 30 * time.Second
	ReflectorBackOffReset   = 2 * time.Minute
	// WatchTimeoutMin is the least time that a watch asks for; the most is twice
	// that (client-go/tools/cache/reflector.go, defaultMinWatchTimeout).
	WatchTimeoutMin = 5 * time.Minute
	// QueueBackOffInitial and QueueBackOffMax bound the wait of a failed key
	// (client-go/util/workqueue, DefaultTypedControllerRateLimiter).
	QueueBackOffInitial = 5 * time.Millisecond
	QueueBackOffMax     = 1000 * time.Second
)

// The API server; cmd/kube-apiserver passes these in.
const (
	// EventTTL is --event-ttl.
	EventTTL = time.Hour
	// CompactionInterval is --etcd-compaction-interval.
	CompactionInterval = 5 * time.Minute
	// EndpointLeaseTTL is how long an API server stays an endpoint of the
	// service default/kubernetes without renewing (--endpoint-reconciler-type=lease).
	EndpointLeaseTTL = 15 * time.Second
	// RequestTimeout is --request-timeout.
	RequestTimeout = time.Minute
	// BookmarkPeriod is about how often a watch gets a bookmark
	// (apiserver/pkg/storage/cacher, defaultBookmarkFrequency).
	BookmarkPeriod = time.Minute
)

// Workload controllers.
const (
	// ProgressDeadline is a Deployment's default progressDeadlineSeconds.
	ProgressDeadline = 600 * time.Second
	// JobSyncBatch is how long a Job waits for more news of its pods before it is
	// looked at (pkg/controller/job, SyncJobBatchPeriod).
	JobSyncBatch = time.Second
	// JobBackOffInitial and JobBackOffMax bound the wait before a Job replaces a
	// failed pod (pkg/controller/job, DefaultJobPodFailureBackOff, MaxJobPodFailureBackOff).
	JobBackOffInitial = 10 * time.Second
	JobBackOffMax     = 10 * time.Minute
	// DaemonBackOffInitial and DaemonBackOffMax bound the wait before a DaemonSet
	// replaces a failed pod (cmd/kube-controller-manager/app/apps.go).
	DaemonBackOffInitial = time.Second
	DaemonBackOffMax     = 15 * time.Minute
	// HPASyncPeriod is --horizontal-pod-autoscaler-sync-period.
	HPASyncPeriod = 15 * time.Second
	// HPADownscaleStabilization is --horizontal-pod-autoscaler-downscale-stabilization.
	HPADownscaleStabilization = 5 * time.Minute
	// HPACPUInitializationPeriod is --horizontal-pod-autoscaler-cpu-initialization-period.
	HPACPUInitializationPeriod = 5 * time.Minute
	// HPAInitialReadinessDelay is --horizontal-pod-autoscaler-initial-readiness-delay.
	HPAInitialReadinessDelay = 30 * time.Second
)

// The scheduler's queue (KubeSchedulerConfiguration).
const (
	// PodInitialBackOff and PodMaxBackOff are podInitialBackoffSeconds and
	// podMaxBackoffSeconds.
	PodInitialBackOff = time.Second
	PodMaxBackOff     = 10 * time.Second
	// UnschedulableFlush is how long a pod may lie unschedulable before it is
	// tried again without any event (--pod-max-in-unschedulable-pods-duration).
	UnschedulableFlush = 5 * time.Minute
	// QueueFlushPeriod is how often the queue looks whose wait is over
	// (pkg/scheduler/backend/queue/backoff_queue.go, backoffQOrderingWindowDuration).
	QueueFlushPeriod = time.Second
	// VolumeBindTimeout is how long a chosen pod waits for its volumes to be
	// bound (VolumeBindingArgs bindTimeoutSeconds), VolumeBindPoll how often it
	// looks.
	VolumeBindTimeout = 10 * time.Minute
	VolumeBindPoll    = time.Second
)

// The service proxy (KubeProxyConfiguration iptables).
const (
	// ProxyMinSyncPeriod and ProxySyncPeriod are minSyncPeriod and syncPeriod.
	ProxyMinSyncPeriod = time.Second
	ProxySyncPeriod    = 30 * time.Second
)

// Bootstrap.
const (
	// BootstrapTokenTTL is how long a kubeadm token is good for.
	BootstrapTokenTTL = 24 * time.Hour
	// CSRApprovedExpiry and CSRPendingExpiry are when old certificate requests
	// are removed (pkg/controller/certificates/cleaner).
	CSRApprovedExpiry = time.Hour
	CSRPendingExpiry  = 24 * time.Hour
	// ClusterSigningDuration is --cluster-signing-duration.
	ClusterSigningDuration = 365 * 24 * time.Hour
)

// Scale divides durations by factor: with 10 everything happens ten times as
// fast; 0 counts as 1. The mains apply it once, to all values of their flags together, so that
// what is shorter than what stays true.
func Scale(factor float64, durations ...*time.Duration) {
	if factor == 0 {
		return
	}
	for _, d := range durations {
		*d = time.Duration(float64(*d) / factor)
	}
}
