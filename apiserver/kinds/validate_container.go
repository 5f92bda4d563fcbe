package kinds

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
