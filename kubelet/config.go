package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"orrery/client"
	"orrery/client/timing"
	"orrery/kubelet/probes"
)

// Config is what a Kubelet is made from.
type Config struct {
	// Settings is the file that --config names. New fills its zero values with
	// upstream's defaults.
	Settings kubeletv1beta1.KubeletConfiguration
	// Version is reported as kubeletVersion in the node's status.
	Version string
	// NodeName is the name of the Node object; the host's name in lower case by custom.
	NodeName string
	// NodeIP is the address to report. The invalid zero Addr means that of the
	// interface of the default route.
	NodeIP netip.Addr
	// NodeLabels are set at registration beside the usual ones.
	NodeLabels map[string]string
	// RootDir holds the pods' folders: /var/lib/kubelet.
	RootDir string
	// Client speaks to the API server; nil makes a kubelet that only runs static pods.
	Client *client.Client
	// Credentials is closed as soon as Client may be used, which during TLS
	// bootstrap is some time after the start. Nil means at once.
	Credentials <-chan struct{}
	// Runtime and Images are the two services of CRI.
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	// Machine is what the node says about itself; the zero value means: look at this machine.
	Machine Machine
	// NoCgroups leaves the cgroups above a pod's containers to the runtime, and
	// NoTmpfs keeps secrets in ordinary folders: for tests without root.
	NoCgroups, NoTmpfs bool
	// TimeScale speeds the kubelet's own clockwork up, for drills in class: 10 is
	// ten times as fast, 0 counts as 1. What containers need keeps its time:
	// grace periods, timeouts of probes.
	TimeScale float64
	// Probe answers probes instead of asking the pods; nil asks. For runtimes
	// whose containers are made up.
	Probe func(ctx context.Context, t probes.Target) (ok bool, output string, err error)
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func orPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// setDefaults completes the configuration.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go, SetDefaults_KubeletConfiguration.
func (c *Config) setDefaults() error {
	if c.NodeName == "" {
		return errors.New("kubelet: no node name")
	}
	if c.Runtime == nil || c.Images == nil {
		return errors.New("kubelet: no container runtime")
	}
	c.NodeName = strings.ToLower(c.NodeName)
	orElse(&c.RootDir, "/var/lib/kubelet")
	if c.Credentials == nil {
		ready := make(chan struct{})
		close(ready)
		c.Credentials = ready
	}
	if c.TimeScale < 0 {
		return fmt.Errorf("kubelet: --time-scale must be positive, not %v", c.TimeScale)
	}
	orElse(&c.TimeScale, 1)
	SetDefaults(&c.Settings)
	s := &c.Settings
	if period := s.CrashLoopBackOff.MaxContainerRestartPeriod; period != nil && (period.Duration < time.Second || period.Duration > timing.CrashLoopMax) {
		return fmt.Errorf("invalid configuration: CrashLoopBackOff.MaxContainerRestartPeriod (got: %v seconds) must be set between 1s and %ds",
			period.Seconds(), int(timing.CrashLoopMax.Seconds()))
	}
	lease := time.Duration(s.NodeLeaseDurationSeconds) * time.Second
	timing.Scale(c.TimeScale, &lease, &s.NodeStatusUpdateFrequency.Duration, &s.NodeStatusReportFrequency.Duration,
		&s.SyncFrequency.Duration, &s.FileCheckFrequency.Duration)
	s.NodeLeaseDurationSeconds = max(1, int32(lease/time.Second))
	return nil
}

// newBackOffs are the waits of containers that crash and of images that cannot be
// pulled. A node may cap the former (crashLoopBackOff in its configuration).
func (c *Config) newBackOffs() (crashes, pulls *backOff) {
	initial, most, reset := timing.CrashLoopInitial, timing.CrashLoopMax, timing.CrashLoopReset
	if period := c.Settings.CrashLoopBackOff.MaxContainerRestartPeriod; period != nil {
		most = period.Duration
		initial = min(initial, most)
	}
	pull, pullMost := timing.ImagePullInitial, timing.ImagePullMax
	timing.Scale(c.TimeScale, &initial, &most, &reset, &pull, &pullMost)
	return newBackOff(initial, most, reset), newBackOff(pull, pullMost, 2*pullMost)
}

// SetDefaults fills the zero values of a configuration file with upstream's defaults,
// as far as anything here reads them.
func SetDefaults(s *kubeletv1beta1.KubeletConfiguration) {
	duration := func(d *metav1.Duration, value time.Duration) { orElse(&d.Duration, value) }
	duration(&s.SyncFrequency, timing.PodSyncFrequency)
	duration(&s.FileCheckFrequency, timing.StaticPodCheckFrequency)
	duration(&s.NodeStatusReportFrequency, timing.NodeStatusReportFrequency)
	duration(&s.NodeStatusUpdateFrequency, timing.NodeStatusUpdateFrequency)
	duration(&s.StreamingConnectionIdleTimeout, 4*time.Hour)
	duration(&s.RuntimeRequestTimeout, 2*time.Minute)
	duration(&s.Authentication.Webhook.CacheTTL, 2*time.Minute)
	duration(&s.Authorization.Webhook.CacheAuthorizedTTL, 5*time.Minute)
	duration(&s.Authorization.Webhook.CacheUnauthorizedTTL, 30*time.Second)
	orElse(&s.NodeLeaseDurationSeconds, int32(timing.NodeLeaseDuration/time.Second))
	orElse(&s.Address, "0.0.0.0")
	orElse(&s.Port, 10250)
	orElse(&s.HealthzBindAddress, "127.0.0.1")
	orPointer(&s.HealthzPort, 10248)
	orElse(&s.MaxPods, 110)
	orElse(&s.PodLogsDir, "/var/log/pods")
	orElse(&s.ContainerLogMaxSize, "10Mi")
	orPointer(&s.ContainerLogMaxFiles, 5)
	orPointer(&s.ContainerLogMonitorInterval, metav1.Duration{Duration: timing.ContainerLogMonitorInterval})
	orElse(&s.ClusterDomain, "cluster.local")
	orPointer(&s.ResolverConfig, "/etc/resolv.conf")
	orPointer(&s.NodeStatusMaxImages, 50)
	orPointer(&s.CgroupsPerQOS, true)
	orElse(&s.CgroupRoot, "/")
	orElse(&s.CgroupDriver, "cgroupfs")
	orPointer(&s.CPUCFSQuota, true)
	orPointer(&s.RegisterNode, true)
	orPointer(&s.SerializeImagePulls, true)
	orElse(&s.ContainerRuntimeEndpoint, "unix:///run/orrery/cri.sock")
}

// nodeReference is what events about this node are about. It has no uid, as upstream's has none: kubectl get events
// shows these events, kubectl describe node, which asks for a uid, does not.
//
// Upstream: pkg/kubelet/kubelet.go, NewMainKubelet.
func (c *Config) nodeReference() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.NodeName}
}
