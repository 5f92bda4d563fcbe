package kinds

import (
	"context"
	"maps"
	"strconv"

	"orrery/apiserver/auth"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// namespaceRule: a namespace is born with a finalizer of its own, which the namespace controller takes away when all in it is gone.
//
// Upstream: pkg/registry/core/namespace/strategy.go and storage/storage.go.
var namespaceRule = rule[corev1.Namespace]{
	Default: defaultNamespace,
	Create: func(_ context.Context, ns *corev1.Namespace) {
		ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		for _, f := range ns.Spec.Finalizers {
			if f == corev1.FinalizerKubernetes {
				return
			}
		}
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	},
	Update: func(_ context.Context, ns, old *corev1.Namespace) {
		ns.Spec.Finalizers = old.Spec.Finalizers
	},
	Validate: validateNamespace,
	Name:     validation.ValidateNamespaceName,
	Columns:  "Name, Status, Age",
	Cells:    namespaceCells,
	Fields: map[string]func(*corev1.Namespace) string{
		"status.phase": func(ns *corev1.Namespace) string { return string(ns.Status.Phase) },
		"name":         func(ns *corev1.Namespace) string { return ns.Name },
	},
	More: func(k *Kind) {
		prepareSub(k, "finalize", func(_ context.Context, ns, old *corev1.Namespace) { ns.Status = old.Status }, validateNamespaceFinalize, s("status"))
		prepareSub(k, "status", nil, validateNamespaceStatus)
		k.Held = func(o runtime.Object) bool { return len(as[corev1.Namespace](o).Spec.Finalizers) > 0 }
		k.MarkDeleted = func(o runtime.Object) { as[corev1.Namespace](o).Status.Phase = corev1.NamespaceTerminating }
	},
}

// eventRule: events are looked for by what they are about. How long they live is a flag of the server.
var eventRule = rule[corev1.Event]{
	Validate: validateEvent,
	Columns:  "Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name*",
	Cells:    eventCells,
	Fields:   eventFields(),
}

// eventFields serves both Event APIs: what one calls involvedObject the other calls regarding.
//
// Upstream: pkg/registry/core/event/strategy.go, ToSelectableFields and pkg/apis/events/v1/conversion.go.
func eventFields() map[string]func(*corev1.Event) string {
	fields := map[string]func(*corev1.Event) string{
		"reason":              func(e *corev1.Event) string { return e.Reason },
		"reportingComponent":  func(e *corev1.Event) string { return e.ReportingController },
		"reportingController": func(e *corev1.Event) string { return e.ReportingController },
		"source":              func(e *corev1.Event) string { return or(e.Source.Component, e.ReportingController) },
		"type":                func(e *corev1.Event) string { return e.Type },
	}
	about := map[string]func(*corev1.ObjectReference) string{
		"kind":            func(r *corev1.ObjectReference) string { return r.Kind },
		"namespace":       func(r *corev1.ObjectReference) string { return r.Namespace },
		"name":            func(r *corev1.ObjectReference) string { return r.Name },
		"uid":             func(r *corev1.ObjectReference) string { return string(r.UID) },
		"apiVersion":      func(r *corev1.ObjectReference) string { return r.APIVersion },
		"resourceVersion": func(r *corev1.ObjectReference) string { return r.ResourceVersion },
		"fieldPath":       func(r *corev1.ObjectReference) string { return r.FieldPath },
	}
	for name, value := range about {
		of := func(e *corev1.Event) string { return value(&e.InvolvedObject) }
		fields["involvedObject."+name], fields["regarding."+name] = of, of
	}
	return fields
}

// updateDeployment counts a change of annotations as a change of what is desired: a rollout may be described by them.
//
// Upstream: pkg/registry/apps/deployment/strategy.go, deploymentStrategy.PrepareForUpdate.
func updateDeployment(_ context.Context, d, old *appsv1.Deployment) {
	if d.Generation == old.Generation && !maps.Equal(d.Annotations, old.Annotations) {
		d.Generation++
	}
}

func prepareDeploymentStatus(_ context.Context, d, old *appsv1.Deployment) {
	d.Spec, d.Labels = old.Spec, old.Labels
}

// createDaemonSet and updateDaemonSet count the templates that a DaemonSet has had; its pods carry the number.
//
// Upstream: pkg/registry/apps/daemonset/strategy.go, where spec.templateGeneration stands behind the annotation.
func createDaemonSet(_ context.Context, ds *appsv1.DaemonSet) {
	if templateGeneration(ds) < 1 {
		setTemplateGeneration(ds, 1)
	}
}

func updateDaemonSet(_ context.Context, ds, old *appsv1.DaemonSet) {
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(ds.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(ds, max(n, 1))
}

func templateGeneration(ds *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	if ds.Annotations == nil {
		ds.Annotations = map[string]string{}
	}
	ds.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

// createVolumeObject and prepareVolumeStatus note since when a volume is in its phase.
//
// Upstream: pkg/registry/core/persistentvolume/strategy.go.
func createVolumeObject(_ context.Context, pv *corev1.PersistentVolume) {
	now := metav1.Now()
	pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
}

func prepareVolumeStatus(_ context.Context, pv, old *corev1.PersistentVolume) {
	pv.Spec = old.Spec
	s, was := &pv.Status, old.Status
	switch moved := s.Phase != was.Phase; {
	case !moved && s.LastPhaseTransitionTime == nil:
		s.LastPhaseTransitionTime = was.LastPhaseTransitionTime
	case moved && (s.LastPhaseTransitionTime == nil || s.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)):
		now := metav1.Now()
		s.LastPhaseTransitionTime = &now
	}
}

// createClaim and updateClaim: what a volume is filled from was once a claim or a snapshot only, and anything else ignored; a newer field
// takes all there is. A new claim says the same in both.
//
// Upstream: pkg/api/persistentvolumeclaim/util.go, EnforceDataSourceBackwardsCompatibility and NormalizeDataSources.
func createClaim(_ context.Context, pvc *corev1.PersistentVolumeClaim) {
	s := &pvc.Spec
	dropDataSource(s, nil)
	switch from, ref := s.DataSource, s.DataSourceRef; {
	case from != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: from.APIGroup, Kind: from.Kind, Name: from.Name}
	case from == nil && ref != nil && (ref.Namespace == nil || *ref.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func updateClaim(_ context.Context, pvc, old *corev1.PersistentVolumeClaim) {
	dropDataSource(&pvc.Spec, &old.Spec)
}

func dropDataSource(s, old *corev1.PersistentVolumeClaimSpec) {
	if ref := s.DataSourceRef; ref != nil && ref.Namespace != nil && *ref.Namespace != "" && (old == nil || old.DataSourceRef == nil) {
		s.DataSourceRef = nil // from another namespace: a feature that is off
	}
	if old != nil && (old.DataSource != nil || old.DataSourceRef != nil) || s.DataSourceRef != nil || s.DataSource == nil {
		return
	}
	group := ""
	if s.DataSource.APIGroup != nil {
		group = *s.DataSource.APIGroup
	}
	if kind := s.DataSource.Kind; !(kind == "PersistentVolumeClaim" && group == "" || kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io") {
		s.DataSource = nil
	}
}

// updateEndpointSlice: readers go by the generation, and labels say which service a slice belongs to.
func updateEndpointSlice(_ context.Context, s, old *discoveryv1.EndpointSlice) {
	if s.Generation == old.Generation && (!maps.Equal(s.Labels, old.Labels) || !maps.Equal(s.Annotations, old.Annotations)) {
		s.Generation++
	}
}

const orphanedPods = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning"

// createJob ties a Job to its pods by its uid, so that no two jobs can take each other's pods, whatever labels people choose.
//
// Upstream: pkg/registry/batch/job/strategy.go, generateSelector.
func createJob(_ context.Context, job *batchv1.Job) {
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	t := &job.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range jobLabels(job.Name, job.UID) {
		if _, ok := t.Labels[key]; !ok {
			t.Labels[key] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}

// jobLabels are the labels of a Job's pods, under their new names and their old ones.
func jobLabels(name string, uid types.UID) map[string]string {
	return map[string]string{
		batchv1.JobNameLabel: name, "job-name": name,
		batchv1.ControllerUidLabel: string(uid), "controller-uid": string(uid),
	}
}

// csrRule: who asks for a certificate is who sends the request, whatever the request says.
//
// Upstream: pkg/registry/certificates/certificates/strategy.go.
var csrRule = rule[certificatesv1.CertificateSigningRequest]{
	Create: func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) {
		csr.Status = certificatesv1.CertificateSigningRequestStatus{}
		user := auth.UserFrom(ctx)
		if user == nil {
			return
		}
		csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = user.Name, user.UID, user.Groups, nil
		for key, values := range user.Extra {
			if csr.Spec.Extra == nil {
				csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
			}
			csr.Spec.Extra[key] = values
		}
	},
	Update: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
		csr.Spec = old.Spec
	},
	Validate: validateCSR,
	Fields: map[string]func(*certificatesv1.CertificateSigningRequest) string{
		"spec.signerName": func(c *certificatesv1.CertificateSigningRequest) string { return c.Spec.SignerName },
	},
	Columns: "Name, Age, SignerName, Requestor, RequestedDuration, Condition",
	Cells:   csrCells,
	More: func(k *Kind) {
		prepareSub(k, "status", func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
			csr.Spec = old.Spec
			stampConditions(csr, old)
		}, validateCSRStatus)
		prepareSub(k, "approval", func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
			csr.Spec, csr.Status.Certificate = old.Spec, old.Status.Certificate
			stampConditions(csr, old)
		}, validateCSRApproval)
	},
}

// stampConditions gives new conditions the time.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
}

// createService brings the two spellings of a service's address together.
//
// Upstream: pkg/registry/core/service/storage/storage.go, normalizeClusterIPs.
func createService(_ context.Context, svc *corev1.Service) {
	s := &svc.Spec
	if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	dropUnused(svc, nil)
}

// updateService keeps what was allocated when the client does not speak of it: an old manifest that is put again does not move a service.
//
// Upstream: pkg/registry/core/service/storage/storage.go, patchAllocatedValues and normalizeClusterIPs; strategy.go, dropTypeDependentFields.
func updateService(_ context.Context, svc, old *corev1.Service) {
	s, o := &svc.Spec, &old.Spec
	if needsIP(o) && needsIP(s) {
		fill(&s.ClusterIP, o.ClusterIP)
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = o.ClusterIPs
		}
	}
	switch same := equality.Semantic.DeepEqual(s.ClusterIPs, o.ClusterIPs); {
	case same && s.ClusterIP == "":
		s.ClusterIPs = nil
	case same && s.ClusterIP != o.ClusterIP:
		s.ClusterIPs = []string{s.ClusterIP}
	}
	if needsNodePort(o) && needsNodePort(s) {
		ports := map[string]int32{}
		for _, p := range o.Ports {
			ports[portKey(&p)] = p.NodePort
		}
		taken := map[int32]bool{}
		for _, p := range s.Ports {
			taken[p.NodePort] = true
		}
		for i := range s.Ports {
			if before := ports[portKey(&s.Ports[i])]; s.Ports[i].NodePort == 0 && !taken[before] {
				s.Ports[i].NodePort = before
			}
		}
	}
	if s.HealthCheckNodePort == 0 && needsHealthPort(s) && needsHealthPort(o) {
		s.HealthCheckNodePort = o.HealthCheckNodePort
	}
	dropUnused(svc, old)
}

func portKey(p *corev1.ServicePort) string {
	return string(p.Protocol) + "/" + strconv.Itoa(int(p.Port))
}

func needsIP(s *corev1.ServiceSpec) bool { return s.Type != corev1.ServiceTypeExternalName }

func needsNodePort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeLoadBalancer && (s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts)
}

func needsHealthPort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// dropUnused takes away what the service's new type has no use for, unless the client asked for something new.
func dropUnused(svc, old *corev1.Service) {
	if old == nil || svc.Spec.Type == old.Spec.Type {
		return
	}
	s, o := &svc.Spec, &old.Spec
	if !needsIP(s) && equality.Semantic.DeepEqual(s.ClusterIPs, o.ClusterIPs) {
		s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy, s.InternalTrafficPolicy = "", nil, nil, nil, nil
	}
	if s.Type != corev1.ServiceTypeNodePort && s.Type != corev1.ServiceTypeLoadBalancer {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
		if len(s.ExternalIPs) == 0 {
			s.ExternalTrafficPolicy = ""
		}
	}
	if s.Type != corev1.ServiceTypeLoadBalancer {
		s.AllocateLoadBalancerNodePorts, s.LoadBalancerClass, s.HealthCheckNodePort = nil, nil, 0
	}
}

// createLimitRange gives one without a name some name.
//
// Upstream: pkg/registry/core/limitrange/strategy.go.
func createLimitRange(_ context.Context, lr *corev1.LimitRange) {
	if lr.Name == "" {
		lr.Name = string(uuid.NewUUID())
	}
}

// createPriorityClass: its generation is 1, whatever changes later.
func createPriorityClass(_ context.Context, c *schedulingv1.PriorityClass) { c.Generation = 1 }

// createServiceAccount and updateServiceAccount keep nothing of a secret but its name.
func createServiceAccount(_ context.Context, sa *corev1.ServiceAccount) {
	for i, ref := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: ref.Name}
	}
}

func updateServiceAccount(ctx context.Context, sa, _ *corev1.ServiceAccount) {
	createServiceAccount(ctx, sa)
}
