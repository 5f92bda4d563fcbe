package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/kubelet/volumes"
)

// sandboxConfig is what the runtime is told about a pod.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go, generatePodSandboxConfig.
func (k *Kubelet) sandboxConfig(pod *corev1.Pod, attempt uint32) (*cri.PodSandboxConfig, error) {
	dns, err := k.dnsConfig(pod)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for key, v := range pod.Labels {
		labels[key] = v
	}
	labels[labelPodName], labels[labelPodNamespace], labels[labelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:   labels, Annotations: pod.Annotations, LogDirectory: k.logDir(pod), DnsConfig: dns,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: k.cgroups.parent(pod), Sysctls: map[string]string{}},
	}
	if !pod.Spec.HostNetwork {
		config.Hostname = hostname(pod)
	}
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort != 0 && !pod.Spec.HostNetwork {
				config.PortMappings = append(config.PortMappings, &cri.PortMapping{HostIp: p.HostIP, HostPort: p.HostPort,
					ContainerPort: p.ContainerPort, Protocol: cri.Protocol(cri.Protocol_value[string(p.Protocol)])})
			}
		}
	}
	sc := &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(pod), Seccomp: seccomp(nil, pod.Spec.SecurityContext)}
	if psc := pod.Spec.SecurityContext; psc != nil {
		for _, s := range psc.Sysctls {
			config.Linux.Sysctls[s.Name] = s.Value
		}
		sc.RunAsUser, sc.RunAsGroup = int64Value(psc.RunAsUser), int64Value(psc.RunAsGroup)
		sc.SupplementalGroups = groups(pod)
	}
	for i := range pod.Spec.Containers {
		sc.Privileged = sc.Privileged || privileged(&pod.Spec.Containers[i])
	}
	config.Linux.SecurityContext = sc
	return config, nil
}

func int64Value(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

func groups(pod *corev1.Pod) []int64 {
	var out []int64
	if psc := pod.Spec.SecurityContext; psc != nil {
		if psc.FSGroup != nil {
			out = append(out, *psc.FSGroup)
		}
		out = append(out, psc.SupplementalGroups...)
	}
	return out
}

func privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// namespaces says which namespaces a pod shares with its node.
func namespaces(pod *corev1.Pod) *cri.NamespaceOption {
	n := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		n.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		n.Ipc = cri.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		n.Pid = cri.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		n.Pid = cri.NamespaceMode_POD
	}
	return n
}

// seccomp is the container's profile, else the pod's, else none.
func seccomp(sc *corev1.SecurityContext, psc *corev1.PodSecurityContext) *cri.SecurityProfile {
	var p *corev1.SeccompProfile
	if psc != nil {
		p = psc.SeccompProfile
	}
	if sc != nil && sc.SeccompProfile != nil {
		p = sc.SeccompProfile
	}
	switch {
	case p == nil || p.Type == corev1.SeccompProfileTypeUnconfined:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: filepath.Join("/var/lib/kubelet/seccomp", *p.LocalhostProfile)}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
}

// containerConfig is what the runtime is told about a container.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go, generateContainerConfig.
func (k *Kubelet) containerConfig(ctx context.Context, pod *corev1.Pod, c *corev1.Container, image *cri.Image, restarts int32, ips []string, vols map[string]string) (*cri.ContainerConfig, error) {
	env, err := k.environment(ctx, pod, c, ips)
	if err != nil {
		return nil, err
	}
	mounts, err := k.mounts(pod, c, ips, restarts, vols, env)
	if err != nil {
		return nil, err
	}
	security, err := containerSecurity(pod, c, image)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	var envs []*cri.KeyValue
	for _, e := range env {
		values[e.Name] = e.Value
		envs = append(envs, &cri.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	if err := os.MkdirAll(filepath.Join(k.logDir(pod), c.Name), 0o755); err != nil {
		return nil, err
	}
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: c.Name, Attempt: uint32(restarts)},
		Image:    &cri.ImageSpec{Image: image.Id, UserSpecifiedImage: c.Image},
		Command:  expandAll(c.Command, values), Args: expandAll(c.Args, values), WorkingDir: c.WorkingDir,
		Labels: map[string]string{labelContainerName: c.Name, labelPodName: pod.Name, labelPodNamespace: pod.Namespace, labelPodUID: string(pod.UID)},
		Annotations: map[string]string{
			annotationContainerHash: containerHash(c), annotationRestartCount: strconv.Itoa(int(restarts)),
			annotationTerminationPath: c.TerminationMessagePath, annotationTerminationPolicy: string(c.TerminationMessagePolicy),
			annotationPodTerminationTime: strconv.Itoa(int(gracePeriod(pod).Seconds())),
		},
		Envs: envs, Mounts: mounts, LogPath: logFile(c.Name, restarts), Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &cri.LinuxContainerConfig{Resources: k.resources(pod, c), SecurityContext: security},
	}, nil
}

// containerSecurity is the security context as CRI wants it.
//
// Upstream: pkg/kubelet/kuberuntime/security_context.go, determineEffectiveSecurityContext.
// Left out: AppArmor, SELinux, user namespaces, supplementalGroupsPolicy.
func containerSecurity(pod *corev1.Pod, c *corev1.Container, image *cri.Image) (*cri.LinuxContainerSecurityContext, error) {
	sc, psc := c.SecurityContext, pod.Spec.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	if psc == nil {
		psc = &corev1.PodSecurityContext{}
	}
	user, group, nonRoot := psc.RunAsUser, psc.RunAsGroup, psc.RunAsNonRoot
	if sc.RunAsUser != nil {
		user = sc.RunAsUser
	}
	if sc.RunAsGroup != nil {
		group = sc.RunAsGroup
	}
	if sc.RunAsNonRoot != nil {
		nonRoot = sc.RunAsNonRoot
	}
	out := &cri.LinuxContainerSecurityContext{
		Privileged: privileged(c), NamespaceOptions: namespaces(pod), RunAsUser: int64Value(user), RunAsGroup: int64Value(group),
		SupplementalGroups: groups(pod), Seccomp: seccomp(c.SecurityContext, pod.Spec.SecurityContext),
		ReadonlyRootfs: sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem,
		NoNewPrivs:     sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
	}
	if out.RunAsUser == nil { // the image's
		switch {
		case image.GetUid() != nil:
			out.RunAsUser = &cri.Int64Value{Value: image.Uid.Value}
		default:
			out.RunAsUsername = image.GetUsername()
		}
	}
	if nonRoot != nil && *nonRoot {
		if err := checkNonRoot(user, image); err != nil {
			return nil, err
		}
	}
	if sc.Capabilities != nil {
		out.Capabilities = &cri.Capability{}
		for _, add := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(add))
		}
		for _, drop := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(drop))
		}
	}
	if !out.Privileged && (sc.ProcMount == nil || *sc.ProcMount == corev1.DefaultProcMount) {
		out.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		out.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	return out, nil
}

func checkNonRoot(user *int64, image *cri.Image) error {
	switch {
	case user != nil && *user == 0:
		return errors.New("container's runAsUser breaks non-root policy")
	case user != nil:
		return nil
	case image.GetUid() != nil && image.Uid.Value == 0, image.GetUid() == nil && image.GetUsername() == "":
		return errors.New("container has runAsNonRoot and image will run as root")
	case image.GetUid() == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", image.Username)
	}
	return nil
}

// mounts is the container's volume mounts, /etc/hosts and the termination message file.
//
// Upstream: pkg/kubelet/kubelet_pods.go, makeMounts; kuberuntime_container.go, makeMounts.
func (k *Kubelet) mounts(pod *corev1.Pod, c *corev1.Container, ips []string, restarts int32, vols map[string]string, env []corev1.EnvVar) ([]*cri.Mount, error) {
	var out []*cri.Mount
	values := map[string]string{}
	for _, e := range env {
		values[e.Name] = e.Value
	}
	hosts := len(ips) > 0 || pod.Spec.HostNetwork
	for _, m := range c.VolumeMounts {
		host, ok := vols[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, values)
		}
		host, err := volumes.SubPath(host, sub)
		if err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
		out = append(out, &cri.Mount{HostPath: host, ContainerPath: absolute(m.MountPath), Readonly: m.ReadOnly, Propagation: propagation(m.MountPropagation)})
		hosts = hosts && m.MountPath != "/etc/hosts"
	}
	if hosts {
		file := filepath.Join(k.podDir(pod.UID), "etc-hosts")
		content, err := hostsFile(pod, ips, k.cfg.Settings.ClusterDomain)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return nil, err
		}
		out = append(out, &cri.Mount{HostPath: file, ContainerPath: "/etc/hosts"})
	}
	if c.TerminationMessagePath != "" {
		file := k.terminationFile(pod.UID, c.Name, restarts)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			return nil, err
		}
		// Whoever the container runs as must be able to write it.
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, err
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, err
		}
		out = append(out, &cri.Mount{HostPath: file, ContainerPath: c.TerminationMessagePath})
	}
	return out, nil
}

func absolute(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}

func propagation(p *corev1.MountPropagationMode) cri.MountPropagation {
	switch {
	case p != nil && *p == corev1.MountPropagationBidirectional:
		return cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case p != nil && *p == corev1.MountPropagationHostToContainer:
		return cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	}
	return cri.MountPropagation_PROPAGATION_PRIVATE
}
