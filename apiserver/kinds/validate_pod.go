package kinds

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePod checks a pod.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodCreate and ValidatePodSpec.
// Left out: checks of rarely used volume types, of Windows and of seccomp and AppArmor profiles, of device claims, of images as volumes.
func validatePod(pod *corev1.Pod) field.ErrorList {
	return validatePodSpec(&pod.Spec, specPath)
}

func validatePodTemplate(t *corev1.PodTemplate) field.ErrorList {
	return validateTemplate(&t.Template, field.NewPath("template"))
}

// validateTemplate checks the template that a workload makes its pods from.
func validateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	var c checks
	c.labels(t.Labels, at.Child("labels"))
	c.addAll(validation.ValidateAnnotations(t.Annotations, at.Child("annotations")))
	c.addAll(validatePodSpec(&t.Spec, at.Child("spec")))
	if len(t.Spec.EphemeralContainers) > 0 {
		c.add(field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return c.errs
}

// alwaysRestart checks the restart policy of a template whose pods are meant to run for ever.
func (c *checks) alwaysRestart(t *corev1.PodTemplateSpec, at *field.Path) {
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		c.add(field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		c.add(field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
}

func validatePodSpec(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var c checks
	volumes := c.volumes(s.Volumes, at.Child("volumes"))
	p := podChecks{checks: &c, hostNetwork: s.HostNetwork, volumes: volumes, names: sets.New[string](), hostPorts: sets.New[string]()}
	if len(s.Containers) == 0 {
		c.add(field.Required(at.Child("containers"), ""))
	}
	for i := range s.Containers {
		p.container(&s.Containers[i], at.Child("containers").Index(i), regular)
	}
	p.hostPorts = sets.New[string]() // init containers have gone when the others start
	for i := range s.InitContainers {
		p.container(&s.InitContainers[i], at.Child("initContainers").Index(i), initial)
	}
	for i := range s.EphemeralContainers {
		p.container((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i), ephemeral)
	}
	oneOf(&c, s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(&c, s.DNSPolicy, at.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.labels(s.NodeSelector, at.Child("nodeSelector"))
	c.podSecurityContext(s, at.Child("securityContext"))
	c.affinity(s.Affinity, at.Child("affinity"))
	if d := s.DNSConfig; s.DNSPolicy == corev1.DNSNone && (d == nil || len(d.Nameservers) == 0) {
		c.add(field.Required(at.Child("dnsConfig", "nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	for i, g := range s.ReadinessGates {
		c.texts(string(g.ConditionType), at.Child("readinessGates").Index(i).Child("conditionType"), utilvalidation.IsQualifiedName(string(g.ConditionType)))
	}
	c.spread(s.TopologySpreadConstraints, at.Child("topologySpreadConstraints"))
	c.name(s.ServiceAccountName, at.Child("serviceAccountName"), subdomain)
	c.name(s.NodeName, at.Child("nodeName"), subdomain)
	if a := s.ActiveDeadlineSeconds; a != nil && (*a < 1 || *a > 1<<31-1) {
		c.add(field.Invalid(at.Child("activeDeadlineSeconds"), *a, utilvalidation.InclusiveRangeError(1, 1<<31-1)))
	}
	c.name(s.Hostname, at.Child("hostname"), utilvalidation.IsDNS1123Label)
	c.name(s.Subdomain, at.Child("subdomain"), utilvalidation.IsDNS1123Label)
	c.tolerations(s.Tolerations, at.Child("tolerations"))
	for i, alias := range s.HostAliases {
		c.addAll(utilvalidation.IsValidIP(at.Child("hostAliases").Index(i).Child("ip"), alias.IP))
	}
	c.name(s.PriorityClassName, at.Child("priorityClassName"), subdomain)
	if s.RuntimeClassName != nil {
		c.name(*s.RuntimeClassName, at.Child("runtimeClassName"), subdomain)
	}
	if s.PreemptionPolicy != nil {
		oneOf(&c, *s.PreemptionPolicy, at.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return c.errs
}

// containerSort says which of the three lists of a pod a container stands in; each has rules of its own.
type containerSort int

const (
	regular containerSort = iota
	initial
	ephemeral
)

// podChecks is what the containers of one pod must agree on.
type podChecks struct {
	*checks
	hostNetwork bool
	volumes     sets.Set[string]
	names       sets.Set[string]
	hostPorts   sets.Set[string]
}

func (c *podChecks) container(t *corev1.Container, at *field.Path, sort containerSort) {
	if c.required(t.Name, at.Child("name"), "") {
		c.texts(t.Name, at.Child("name"), utilvalidation.IsDNS1123Label(t.Name))
		if c.names.Has(t.Name) {
			c.add(field.Duplicate(at.Child("name"), t.Name))
		}
		c.names.Insert(t.Name)
	}
	if t.Image != strings.TrimSpace(t.Image) {
		c.add(field.Invalid(at.Child("image"), t.Image, "must not have leading or trailing whitespace"))
	} else {
		c.required(t.Image, at.Child("image"), "")
	}
	sidecar := sort == initial && t.RestartPolicy != nil && *t.RestartPolicy == corev1.ContainerRestartPolicyAlways
	switch probes := t.LivenessProbe != nil || t.ReadinessProbe != nil || t.StartupProbe != nil; {
	case sort == ephemeral:
		for _, bad := range []struct {
			name  string
			given bool
		}{{"ports", len(t.Ports) > 0}, {"livenessProbe", t.LivenessProbe != nil}, {"readinessProbe", t.ReadinessProbe != nil},
			{"startupProbe", t.StartupProbe != nil}, {"lifecycle", t.Lifecycle != nil}, {"resources", len(t.Resources.Limits)+len(t.Resources.Requests) > 0}} {
			if bad.given {
				c.add(field.Forbidden(at.Child(bad.name), "cannot be set for an Ephemeral Container"))
			}
		}
	case sort == initial && !sidecar && (probes || t.Lifecycle != nil):
		for _, bad := range []struct {
			name  string
			given bool
		}{{"lifecycle", t.Lifecycle != nil}, {"livenessProbe", t.LivenessProbe != nil}, {"readinessProbe", t.ReadinessProbe != nil}, {"startupProbe", t.StartupProbe != nil}} {
			if bad.given {
				c.add(field.Forbidden(at.Child(bad.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	default:
		c.lifecycle(t.Lifecycle, at.Child("lifecycle"))
		c.probe(t.LivenessProbe, at.Child("livenessProbe"), true)
		c.probe(t.ReadinessProbe, at.Child("readinessProbe"), false)
		c.probe(t.StartupProbe, at.Child("startupProbe"), true)
	}
	oneOf(c.checks, t.TerminationMessagePolicy, at.Child("terminationMessagePolicy"), corev1.TerminationMessageFallbackToLogsOnError, corev1.TerminationMessageReadFile)
	c.ports(t.Ports, at.Child("ports"))
	c.env(t, at)
	c.mounts(t.VolumeMounts, at.Child("volumeMounts"))
	oneOf(c.checks, t.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	c.resources(&t.Resources, at.Child("resources"))
	if s := t.SecurityContext; s != nil {
		c.userID(s.RunAsUser, at.Child("securityContext", "runAsUser"))
		c.userID(s.RunAsGroup, at.Child("securityContext", "runAsGroup"))
		if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation && s.Privileged != nil && *s.Privileged {
			c.add(field.Invalid(at.Child("securityContext"), s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
	}
}

func (c *checks) userID(id *int64, at *field.Path) {
	if id != nil && (*id < 0 || *id > 1<<31-1) {
		c.add(field.Invalid(at, *id, utilvalidation.InclusiveRangeError(0, 1<<31-1)))
	}
}

func (c *checks) podSecurityContext(s *corev1.PodSpec, at *field.Path) {
	sc := s.SecurityContext
	if sc == nil {
		return
	}
	c.userID(sc.RunAsUser, at.Child("runAsUser"))
	c.userID(sc.RunAsGroup, at.Child("runAsGroup"))
	c.userID(sc.FSGroup, at.Child("fsGroup"))
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		c.add(field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
}

func (c *podChecks) ports(ports []corev1.ContainerPort, at *field.Path) {
	names := sets.New[string]()
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != "" {
			if messages := utilvalidation.IsValidPortName(p.Name); len(messages) > 0 {
				c.texts(p.Name, at.Child("name"), messages)
			} else if names.Has(p.Name) {
				c.add(field.Duplicate(at.Child("name"), p.Name))
			} else {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			c.add(field.Required(at.Child("containerPort"), ""))
		} else {
			c.port(p.ContainerPort, at.Child("containerPort"))
		}
		if p.HostPort != 0 {
			c.port(p.HostPort, at.Child("hostPort"))
			if c.hostNetwork && p.HostPort != p.ContainerPort {
				c.add(field.Invalid(at.Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if c.hostPorts.Has(key) {
				c.add(field.Duplicate(at.Child("hostPort"), key))
			}
			c.hostPorts.Insert(key)
		}
		oneOf(c.checks, p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

func (c *podChecks) env(t *corev1.Container, at *field.Path) {
	for i, e := range t.Env {
		at := at.Child("env").Index(i)
		if c.required(e.Name, at.Child("name"), "") {
			c.texts(e.Name, at.Child("name"), utilvalidation.IsRelaxedEnvVarName(e.Name))
		}
		from := e.ValueFrom
		if from == nil {
			continue
		}
		at = at.Child("valueFrom")
		given := 0
		ref := func(name string, at *field.Path, key string) {
			given++
			c.required(name, at.Child("name"), "")
			if c.required(key, at.Child("key"), "") {
				c.texts(key, at.Child("key"), utilvalidation.IsConfigMapKey(key))
			}
		}
		if f := from.FieldRef; f != nil {
			given++
			if c.required(f.FieldPath, at.Child("fieldRef", "fieldPath"), "") {
				plain, _, _ := strings.Cut(f.FieldPath, "[")
				optionOf(c.checks, plain, at.Child("fieldRef", "fieldPath"), "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
					"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs", "metadata.labels", "metadata.annotations")
			}
		}
		if r := from.ResourceFieldRef; r != nil {
			given++
			c.required(r.Resource, at.Child("resourceFieldRef", "resource"), "")
		}
		if r := from.ConfigMapKeyRef; r != nil {
			ref(r.Name, at.Child("configMapKeyRef"), r.Key)
		}
		if r := from.SecretKeyRef; r != nil {
			ref(r.Name, at.Child("secretKeyRef"), r.Key)
		}
		if from.FileKeyRef != nil {
			given++
		}
		switch {
		case given == 0:
			c.add(field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"))
		case e.Value != "":
			c.add(field.Invalid(at, "", "may not be specified when `value` is not empty"))
		case given > 1:
			c.add(field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
	for i, from := range t.EnvFrom {
		at := at.Child("envFrom").Index(i)
		switch cm, secret := from.ConfigMapRef, from.SecretRef; {
		case cm == nil && secret == nil:
			c.add(field.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
		case cm != nil && secret != nil:
			c.add(field.Invalid(at, "", "may not have more than one field specified at a time"))
		case cm != nil:
			c.required(cm.Name, at.Child("configMapRef", "name"), "")
		default:
			c.required(secret.Name, at.Child("secretRef", "name"), "")
		}
	}
}

func (c *podChecks) mounts(mounts []corev1.VolumeMount, at *field.Path) {
	paths := sets.New[string]()
	for i, m := range mounts {
		at := at.Index(i)
		if c.required(m.Name, at.Child("name"), "") && !c.volumes.Has(m.Name) {
			c.add(field.NotFound(at.Child("name"), m.Name))
		}
		if c.required(m.MountPath, at.Child("mountPath"), "") && paths.Has(m.MountPath) {
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if m.SubPath != "" {
			c.localPath(m.SubPath, at.Child("subPath"))
		}
		if m.SubPath != "" && m.SubPathExpr != "" {
			c.add(field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
	}
}

// localPath checks a path that must stay below where it starts.
func (c *checks) localPath(p string, at *field.Path) {
	if path.IsAbs(p) {
		c.add(field.Invalid(at, p, "must be a relative path"))
	}
	c.noBacksteps(p, at)
}

func (c *checks) noBacksteps(p string, at *field.Path) {
	if slices.Contains(strings.Split(p, "/"), "..") {
		c.add(field.Invalid(at, p, "must not contain '..'"))
	}
}

// resources checks amounts, and that none requests more than its limit.
//
// Upstream: pkg/apis/core/validation/validation.go, validateContainerResourceRequirements.
func (c *checks) resources(r *corev1.ResourceRequirements, at *field.Path) {
	known := func(name corev1.ResourceName, at *field.Path) {
		c.texts(string(name), at, utilvalidation.IsQualifiedName(string(name)))
		if !strings.Contains(string(name), "/") && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) &&
			!slices.Contains([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}, name) {
			c.add(field.Invalid(at, name, "must be a standard resource for containers"))
		}
	}
	for _, name := range sortedKeys(r.Limits) {
		known(name, at.Child("limits").Key(string(name)))
		c.quantity(r.Limits[name], at.Child("limits").Key(string(name)))
	}
	for _, name := range sortedKeys(r.Requests) {
		request := r.Requests[name]
		known(name, at.Child("requests").Key(string(name)))
		c.quantity(request, at.Child("requests").Key(string(name)))
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			c.add(field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *checks) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if l == nil {
		return
	}
	if l.PostStart != nil {
		c.handler(l.PostStart.Exec, l.PostStart.HTTPGet, l.PostStart.TCPSocket, nil, l.PostStart.Sleep, at.Child("postStart"))
	}
	if l.PreStop != nil {
		c.handler(l.PreStop.Exec, l.PreStop.HTTPGet, l.PreStop.TCPSocket, nil, l.PreStop.Sleep, at.Child("preStop"))
	}
}

func (c *checks) handler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction, sleep *corev1.SleepAction, at *field.Path) {
	exclusive(c, struct {
		Exec      *corev1.ExecAction      `json:"exec"`
		HTTPGet   *corev1.HTTPGetAction   `json:"httpGet"`
		TCPSocket *corev1.TCPSocketAction `json:"tcpSocket"`
		GRPC      *corev1.GRPCAction      `json:"grpc"`
		Sleep     *corev1.SleepAction     `json:"sleep"`
	}{exec, get, tcp, grpc, sleep}, at, "handler type")
	if exec != nil && len(exec.Command) == 0 {
		c.add(field.Required(at.Child("exec", "command"), ""))
	}
	if get != nil {
		c.required(get.Path, at.Child("httpGet", "path"), "")
		c.portOrName(get.Port, at.Child("httpGet", "port"))
		optionOf(c, get.Scheme, at.Child("httpGet", "scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	}
	if tcp != nil {
		c.portOrName(tcp.Port, at.Child("tcpSocket", "port"))
	}
	if grpc != nil {
		c.port(grpc.Port, at.Child("grpc", "port"))
	}
}

// probe checks a probe. One that can only fail things, by liveness or startup, must be content with one success.
func (c *checks) probe(p *corev1.Probe, at *field.Path, oneSuccess bool) {
	if p == nil {
		return
	}
	c.handler(p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil, at)
	for _, f := range []struct {
		name  string
		value int32
	}{{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold}} {
		c.notNegative(int64(f.value), at.Child(f.name))
	}
	if t := p.TerminationGracePeriodSeconds; t != nil && *t <= 0 {
		c.add(field.Invalid(at.Child("terminationGracePeriodSeconds"), *t, "must be greater than 0"))
	}
	if oneSuccess && p.SuccessThreshold != 1 {
		c.add(field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
}

// volumes checks the volumes of a pod and gives their names.
func (c *checks) volumes(volumes []corev1.Volume, at *field.Path) sets.Set[string] {
	names := sets.New[string]()
	for i, v := range volumes {
		at := at.Index(i)
		exclusive(c, v.VolumeSource, at, "volume type")
		c.volume(&v.VolumeSource, at)
		if c.required(v.Name, at.Child("name"), "") {
			c.texts(v.Name, at.Child("name"), utilvalidation.IsDNS1123Label(v.Name))
			if names.Has(v.Name) {
				c.add(field.Duplicate(at.Child("name"), v.Name))
			}
		}
		names.Insert(v.Name)
	}
	return names
}

func (c *checks) volume(v *corev1.VolumeSource, at *field.Path) {
	switch {
	case v.EmptyDir != nil:
		if q := v.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
			c.add(field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case v.HostPath != nil:
		at := at.Child("hostPath")
		if c.required(v.HostPath.Path, at.Child("path"), "") {
			c.noBacksteps(v.HostPath.Path, at.Child("path"))
		}
		if v.HostPath.Type != nil {
			optionOf(c, *v.HostPath.Type, at.Child("type"), corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
				corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
		}
	case v.Secret != nil:
		c.required(v.Secret.SecretName, at.Child("secret", "secretName"), "")
		c.files(v.Secret.DefaultMode, v.Secret.Items, at.Child("secret"))
	case v.ConfigMap != nil:
		c.required(v.ConfigMap.Name, at.Child("configMap", "name"), "")
		c.files(v.ConfigMap.DefaultMode, v.ConfigMap.Items, at.Child("configMap"))
	case v.PersistentVolumeClaim != nil:
		c.required(v.PersistentVolumeClaim.ClaimName, at.Child("persistentVolumeClaim", "claimName"), "")
	case v.NFS != nil:
		c.required(v.NFS.Server, at.Child("nfs", "server"), "")
		c.required(v.NFS.Path, at.Child("nfs", "path"), "")
	case v.DownwardAPI != nil:
		c.files(v.DownwardAPI.DefaultMode, nil, at.Child("downwardAPI"))
	case v.Projected != nil:
		c.files(v.Projected.DefaultMode, nil, at.Child("projected"))
		for i, s := range v.Projected.Sources {
			at := at.Child("projected", "sources").Index(i)
			switch {
			case s.Secret != nil:
				c.required(s.Secret.Name, at.Child("secret", "name"), "")
				c.files(nil, s.Secret.Items, at.Child("secret"))
			case s.ConfigMap != nil:
				c.required(s.ConfigMap.Name, at.Child("configMap", "name"), "")
				c.files(nil, s.ConfigMap.Items, at.Child("configMap"))
			case s.ServiceAccountToken != nil:
				at, token := at.Child("serviceAccountToken"), s.ServiceAccountToken
				if e := token.ExpirationSeconds; e != nil && *e < 10*60 {
					c.add(field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
				}
				if c.required(token.Path, at.Child("path"), "") {
					c.localPath(token.Path, at.Child("path"))
				}
			}
		}
	}
}

// files checks how keys become files.
func (c *checks) files(mode *int32, items []corev1.KeyToPath, at *field.Path) {
	check := func(mode *int32, at *field.Path) {
		if mode != nil && (*mode < 0 || *mode > 0o777) {
			c.add(field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
		}
	}
	check(mode, at.Child("defaultMode"))
	for i, item := range items {
		at := at.Child("items").Index(i)
		c.required(item.Key, at.Child("key"), "")
		if c.required(item.Path, at.Child("path"), "") {
			c.localPath(item.Path, at.Child("path"))
		}
		check(item.Mode, at.Child("mode"))
	}
}

func (c *checks) tolerations(tolerations []corev1.Toleration, at *field.Path) {
	for i, t := range tolerations {
		at := at.Index(i)
		if t.Key != "" {
			c.addAll(metavalidation.ValidateLabelName(t.Key, at.Child("key")))
		} else if t.Operator != corev1.TolerationOpExists {
			c.add(field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			c.add(field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			for _, m := range utilvalidation.IsValidLabelValue(t.Value) {
				c.add(field.Invalid(at.Child("operator"), t.Value, m))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				c.add(field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			c.add(field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		optionOf(c, t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
	}
}

func (c *checks) affinity(a *corev1.Affinity, at *field.Path) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			at := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			if len(r.NodeSelectorTerms) == 0 {
				c.add(field.Required(at, "must have at least one node selector term"))
			}
			for i := range r.NodeSelectorTerms {
				c.nodeTerm(&r.NodeSelectorTerms[i], at.Index(i))
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			p, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			c.weight(p.Weight, at.Child("weight"))
			c.nodeTerm(&p.Preference, at.Child("preference"))
		}
	}
	pods := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i := range required {
			c.podTerm(&required[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			c.weight(preferred[i].Weight, at.Child("weight"))
			c.podTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (c *checks) weight(w int32, at *field.Path) {
	if w <= 0 || w > 100 {
		c.add(field.Invalid(at, w, "must be in the range 1-100"))
	}
}

func (c *checks) nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path) {
	for i, r := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				c.add(field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				c.add(field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				c.add(field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
			}
		default:
			c.add(field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		c.addAll(metavalidation.ValidateLabelName(r.Key, at.Child("key")))
	}
}

func (c *checks) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	c.selector(t.LabelSelector, at.Child("labelSelector"))
	c.selector(t.NamespaceSelector, at.Child("namespaceSelector"))
	if c.required(t.TopologyKey, at.Child("topologyKey"), "can not be empty") {
		c.addAll(metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey")))
	}
}

func (c *checks) spread(constraints []corev1.TopologySpreadConstraint, at *field.Path) {
	for i, t := range constraints {
		at := at.Index(i)
		if t.MaxSkew <= 0 {
			c.add(field.Invalid(at.Child("maxSkew"), t.MaxSkew, "must be greater than zero"))
		}
		if c.required(t.TopologyKey, at.Child("topologyKey"), "can not be empty") {
			c.addAll(metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey")))
		}
		if !slices.Contains([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}, t.WhenUnsatisfiable) {
			c.add(field.NotSupported(at.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		c.selector(t.LabelSelector, at.Child("labelSelector"))
	}
}

// podMayChange is upstream's sentence about the few fields of a pod that may change.
const podMayChange = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks that nothing changed in a pod but what a running pod can follow.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidatePodUpdate.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	var c checks
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		c.add(field.Forbidden(specPath.Child("containers"), "pod updates may not add or remove containers"))
		return c.errs
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		c.add(field.Forbidden(specPath.Child("initContainers"), "pod updates may not add or remove containers"))
		return c.errs
	}
	if before, now := old.Spec.ActiveDeadlineSeconds, pod.Spec.ActiveDeadlineSeconds; before != nil {
		if now == nil {
			c.add(field.Invalid(specPath.Child("activeDeadlineSeconds"), now, "must not update from a positive integer to nil value"))
		} else if *now > *before {
			c.add(field.Invalid(specPath.Child("activeDeadlineSeconds"), *now, "must be less than or equal to previous value"))
		}
	}
	for _, t := range old.Spec.Tolerations {
		// Only the time may be changed of what was tolerated before.
		kept := slices.ContainsFunc(pod.Spec.Tolerations, func(n corev1.Toleration) bool {
			n.TolerationSeconds, t.TolerationSeconds = nil, nil
			return equal(n, t)
		})
		if !kept {
			c.add(field.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
			break
		}
	}
	// What is allowed to differ is made the same; then nothing may differ.
	same := pod.Spec.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	same.ActiveDeadlineSeconds, same.Tolerations = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations
	same.EphemeralContainers = old.Spec.EphemeralContainers
	if g, b := same.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; g != nil && b != nil && *b < 0 && *g == 1 {
		same.TerminationGracePeriodSeconds = b
	}
	if len(old.Spec.SchedulingGates) > 0 {
		// Gates may be taken away, and while there are some, where the pod may run can be narrowed.
		for _, g := range pod.Spec.SchedulingGates {
			if !slices.Contains(old.Spec.SchedulingGates, g) {
				c.add(field.Forbidden(specPath.Child("schedulingGates"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
			}
		}
		same.SchedulingGates, same.NodeSelector, same.Affinity = old.Spec.SchedulingGates, old.Spec.NodeSelector, old.Spec.Affinity
	}
	if !equal(*same, old.Spec) {
		c.add(field.Forbidden(specPath, podMayChange+"\n"+diff.Diff(old.Spec, *same)))
	}
	return c.errs
}
