package kinds

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	helpers "k8s.io/component-helpers/resource"
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
	spec    *corev1.PodSpec
	at      *field.Path
	volumes map[string]corev1.VolumeSource // those with nothing wrong
	names   sets.Set[string]
	claims  sets.Set[string] // of devices
}

// container checks what the three sorts have in common, then what each has for itself.
//
// Upstream: pkg/apis/core/validation/validation.go, validateContainerCommon, validateContainers, validateInitContainers, validateEphemeralContainers.
func (c *podChecks) container(t *corev1.Container, at *field.Path, sort containerSort) {
	if c.required(t.Name, at.Child("name"), "") {
		c.texts(t.Name, at.Child("name"), utilvalidation.IsDNS1123Label(t.Name))
	}
	c.required(t.Image, at.Child("image"), "")
	oneOf(c.checks, t.TerminationMessagePolicy, at.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	c.ports(t.Ports, at.Child("ports"))
	c.env(t, at)
	c.mounts(t, at.Child("volumeMounts"))
	c.devices(t, at.Child("volumeDevices"))
	oneOf(c.checks, t.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	c.resources(&t.Resources, at.Child("resources"), c.containerResource)
	c.claimed(t.Resources.Claims, at.Child("resources", "claims"))
	c.resizePolicies(t, at.Child("resizePolicy"))
	c.securityContext(t.SecurityContext, at.Child("securityContext"), c.spec.HostUsers == nil || *c.spec.HostUsers)
	if sort == initial {
		c.restartPolicy(t, at, sort)
	}
	if sort == ephemeral {
		c.trimmed(t.Image, at.Child("image"))
	}
	if c.names.Has(t.Name) && (t.Name != "" || sort != initial) {
		c.add(field.Duplicate(at.Child("name"), t.Name))
	}
	c.names.Insert(t.Name)
	sidecar := sort == initial && t.RestartPolicy != nil && *t.RestartPolicy == corev1.ContainerRestartPolicyAlways
	forbid := func(name string, given bool, why string) {
		if given {
			c.add(field.Forbidden(at.Child(name), why))
		}
	}
	switch {
	case sort == ephemeral:
		const why = "cannot be set for an Ephemeral Container"
		forbid("ports", len(t.Ports) > 0, why)
		forbid("resources", len(t.Resources.Limits)+len(t.Resources.Requests)+len(t.Resources.Claims) > 0, why)
		forbid("restartPolicy", t.RestartPolicy != nil, why)
		forbid("livenessProbe", t.LivenessProbe != nil, why)
		forbid("readinessProbe", t.ReadinessProbe != nil, why)
		forbid("startupProbe", t.StartupProbe != nil, why)
		forbid("lifecycle", t.Lifecycle != nil, why)
		for i, m := range t.VolumeMounts {
			forbid(fmt.Sprintf("volumeMounts[%d].subPath", i), m.SubPath != "", why)
			forbid(fmt.Sprintf("volumeMounts[%d].subPathExpr", i), m.SubPathExpr != "", why)
		}
		return
	case sort == initial && !sidecar:
		const why = "may not be set for init containers without restartPolicy=Always"
		c.hostPorts([]corev1.Container{*t}, c.at.Child("initContainers"))
		forbid("lifecycle", t.Lifecycle != nil, why)
		forbid("livenessProbe", t.LivenessProbe != nil, why)
		forbid("readinessProbe", t.ReadinessProbe != nil, why)
		forbid("startupProbe", t.StartupProbe != nil, why)
		for i, p := range t.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				c.add(field.Invalid(at.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
		return
	case sidecar:
		c.hostPorts([]corev1.Container{*t}, c.at.Child("initContainers"))
	}
	c.lifecycle(t.Lifecycle, at.Child("lifecycle"))
	c.probe(t.LivenessProbe, at.Child("livenessProbe"), true)
	c.probe(t.ReadinessProbe, at.Child("readinessProbe"), false)
	c.probe(t.StartupProbe, at.Child("startupProbe"), true)
	if sort == regular {
		c.restartPolicy(t, at, sort)
	}
}

// restartPolicy checks what a container says about its own restarts.
//
// Upstream: pkg/apis/core/validation/validation.go, validateContainerRestartPolicy.
func (c *podChecks) restartPolicy(t *corev1.Container, at *field.Path, sort containerSort) {
	if t.RestartPolicy == nil && len(t.RestartPolicyRules) > 0 {
		c.add(field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	given(c.checks, t.RestartPolicy, at.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	if t.RestartPolicy == nil && sort == initial {
		return
	}
	rules := at.Child("restartPolicyRules")
	if n := len(t.RestartPolicyRules); n > 20 {
		c.add(field.TooMany(rules, n, 20))
	}
	for i, r := range t.RestartPolicyRules {
		at := rules.Index(i)
		listed(c.checks, r.Action, at.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		at = at.Child("exitCodes")
		if r.ExitCodes == nil {
			c.add(field.Required(at, "must be specified"))
			continue
		}
		listed(c.checks, r.ExitCodes.Operator, at.Child("operator"), corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > 255 {
			c.add(field.TooMany(at.Child("values"), n, 255))
		}
	}
}

// trimmed refuses an image with spaces around it, which a template may still have.
func (c *checks) trimmed(image string, at *field.Path) {
	if image != strings.TrimSpace(image) {
		c.add(field.Invalid(at, image, "must not have leading or trailing whitespace"))
	}
}

func (c *checks) securityContext(s *corev1.SecurityContext, at *field.Path, hostUsers bool) {
	if s == nil {
		return
	}
	c.userID(s.RunAsUser, at.Child("runAsUser"))
	c.userID(s.RunAsGroup, at.Child("runAsGroup"))
	given(c, s.ProcMount, at.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)
	if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && hostUsers {
		c.add(field.Invalid(at.Child("procMount"), *s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
	}
	c.seccomp(s.SeccompProfile, at.Child("seccompProfile"))
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			c.add(field.Invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil && slices.Contains(s.Capabilities.Add, "CAP_SYS_ADMIN") {
			c.add(field.Invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	c.appArmor(s.AppArmorProfile, at.Child("appArmorProfile"))
}

// Upstream: pkg/apis/core/validation/validation.go, validateSeccompProfileField.
func (c *checks) seccomp(p *corev1.SeccompProfile, at *field.Path) {
	if p == nil {
		return
	}
	if c.required(string(p.Type), at.Child("type"), "type is required when seccompProfile is set") {
		supported(c, p.Type, at.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	switch file, local := p.LocalhostProfile, p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && file == nil:
		c.add(field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
	case local:
		c.localPath(*file, at.Child("localhostProfile"))
	case file != nil:
		c.add(field.Invalid(at.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
	}
}

// Upstream: pkg/apis/core/validation/validation.go, ValidateAppArmorProfileField.
// Left out: how long its name may be.
func (c *checks) appArmor(p *corev1.AppArmorProfile, at *field.Path) {
	if p == nil || !c.required(string(p.Type), at.Child("type"), "type is required when appArmorProfile is set") {
		return
	}
	supported(c, p.Type, at.Child("type"), corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	name := p.LocalhostProfile
	at = at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if name != nil {
			c.add(field.Invalid(at, *name, "can only be set when AppArmor type is Localhost"))
		}
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case name == nil || *name == "":
			c.add(field.Required(at, "must be set when AppArmor type is Localhost"))
		case strings.TrimSpace(*name) != *name:
			c.add(field.Invalid(at, *name, "must not be padded with whitespace"))
		}
	}
}

func (c *checks) userID(id *int64, at *field.Path) {
	if id != nil && (*id < 0 || *id > 1<<31-1) {
		c.add(field.Invalid(at, *id, utilvalidation.InclusiveRangeError(0, 1<<31-1)))
	}
}

// sysctlName is what the kernel's parameters are called.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c *checks) podSecurityContext(s *corev1.PodSpec, at *field.Path) {
	sc := s.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
	}
	c.userID(sc.FSGroup, at.Child("fsGroup"))
	c.userID(sc.RunAsUser, at.Child("runAsUser"))
	c.userID(sc.RunAsGroup, at.Child("runAsGroup"))
	for i := range sc.SupplementalGroups {
		c.userID(&sc.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))
	}
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		c.add(field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	for i, p := range sc.Sysctls {
		at := at.Child("sysctls").Index(i).Child("name")
		if c.required(p.Name, at, "") && (len(p.Name) > 253 || !sysctlName.MatchString(p.Name)) {
			c.add(field.Invalid(at, p.Name, fmt.Sprintf("must have at most 253 characters and match regex %s", sysctlName)))
		}
	}
	given(c, sc.FSGroupChangePolicy, at.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
	given(c, sc.SupplementalGroupsPolicy, at.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	given(c, sc.SELinuxChangePolicy, at.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyRecursive)
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
		}
		oneOf(c.checks, p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

// hostPorts refuses a port of the node that two containers want which run at the same time.
func (c *checks) hostPorts(containers []corev1.Container, at *field.Path) {
	taken := sets.New[string]()
	for i, t := range containers {
		for j, p := range t.Ports {
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if p.HostPort != 0 && taken.Has(key) {
				c.add(field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
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
		sources := 0
		ref := func(name string, at *field.Path, key string) {
			sources++
			c.texts(name, at.Child("name"), subdomain(name))
			if c.required(key, at.Child("key"), "") {
				c.texts(key, at.Child("key"), utilvalidation.IsConfigMapKey(key))
			}
		}
		if from.FieldRef != nil {
			sources++
			c.fieldRef(from.FieldRef, at.Child("fieldRef"), "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
				"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
		}
		if from.ResourceFieldRef != nil {
			sources++
			c.resourceRef(from.ResourceFieldRef, at.Child("resourceFieldRef"))
		}
		if r := from.ConfigMapKeyRef; r != nil {
			ref(r.Name, at.Child("configMapKeyRef"), r.Key)
		}
		if r := from.SecretKeyRef; r != nil {
			ref(r.Name, at.Child("secretKeyRef"), r.Key)
		}
		if from.FileKeyRef != nil {
			sources++
		}
		switch {
		case sources == 0:
			c.add(field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
		case e.Value != "":
			c.add(field.Invalid(at, "", "may not be specified when `value` is not empty"))
		case sources > 1:
			c.add(field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
	all := at.Child("envFrom")
	for i, from := range t.EnvFrom {
		at := all.Index(i)
		c.name(from.Prefix, at.Child("prefix"), utilvalidation.IsRelaxedEnvVarName)
		cm, secret := from.ConfigMapRef, from.SecretRef
		if cm != nil && c.required(cm.Name, at.Child("configMapRef", "name"), "") {
			c.texts(cm.Name, at.Child("configMapRef", "name"), validation.NameIsDNSSubdomain(cm.Name, true))
		}
		if secret != nil && c.required(secret.Name, at.Child("secretRef", "name"), "") {
			c.texts(secret.Name, at.Child("secretRef", "name"), validation.NameIsDNSSubdomain(secret.Name, true))
		}
		switch {
		case cm == nil && secret == nil:
			c.add(field.Invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"))
		case cm != nil && secret != nil:
			c.add(field.Invalid(all, "", "may not have more than one field specified at a time"))
		}
	}
}

// fieldRef checks what is told to a pod about itself; labels and annotations one by one only, but where allowed says otherwise.
//
// Upstream: pkg/apis/core/validation/validation.go, validateObjectFieldSelector.
func (c *checks) fieldRef(f *corev1.ObjectFieldSelector, at *field.Path, allowed ...string) {
	if !c.required(f.FieldPath, at.Child("fieldPath"), "") {
		return
	}
	label, key, one := strings.Cut(strings.TrimSuffix(f.FieldPath, "']"), "['")
	one = one && strings.HasSuffix(f.FieldPath, "']")
	bad := func(why string) {
		c.add(field.Invalid(at.Child("fieldPath"), f.FieldPath, "error converting fieldPath: "+why))
	}
	switch {
	case f.APIVersion != "v1":
		bad("unsupported pod version: " + f.APIVersion)
	case one && label == "metadata.annotations":
		c.texts(strings.ToLower(key), at, utilvalidation.IsQualifiedName(strings.ToLower(key)))
	case one && label == "metadata.labels":
		c.texts(key, at, utilvalidation.IsQualifiedName(key))
	case one:
		bad("field label does not support subscript: " + f.FieldPath)
	case slices.Contains([]string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.restartPolicy",
		"spec.serviceAccountName", "spec.schedulerName", "status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}, label):
		supported(c, label, at.Child("fieldPath"), allowed...)
	default:
		bad("field label not supported: " + f.FieldPath)
	}
}

// resourceRef checks what is told to a container about its amounts.
//
// Upstream: pkg/apis/core/validation/validation.go, validateContainerResourceFieldSelector.
// Left out: the units.
func (c *checks) resourceRef(r *corev1.ResourceFieldSelector, at *field.Path) {
	if c.required(r.Resource, at.Child("resource"), "") && !strings.HasPrefix(r.Resource, "limits.hugepages-") && !strings.HasPrefix(r.Resource, "requests.hugepages-") {
		supported(c, r.Resource, at.Child("resource"), "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory")
	}
}

// mounts checks where a container sees its volumes.
//
// Upstream: pkg/apis/core/validation/validation.go, ValidateVolumeMounts; some paths of its errors are without the mount's index.
func (c *podChecks) mounts(t *corev1.Container, at *field.Path) {
	paths := sets.New[string]()
	for i, m := range t.VolumeMounts {
		all, at := at, at.Index(i)
		c.required(m.Name, at.Child("name"), "")
		if _, ok := c.volumes[m.Name]; !ok {
			c.add(field.NotFound(at.Child("name"), m.Name))
		}
		c.required(m.MountPath, at.Child("mountPath"), "")
		if paths.Has(m.MountPath) {
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if slices.ContainsFunc(t.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name }) {
			c.add(field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if slices.ContainsFunc(t.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			c.add(field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		c.localPath(m.SubPath, all.Child("subPath"))
		if m.SubPath != "" && m.SubPathExpr != "" {
			c.add(field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		c.localPath(m.SubPathExpr, all.Child("subPathExpr"))
		given(c.checks, m.MountPropagation, all.Child("mountPropagation"), corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		if p := m.MountPropagation; p != nil && *p == corev1.MountPropagationBidirectional && (t.SecurityContext == nil || t.SecurityContext.Privileged == nil || !*t.SecurityContext.Privileged) {
			c.add(field.Forbidden(all.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
		given(c.checks, m.RecursiveReadOnly, all.Child("recursiveReadOnly"), corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
		if r := m.RecursiveReadOnly; r != nil && (*r == corev1.RecursiveReadOnlyEnabled || *r == corev1.RecursiveReadOnlyIfPossible) {
			if !m.ReadOnly {
				c.add(field.Forbidden(all.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
			}
			if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
				c.add(field.Forbidden(all.Child("recursiveReadOnly"), "may only be specified when mountPropagation is None or not specified"))
			}
		}
	}
}

// resources checks amounts, and that none requests more than its limit.
//
// Upstream: pkg/apis/core/validation/validation.go, validateResourceRequirements.
func (c *checks) resources(r *corev1.ResourceRequirements, at *field.Path, known func(corev1.ResourceName, *field.Path)) {
	amount := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		known(name, at)
		c.quantity(q, at)
		if !native(name) && q.MilliValue()%1000 != 0 {
			c.add(field.Invalid(at, q.String(), "must be an integer"))
		}
	}
	for _, name := range sortedKeys(r.Limits) {
		amount(name, r.Limits[name], at.Child("limits").Key(string(name)))
	}
	for _, name := range sortedKeys(r.Requests) {
		request := r.Requests[name]
		amount(name, request, at.Child("requests").Key(string(name)))
		limit, limited := r.Limits[name]
		switch overcommit := native(name) && !hugePages(name); {
		case !limited && !overcommit:
			c.add(field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		case limited && !overcommit && request.Cmp(limit) != 0:
			c.add(field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			c.add(field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
}

// containerResource checks the name of what a container can ask for.
func (c *checks) containerResource(name corev1.ResourceName, at *field.Path) {
	c.resourceName(name, at, "containers", containerResources)
}

// podResources checks what a pod asks for as a whole, and that its containers do not ask for more.
//
// Upstream: pkg/apis/core/validation/validation.go, validatePodResources.
func (c *podChecks) podResources(at *field.Path) {
	r := c.spec.Resources
	if r == nil {
		return
	}
	c.forbidden(r.Claims != nil, at.Child("claims"), "claims may not be set for Resources at pod-level")
	c.resources(r, at, func(name corev1.ResourceName, at *field.Path) {
		if c.resourceName(name, at, "", nil) && !helpers.IsSupportedPodLevelResource(name) {
			c.add(field.NotSupported(at, name, sets.List(helpers.SupportedPodLevelResources())))
		}
	})
	together := helpers.AggregateContainerRequests(&corev1.Pod{Spec: *c.spec}, helpers.PodResourcesOptions{})
	for _, name := range sortedKeys(together) {
		sum := together[name]
		if q, ok := r.Requests[name]; ok && sum.Cmp(q) > 0 {
			c.add(field.Invalid(at.Child("requests").Key(string(name)), q.String(), "must be greater than or equal to aggregate container requests of "+sum.String()))
		}
	}
	for i, t := range c.spec.Containers {
		for _, name := range sortedKeys(t.Resources.Limits) {
			limit := t.Resources.Limits[name]
			if q, ok := r.Limits[name]; ok && limit.Cmp(q) > 0 {
				c.add(field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(), "must be less than or equal to pod limits of "+q.String()))
			}
		}
	}
}

// native: a resource of Kubernetes itself, not one that somebody added to nodes.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
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

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *podChecks) lifecycle(l *corev1.Lifecycle, at *field.Path) {
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

// handler looks at the first of the alternatives only; a second is one too many.
func (c *podChecks) handler(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction, sleep *corev1.SleepAction, at *field.Path) {
	switch {
	case exec != nil:
		if len(exec.Command) == 0 {
			c.add(field.Required(at.Child("exec", "command"), ""))
		}
	case get != nil:
		at := at.Child("httpGet")
		c.required(get.Path, at.Child("path"), "")
		c.portOrName(get.Port, at.Child("port"))
		supported(c.checks, get.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
		for _, h := range get.HTTPHeaders {
			c.texts(h.Name, at.Child("httpHeaders"), utilvalidation.IsHTTPHeaderName(h.Name))
		}
	case tcp != nil:
		c.portOrName(tcp.Port, at.Child("tcpSocket", "port"))
	case grpc != nil:
		c.port(grpc.Port, at.Child("grpc", "port"))
	case sleep != nil:
		if g := c.spec.TerminationGracePeriodSeconds; g != nil && (sleep.Seconds < 0 || sleep.Seconds > *g) {
			c.add(field.Invalid(at.Child("sleep"), sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *g)))
		}
	}
	exclusive(c.checks, struct {
		Exec      *corev1.ExecAction      `json:"exec"`
		HTTPGet   *corev1.HTTPGetAction   `json:"httpGet"`
		TCPSocket *corev1.TCPSocketAction `json:"tcpSocket"`
		GRPC      *corev1.GRPCAction      `json:"grpc"`
		Sleep     *corev1.SleepAction     `json:"sleep"`
	}{exec, get, tcp, grpc, sleep}, at, "handler type")
}

// probe checks a probe. One that can fail a container, by liveness or startup, must be content with one success; the other has no grace period.
func (c *podChecks) probe(p *corev1.Probe, at *field.Path, fails bool) {
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
	grace := p.TerminationGracePeriodSeconds
	if grace != nil && *grace <= 0 {
		c.add(field.Invalid(at.Child("terminationGracePeriodSeconds"), *grace, "must be greater than 0"))
	}
	if fails && p.SuccessThreshold != 1 {
		c.add(field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if !fails && grace != nil {
		c.add(field.Invalid(at.Child("terminationGracePeriodSeconds"), *grace, "must not be set for readinessProbes"))
	}
}
