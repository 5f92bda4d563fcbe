package controllers

// table is every controller there is, with upstream's names.
//
// Upstream: cmd/kube-controller-manager/names/controller_names.go and
// app/controllermanager.go, NewControllerDescriptors.
var table = []descriptor{
	{name: "replicaset-controller", alias: "replicaset", account: "replicaset-controller", start: startReplicaSet},
	{name: "replicationcontroller-controller", alias: "replicationcontroller", account: "replication-controller", start: startReplicationController},
	{name: "deployment-controller", alias: "deployment", account: "deployment-controller", start: startDeployment},
	{name: "daemonset-controller", alias: "daemonset", account: "daemon-set-controller", start: startDaemonSet},
	{name: "endpointslice-controller", alias: "endpointslice", account: "endpointslice-controller", start: startEndpointSlice},
	{name: "endpoints-controller", alias: "endpoint", account: "endpoint-controller", start: startEndpoints},
	{name: "node-lifecycle-controller", alias: "nodelifecycle", account: "node-controller", start: startNodeLifecycle},
	{name: "taint-eviction-controller", alias: "taint-eviction", account: "node-controller", start: startTaintEviction},
	{name: "pod-garbage-collector-controller", alias: "podgc", account: "pod-garbage-collector", start: startPodGC},
	{name: "garbage-collector-controller", alias: "garbagecollector", account: "generic-garbage-collector", start: startGarbageCollector},
	{name: "namespace-controller", alias: "namespace", account: "namespace-controller", start: startNamespace},
	{name: "statefulset-controller", alias: "statefulset", account: "statefulset-controller", start: startStatefulSet},
	{name: "disruption-controller", alias: "disruption", account: "disruption-controller", start: startDisruption},
	{name: "clusterrole-aggregation-controller", alias: "clusterrole-aggregation", account: "clusterrole-aggregation-controller", start: startClusterRoleAggregation},
	{name: "job-controller", alias: "job", account: "job-controller", start: startJob},
	{name: "cronjob-controller", alias: "cronjob", account: "cronjob-controller", start: startCronJob},
	{name: "ttl-after-finished-controller", alias: "ttl-after-finished", account: "ttl-after-finished-controller", start: startTTLAfterFinished},
	{name: "resourcequota-controller", alias: "resourcequota", account: "resourcequota-controller", start: startResourceQuota},
	{name: "persistentvolume-binder-controller", alias: "persistentvolume-binder", account: "persistent-volume-binder", start: startVolumeBinder},
	{name: "persistentvolumeclaim-protection-controller", alias: "pvc-protection", account: "pvc-protection-controller", start: startClaimProtection},
	{name: "persistentvolume-protection-controller", alias: "pv-protection", account: "pv-protection-controller", start: startVolumeProtection},
	{name: "ephemeral-volume-controller", alias: "ephemeral-volume", account: "ephemeral-volume-controller", start: startEphemeralVolume},
	{name: "endpointslice-mirroring-controller", alias: "endpointslicemirroring", account: "endpointslicemirroring-controller", start: startEndpointSliceMirroring},
	{name: "service-lb-controller", alias: "service", account: "service-controller", start: startServiceLB},
	{name: "ttl-controller", alias: "ttl", account: "ttl-controller", start: startTTL},
	{name: "horizontal-pod-autoscaler-controller", alias: "horizontalpodautoscaling", account: "horizontal-pod-autoscaler", start: startHPA},
	{name: "serviceaccount-token-controller", alias: "serviceaccount-token", start: startServiceAccountToken},
	{name: "serviceaccount-controller", alias: "serviceaccount", account: "service-account-controller", start: startServiceAccount},
	{name: "root-ca-certificate-publisher-controller", alias: "root-ca-cert-publisher", account: "root-ca-cert-publisher", start: startRootCA},
	{name: "node-ipam-controller", alias: "nodeipam", account: "node-controller", start: startNodeIPAM},
	{name: "certificatesigningrequest-approving-controller", alias: "csrapproving", account: "certificate-controller", start: startCSRApproving},
	{name: "certificatesigningrequest-signing-controller", alias: "csrsigning", account: "certificate-controller", start: startCSRSigning},
	{name: "certificatesigningrequest-cleaner-controller", alias: "csrcleaner", account: "certificate-controller", start: startCSRCleaner},
	{name: "bootstrap-signer-controller", alias: "bootstrapsigner", account: "bootstrap-signer", optional: true, start: startBootstrapSigner},
	{name: "token-cleaner-controller", alias: "tokencleaner", account: "token-cleaner", optional: true, start: startTokenCleaner},
	{name: "validatingadmissionpolicy-status-controller", account: "validatingadmissionpolicy-status-controller", start: startAdmissionPolicyStatus},
}
