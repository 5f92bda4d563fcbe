package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/contrib/seccomp"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandboxOOMScore keeps the pause process alive longer than any container of its pod.
const sandboxOOMScore = -998

// RunPodSandbox makes what a pod's containers share: a network namespace with an address, and a pause process that
// holds the other namespaces. The record comes first, so that after a crash at any step the kubelet finds and removes it.
//
// Upstream: containerd pkg/cri/server/sandbox_run.go, RunPodSandbox.
// Left out: runtime handlers, user namespaces, SELinux, AppArmor.
func (s *Service) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (_ *cri.RunPodSandboxResponse, err error) {
	config := req.GetConfig()
	if config.GetMetadata() == nil {
		return nil, fmt.Errorf("sandbox config must have metadata: %w", errdefs.ErrInvalidArgument)
	}
	id := newID()
	sandbox, err := s.createSandbox(ctx, id, config)
	if err != nil {
		return nil, fmt.Errorf("failed to create sandbox %q: %w", id, err)
	}
	defer func() {
		if err != nil {
			s.abandonSandbox(ctx, id)
		}
	}()
	if !onHost(config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork()) {
		if err := s.connectSandbox(ctx, id, config); err != nil {
			return nil, err
		}
	}
	if err := s.startSandbox(ctx, sandbox); err != nil {
		return nil, fmt.Errorf("failed to start sandbox %q: %w", id, err)
	}
	s.publish(ctx, cri.ContainerEventType_CONTAINER_CREATED_EVENT, id, id)
	s.publish(ctx, cri.ContainerEventType_CONTAINER_STARTED_EVENT, id, id)
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// createSandbox writes the sandbox's files, its network namespace and its record.
func (s *Service) createSandbox(ctx context.Context, id string, config *cri.PodSandboxConfig) (_ containerd.Container, err error) {
	image, err := s.sandboxImage(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.writeSandboxFiles(id, config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.removeSandboxFiles(id)
		}
	}()
	labels := map[string]string{labelKind: kindSandbox}
	for k, v := range config.Labels {
		labels[k] = v
	}
	netns := ""
	if !onHost(config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork()) {
		if netns, err = pinNetNS(s.cfg.NetNSDir); err != nil {
			return nil, err
		}
		labels[labelNetNS] = netns
		defer func() {
			if err != nil {
				unpinNetNS(netns)
			}
		}()
	}
	extension, err := packConfig(config)
	if err != nil {
		return nil, err
	}
	return s.client.NewContainer(ctx, id,
		containerd.WithSnapshotter(s.cfg.Snapshotter),
		containerd.WithImage(image),
		containerd.WithNewSnapshot(id, image),
		containerd.WithContainerLabels(labels),
		containerd.WithContainerExtension(extensionConfig, extension),
		s.withRuntime(),
		containerd.WithNewSpec(s.sandboxSpec(id, netns, config, image)...))
}

// sandboxImage is the pause image, pulled when it is not there.
func (s *Service) sandboxImage(ctx context.Context) (containerd.Image, error) {
	image, err := s.unpackedImage(ctx, s.cfg.SandboxImage, "")
	if errdefs.IsNotFound(err) {
		if _, err := s.pull(ctx, s.cfg.SandboxImage, nil); err != nil {
			return nil, fmt.Errorf("failed to get sandbox image %q: %w", s.cfg.SandboxImage, err)
		}
		image, err = s.unpackedImage(ctx, s.cfg.SandboxImage, "")
	}
	return image, err
}

// connectSandbox gives the sandbox its addresses.
func (s *Service) connectSandbox(ctx context.Context, id string, config *cri.PodSandboxConfig) error {
	r, err := s.get(ctx, kindSandbox, id)
	if err != nil {
		return err
	}
	ips, err := s.addNetwork(ctx, id, r.Labels[labelNetNS], config)
	if err != nil {
		return fmt.Errorf("failed to setup network for sandbox %q: %w", id, err)
	}
	return s.label(ctx, id, map[string]string{labelIPs: strings.Join(ips, ",")})
}

func (s *Service) startSandbox(ctx context.Context, sandbox containerd.Container) error {
	task, err := sandbox.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	return task.Start(ctx)
}

// abandonSandbox removes what a failed RunPodSandbox has made. It outlives the request, which may be what failed.
func (s *Service) abandonSandbox(ctx context.Context, id string) {
	ctx = context.WithoutCancel(ctx)
	if _, err := s.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		s.log.Warn("Sandbox could not be cleaned up", "key", id, "err", err)
	}
}

// sandboxSpec describes the pause process.
func (s *Service) sandboxSpec(id, netns string, config *cri.PodSandboxConfig, image containerd.Image) []oci.SpecOpts {
	security := config.GetLinux().GetSecurityContext()
	names := security.GetNamespaceOptions()
	opts := []oci.SpecOpts{
		oci.WithImageConfig(image),
		oci.WithRootFSReadonly(),
		oci.WithoutRunMount,
		s.withCgroup(config.GetLinux().GetCgroupParent(), id),
		withOOMScore(sandboxOOMScore),
		oci.WithCPUShares(2),
		withoutRlimits,
		withSysctls(config.GetLinux().GetSysctls()),
		oci.WithoutMounts("/dev/shm"),
		oci.WithMounts([]specs.Mount{bind(s.shmPath(id, names), "/dev/shm")}),
	}
	if netns == "" {
		opts = append(opts, oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostNamespace(specs.UTSNamespace))
	} else {
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns}),
			oci.WithHostname(hostname(config)))
	}
	if onHost(names.GetPid()) {
		opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
	}
	if onHost(names.GetIpc()) {
		opts = append(opts, oci.WithHostNamespace(specs.IPCNamespace))
	}
	if user := security.GetRunAsUser(); user != nil {
		opts = append(opts, oci.WithUIDGID(uint32(user.Value), uint32(security.GetRunAsGroup().GetValue())))
	}
	if !security.GetPrivileged() {
		opts = append(opts, seccomp.WithDefaultProfile())
	}
	return opts
}

func onHost(mode cri.NamespaceMode) bool { return mode == cri.NamespaceMode_NODE }

// hostname is what the pod calls itself: its own name, or on the host's network the host's.
func hostname(config *cri.PodSandboxConfig) string {
	if config.GetHostname() != "" {
		return config.GetHostname()
	}
	name, _ := os.Hostname()
	return name
}

func (s *Service) withRuntime() containerd.NewContainerOpts {
	return containerd.WithRuntime(s.cfg.Runtime, &options.Options{SystemdCgroup: s.cfg.SystemdCgroup})
}

func (s *Service) sandboxDir(id string) string { return filepath.Join(s.cfg.StateDir, "sandboxes", id) }

// shmPath is the /dev/shm that all containers of a pod see.
func (s *Service) shmPath(id string, names *cri.NamespaceOption) string {
	if onHost(names.GetIpc()) {
		return "/dev/shm"
	}
	return filepath.Join(s.sandboxDir(id), "shm")
}

// writeSandboxFiles makes the files that each container of the pod gets mounted: resolv.conf, hostname, shared memory.
// /etc/hosts is the kubelet's.
func (s *Service) writeSandboxFiles(id string, config *cri.PodSandboxConfig) error {
	dir := s.sandboxDir(id)
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return err
	}
	resolv, err := resolvConf(config.DnsConfig)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{"resolv.conf": resolv, "hostname": hostname(config) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if onHost(config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc()) {
		return nil
	}
	err = unix.Mount("shm", shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=65536k")
	if err != nil {
		return fmt.Errorf("mounting the pod's shared memory: %w", err)
	}
	return nil
}

func (s *Service) removeSandboxFiles(id string) error {
	unix.Unmount(filepath.Join(s.sandboxDir(id), "shm"), unix.MNT_DETACH) // an error shows in RemoveAll
	return os.RemoveAll(s.sandboxDir(id))
}

// resolvConf writes out a DNS config; a pod without one resolves as the node does.
func resolvConf(dns *cri.DNSConfig) (string, error) {
	if dns == nil {
		b, err := os.ReadFile("/etc/resolv.conf")
		return string(b), err
	}
	var out strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&out, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, server := range dns.Servers {
		fmt.Fprintf(&out, "nameserver %s\n", server)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&out, "options %s\n", strings.Join(dns.Options, " "))
	}
	return out.String(), nil
}
