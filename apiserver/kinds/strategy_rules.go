package kinds

import (
	"fmt"
	"strconv"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
)

// rules has what is particular to each kind, by group and kind.
//
// Upstream: pkg/registry/<group>/<resource>/strategy.go for the behaviour, pkg/printers/internalversion/printers.go for the columns.
var rules = map[string]func(*Kind){
	"apiregistration.k8s.io/APIService": set(apiServiceRule),
	"/Pod":                              set(podRule),
	"/PodTemplate": set(rule[corev1.PodTemplate]{Default: defaultPodTemplate, Validate: validatePodTemplate, Warn: warnWorkload[corev1.PodTemplate],
		Columns: "Name, Containers, Images, Pod Labels", Cells: podTemplateCells}),
	"/ReplicationController": set(rule[corev1.ReplicationController]{Default: defaultReplicationController, Validate: validateReplicationController, Warn: warnWorkload[corev1.ReplicationController], Counted: true,
		Fields: map[string]func(*corev1.ReplicationController) string{
			"status.replicas": func(rc *corev1.ReplicationController) string { return strconv.Itoa(int(rc.Status.Replicas)) }},
		More:    func(k *Kind) { k.OrphanByDefault = true },
		Columns: "Name, Desired:int, Current:int, Ready:int, Age, Containers*, Images*, Selector*", Cells: replicationControllerCells}),
	"apps/Deployment": set(rule[appsv1.Deployment]{Default: defaultDeployment, Update: updateDeployment, Validate: validateDeployment, Change: validateDeploymentUpdate, Warn: warnWorkload[appsv1.Deployment], Counted: true,
		Columns: "Name, Ready, Up-to-date, Available, Age, Containers*, Images*, Selector*", Cells: deploymentCells,
		More: func(k *Kind) {
			prepareSub(k, "status", prepareDeploymentStatus, nil, s("spec"), s("metadata", "labels"))
		}}),
	"apps/ReplicaSet": set(rule[appsv1.ReplicaSet]{Default: defaultReplicaSet, Validate: validateReplicaSet, Change: validateReplicaSetUpdate, Warn: warnWorkload[appsv1.ReplicaSet], Counted: true,
		Columns: "Name, Desired:int, Current:int, Ready:int, Age, Containers*, Images*, Selector*", Cells: replicaSetCells}),
	"apps/DaemonSet": set(rule[appsv1.DaemonSet]{Default: defaultDaemonSet, Create: createDaemonSet, Update: updateDaemonSet, Validate: validateDaemonSet, Change: validateDaemonSetUpdate, Warn: warnWorkload[appsv1.DaemonSet], Counted: true,
		More:    func(k *Kind) { k.UpdateAlone = true }, // what must not change comes before what is wrong
		Columns: "Name, Desired:int, Current:int, Ready:int, Up-to-date:int, Available:int, Node Selector, Age, Containers*, Images*, Selector*", Cells: daemonSetCells}),
	"apps/StatefulSet": set(rule[appsv1.StatefulSet]{Default: defaultStatefulSet, Name: validation.NameIsDNSLabel, Validate: validateStatefulSet, Change: validateStatefulSetUpdate, Warn: warnWorkload[appsv1.StatefulSet], Counted: true,
		Columns: "Name, Ready, Age, Containers*, Images*", Cells: statefulSetCells}),
	"apps/ControllerRevision": set(rule[appsv1.ControllerRevision]{Validate: validateRevision, Change: validateRevisionUpdate,
		Columns: "Name, Controller, Revision, Age", Cells: controllerRevisionCells}),
	"batch/Job": set(rule[batchv1.Job]{Default: defaultJob, Create: createJob, Validate: validateJob, Change: validateJobUpdate, Warn: warnWorkload[batchv1.Job],
		More: func(k *Kind) {
			k.OrphanByDefault, k.OrphanWarning = true, orphanedPods
			prepareSub(k, "status", nil, validateJobStatus)
		},
		Columns: "Name, Status, Completions, Duration, Age, Containers*, Images*, Selector*", Cells: jobCells}),
	"batch/CronJob": set(rule[batchv1.CronJob]{Default: defaultCronJob, Validate: validateCronJob, Warn: warnWorkload[batchv1.CronJob],
		Columns: "Name, Schedule, Timezone, Suspend:bool, Active:int, Last Schedule, Age, Containers*, Images*, Selector*", Cells: cronJobCells}),
	"autoscaling/HorizontalPodAutoscaler": set(rule[autoscalingv2.HorizontalPodAutoscaler]{Default: defaultHPA, Validate: validateHPA, Counted: true,
		Columns: "Name, Reference, Targets, MinPods, MaxPods, Replicas, Age", Cells: hpaCells}),
	"policy/PodDisruptionBudget": set(rule[policyv1.PodDisruptionBudget]{Validate: validatePDB, Name: path.ValidatePathSegmentName,
		More:    func(k *Kind) { prepareSub(k, "status", nil, validatePDBStatus) },
		Columns: "Name, Min Available, Max Unavailable, Allowed Disruptions:int, Age", Cells: pdbCells}),

	"/Service": set(rule[corev1.Service]{Default: defaultService, Create: createService, Update: updateService, Validate: validateService, Change: validateServiceUpdate, Warn: warnService,
		Name: validation.NameIsDNSLabel,
		Fields: map[string]func(*corev1.Service) string{
			"spec.clusterIP": func(s *corev1.Service) string { return s.Spec.ClusterIP },
			"spec.type":      func(s *corev1.Service) string { return string(s.Spec.Type) }},
		Columns: "Name, Type, Cluster-IP, External-IP, Port(s), Age, Selector*", Cells: serviceCells,
		More: func(k *Kind) {
			k.UpdateAlone = true
			prepareSub(k, "status", nil, validateServiceStatus)
		}}),
	"/Endpoints": set(rule[corev1.Endpoints]{Default: defaultEndpoints, Validate: validateEndpoints,
		Columns: "Name, Endpoints, Age", Cells: endpointsCells}),
	"discovery.k8s.io/EndpointSlice": set(rule[discoveryv1.EndpointSlice]{Default: defaultEndpointSlice, Update: updateEndpointSlice, Validate: validateEndpointSlice, Change: validateEndpointSliceUpdate, Warn: warnEndpointSlice,
		Columns: "Name, AddressType, Ports, Endpoints, Age", Cells: endpointSliceCells}),
	"networking.k8s.io/Ingress": set(rule[networkingv1.Ingress]{Validate: validateIngress, Warn: warnIngress,
		Columns: "Name, Class, Hosts, Address, Ports, Age", Cells: ingressCells,
		More: func(k *Kind) { prepareSub(k, "status", nil, validateIngressStatus) }}),
	"networking.k8s.io/IngressClass": set(rule[networkingv1.IngressClass]{Default: defaultIngressClass, Validate: validateIngressClass, Change: validateIngressClassUpdate,
		Columns: "Name, Controller, Parameters, Age", Cells: ingressClassCells}),
	"networking.k8s.io/NetworkPolicy": set(rule[networkingv1.NetworkPolicy]{Default: defaultNetworkPolicy, Validate: validateNetworkPolicy, Warn: warnNetworkPolicy,
		Columns: "Name, Pod-Selector, Age", Cells: networkPolicyCells}),
	"networking.k8s.io/IPAddress":   set(rule[networkingv1.IPAddress]{Columns: "Name, ParentRef", Cells: ipAddressCells}),
	"networking.k8s.io/ServiceCIDR": set(rule[networkingv1.ServiceCIDR]{Columns: "Name, CIDRs, Age", Cells: serviceCIDRCells}),

	"/ComponentStatus": set(rule[corev1.ComponentStatus]{Columns: "Name, Status, Message, Error", Cells: componentStatusCells}),
	"/Namespace":       set(namespaceRule),
	"/Node": set(rule[corev1.Node]{Default: defaultNode, Validate: validateNode, Change: validateNodeUpdate, Warn: warnNode,
		Fields: map[string]func(*corev1.Node) string{
			"spec.unschedulable": func(n *corev1.Node) string { return fmt.Sprint(n.Spec.Unschedulable) }},
		Columns: "Name, Status, Roles, Age, Version, Internal-IP*, External-IP*, OS-Image*, Kernel-Version*, Container-Runtime*", Cells: nodeCells,
		More: func(k *Kind) {
			k.Reset = [][]string{s("status")}
			prepareSub(k, "status", nil, validateNodeStatus)
		}}),
	"/ConfigMap": set(rule[corev1.ConfigMap]{Validate: validateConfigMap, Change: validateConfigMapUpdate,
		Columns: "Name, Data, Age", Cells: configMapCells}),
	"/Secret": set(rule[corev1.Secret]{Default: defaultSecret, Validate: validateSecret, Change: validateSecretUpdate, Warn: warnSecret,
		Fields: map[string]func(*corev1.Secret) string{
			"type": func(s *corev1.Secret) string { return string(s.Type) }},
		Columns: "Name, Type, Data, Age", Cells: secretCells,
		More: func(k *Kind) { k.UpdateAlone = true }}),
	"/ServiceAccount": set(rule[corev1.ServiceAccount]{Create: createServiceAccount, Update: updateServiceAccount, Columns: "Name, Age",
		Cells: func(sa *corev1.ServiceAccount) []any { return ageCells(sa) }}),
	"/Event": set(eventRule),
	"/ResourceQuota": set(rule[corev1.ResourceQuota]{Default: defaultQuota, Validate: validateQuota, Change: validateQuotaUpdate, Warn: warnQuota,
		Columns: "Name, Request, Limit, Age", Cells: quotaCells,
		More: func(k *Kind) { prepareSub(k, "status", nil, validateQuotaStatus) }}),
	"/LimitRange": set(rule[corev1.LimitRange]{Default: defaultLimitRange, Create: createLimitRange, Validate: validateLimitRange}),
	"/PersistentVolume": set(rule[corev1.PersistentVolume]{Default: defaultVolumeObject, Create: createVolumeObject, Validate: validateVolumeObject, Change: validateVolumeObjectUpdate, Warn: warnVolumeObject,
		Columns: "Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age, VolumeMode*", Cells: volumeCells,
		More: func(k *Kind) { prepareSub(k, "status", prepareVolumeStatus, nil, s("spec")) }}),
	"/PersistentVolumeClaim": set(rule[corev1.PersistentVolumeClaim]{Default: defaultClaim, Create: createClaim, Update: updateClaim, Validate: validateClaim, Change: validateClaimUpdate, Warn: warnClaim,
		Columns: "Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode*", Cells: claimCells,
		More: func(k *Kind) { prepareSub(k, "status", nil, validateClaimStatus) }}),

	"rbac.authorization.k8s.io/Role":        set(rule[rbacv1.Role]{Validate: validateRole, Name: path.ValidatePathSegmentName}),
	"rbac.authorization.k8s.io/ClusterRole": set(rule[rbacv1.ClusterRole]{Validate: validateClusterRole, Name: path.ValidatePathSegmentName}),
	"rbac.authorization.k8s.io/RoleBinding": set(rule[rbacv1.RoleBinding]{Default: defaultRoleBinding, Validate: validateRoleBinding, Change: validateRoleBindingUpdate,
		Name: path.ValidatePathSegmentName, Columns: "Name, Role, Age, Users*, Groups*, ServiceAccounts*", Cells: roleBindingCells}),
	"rbac.authorization.k8s.io/ClusterRoleBinding": set(rule[rbacv1.ClusterRoleBinding]{Default: defaultClusterRoleBinding, Validate: validateClusterRoleBinding, Change: validateClusterRoleBindingUpdate,
		Name: path.ValidatePathSegmentName, Columns: "Name, Role, Age, Users*, Groups*, ServiceAccounts*", Cells: clusterRoleBindingCells}),

	"certificates.k8s.io/CertificateSigningRequest": set(csrRule),
	"coordination.k8s.io/Lease": set(rule[coordinationv1.Lease]{Validate: validateLease,
		Columns: "Name, Holder, Age", Cells: leaseCells}),
	"scheduling.k8s.io/PriorityClass": set(rule[schedulingv1.PriorityClass]{Default: defaultPriorityClass, Create: createPriorityClass, Validate: validatePriorityClass, Change: validatePriorityClassUpdate,
		Columns: "Name, Value:int, Global-Default:bool, Age, PreemptionPolicy", Cells: priorityClassCells,
		More: func(k *Kind) { k.UpdateAlone = true }}),
	"node.k8s.io/RuntimeClass": set(rule[nodev1.RuntimeClass]{Validate: validateRuntimeClass, Change: validateRuntimeClassUpdate, Warn: warnRuntimeClass,
		Columns: "Name, Handler, Age", Cells: runtimeClassCells}),

	"storage.k8s.io/StorageClass": set(rule[storagev1.StorageClass]{Default: defaultStorageClass, Validate: validateStorageClass, Change: validateStorageClassUpdate, Warn: warnStorageClass,
		Columns: "Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age", Cells: storageClassCells}),
	"storage.k8s.io/CSIDriver": set(rule[storagev1.CSIDriver]{Default: defaultCSIDriver, Validate: validateCSIDriver, Change: validateCSIDriverUpdate,
		Columns: "Name, AttachRequired:bool, PodInfoOnMount:bool, StorageCapacity:bool, TokenRequests, RequiresRepublish:bool, Modes, Age", Cells: csiDriverCells}),
	"storage.k8s.io/CSINode": set(rule[storagev1.CSINode]{Validate: validateCSINode, Change: validateCSINodeUpdate,
		Columns: "Name, Drivers:int, Age", Cells: csiNodeCells}),
	"storage.k8s.io/CSIStorageCapacity": set(rule[storagev1.CSIStorageCapacity]{Validate: validateStorageCapacity, Change: validateStorageCapacityUpdate}),
	"storage.k8s.io/VolumeAttachment": set(rule[storagev1.VolumeAttachment]{Validate: validateVolumeAttachment, Change: validateVolumeAttachmentUpdate,
		Columns: "Name, Attacher, PV, Node, Attached:bool, Age", Cells: attachmentCells}),
	"storage.k8s.io/VolumeAttributesClass": set(rule[storagev1.VolumeAttributesClass]{Validate: validateVolumeAttributesClass, Change: validateVolumeAttributesClassUpdate,
		Columns: "Name, DriverName, Age", Cells: attributesClassCells}),

	"resource.k8s.io/DeviceClass": set(rule[resourcev1.DeviceClass]{Columns: "Name, Age",
		Cells: func(c *resourcev1.DeviceClass) []any { return ageCells(c) }}),
	"resource.k8s.io/ResourceClaim": set(rule[resourcev1.ResourceClaim]{Default: defaultResourceClaim, Columns: "Name, State, Age", Cells: resourceClaimCells}),
	"resource.k8s.io/ResourceClaimTemplate": set(rule[resourcev1.ResourceClaimTemplate]{Default: defaultResourceClaimTemplate, Columns: "Name, Age",
		Cells: func(t *resourcev1.ResourceClaimTemplate) []any { return ageCells(t) }}),
	"resource.k8s.io/ResourceSlice": set(rule[resourcev1.ResourceSlice]{
		Fields: map[string]func(*resourcev1.ResourceSlice) string{
			"spec.nodeName": func(s *resourcev1.ResourceSlice) string { return show(s.Spec.NodeName, "") },
			"spec.driver":   func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver }},
		Columns: "Name, Node, Driver, Pool, Age", Cells: resourceSliceCells}),

	"admissionregistration.k8s.io/ValidatingWebhookConfiguration": set(rule[admissionv1.ValidatingWebhookConfiguration]{Default: defaultValidatingWebhooks, Validate: validateValidatingWebhooks, Warn: warnStatic[admissionv1.ValidatingWebhookConfiguration],
		Columns: "Name, Webhooks:int, Age", Cells: validatingWebhookCells}),
	"admissionregistration.k8s.io/MutatingWebhookConfiguration": set(rule[admissionv1.MutatingWebhookConfiguration]{Default: defaultMutatingWebhooks, Validate: validateMutatingWebhooks, Warn: warnStatic[admissionv1.MutatingWebhookConfiguration],
		Columns: "Name, Webhooks:int, Age", Cells: mutatingWebhookCells}),
	"admissionregistration.k8s.io/ValidatingAdmissionPolicy": set(rule[admissionv1.ValidatingAdmissionPolicy]{Default: defaultValidatingPolicy, Validate: validateValidatingPolicy, Warn: warnStatic[admissionv1.ValidatingAdmissionPolicy],
		More: func(k *Kind) {
			prepareSub(k, "status", preparePolicyStatus, validatePolicyStatus, s("spec"), s("metadata"))
		},
		Columns: "Name, Validations:int, ParamKind, Age", Cells: validatingPolicyCells}),
	"admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding": set(rule[admissionv1.ValidatingAdmissionPolicyBinding]{Default: defaultValidatingPolicyBinding, Validate: validateValidatingPolicyBinding, Warn: warnStatic[admissionv1.ValidatingAdmissionPolicyBinding],
		Columns: "Name, PolicyName, ParamRef, Age", Cells: validatingPolicyBindingCells}),
	"admissionregistration.k8s.io/MutatingAdmissionPolicy": set(rule[admissionv1.MutatingAdmissionPolicy]{Default: defaultMutatingPolicy,
		Columns: "Name, Mutations:int, ParamKind, Age", Cells: mutatingPolicyCells}),
	"admissionregistration.k8s.io/MutatingAdmissionPolicyBinding": set(rule[admissionv1.MutatingAdmissionPolicyBinding]{Default: defaultMutatingPolicyBinding,
		Columns: "Name, PolicyName, ParamRef, Age", Cells: mutatingPolicyBindingCells}),
	"flowcontrol.apiserver.k8s.io/FlowSchema": set(rule[flowv1.FlowSchema]{Default: defaultFlowSchema,
		Columns: "Name, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL", Cells: flowSchemaCells}),
	"flowcontrol.apiserver.k8s.io/PriorityLevelConfiguration": set(rule[flowv1.PriorityLevelConfiguration]{Default: defaultPriorityLevel,
		Columns: "Name, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age", Cells: priorityLevelCells}),
}
