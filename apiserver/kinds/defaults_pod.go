package kinds

import (
	"maps"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

// fill gives *field the value def when it still has its zero value.
func fill[T comparable](field *T, def T) {
	var zero T
	if *field == zero {
		*field = def
	}
}

// fillPtr makes *field point to def when it is nil.
func fillPtr[T any](field **T, def T) {
	if *field == nil {
		*field = &def
	}
}

// eachContainer visits every container of a pod: init containers first, as they run, then the others, then the ephemeral ones.
// An ephemeral container is shown as the container it has in common with the others; changes to it are kept.
func eachContainer(spec *corev1.PodSpec, visit func(c *corev1.Container)) {
	for i := range spec.InitContainers {
		visit(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		visit(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		visit((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// defaultPod completes a Pod.
//
// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_Pod.
func defaultPod(pod *corev1.Pod) {
	spec := &pod.Spec
	defaultPodSpec(spec)
	if *spec.TerminationGracePeriodSeconds < 0 {
		*spec.TerminationGracePeriodSeconds = 1
	}
	fillPtr(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	requestsFromLimits := func(c *corev1.Container) { defaultRequests(&c.Resources) }
	for i := range spec.InitContainers {
		requestsFromLimits(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		requestsFromLimits(&spec.Containers[i])
	}
	defaultPodResources(pod)
	if spec.HostNetwork {
		eachContainer(spec, func(c *corev1.Container) {
			for i := range c.Ports {
				fill(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
			}
		})
	}
	// The older of the two fields is right if they differ.
	if status := &pod.Status; status.PodIP == "" && len(status.PodIPs) > 0 {
		status.PodIP = status.PodIPs[0].IP
	} else if status.PodIP != "" && (len(status.PodIPs) == 0 || status.PodIPs[0].IP != status.PodIP) {
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	}
}

// defaultPodResources completes what a pod asks for as a whole, of the resources that a pod can ask for: huge pages are
// limited to what its containers may have together; it requests what they request together, or else its limit.
//
// Upstream: pkg/apis/core/v1/defaults.go, defaultHugePagePodLimits and defaultPodRequests.
func defaultPodResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	huge := func(name corev1.ResourceName) bool {
		return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
	}
	add := func(to *corev1.ResourceList, from corev1.ResourceList, which func(corev1.ResourceName) bool) {
		for name, quantity := range from {
			if _, there := (*to)[name]; there || !which(name) || !helpers.IsSupportedPodLevelResource(name) {
				continue
			}
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			(*to)[name] = quantity.DeepCopy()
		}
	}
	add(&r.Limits, helpers.AggregateContainerLimits(pod, helpers.PodResourcesOptions{}), func(name corev1.ResourceName) bool {
		_, requested := r.Requests[name]
		return huge(name) && !requested
	})
	if len(r.Limits) == 0 {
		return
	}
	add(&r.Requests, helpers.AggregateContainerRequests(pod, helpers.PodResourcesOptions{}), func(name corev1.ResourceName) bool { return !huge(name) })
	add(&r.Requests, r.Limits, func(corev1.ResourceName) bool { return true })
}

// defaultRequests makes a limit without a request its own request.
func defaultRequests(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = limit.DeepCopy()
	}
}

// defaultPodSpec completes what a Pod and the template of every workload have in common.
//
// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_PodSpec and zz_generated.defaults.go, SetObjectDefaults_PodTemplate.
// Left out: the volume types of particular clouds and storage vendors.
func defaultPodSpec(spec *corev1.PodSpec) {
	fill(&spec.DNSPolicy, corev1.DNSClusterFirst)
	fill(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	fillPtr(&spec.SecurityContext, corev1.PodSecurityContext{})
	fillPtr(&spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	fill(&spec.SchedulerName, corev1.DefaultSchedulerName)
	// The two names of one field; the older one is kept for old readers.
	fill(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
	eachContainer(spec, defaultContainer)
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		roundUp(spec.Resources.Limits)
		roundUp(spec.Resources.Requests)
	}
}

func defaultContainer(c *corev1.Container) {
	fill(&c.ImagePullPolicy, pullPolicyFor(c.Image))
	fill(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fill(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fill(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				fillPtr(&from.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

// pullPolicyFor answers Always for an image that names no version, or the moving tag "latest": what it stands for may have changed.
func pullPolicyFor(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		if name, _, _ := strings.Cut(image, "@"); !strings.HasSuffix(name, ":latest") {
			return corev1.PullIfNotPresent
		}
		return corev1.PullAlways
	}
	last := image[strings.LastIndex(image, "/")+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok && tag != "latest" {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

// roundUp keeps quantities to thousandths: no component counts finer.
func roundUp(list corev1.ResourceList) {
	for name, q := range list {
		if q.RoundUp(resource.Milli) {
			continue // exact already
		}
		list[name] = q
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	fill(&p.TimeoutSeconds, 1)
	fill(&p.PeriodSeconds, 10)
	fill(&p.SuccessThreshold, 1)
	fill(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		fillPtr(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get == nil {
		return
	}
	fill(&get.Path, "/")
	fill(&get.Scheme, corev1.URISchemeHTTP)
}

func defaultFieldRef(ref *corev1.ObjectFieldSelector) {
	if ref != nil {
		fill(&ref.APIVersion, "v1")
	}
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// defaultVolume completes one volume; a volume that names no source is an emptyDir.
//
// Upstream: pkg/apis/core/v1/defaults.go, SetDefaults_Volume and its neighbours.
func defaultVolume(v *corev1.Volume) {
	if reflect.ValueOf(v.VolumeSource).IsZero() {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch s := &v.VolumeSource; {
	case s.HostPath != nil:
		fillPtr(&s.HostPath.Type, corev1.HostPathUnset)
	case s.Secret != nil:
		fillPtr(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case s.ConfigMap != nil:
		fillPtr(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case s.DownwardAPI != nil:
		fillPtr(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(s.DownwardAPI.Items)
	case s.Projected != nil:
		fillPtr(&s.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range s.Projected.Sources {
			if d := s.Projected.Sources[i].DownwardAPI; d != nil {
				defaultDownward(d.Items)
			}
			if token := s.Projected.Sources[i].ServiceAccountToken; token != nil {
				fillPtr(&token.ExpirationSeconds, int64(60*60))
			}
		}
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		fillPtr(&s.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	case s.Image != nil:
		fill(&s.Image.PullPolicy, pullPolicyFor(s.Image.Reference))
	case s.ISCSI != nil:
		fill(&s.ISCSI.ISCSIInterface, "default")
	}
}

// fillMap gives *m a copy of def when it is empty.
func fillMap(m *map[string]string, def map[string]string) {
	if len(*m) == 0 && len(def) > 0 {
		*m = maps.Clone(def)
	}
}
