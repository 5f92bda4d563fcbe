package controllers

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"orrery/client"
	"orrery/client/timing"
)

// Config is what the manager is told by its flags. The zero value of a duration
// or rate does not mean the default: start from [DefaultConfig].
//
// Upstream: pkg/controller/apis/config, KubeControllerManagerConfiguration.
type Config struct {
	// Client says where the API server is and who the manager is.
	Client client.Config
	// Controllers selects controllers: "*", "name", "-name".
	Controllers []string
	// UseServiceAccountCredentials has each controller act as its own service
	// account in kube-system, so that RBAC and audit can tell them apart.
	UseServiceAccountCredentials bool

	// LeaderElect has only one of several managers act. Identity tells them apart.
	LeaderElect                               bool
	Identity                                  string
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration

	// AllocateNodeCIDRs gives each node a piece of ClusterCIDR of NodeCIDRMaskSize
	// bits, outside of ServiceCIDR.
	AllocateNodeCIDRs         bool
	ClusterCIDR, ServiceCIDR  netip.Prefix
	NodeCIDRMaskSize          int
	ClusterName               string
	ClusterSigningCert        string // file names
	ClusterSigningKey         string
	ClusterSigningDuration    time.Duration
	ServiceAccountKeyFile     string // private key for tokens in Secrets
	RootCAFile                string // the bundle that pods trust
	RootCA                    []byte // instead of RootCAFile
	LoadBalancerPool          []netip.Prefix
	ConcurrentDeploymentSyncs int

	// Node lifecycle; units a second for rates.
	NodeMonitorPeriod, NodeMonitorGracePeriod, NodeStartupGracePeriod time.Duration
	NodeEvictionRate, SecondaryNodeEvictionRate                       float64
	LargeClusterSizeThreshold                                         int
	UnhealthyZoneThreshold                                            float64
	TerminatedPodGCThreshold                                          int
	PodGCPeriod, PodGCQuarantine                                      time.Duration

	HPASyncPeriod, HPADownscaleStabilization             time.Duration
	HPACPUInitializationPeriod, HPAInitialReadinessDelay time.Duration

	// TimeScale speeds up everything that has to do with time: 10 means ten times
	// as fast. Validate applies it to what is above, each controller to its back-off.
	TimeScale float64

	serviceCIDR, clusterCIDR string
	pool                     []string
	podEvictionTimeout       time.Duration
}

// DefaultConfig is the configuration of a manager without flags.
func DefaultConfig() Config {
	host, _ := os.Hostname()
	return Config{
		Controllers: []string{"*"},
		LeaderElect: true, Identity: host + "_" + uuid.NewString(),
		LeaseDuration: timing.LeaderLeaseDuration, RenewDeadline: timing.LeaderRenewDeadline, RetryPeriod: timing.LeaderRetryPeriod,
		NodeCIDRMaskSize: 24, ClusterName: "kubernetes", ClusterSigningDuration: timing.ClusterSigningDuration,
		NodeMonitorPeriod: timing.NodeMonitorPeriod, NodeMonitorGracePeriod: timing.NodeMonitorGracePeriod,
		NodeStartupGracePeriod: timing.NodeStartupGracePeriod,
		NodeEvictionRate:       timing.NodeEvictionRate, SecondaryNodeEvictionRate: timing.SecondaryNodeEvictionRate,
		LargeClusterSizeThreshold: timing.LargeClusterSizeThreshold, UnhealthyZoneThreshold: timing.UnhealthyZoneThreshold,
		TerminatedPodGCThreshold: timing.TerminatedPodGCThreshold,
		PodGCPeriod:              timing.PodGCPeriod, PodGCQuarantine: timing.PodGCQuarantine,
		HPASyncPeriod: timing.HPASyncPeriod, HPADownscaleStabilization: timing.HPADownscaleStabilization,
		HPACPUInitializationPeriod: timing.HPACPUInitializationPeriod, HPAInitialReadinessDelay: timing.HPAInitialReadinessDelay,
		TimeScale: 1,
	}
}

// AddFlags puts the fields under upstream's flag names.
//
// Upstream: cmd/kube-controller-manager/app/options.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	all, optional := KnownControllers()
	fs.StringSliceVar(&c.Controllers, "controllers", c.Controllers, fmt.Sprintf("controllers to enable: '*' for all that are on by default, 'foo' adds one, '-foo' takes one away; all: %v; off by default: %v", all, optional))
	fs.BoolVar(&c.UseServiceAccountCredentials, "use-service-account-credentials", c.UseServiceAccountCredentials, "each controller acts as its own service account")
	fs.BoolVar(&c.LeaderElect, "leader-elect", c.LeaderElect, "act only while holding the lease kube-system/kube-controller-manager")
	fs.DurationVar(&c.LeaseDuration, "leader-elect-lease-duration", c.LeaseDuration, "how long a leader may be silent")
	fs.DurationVar(&c.RenewDeadline, "leader-elect-renew-deadline", c.RenewDeadline, "after how long without renewal a leader gives up")
	fs.DurationVar(&c.RetryPeriod, "leader-elect-retry-period", c.RetryPeriod, "between attempts")
	fs.BoolVar(&c.AllocateNodeCIDRs, "allocate-node-cidrs", c.AllocateNodeCIDRs, "give each node a pod CIDR")
	fs.StringVar(&c.clusterCIDR, "cluster-cidr", "", "CIDR range for pods")
	fs.StringVar(&c.serviceCIDR, "service-cluster-ip-range", "", "CIDR range for services")
	fs.IntVar(&c.NodeCIDRMaskSize, "node-cidr-mask-size", c.NodeCIDRMaskSize, "bits of a node's CIDR")
	fs.StringVar(&c.ClusterName, "cluster-name", c.ClusterName, "instance prefix of the cluster")
	fs.StringVar(&c.ClusterSigningCert, "cluster-signing-cert-file", "", "CA certificate that signs certificate requests")
	fs.StringVar(&c.ClusterSigningKey, "cluster-signing-key-file", "", "its key")
	fs.DurationVar(&c.ClusterSigningDuration, "cluster-signing-duration", c.ClusterSigningDuration, "the longest life of a signed certificate")
	fs.StringVar(&c.ServiceAccountKeyFile, "service-account-private-key-file", "", "key that signs service account tokens in Secrets")
	fs.StringVar(&c.RootCAFile, "root-ca-file", "", "bundle that is published to every namespace")
	fs.StringSliceVar(&c.pool, "load-balancer-pool", nil, "CIDR ranges for Services of type LoadBalancer (not upstream: there, a cloud does it)")
	fs.IntVar(&c.ConcurrentDeploymentSyncs, "concurrent-deployment-syncs", 5, "workers of the deployment controller")
	c.addTimeFlags(fs)
	for _, name := range []string{"feature-gates", "cloud-provider", "kube-api-qps", "kube-api-burst", "concurrent-gc-syncs", "concurrent-replicaset-syncs",
		"concurrent-endpoint-syncs", "concurrent-service-endpoint-syncs", "concurrent-namespace-syncs", "concurrent-job-syncs"} {
		fs.String(name, "", "accepted as upstream's and ignored")
	}
}

func (c *Config) addTimeFlags(fs *pflag.FlagSet) {
	fs.DurationVar(&c.NodeMonitorPeriod, "node-monitor-period", c.NodeMonitorPeriod, "how often nodes are looked at")
	fs.DurationVar(&c.NodeMonitorGracePeriod, "node-monitor-grace-period", c.NodeMonitorGracePeriod, "how long a running node may be silent")
	fs.DurationVar(&c.NodeStartupGracePeriod, "node-startup-grace-period", c.NodeStartupGracePeriod, "how long a new node may be silent")
	fs.Float64Var(&c.NodeEvictionRate, "node-eviction-rate", c.NodeEvictionRate, "nodes a second that may be tainted NoExecute in a healthy zone")
	fs.Float64Var(&c.SecondaryNodeEvictionRate, "secondary-node-eviction-rate", c.SecondaryNodeEvictionRate, "the same in an unhealthy zone of a large cluster")
	fs.IntVar(&c.LargeClusterSizeThreshold, "large-cluster-size-threshold", c.LargeClusterSizeThreshold, "nodes in a zone from which it counts as large")
	fs.Float64Var(&c.UnhealthyZoneThreshold, "unhealthy-zone-threshold", c.UnhealthyZoneThreshold, "fraction of NotReady nodes (at least 3) from which a zone is unhealthy")
	fs.IntVar(&c.TerminatedPodGCThreshold, "terminated-pod-gc-threshold", c.TerminatedPodGCThreshold, "terminated pods that may exist; 0 turns their collection off")
	fs.DurationVar(&c.HPASyncPeriod, "horizontal-pod-autoscaler-sync-period", c.HPASyncPeriod, "between looks at the metrics")
	fs.DurationVar(&c.HPADownscaleStabilization, "horizontal-pod-autoscaler-downscale-stabilization", c.HPADownscaleStabilization, "how long a recommendation to scale down must hold")
	fs.DurationVar(&c.HPACPUInitializationPeriod, "horizontal-pod-autoscaler-cpu-initialization-period", c.HPACPUInitializationPeriod, "from a pod's start, how long its use of CPU counts only if it is ready and was while that was measured")
	fs.DurationVar(&c.HPAInitialReadinessDelay, "horizontal-pod-autoscaler-initial-readiness-delay", c.HPAInitialReadinessDelay, "from a pod's start, how long a change to not ready means that it has never been ready")
	fs.DurationVar(&c.podEvictionTimeout, "pod-eviction-timeout", 0, "removed in v1.27; accepted and ignored")
	fs.Float64Var(&c.TimeScale, "time-scale", c.TimeScale, "speed everything up by this factor (not upstream: for drills in class)")
	fs.MarkDeprecated("pod-eviction-timeout", "it was removed in v1.27 and is ignored: since v1.13 pods leave a dead node by taint-based eviction, after the tolerationSeconds of their own tolerations of node.kubernetes.io/unreachable and node.kubernetes.io/not-ready (300 s by default: --default-unreachable-toleration-seconds and --default-not-ready-toleration-seconds of kube-apiserver)")
}

// Validate completes the configuration after the flags were parsed.
func (c *Config) Validate() (err error) {
	parse := func(flag, s string) (p netip.Prefix) {
		if s == "" || err != nil {
			return p
		}
		if p, err = netip.ParsePrefix(s); err != nil {
			err = fmt.Errorf("--%s: %w", flag, err)
		}
		return p.Masked()
	}
	if c.clusterCIDR != "" {
		c.ClusterCIDR = parse("cluster-cidr", c.clusterCIDR)
	}
	if c.serviceCIDR != "" {
		c.ServiceCIDR = parse("service-cluster-ip-range", c.serviceCIDR)
	}
	for _, s := range c.pool {
		c.LoadBalancerPool = append(c.LoadBalancerPool, parse("load-balancer-pool", s))
	}
	if err != nil {
		return err
	}
	if c.TimeScale <= 0 {
		return fmt.Errorf("--time-scale must be positive, not %v", c.TimeScale)
	}
	timing.Scale(c.TimeScale, &c.LeaseDuration, &c.RenewDeadline, &c.RetryPeriod,
		&c.NodeMonitorPeriod, &c.NodeMonitorGracePeriod, &c.NodeStartupGracePeriod,
		&c.PodGCPeriod, &c.PodGCQuarantine, &c.HPASyncPeriod, &c.HPADownscaleStabilization, &c.HPACPUInitializationPeriod, &c.HPAInitialReadinessDelay)
	c.NodeEvictionRate *= c.TimeScale
	c.SecondaryNodeEvictionRate *= c.TimeScale
	if c.LeaderElect && c.RenewDeadline >= c.LeaseDuration {
		return fmt.Errorf("leaderElection: RenewDeadline (%v) must be less than LeaseDuration (%v)", c.RenewDeadline, c.LeaseDuration)
	}
	_, err = c.selected()
	return err
}

// rootCA is the bundle that pods shall trust.
func (c *Config) rootCA() ([]byte, error) {
	if c.RootCAFile == "" {
		return c.RootCA, nil
	}
	return os.ReadFile(c.RootCAFile)
}
