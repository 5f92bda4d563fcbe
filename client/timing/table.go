package timing

// Entry is one line of Table.
type Entry struct {
	Name string
	// Value is a time.Duration, or a plain number for rates and thresholds.
	Value any
	// Source is upstream's flag or configuration field, or where the value stands.
	Source string
	// Note says what is worth knowing: the version that changed it, who may say
	// otherwise.
	Note string
}

// Table lists every constant of this package once; the lab prints it.
var Table = []Entry{
	{"NodeLeaseDuration", NodeLeaseDuration, "nodeLeaseDurationSeconds", ""},
	{"NodeLeaseRenewInterval", NodeLeaseRenewInterval, "pkg/kubelet/kubelet.go, nodeLeaseRenewIntervalFraction", "a quarter of the duration"},
	{"NodeStatusUpdateFrequency", NodeStatusUpdateFrequency, "nodeStatusUpdateFrequency", ""},
	{"NodeStatusReportFrequency", NodeStatusReportFrequency, "nodeStatusReportFrequency", "at once when something changed"},
	{"RuntimeDownGrace", RuntimeDownGrace, "pkg/kubelet/kubelet.go, maxWaitForContainerRuntime", ""},
	{"PLEGHealthy", PLEGHealthy, "pkg/kubelet/pleg/generic.go, RelistThreshold", ""},
	{"NodeMonitorPeriod", NodeMonitorPeriod, "--node-monitor-period", ""},
	{"NodeMonitorGracePeriod", NodeMonitorGracePeriod, "--node-monitor-grace-period", "50 s since v1.32, 40 s before"},
	{"NodeStartupGracePeriod", NodeStartupGracePeriod, "--node-startup-grace-period", ""},
	{"NotReadyToleration", NotReadyToleration, "--default-not-ready-toleration-seconds", "replaced --pod-eviction-timeout, which v1.27 removed"},
	{"UnreachableToleration", UnreachableToleration, "--default-unreachable-toleration-seconds", "replaced --pod-eviction-timeout, which v1.27 removed"},
	{"NodeEvictionTick", NodeEvictionTick, "pkg/controller/nodelifecycle/scheduler, NodeEvictionPeriod", ""},
	{"PodGCPeriod", PodGCPeriod, "pkg/controller/podgc, gcCheckPeriod", ""},
	{"PodGCQuarantine", PodGCQuarantine, "pkg/controller/podgc, quarantineTime", ""},
	{"NodeEvictionRate", NodeEvictionRate, "--node-eviction-rate", "nodes a second and zone"},
	{"SecondaryNodeEvictionRate", SecondaryNodeEvictionRate, "--secondary-node-eviction-rate", "nodes a second and zone"},
	{"LargeClusterSizeThreshold", LargeClusterSizeThreshold, "--large-cluster-size-threshold", "nodes"},
	{"UnhealthyZoneThreshold", UnhealthyZoneThreshold, "--unhealthy-zone-threshold", "fraction, of at least 3 nodes"},
	{"TerminatedPodGCThreshold", TerminatedPodGCThreshold, "--terminated-pod-gc-threshold", "pods"},
	{"TerminationGracePeriod", TerminationGracePeriod, "terminationGracePeriodSeconds", ""},
	{"MinimumGracePeriod", MinimumGracePeriod, "pkg/kubelet/kuberuntime, minimumGracePeriodInSeconds", ""},
	{"CrashLoopInitial", CrashLoopInitial, "pkg/kubelet/kubelet.go, initialCrashLoopBackOff", "1 s with ReduceDefaultCrashLoopBackOffDecay, alpha and off"},
	{"CrashLoopMax", CrashLoopMax, "pkg/kubelet/kubelet.go, MaxCrashLoopBackOff", "per node since v1.35: crashLoopBackOff.maxContainerRestartPeriod"},
	{"CrashLoopReset", CrashLoopReset, "pkg/kubelet/kubelet.go, HasExpiredFunc", ""},
	{"ImagePullInitial", ImagePullInitial, "pkg/kubelet/kubelet.go, imageBackOffPeriod", ""},
	{"ImagePullMax", ImagePullMax, "pkg/kubelet/kubelet.go, MaxImageBackOff", ""},
	{"PodSyncFrequency", PodSyncFrequency, "syncFrequency", ""},
	{"StaticPodCheckFrequency", StaticPodCheckFrequency, "fileCheckFrequency", ""},
	{"PLEGRelistPeriod", PLEGRelistPeriod, "pkg/kubelet/kubelet.go, genericPlegRelistPeriod", ""},
	{"TransientErrorBackOff", TransientErrorBackOff, "pkg/kubelet/pod_workers.go, backOffOnTransientErrorPeriod", "before jitter"},
	{"PodWorkerBackOff", PodWorkerBackOff, "pkg/kubelet/pod_workers.go, workerBackOffPeriod", "before jitter"},
	{"ContainerLogMonitorInterval", ContainerLogMonitorInterval, "containerLogMonitorInterval", ""},
	{"ProbePeriod", ProbePeriod, "periodSeconds", ""},
	{"ProbeTimeout", ProbeTimeout, "timeoutSeconds", ""},
	{"LeaderLeaseDuration", LeaderLeaseDuration, "--leader-elect-lease-duration", ""},
	{"LeaderRenewDeadline", LeaderRenewDeadline, "--leader-elect-renew-deadline", ""},
	{"LeaderRetryPeriod", LeaderRetryPeriod, "--leader-elect-retry-period", ""},
	{"DialTimeout", DialTimeout, "k8s.io/client-go/transport", ""},
	{"TLSHandshakeTimeout", TLSHandshakeTimeout, "k8s.io/client-go/transport", ""},
	{"IdleConnTimeout", IdleConnTimeout, "k8s.io/client-go/transport", ""},
	{"HTTP2PingInterval", HTTP2PingInterval, "HTTP2_READ_IDLE_TIMEOUT_SECONDS", ""},
	{"HTTP2PingTimeout", HTTP2PingTimeout, "HTTP2_PING_TIMEOUT_SECONDS", ""},
	{"ReflectorBackOffInitial", ReflectorBackOffInitial, "client-go/tools/cache/reflector.go", ""},
	{"ReflectorBackOffMax", ReflectorBackOffMax, "client-go/tools/cache/reflector.go", ""},
	{"ReflectorBackOffReset", ReflectorBackOffReset, "client-go/tools/cache/reflector.go", ""},
	{"WatchTimeoutMin", WatchTimeoutMin, "client-go/tools/cache/reflector.go, defaultMinWatchTimeout", "up to twice that"},
	{"QueueBackOffInitial", QueueBackOffInitial, "client-go/util/workqueue", ""},
	{"QueueBackOffMax", QueueBackOffMax, "client-go/util/workqueue", ""},
	{"EventTTL", EventTTL, "--event-ttl", ""},
	{"CompactionInterval", CompactionInterval, "--etcd-compaction-interval", ""},
	{"EndpointLeaseTTL", EndpointLeaseTTL, "--endpoint-reconciler-type=lease", ""},
	{"RequestTimeout", RequestTimeout, "--request-timeout", ""},
	{"BookmarkPeriod", BookmarkPeriod, "apiserver/pkg/storage/cacher, defaultBookmarkFrequency", ""},
	{"ProgressDeadline", ProgressDeadline, "progressDeadlineSeconds", ""},
	{"JobBackOffInitial", JobBackOffInitial, "pkg/controller/job, DefaultJobPodFailureBackOff", ""},
	{"JobBackOffMax", JobBackOffMax, "pkg/controller/job, MaxJobPodFailureBackOff", ""},
	{"HPASyncPeriod", HPASyncPeriod, "--horizontal-pod-autoscaler-sync-period", ""},
	{"HPADownscaleStabilization", HPADownscaleStabilization, "--horizontal-pod-autoscaler-downscale-stabilization", ""},
	{"HPACPUInitializationPeriod", HPACPUInitializationPeriod, "--horizontal-pod-autoscaler-cpu-initialization-period", ""},
	{"HPAInitialReadinessDelay", HPAInitialReadinessDelay, "--horizontal-pod-autoscaler-initial-readiness-delay", ""},
	{"PodInitialBackOff", PodInitialBackOff, "podInitialBackoffSeconds", ""},
	{"PodMaxBackOff", PodMaxBackOff, "podMaxBackoffSeconds", ""},
	{"UnschedulableFlush", UnschedulableFlush, "--pod-max-in-unschedulable-pods-duration", ""},
	{"VolumeBindTimeout", VolumeBindTimeout, "VolumeBindingArgs, bindTimeoutSeconds", ""},
	{"VolumeBindPoll", VolumeBindPoll, "pkg/scheduler/framework/plugins/volumebinding/binder.go, BindPodVolumes", ""},
	{"ProxyMinSyncPeriod", ProxyMinSyncPeriod, "iptables.minSyncPeriod", ""},
	{"ProxySyncPeriod", ProxySyncPeriod, "iptables.syncPeriod", ""},
	{"BootstrapTokenTTL", BootstrapTokenTTL, "kubeadm token create --ttl", ""},
	{"CSRApprovedExpiry", CSRApprovedExpiry, "pkg/controller/certificates/cleaner", ""},
	{"CSRPendingExpiry", CSRPendingExpiry, "pkg/controller/certificates/cleaner", ""},
	{"ClusterSigningDuration", ClusterSigningDuration, "--cluster-signing-duration", ""},
}
