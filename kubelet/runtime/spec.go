package runtime

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/containers"
	"github.com/containerd/containerd/contrib/seccomp"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/oci"
	"github.com/containerd/containerd/pkg/cap"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerSpec turns a CRI container config into what runc is told. The order matters: the image first, then what the
// pod says over it; capabilities before seccomp, whose default profile depends on them.
//
// Upstream: containerd pkg/cri/server/container_create_linux.go, containerSpec and containerSpecOpts.
func (s *Service) containerSpec(ctx context.Context, id string, sandbox *record, sandboxConfig *cri.PodSandboxConfig,
	config *cri.ContainerConfig, image containerd.Image) ([]oci.SpecOpts, error) {
	imageSpec, err := image.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	args, err := processArgs(config, imageSpec.Config)
	if err != nil {
		return nil, err
	}
	namespaces, err := s.containerNamespaces(ctx, sandbox, config)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := s.containerMounts(sandbox, sandboxConfig, config)
	if err != nil {
		return nil, err
	}
	security := config.GetLinux().GetSecurityContext()
	opts := []oci.SpecOpts{
		oci.WithDefaultPathEnv,
		oci.WithEnv(imageSpec.Config.Env),
		oci.WithEnv([]string{"HOSTNAME=" + hostname(sandboxConfig)}),
		oci.WithProcessArgs(args...),
		oci.WithoutRunMount,
		oci.WithoutMounts("/dev/shm"),
		withoutRlimits,
		withMounts(mounts, propagation, security.GetPrivileged()),
		s.withCgroup(sandboxConfig.GetLinux().GetCgroupParent(), id),
		withResources(config.GetLinux().GetResources()),
		withOOMScore(config.GetLinux().GetResources().GetOomScoreAdj()),
	}
	opts = append(opts, namespaces...)
	if dir := cmp.Or(config.WorkingDir, imageSpec.Config.WorkingDir); dir != "" {
		opts = append(opts, oci.WithProcessCwd(dir))
	}
	if config.Tty {
		opts = append(opts, oci.WithTTY, oci.WithEnv([]string{"TERM=xterm"}))
	}
	var env []string
	for _, e := range config.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	opts = append(opts, oci.WithEnv(env))
	opts = append(opts, userOpts(security, imageSpec.Config.User)...)
	return append(opts, s.securityOpts(security, config.Devices)...), nil
}

// processArgs merges the pod's command and args with the image's entrypoint and cmd:
// a command replaces both of the image's, args replace its cmd only.
// Upstream: containerd pkg/cri/opts, WithProcessArgs.
func processArgs(config *cri.ContainerConfig, image imagespec.ImageConfig) ([]string, error) {
	command, args := config.Command, config.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := append(slices.Clone(command), args...)
	if len(all) == 0 || all[0] == "" {
		return nil, fmt.Errorf("no command specified: %w", errdefs.ErrInvalidArgument)
	}
	return all, nil
}

// containerNamespaces joins the pause process's namespaces, or the host's where the pod says so.
func (s *Service) containerNamespaces(ctx context.Context, sandbox *record, config *cri.ContainerConfig) ([]oci.SpecOpts, error) {
	names := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	join := func(kind specs.LinuxNamespaceType, file string, pid uint32) oci.SpecOpts {
		return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, file)})
	}
	pause := sandbox.task.Pid
	// Joining is right for the host's namespaces too, since the pause process is in them then.
	opts := []oci.SpecOpts{
		join(specs.NetworkNamespace, "net", pause),
		join(specs.IPCNamespace, "ipc", pause),
		join(specs.UTSNamespace, "uts", pause),
	}
	switch names.GetPid() {
	case cri.NamespaceMode_POD:
		opts = append(opts, join(specs.PIDNamespace, "pid", pause))
	case cri.NamespaceMode_NODE:
		opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
	case cri.NamespaceMode_TARGET: // kubectl debug --target
		target, err := s.get(ctx, kindContainer, names.GetTargetId())
		if err != nil {
			return nil, fmt.Errorf("invalid target container: %w", err)
		}
		if !target.running() {
			return nil, fmt.Errorf("target container %q is not running: %w", target.ID, errdefs.ErrFailedPrecondition)
		}
		opts = append(opts, join(specs.PIDNamespace, "pid", target.task.Pid))
	}
	if cgroup2() && !config.GetLinux().GetSecurityContext().GetPrivileged() {
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace}))
	}
	return opts, nil
}

// containerMounts lists the pod's files and the mounts that the kubelet asks for, parents before children,
// and says how mounts propagate out of or into the container.
func (s *Service) containerMounts(sandbox *record, sandboxConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) ([]specs.Mount, string, error) {
	security := config.GetLinux().GetSecurityContext()
	asked := map[string]bool{}
	for _, m := range config.Mounts {
		asked[filepath.Clean(m.ContainerPath)] = true
	}
	var mounts []specs.Mount
	for path, source := range map[string]string{
		"/dev/shm":         s.shmPath(sandbox.ID, sandboxConfig.GetLinux().GetSecurityContext().GetNamespaceOptions()),
		"/etc/resolv.conf": filepath.Join(s.sandboxDir(sandbox.ID), "resolv.conf"),
		"/etc/hostname":    filepath.Join(s.sandboxDir(sandbox.ID), "hostname"),
	} {
		if asked[path] {
			continue
		}
		m := bind(source, path)
		if security.GetReadonlyRootfs() && path != "/dev/shm" {
			m.Options = append(m.Options, "ro")
		}
		mounts = append(mounts, m)
	}
	propagation := ""
	for _, m := range config.Mounts {
		mount, err := kubeletMount(m)
		if err != nil {
			return nil, "", err
		}
		switch {
		case m.Propagation == cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			propagation = "rshared"
		case m.Propagation == cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER && propagation == "":
			propagation = "rslave"
		}
		mounts = append(mounts, mount)
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(filepath.Clean(a.Destination), "/") - strings.Count(filepath.Clean(b.Destination), "/")
	})
	return mounts, propagation, nil
}

// kubeletMount is one mount of the pod. A host path that is not there is made, as a directory.
func kubeletMount(m *cri.Mount) (specs.Mount, error) {
	if m.GetImage().GetImage() != "" {
		return specs.Mount{}, fmt.Errorf("image volumes are not supported: %w", errdefs.ErrNotImplemented)
	}
	if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
		if _, statErr := os.Stat(m.HostPath); statErr != nil {
			return specs.Mount{}, fmt.Errorf("failed to mkdir %q: %w", m.HostPath, err)
		}
	}
	source, err := filepath.EvalSymlinks(m.HostPath)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("failed to resolve symlink %q: %w", m.HostPath, err)
	}
	mount := bind(source, m.ContainerPath)
	mount.Options[1] = map[cri.MountPropagation]string{
		cri.MountPropagation_PROPAGATION_PRIVATE:           "rprivate",
		cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: "rslave",
		cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:     "rshared",
	}[m.Propagation]
	switch {
	case m.RecursiveReadOnly:
		mount.Options = append(mount.Options, "rro")
	case m.Readonly:
		mount.Options = append(mount.Options, "ro")
	default:
		mount.Options = append(mount.Options, "rw")
	}
	return mount, nil
}

func bind(source, destination string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: []string{"rbind", "rprivate"}}
}

// withMounts adds the mounts and the container's view of cgroups. A mount of the pod replaces a default one at its place.
func withMounts(mounts []specs.Mount, propagation string, privileged bool) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
		access := "ro"
		if privileged {
			access = "rw"
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Type: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access}})
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(d specs.Mount) bool {
			return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
				return filepath.Clean(m.Destination) == filepath.Clean(d.Destination)
			})
		})
		spec.Mounts = append(spec.Mounts, mounts...)
		if propagation != "" {
			spec.Linux.RootfsPropagation = propagation
		}
		return nil
	}
}

// userOpts say who the process is: the pod's word, else the image's, else root.
func userOpts(security *cri.LinuxContainerSecurityContext, imageUser string) []oci.SpecOpts {
	user := imageUser
	if name := security.GetRunAsUsername(); name != "" {
		user = name
	}
	if uid := security.GetRunAsUser(); uid != nil {
		user = strconv.FormatInt(uid.Value, 10)
	}
	group := ""
	if gid := security.GetRunAsGroup(); gid != nil {
		group = strconv.FormatInt(gid.Value, 10)
	}
	base, _, _ := strings.Cut(user, ":")
	var opts []oci.SpecOpts
	switch {
	case user != "" && group != "":
		opts = append(opts, oci.WithUser(base+":"+group))
	case user != "":
		opts = append(opts, oci.WithUser(user))
	case group != "":
		opts = append(opts, oci.WithUser("0:"+group))
	}
	if security.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge {
		opts = append(opts, oci.WithAdditionalGIDs(cmp.Or(base, "0")))
	}
	var groups []string
	for _, g := range security.GetSupplementalGroups() {
		groups = append(groups, strconv.FormatInt(g, 10))
	}
	if len(groups) > 0 {
		opts = append(opts, oci.WithAppendAdditionalGroups(groups...))
	}
	return opts
}

// securityOpts say what the process may do. A privileged one may do all that we may.
func (s *Service) securityOpts(security *cri.LinuxContainerSecurityContext, devices []*cri.Device) []oci.SpecOpts {
	opts := []oci.SpecOpts{oci.WithNewPrivileges}
	if security.GetNoNewPrivs() {
		opts = []oci.SpecOpts{oci.WithNoNewPrivileges}
	}
	if security.GetReadonlyRootfs() {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	if security.GetPrivileged() {
		return append(opts, withCapabilities(&cri.Capability{AddCapabilities: []string{"ALL"}}), oci.WithMaskedPaths(nil),
			oci.WithReadonlyPaths(nil), oci.WithWriteableSysfs, oci.WithHostDevices, oci.WithAllDevicesAllowed)
	}
	opts = append(opts, withCapabilities(security.GetCapabilities()), oci.WithDefaultUnixDevices)
	if security != nil { // an empty list means none
		opts = append(opts, oci.WithMaskedPaths(security.MaskedPaths), oci.WithReadonlyPaths(security.ReadonlyPaths))
	}
	for _, d := range devices {
		opts = append(opts, oci.WithDevices(d.HostPath, d.ContainerPath, d.Permissions))
	}
	switch profile := security.GetSeccomp(); profile.GetProfileType() {
	case cri.SecurityProfile_Localhost:
		opts = append(opts, seccomp.WithProfile(strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/")))
	case cri.SecurityProfile_RuntimeDefault:
		if profile != nil {
			opts = append(opts, seccomp.WithDefaultProfile())
		}
	}
	return opts
}

// withCapabilities adds and drops by name, with or without CAP_; ALL stands for all that we have ourselves.
// Drop goes before add when it drops all, so that "drop ALL, add NET_BIND_SERVICE" leaves one.
func withCapabilities(c *cri.Capability) oci.SpecOpts {
	return func(ctx context.Context, client oci.Client, r *containers.Container, spec *oci.Spec) error {
		own, err := cap.Current()
		if err != nil {
			return fmt.Errorf("reading our capabilities: %w", err)
		}
		names := func(in []string) (out []string, all bool) {
			for _, n := range in {
				n = strings.ToUpper(n)
				if n == "ALL" {
					all = true
					continue
				}
				if !strings.HasPrefix(n, "CAP_") {
					n = "CAP_" + n
				}
				out = append(out, n)
			}
			return out, all
		}
		add, addAll := names(c.GetAddCapabilities())
		drop, dropAll := names(c.GetDropCapabilities())
		var opts []oci.SpecOpts
		if addAll {
			opts = append(opts, oci.WithCapabilities(own))
		}
		if dropAll {
			opts = append(opts, oci.WithCapabilities(nil))
		}
		opts = append(opts, oci.WithAddedCapabilities(add), oci.WithDroppedCapabilities(drop))
		// Inheritable and ambient stay empty: a later exec by another user must not gain by them.
		return oci.ApplyOpts(ctx, client, r, spec, opts...)
	}
}

// withoutRlimits lets the process inherit containerd's limits; to raise one takes a capability that nodes may lack.
func withoutRlimits(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
	spec.Process.Rlimits = nil
	return nil
}

func withOOMScore(score int64) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
		spec.Process.OOMScoreAdj = oomScoreAdj(score)
		return nil
	}
}

func withSysctls(sysctls map[string]string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
		spec.Linux.Sysctl = sysctls
		return nil
	}
}
