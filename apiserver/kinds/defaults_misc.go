package kinds

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// defaultService completes a Service, but for addresses and node ports: those are allocated when it is stored.
//
// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_Service.
func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	fill(&s.SessionAffinity, corev1.ServiceAffinityNone)
	if s.SessionAffinity == corev1.ServiceAffinityNone {
		s.SessionAffinityConfig = nil
	} else if s.SessionAffinity == corev1.ServiceAffinityClientIP {
		fillPtr(&s.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		fillPtr(&s.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		fillPtr(&s.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	fill(&s.Type, corev1.ServiceTypeClusterIP)
	for i := range s.Ports {
		p := &s.Ports[i]
		fill(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	reachable := s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
	if reachable || len(s.ExternalIPs) > 0 && s.Type == corev1.ServiceTypeClusterIP {
		fill(&s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if s.Type != corev1.ServiceTypeExternalName {
		fillPtr(&s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		fillPtr(&s.AllocateLoadBalancerNodePorts, true)
		for i := range svc.Status.LoadBalancer.Ingress {
			if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				fillPtr(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func defaultEndpoints(ep *corev1.Endpoints) {
	for i := range ep.Subsets {
		for j := range ep.Subsets[i].Ports {
			fill(&ep.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		fillPtr(&s.Ports[i].Name, "")
		fillPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func defaultNode(n *corev1.Node) {
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	// The older of the two fields is right if they differ.
	if spec := &n.Spec; spec.PodCIDR == "" && len(spec.PodCIDRs) > 0 {
		spec.PodCIDR = spec.PodCIDRs[0]
	} else if spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR) {
		spec.PodCIDRs = []string{spec.PodCIDR}
	}
}

// defaultNamespace labels a namespace with its own name, so that selectors can choose it.
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name != "" {
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		if _, ok := ns.Labels[corev1.LabelMetadataName]; !ok {
			ns.Labels[corev1.LabelMetadataName] = ns.Name
		}
	}
	fill(&ns.Status.Phase, corev1.NamespaceActive)
}

// defaultSecret also moves stringData, which is a way to write and never a way to store, to data.
//
// Upstream: pkg/apis/core/v1/conversion.go, Convert_v1_Secret_To_core_Secret.
func defaultSecret(s *corev1.Secret) {
	fill(&s.Type, corev1.SecretTypeOpaque)
	for key, value := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func defaultVolumeObject(pv *corev1.PersistentVolume) {
	fill(&pv.Status.Phase, corev1.VolumePending)
	fill(&pv.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	fillPtr(&pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	if pv.Spec.HostPath != nil {
		fillPtr(&pv.Spec.HostPath.Type, corev1.HostPathUnset)
	}
	roundUp(pv.Spec.Capacity)
}

func defaultClaim(pvc *corev1.PersistentVolumeClaim) {
	fill(&pvc.Status.Phase, corev1.ClaimPending)
	fillPtr(&pvc.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(pvc.Spec.Resources.Requests)
	roundUp(pvc.Spec.Resources.Limits)
}

func defaultPodTemplate(t *corev1.PodTemplate) { defaultPodSpec(&t.Template.Spec) }

func defaultQuota(q *corev1.ResourceQuota) {
	roundUp(q.Spec.Hard)
	roundUp(q.Status.Hard)
	roundUp(q.Status.Used)
}

// defaultLimitRange derives a container's default limit from its maximum, and its default request from that limit or from its minimum.
//
// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_LimitRangeItem.
func defaultLimitRange(lr *corev1.LimitRange) {
	from := func(dst *corev1.ResourceList, src corev1.ResourceList) {
		if *dst == nil {
			*dst = corev1.ResourceList{}
		}
		for name, q := range src {
			if _, ok := (*dst)[name]; !ok {
				(*dst)[name] = q.DeepCopy()
			}
		}
	}
	for i := range lr.Spec.Limits {
		if item := &lr.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			from(&item.Default, item.Max)
			from(&item.DefaultRequest, item.Default)
			from(&item.DefaultRequest, item.Min)
		}
	}
}

func defaultRoleRef(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	fill(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			fill(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

func defaultRoleBinding(b *rbacv1.RoleBinding) { defaultRoleRef(&b.RoleRef, b.Subjects) }

func defaultClusterRoleBinding(b *rbacv1.ClusterRoleBinding) { defaultRoleRef(&b.RoleRef, b.Subjects) }

func defaultNetworkPolicy(np *networkingv1.NetworkPolicy) {
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			fillPtr(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range np.Spec.Ingress {
		ports(np.Spec.Ingress[i].Ports)
	}
	for i := range np.Spec.Egress {
		ports(np.Spec.Egress[i].Ports)
	}
	if len(np.Spec.PolicyTypes) == 0 {
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func defaultIngressClass(c *networkingv1.IngressClass) {
	if c.Spec.Parameters != nil {
		fillPtr(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

func defaultStorageClass(c *storagev1.StorageClass) {
	fillPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	fillPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	fillPtr(&d.Spec.AttachRequired, true)
	fillPtr(&d.Spec.PodInfoOnMount, false)
	fillPtr(&d.Spec.StorageCapacity, false)
	fillPtr(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	fillPtr(&d.Spec.RequiresRepublish, false)
	fillPtr(&d.Spec.SELinuxMount, false)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func defaultPriorityClass(c *schedulingv1.PriorityClass) {
	fillPtr(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
}

// webhookDefaults completes the fields that validating and mutating webhooks share.
func webhookDefaults(failure **admissionv1.FailurePolicyType, match **admissionv1.MatchPolicyType, ns, object **metav1.LabelSelector,
	timeout **int32, client *admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations) {
	fillPtr(failure, admissionv1.Fail)
	fillPtr(match, admissionv1.Equivalent)
	fillPtr(ns, metav1.LabelSelector{})
	fillPtr(object, metav1.LabelSelector{})
	fillPtr(timeout, 10)
	if client.Service != nil {
		fillPtr(&client.Service.Port, 443)
	}
	for i := range rules {
		fillPtr(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func defaultValidatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhookDefaults(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, &w.ClientConfig, w.Rules)
	}
}

func defaultMutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhookDefaults(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, &w.ClientConfig, w.Rules)
		fillPtr(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	}
}

// Upstream: pkg/apis/admissionregistration/v1/defaults.go, SetDefaults_MatchResources.
func defaultMatchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	fillPtr(&m.MatchPolicy, admissionv1.Equivalent)
	fillPtr(&m.NamespaceSelector, metav1.LabelSelector{})
	fillPtr(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			fillPtr(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func defaultValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) {
	fillPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
	defaultMatchResources(p.Spec.MatchConstraints)
}

func defaultValidatingPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) {
	defaultMatchResources(b.Spec.MatchResources)
}

func defaultMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) {
	fillPtr(&p.Spec.FailurePolicy, admissionv1.Fail)
	defaultMatchResources(p.Spec.MatchConstraints)
}

func defaultMutatingPolicyBinding(b *admissionv1.MutatingAdmissionPolicyBinding) {
	defaultMatchResources(b.Spec.MatchResources)
}

// Upstream: pkg/apis/resource/v1/defaults.go, SetDefaults_ExactDeviceRequest and SetDefaults_DeviceSubRequest.
func defaultDevices(d *resourcev1.DeviceClaim) {
	complete := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		fill(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			fill(count, 1)
		}
	}
	for i := range d.Requests {
		if exactly := d.Requests[i].Exactly; exactly != nil {
			complete(&exactly.AllocationMode, &exactly.Count)
		}
		for j := range d.Requests[i].FirstAvailable {
			sub := &d.Requests[i].FirstAvailable[j]
			complete(&sub.AllocationMode, &sub.Count)
		}
	}
}

func defaultResourceClaim(c *resourcev1.ResourceClaim) { defaultDevices(&c.Spec.Devices) }

func defaultResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) {
	defaultDevices(&t.Spec.Spec.Devices)
}

// Upstream: pkg/apis/flowcontrol/v1/defaults.go.
func defaultFlowSchema(f *flowv1.FlowSchema) { fill(&f.Spec.MatchingPrecedence, 1000) }

func defaultPriorityLevel(l *flowv1.PriorityLevelConfiguration) {
	if e := l.Spec.Exempt; e != nil {
		fillPtr(&e.NominalConcurrencyShares, 0)
		fillPtr(&e.LendablePercent, 0)
	}
	if l := l.Spec.Limited; l != nil {
		fillPtr(&l.NominalConcurrencyShares, 30)
		fillPtr(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			fill(&q.HandSize, 8)
			fill(&q.Queues, 64)
			fill(&q.QueueLengthLimit, 50)
		}
	}
}
