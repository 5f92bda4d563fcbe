package timing

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
	"time"
)

// upstream is what a kubeadm v1.36.3 cluster has, written down apart from the
// constants: a change of one must be made twice, and on purpose.
var upstream = map[string]string{
	"NodeLeaseDuration": "40s", "NodeLeaseRenewInterval": "10s", "NodeStatusUpdateFrequency": "10s", "NodeStatusReportFrequency": "5m0s",
	"RuntimeDownGrace": "30s", "RuntimeCheckPeriod": "5s", "PLEGHealthy": "3m0s",
	"NodeMonitorPeriod": "5s", "NodeMonitorGracePeriod": "50s", "NodeStartupGracePeriod": "1m0s",
	"NotReadyToleration": "5m0s", "UnreachableToleration": "5m0s", "NodeEvictionTick": "100ms", "PodGCPeriod": "20s", "PodGCQuarantine": "40s",
	"NodeEvictionRate": "0.1", "SecondaryNodeEvictionRate": "0.01", "LargeClusterSizeThreshold": "50", "UnhealthyZoneThreshold": "0.55", "TerminatedPodGCThreshold": "12500",
	"TerminationGracePeriod": "30s", "MinimumGracePeriod": "2s", "CrashLoopInitial": "10s", "CrashLoopMax": "5m0s", "CrashLoopReset": "10m0s",
	"ImagePullInitial": "10s", "ImagePullMax": "5m0s", "PodSyncFrequency": "1m0s", "StaticPodCheckFrequency": "20s", "PLEGRelistPeriod": "1s",
	"TransientErrorBackOff": "1s", "PodWorkerBackOff": "10s", "ContainerLogMonitorInterval": "10s", "ProbePeriod": "10s", "ProbeTimeout": "1s",
	"LeaderLeaseDuration": "15s", "LeaderRenewDeadline": "10s", "LeaderRetryPeriod": "2s",
	"DialTimeout": "30s", "TLSHandshakeTimeout": "10s", "IdleConnTimeout": "1m30s", "HTTP2PingInterval": "30s", "HTTP2PingTimeout": "15s",
	"ReflectorBackOffInitial": "800ms", "ReflectorBackOffMax": "30s", "ReflectorBackOffReset": "2m0s", "WatchTimeoutMin": "5m0s",
	"QueueBackOffInitial": "5ms", "QueueBackOffMax": "16m40s",
	"EventTTL": "1h0m0s", "CompactionInterval": "5m0s", "EndpointLeaseTTL": "15s", "RequestTimeout": "1m0s", "BookmarkPeriod": "1m0s",
	"ProgressDeadline": "10m0s", "JobSyncBatch": "1s", "JobBackOffInitial": "10s", "JobBackOffMax": "10m0s", "DaemonBackOffInitial": "1s", "DaemonBackOffMax": "15m0s", "HPASyncPeriod": "15s", "HPADownscaleStabilization": "5m0s",
	"HPACPUInitializationPeriod": "5m0s", "HPAInitialReadinessDelay": "30s",
	"PodInitialBackOff": "1s", "PodMaxBackOff": "10s", "UnschedulableFlush": "5m0s", "QueueFlushPeriod": "1s", "VolumeBindTimeout": "10m0s", "VolumeBindPoll": "1s", "ProxyMinSyncPeriod": "1s", "ProxySyncPeriod": "30s",
	"BootstrapTokenTTL": "24h0m0s", "CSRApprovedExpiry": "1h0m0s", "CSRPendingExpiry": "24h0m0s", "ClusterSigningDuration": "8760h0m0s",
}

func TestTheDefaultsAreThoseOfKubeadm(t *testing.T) {
	for _, e := range Table {
		if got := fmt.Sprint(e.Value); got != upstream[e.Name] {
			t.Errorf("%s is %s, upstream has %q (%s)", e.Name, got, upstream[e.Name], e.Source)
		}
		if e.Source == "" {
			t.Errorf("%s has no source", e.Name)
		}
	}
}

func TestTheTableHasEveryConstantOnce(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "timing.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared, listed []string
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
			for _, s := range g.Specs {
				declared = append(declared, s.(*ast.ValueSpec).Names[0].Name)
			}
		}
	}
	for _, e := range Table {
		listed = append(listed, e.Name)
	}
	slices.Sort(declared)
	slices.Sort(listed)
	if !slices.Equal(declared, listed) {
		t.Errorf("declared %v\nlisted   %v", declared, listed)
	}
}

func TestAGracePeriodExceedsTheDetectionOfDeadConnections(t *testing.T) {
	if HTTP2PingInterval+HTTP2PingTimeout >= NodeMonitorGracePeriod {
		t.Error("a node would be NotReady before its kubelet notices that its connection is dead")
	}
	if LeaderRenewDeadline >= LeaderLeaseDuration {
		t.Error("two leaders would act at once")
	}
}

func TestScaleKeepsProportions(t *testing.T) {
	a, b := 50*time.Second, 5*time.Second
	Scale(10, &a, &b)
	if a != 5*time.Second || b != 500*time.Millisecond {
		t.Error(a, b)
	}
}
