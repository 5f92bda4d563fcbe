package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client"
	"orrery/client/timing"
	"orrery/kubelet/probes"
	"orrery/kubelet/volumes"
)

// Kubelet runs the pods of one node. Make it with New, then Run it.
//
// Upstream: pkg/kubelet/kubelet.go, Kubelet.
type Kubelet struct {
	cfg    Config
	log    *slog.Logger
	cri    cri.RuntimeServiceClient
	images cri.ImageServiceClient

	api      *client.Client   // nil without an API server
	recorder *client.Recorder // nil likewise
	apiPods  *client.Informer[*corev1.Pod]
	services *client.Informer[*corev1.Service]
	node     atomic.Pointer[corev1.Node] // ours as the API has it; nil until registered

	pods         *podStore
	pleg         *pleg
	workers      *workers
	status       *statusManager
	volumes      *volumes.Manager
	objects      *objects
	probes       *probes.Manager
	cgroups      *cgroups
	reasons      *reasons
	crashes      *backOff
	pulls        *backOff
	runtimeState *runtimeState
	meter        meter

	filesRead   sync.Once
	filesSynced chan struct{} // closed when the static pods have been read once

	admitMu sync.Mutex // admissions one by one: each sees what the others take

	pulling    chan struct{} // holds a token while an image is pulled
	pullMu     sync.Mutex
	pullErrors map[string]failedPull
}

// New makes a Kubelet. It fails when the configuration lacks what it cannot guess.
func New(cfg Config) (*Kubelet, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if !cfg.NodeIP.IsValid() {
		ip, err := defaultAddress()
		if err != nil {
			return nil, fmt.Errorf("kubelet: no node address: %w", err)
		}
		cfg.NodeIP = ip
	}
	if cfg.Machine.CPUs == 0 {
		cfg.Machine = readMachine(cfg.RootDir)
	}
	k := &Kubelet{
		cfg: cfg, log: slog.With("component", "kubelet"), cri: cfg.Runtime, images: cfg.Images, api: cfg.Client,
		objects: newObjects(cfg.Client), reasons: newReasons(), runtimeState: newRuntimeState(cfg.TimeScale),
		filesSynced: make(chan struct{}), pulling: make(chan struct{}, 1), pullErrors: map[string]failedPull{},
	}
	k.crashes, k.pulls = cfg.newBackOffs()
	k.cgroups = &cgroups{root: "/sys/fs/cgroup", base: filepath.Join(cfg.Settings.CgroupRoot, "kubepods"), driver: cfg.Settings.CgroupDriver,
		perQOS: *cfg.Settings.CgroupsPerQOS, off: cfg.NoCgroups || !*cfg.Settings.CgroupsPerQOS, quota: *cfg.Settings.CPUCFSQuota}
	k.pleg = newPLEG(k)
	k.workers = &workers{k: k, jitter: jitter, byUID: map[types.UID]*worker{}}
	k.pods = newPodStore(k.podChanged)
	k.status = &statusManager{api: cfg.Client, pods: k.pods, log: k.log, queue: client.NewQueue[types.UID](), byUID: map[types.UID]*podRecord{}, online: cfg.Credentials}
	k.volumes = &volumes.Manager{Root: filepath.Join(cfg.RootDir, "pods"), Objects: k.objects, Allocatable: k.allocatable, NoTmpfs: cfg.NoTmpfs,
		Facts: func(pod *corev1.Pod) *corev1.Pod { return k.withIPs(pod, []string{k.status.get(pod).PodIP}) }}
	version := strings.SplitN(strings.TrimPrefix(cfg.Version, "v")+"..", ".", 3)
	k.probes = &probes.Manager{
		Prober: probes.Prober{Exec: k.execProbe, UserAgent: "kube-probe/" + version[0] + "." + version[1]},
		Ask:    cfg.Probe, Changed: k.workers.probed, TimeScale: cfg.TimeScale,
		Event: func(pod *corev1.Pod, container, message string) {
			k.containerEvent(pod, container, corev1.EventTypeWarning, "Unhealthy", message)
		},
	}
	if k.api != nil {
		here := metav1.ListOptions{FieldSelector: "spec.nodeName=" + cfg.NodeName}
		headed := metav1.ListOptions{FieldSelector: "spec.clusterIP!=None"}
		k.recorder = client.NewRecorder(k.api, "kubelet", cfg.NodeName)
		k.apiPods = client.NewInformer(client.For[*corev1.Pod](k.api), "", here)
		k.apiPods.AddHandler(k.pods.handler())
		k.services = client.NewInformer(client.For[*corev1.Service](k.api), "", headed)
	}
	return k, nil
}

// Run works until the context ends. The containers go on without it.
func (k *Kubelet) Run(ctx context.Context) error {
	k.log.Info("Kubelet starts", "node", k.cfg.NodeName, "version", k.cfg.Version)
	var wg sync.WaitGroup
	k.workers.ctx, k.workers.began = ctx, time.Now()
	k.probes.Start(ctx)
	k.nodeEvent(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if err := k.cgroups.ensureRoot(k.allocatable()); err != nil {
		k.log.Warn("Cgroups for pods cannot be made", "err", err)
	} else {
		k.nodeEvent(corev1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
	}
	if !k.cgroups.unified() {
		k.nodeEvent(corev1.EventTypeWarning, "CgroupV1", "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. "+
			"Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1")
	}
	for _, run := range []func(context.Context){k.watchRuntime, k.pleg.run, k.cleanUp, k.rotateLogs, k.status.run} {
		wg.Go(func() { run(ctx) })
	}
	if k.cfg.Settings.StaticPodPath != "" {
		wg.Go(func() { k.watchFiles(ctx) })
	} else {
		k.filesRead.Do(func() { close(k.filesSynced) })
	}
	if k.api != nil {
		wg.Go(func() { k.online(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	k.workers.wg.Wait()
	k.probes.Wait()
	return nil
}

// online is all that needs the API server. It waits for credentials first.
func (k *Kubelet) online(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-k.cfg.Credentials:
	}
	var wg sync.WaitGroup
	if k.register(ctx) {
		wg.Go(func() { k.recorder.Run(ctx) })
		wg.Go(func() { k.heartbeat(ctx) })
		wg.Go(func() { k.reportNode(ctx) })
		// Pods come once the node is known, for a mirror pod refers to it, and once
		// the services are known, for containers want their variables.
		wg.Go(func() { k.services.Run(ctx) })
		wg.Go(func() {
			select {
			case <-ctx.Done():
			case <-k.services.Synced():
				k.apiPods.Run(ctx)
			}
		})
		wg.Go(func() { // static pods that began before the API server did want their mirrors now
			select {
			case <-ctx.Done():
			case <-k.apiPods.Synced():
				for _, pod := range k.pods.all() {
					k.workers.changed(pod.UID)
				}
			}
		})
	}
	wg.Wait()
}

// podsSynced is closed when the API has told which pods belong here.
func (k *Kubelet) podsSynced() <-chan struct{} {
	if k.apiPods == nil {
		never := make(chan struct{})
		return never
	}
	return k.apiPods.Synced()
}

// podChanged is told by the store. It also has a status written again that the
// API shows otherwise: the node lifecycle controller may have spoken in our absence.
func (k *Kubelet) podChanged(uid types.UID, work bool) {
	if work {
		k.workers.changed(uid)
	}
	if pod := k.pods.get(uid); pod != nil && k.status.differs(pod) {
		k.status.again(uid)
	}
}

// watchRuntime asks the runtime each five seconds whether it is well.
//
// Upstream: pkg/kubelet/kubelet.go, updateRuntimeUp.
func (k *Kubelet) watchRuntime(ctx context.Context) {
	for {
		if k.runtimeState.runtimeName() == "" {
			if v, err := k.cri.Version(ctx, &cri.VersionRequest{Version: "v1"}); err == nil {
				k.runtimeState.setVersion(v.RuntimeName, v.RuntimeVersion)
			}
		}
		st, err := k.cri.Status(ctx, &cri.StatusRequest{})
		k.runtimeState.update(st.GetStatus(), err)
		wait := timing.RuntimeCheckPeriod
		timing.Scale(k.cfg.TimeScale, &wait)
		if k.runtimeState.problems(true) != nil {
			wait = 500 * time.Millisecond // so that a node that starts is Ready at once
		}
		if !client.Sleep(ctx, wait) {
			return
		}
	}
}

// execProbe runs the command of a probe.
func (k *Kubelet) execProbe(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int32, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+10*time.Second)
	defer cancel()
	resp, err := k.cri.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
	if isDeadline(err) {
		return nil, 0, true, nil
	}
	if err != nil {
		return nil, 0, false, plain(err)
	}
	return append(resp.Stdout, resp.Stderr...), resp.ExitCode, false, nil
}
